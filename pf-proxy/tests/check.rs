//! `pf-proxy check` as a person or a script uses it.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::{fs, process::Command};

const TOML: &str = "name = \"a\"\nimage.rootfs = \"r\"\napp.command = [\"/x\"]\n[egress]\nallow = [\"db.internal:5432\", \"*.example.org:443\", \"udp:q.example:443\"]\ndeny = [\"evil.example.org:*\"]\nprivate = [\"10.1.0.0/16\"]\n";

const MEASURED: &str = r#"{"egress":{"allow":["a.example:443"],"deny":[],"dns":"host","private":[]},"name":"a","publish":[],"services":[{"command":["/x"],"env":{},"name":"app","ready":"started","ready_timeout_s":30,"restart":"never","user":"0:0","workdir":"/"}],"version":1}"#;

fn check(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_pf-proxy")).arg("check").args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_verdict_is_told_and_is_the_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = dir.path().join("glasshouse.toml");
    fs::write(&manifest, TOML).unwrap();
    let manifest = manifest.to_str().unwrap();
    for (arguments, code, words) in [
        (&["DB.Internal.:5432"][..], 0, "tcp db.internal port 5432: allowed by \"db.internal:5432\""),
        (&["db.internal:5433"], 1, "denied: no rule allows it"),
        (&["evil.example.org:443"], 1, "denied by \"evil.example.org:*\""),
        (&["q.example:443"], 1, "denied"),
        (&["q.example:443", "--udp"], 0, "udp q.example port 443: allowed"),
        (&["udp:q.example:443"], 0, "allowed by \"udp:q.example:443\""),
        (&["10.1.2.3:5432"], 1, "10.1.2.3 is private (10.0.0.0/8)"),
        (&["db.internal:5432", "--resolves-to", "10.1.2.3"], 0, "db.internal (10.1.2.3) port 5432: allowed"),
        (&["db.internal:5432", "--resolves-to", "::ffff:169.254.169.254"], 1, "is instance metadata"),
        (&["a.example.org:443", "--deny", "*.example.org:*"], 1, "denied by \"*.example.org:*\""),
    ] {
        let (status, out, err) = check(&[arguments, &["--manifest", manifest]].concat());
        assert_eq!(status, Some(code), "{arguments:?}: {out}{err}");
        assert!(out.contains(words), "{arguments:?}: {out}");
    }
}

#[test]
fn a_measured_manifest_and_a_hosts_own_rules_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = dir.path().join("manifest.json");
    fs::write(&manifest, MEASURED).unwrap();
    let manifest = manifest.to_str().unwrap();
    assert_eq!(check(&["a.example:443", "--manifest", manifest]).0, Some(0));
    assert_eq!(check(&["b.example:443", "--manifest", manifest]).0, Some(1));
    assert_eq!(check(&["b.example:443"]).0, Some(0));
    assert_eq!(check(&["169.254.169.254:80"]).0, Some(1));
    assert_eq!(check(&["169.254.169.254:80", "--allow", "169.254.169.254:80"]).0, Some(0));
}

#[test]
fn the_source_in_the_folder_is_asked_if_nothing_else_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("glasshouse.toml"), TOML).unwrap();
    let check = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pf-proxy"));
        let output = command.arg("check").args(arguments).current_dir(dir.path()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (status, out) = check(&["b.example:443"]);
    assert!(status == Some(1) && out.contains("by the glasshouse.toml of this folder"), "{status:?} {out}");
    let (status, out) = check(&["b.example:443", "--allow", "b.example:443"]);
    assert!(status == Some(0) && !out.contains("this folder"), "{status:?} {out}");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    for target in ["a.example", "*.example:443", "a.example:*", "10.0.0.0/8:1", "a b:1"] {
        assert_eq!(check(&[target]).0, Some(2), "{target}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("glasshouse.toml");
    fs::write(&file, "name = \"a\"\nimage.rootfs = \"r\"\napp.command = [\"/x\"]\n").unwrap();
    let (status, _, err) = check(&["a.example:443", "--manifest", file.to_str().unwrap()]);
    assert!(status == Some(4) && err.contains("no [egress]"), "{status:?} {err}");
    assert_eq!(check(&["a.example:443", "--image", file.to_str().unwrap()]).0, Some(4));
}
