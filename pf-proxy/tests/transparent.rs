//! The way out as programs meet it: in network namespaces of their own, with the host played by these tests.
//!
//! Each test runs itself again in new namespaces, where a TUN device is the only way out. The host's part and the servers
//! stay outside; a Unix socket leads to them.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that fails to prepare has to stop")]

#[path = "transparent/host.rs"]
mod host;
#[path = "transparent/inside.rs"]
mod inside;
#[path = "transparent/resolver.rs"]
mod resolver;

use std::{
    path::Path,
    process::{Command, Stdio},
};

use egress::{Outcome, Record, wire::Status};

/// Says in the namespaces which part is to be played.
const PART: &str = "TRANSPARENT_TEST_PART";

/// Says in the namespaces where the host is.
const HOST: &str = "TRANSPARENT_TEST_HOST";

/// Whether namespaces and devices can be had; says so if not.
fn possible() -> bool {
    let unshare = Command::new("unshare").args(["-Urnm", "true"]).stderr(Stdio::null()).status();
    let tun = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let possible = unshare.is_ok_and(|status| status.success()) && tun.is_ok();
    if !possible {
        println!("skipped: transparent egress (no user namespaces here, or no /dev/net/tun)");
    }
    possible
}

/// Plays the part in namespaces, or, in there already, plays it. What was said there, if it was played there.
fn play(name: &str, part: fn()) -> Option<String> {
    if std::env::var_os(PART).is_some() {
        inside::with_way_out(part);
        return None;
    }
    if !possible() {
        return None;
    }
    allow_descriptors();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("host");
    let _host = host::start(&socket);
    let resolv = dir.path().join("resolv.conf");
    std::fs::write(&resolv, "nameserver 198.18.0.53\nnameserver fd67:6c61:7373::53\noptions edns0\n")
        .unwrap();
    let output = namespaces(&resolv)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(PART, name)
        .env(HOST, &socket)
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    Some(text)
}

/// The host's part is played by this process, and what runs in the namespaces has the same limit.
fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

fn namespaces(resolv: &Path) -> Command {
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$0\" /etc/resolv.conf && exec timeout 240 \"$@\"";
    command.args(["-Urnm", "sh", "-c", script]).arg(resolv);
    command
}

/// Each name stands for a function of [`inside`].
macro_rules! parts {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { drop(play(stringify!($name), inside::$name)); })*
    };
}

parts!(
    a_program_is_told_what_became_of_its_connection,
    nobody_who_answers_is_a_timeout,
    bytes_arrive_exactly_and_an_end_is_passed_on,
    a_thousand_connections_at_once,
    addresses_that_were_never_resolved_lead_nowhere,
    datagrams_of_every_size_come_back,
    datagrams_that_are_not_allowed_are_answered,
    names_are_answered_by_policy,
    other_records_are_asked_for_outside,
    questions_go_over_tls,
    questions_go_over_https,
    a_program_off_the_shelf_fetches_a_page,
);

#[test]
fn every_connection_leaves_a_record() {
    let Some(text) = play("every_connection_leaves_a_record", inside::connections_of_every_kind) else {
        return;
    };
    let records: Vec<_> = text.lines().filter_map(|line| Record::from_json(line).ok()).collect();
    let of = |wanted: &str| {
        let is_it = |record: &&Record| match &record.name {
            Some(name) => name.as_str() == wanted,
            None => record.address.is_some_and(|address| address.to_string() == wanted),
        };
        records.iter().find(is_it).unwrap_or_else(|| panic!("{wanted}: {text}"))
    };
    let echo = of("echo.test");
    assert_eq!(
        (echo.outcome, echo.port, echo.sent, echo.received),
        (Outcome::Asked(Status::Connected), 443, 5, 5)
    );
    assert_eq!(echo.address, Some("203.0.113.7".parse().unwrap()));
    assert_eq!(echo.rule.as_deref(), Some("echo.test:1-1000"));
    assert_eq!(of("refused.test").outcome, Outcome::Asked(Status::Refused));
    // With the address that the host refused, which says why.
    let denied = of("denied.test");
    assert_eq!(denied.outcome, Outcome::Asked(Status::Denied));
    assert_eq!(denied.address, Some("10.0.0.7".parse().unwrap()));
    assert_eq!((of("203.0.113.9").outcome, of("203.0.113.9").port), (Outcome::Denied, 443));
    // Not even resolved.
    assert_eq!(of("evil.example").outcome, Outcome::Denied);
}
