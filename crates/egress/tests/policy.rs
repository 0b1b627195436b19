//! Policies against a naive oracle, and what adding a rule can never do.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::net::IpAddr;

use egress::{Destination, Network, Policy, Protocol, Reason, Rule, class::special};
use proptest::prelude::*;

const WHOM: [&str; 16] = [
    "*",
    "a.example",
    "b.example",
    "c.a.example",
    "*.example",
    "*.a.example",
    "*.b.example",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3",
    "0.0.0.0/0",
    "[::]/0",
    "[fd00::]/8",
    "192.0.2.0/24",
    "169.254.169.254",
    "[64:ff9b::]/96",
];
const PORTS: [&str; 5] = ["80", "443", "80-443", "*", "81"];
const NAMES: [&str; 5] = ["a.example", "b.example", "c.a.example", "d.c.a.example", "example"];
const ADDRESSES: [&str; 11] = [
    "10.1.2.3",
    "10.1.9.9",
    "10.9.9.9",
    "192.0.2.7",
    "1.1.1.1",
    "169.254.169.254",
    "::ffff:10.1.2.3",
    "fd00::1",
    "2600::1",
    "64:ff9b::10.1.2.3",
    "127.0.0.1",
];
const RANGES: [&str; 4] = ["10.0.0.0/8", "[fd00::]/8", "127.0.0.1", "[64:ff9b::a00:0]/104"];

fn rule() -> impl Strategy<Value = String> {
    let part = (any::<bool>(), prop::sample::select(&WHOM[..]), prop::sample::select(&PORTS[..]));
    part.prop_map(|(udp, whom, ports)| format!("{}{whom}:{ports}", if udp { "udp:" } else { "" }))
}

fn rules() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(rule(), 0..6)
}

fn ranges() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(&RANGES[..]).prop_map(str::to_owned), 0..3)
}

fn destination() -> impl Strategy<Value = Destination> {
    let name = || prop::sample::select(&NAMES[..]).prop_map(|text| text.parse().unwrap());
    let address = || prop::sample::select(&ADDRESSES[..]).prop_map(|text| text.parse::<IpAddr>().unwrap());
    prop_oneof![
        name().prop_map(Destination::Name),
        address().prop_map(Destination::Address),
        (name(), address()).prop_map(|(name, address)| Destination::Resolved(name, address)),
    ]
}

