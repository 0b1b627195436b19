//! Which names a resolver may answer for.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use egress::{Name, Policy, Rule};

fn policy(allow: &[&str], deny: &[&str]) -> Policy {
    let rules = |texts: &[&str]| texts.iter().map(|text| text.parse::<Rule>().unwrap()).collect::<Vec<_>>();
    Policy::compile(&rules(allow), &rules(deny), &[]).unwrap()
}

#[test]
fn a_name_is_permitted_if_some_connection_to_it_is() {
    let policy = policy(
        &["api.example.com:443", "*.example.org:80-90", "udp:quic.example:443", "10.0.0.0/8:5432"],
        &["gone.example.org:*", "part.example.org:80", "udp:quic.example.org:*"],
    );
    for (name, permitted) in [
        ("api.example.com", true),
        ("example.com", false),
        ("a.api.example.com", false),
        ("a.example.org", true),
        ("example.org", false),
        ("gone.example.org", false),
        ("part.example.org", true),
        ("quic.example", true),
    ] {
        assert_eq!(policy.permits_name(&name.parse::<Name>().unwrap()), permitted, "{name}");
    }
    let names: Vec<_> = policy.names().map(Name::as_str).collect();
    assert_eq!(names, ["api.example.com", "quic.example"]);
}