fn connection() -> impl Strategy<Value = (Destination, u16, Protocol)> {
    let port = prop::sample::select(vec![0_u16, 79, 80, 81, 443, 444, 65535]);
    (destination(), port, prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(texts: &[String]) -> Vec<T> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn compile(allow: &[String], deny: &[String], into: &[String]) -> Policy {
    Policy::compile(&parse::<Rule>(allow), &parse::<Rule>(deny), &parse::<Network>(into)).unwrap()
}

/// Reads the rules' texts again, by string and bit, without any of the policy's own ways.
mod oracle {
    use super::*;

    pub(crate) fn matches(
        rule: &str,
        destination: &Destination,
        port: u16,
        protocol: Protocol,
        by_address: bool,
    ) -> bool {
        let (own, rest) =
            rule.strip_prefix("udp:").map_or((Protocol::Tcp, rule), |rest| (Protocol::Udp, rest));
        let (whom, ports) = rest.rsplit_once(':').unwrap();
        let (first, last) =
            if ports == "*" { ("1", "65535") } else { ports.split_once('-').unwrap_or((ports, ports)) };
        let in_ports = (first.parse::<u16>().unwrap()..=last.parse().unwrap()).contains(&port);
        let name = destination.name().map(ToString::to_string);
        let by_name = name.as_deref().is_some_and(|name| match whom.strip_prefix('*') {
            Some("") => true,
            Some(suffix) => name.ends_with(suffix) && name.len() > suffix.len(),
            None => name == whom,
        });
        let address = destination.address().filter(|_| by_address || name.is_none());
        own == protocol && in_ports && (by_name || address.is_some_and(|address| holds(whom, address)))
    }

    fn bits(address: IpAddr) -> String {
        match address.to_canonical() {
            IpAddr::V4(v4) => format!("4{:032b}", v4.to_bits()),
            IpAddr::V6(v6) => format!("6{:0128b}", v6.to_bits()),
        }
    }

    fn prefix(range: &str) -> Option<String> {
        let (address, length) = range.split_once('/').unwrap_or((range, "128"));
        let address = address.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        let all = bits(address);
        let length = length.parse::<usize>().unwrap() + 1;
        Some(all[..length.min(all.len())].to_owned())
    }

    fn holds(range: &str, address: IpAddr) -> bool {
        prefix(range).is_some_and(|prefix| bits(address).starts_with(&prefix))
    }

    pub(crate) fn allows(
        (allow, deny, into): (&[String], &[String], &[String]),
        (destination, port, protocol): (&Destination, u16, Protocol),
    ) -> bool {
        let matched = |rule: &String, by_address| matches(rule, destination, port, protocol, by_address);
        if port == 0
            || deny.iter().any(|rule| matched(rule, true))
            || !allow.iter().any(|rule| matched(rule, false))
        {
            return false;
        }
        let Some(address) = destination.address() else { return true };
        let Some(special) = special(address) else { return true };
        let outer = prefix(&special.range.to_string()).unwrap();
        let meant = |range: &str| {
            holds(range, address) && prefix(range).is_some_and(|inner| inner.starts_with(&outer))
        };
        let lists = |rule: &String| {
            let listed = Destination::Address(address);
            let whom = rule.strip_prefix("udp:").unwrap_or(rule).rsplit_once(':').unwrap().0;
            matches(rule, &listed, port, protocol, true) && meant(whom)
        };
        into.iter().any(|range| meant(range)) || allow.iter().any(lists)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_policy_says_what_its_rules_say(allow in rules(), deny in rules(), into in ranges(), (to, port, by) in connection()) {
        let verdict = compile(&allow, &deny, &into).evaluate(&to, port, by);
        prop_assert_eq!(verdict.is_allowed(), oracle::allows((&allow, &deny, &into), (&to, port, by)), "{}", verdict);
        if let Some(rule) = verdict.rule() {
            let list = if verdict.is_allowed() { &allow } else { &deny };
            prop_assert!(parse::<Rule>(list).contains(rule), "{} is none of the rules", rule);
        }
    }

    #[test]
    fn more_allowed_denies_nothing_and_more_denied_allows_nothing(
        allow in rules(), deny in rules(), into in ranges(), more in rule(), range in ranges(), (to, port, by) in connection(),
    ) {
        let ask = |policy: Policy| policy.evaluate(&to, port, by).is_allowed();
        let with = |list: &[String], more: &[String]| [list, more].concat();
        let before = ask(compile(&allow, &deny, &into));
        let more = [more];
        prop_assert!(!before || ask(compile(&with(&allow, &more), &deny, &into)), "allowing more denied it");
        prop_assert!(!before || ask(compile(&allow, &deny, &with(&into, &range))), "listing more denied it");
        prop_assert!(before || !ask(compile(&allow, &with(&deny, &more), &into)), "denying more allowed it");
    }

    #[test]
    fn the_order_of_rules_does_not_matter(allow in rules(), deny in rules(), (to, port, by) in connection()) {
        let reversed = |list: &[String]| list.iter().rev().cloned().collect::<Vec<_>>();
        let (one, other) = (compile(&allow, &deny, &[]), compile(&reversed(&allow), &reversed(&deny), &[]));
        prop_assert_eq!(one.evaluate(&to, port, by).is_allowed(), other.evaluate(&to, port, by).is_allowed());
    }
}

fn policy(allow: &[&str], deny: &[&str], into: &[&str]) -> Policy {
    let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    compile(&own(allow), &own(deny), &own(into))
}

fn resolved(name: &str, address: &str) -> Destination {
    Destination::Resolved(name.parse().unwrap(), address.parse().unwrap())
}

#[test]
fn nothing_is_allowed_by_default() {
    let verdict = Policy::default().evaluate(&resolved("a.example", "1.1.1.1"), 443, Protocol::Tcp);
    assert_eq!(*verdict.reason(), Reason::NoRule);
    assert_eq!(verdict.to_string(), "denied: no rule allows it");
}

#[test]
fn the_rule_that_decided_is_told() {
    let policy = policy(&["*.example:443"], &["evil.example:*", "192.0.2.0/24:*"], &[]);
    let say = |destination: Destination| policy.evaluate(&destination, 443, Protocol::Tcp).to_string();
    assert_eq!(say(resolved("a.example", "1.1.1.1")), "allowed by \"*.example:443\"");
    assert_eq!(say(resolved("evil.example", "1.1.1.1")), "denied by \"evil.example:*\"");
    assert_eq!(say(resolved("a.example", "192.0.2.7")), "denied by \"192.0.2.0/24:*\"");
    let metadata =
        "denied: 169.254.169.254 is instance metadata (169.254.169.254) and not listed by address or range";
    assert_eq!(say(resolved("a.example", "169.254.169.254")), metadata);
}

#[test]
fn a_wide_range_does_not_list_what_lies_in_it() {
    let ask = |policy: &Policy, to: &str| {
        policy.evaluate(&Destination::Address(to.parse().unwrap()), 80, Protocol::Tcp).is_allowed()
    };
    let everything = policy(&["0.0.0.0/0:*", "[::]/0:*"], &[], &[]);
    assert!(ask(&everything, "1.1.1.1") && ask(&everything, "2600::1"));
    for special in
        ["10.0.0.1", "169.254.169.254", "127.0.0.1", "fd00:ec2::254", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1"]
    {
        assert!(!ask(&everything, special), "{special}");
    }
    let link = policy(&["169.254.0.0/16:*"], &[], &[]);
    assert!(ask(&link, "169.254.170.2") && !ask(&link, "169.254.169.254"));
    assert!(ask(&policy(&["169.254.169.254:80"], &[], &[]), "169.254.169.254"));
}

#[test]
fn names_lead_into_private_ranges_only_where_that_is_listed() {
    let ask = |policy: Policy, address: &str| {
        policy.evaluate(&resolved("db.example", address), 5432, Protocol::Tcp).is_allowed()
    };
    assert!(!ask(policy(&["db.example:5432"], &[], &[]), "10.1.2.3"));
    assert!(ask(policy(&["db.example:5432"], &[], &["10.0.0.0/8"]), "10.1.2.3"));
    assert!(!ask(policy(&["db.example:5432"], &[], &["10.0.0.0/8"]), "192.168.0.1"));
    let direct = Destination::Address("10.1.2.3".parse().unwrap());
    let by_name_only = policy(&["db.example:5432"], &[], &["10.0.0.0/8"]);
    assert!(!by_name_only.evaluate(&direct, 5432, Protocol::Tcp).is_allowed(), "the range is for names");
}
