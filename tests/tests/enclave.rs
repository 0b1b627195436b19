//! An enclave's life as its operator and its auditor see it, on every backend that is here.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::Duration,
};

use bed::{Bed, http_get, text, until, utf8};

/// More than what is waited for takes, even on a machine that is busy.
const SOON: Duration = Duration::from_secs(60);

/// Runs a test on both backends, each once.
macro_rules! on_both_backends {
    ($($name:ident),* $(,)?) => {
        mod local {
            $(#[test] fn $name() { if let Some(bed) = bed::Bed::local() { super::$name(&bed); } })*
        }
        mod qemu {
            $(#[test] fn $name() { if let Some(bed) = bed::Bed::qemu() { super::$name(&bed); } })*
        }
    };
}

on_both_backends!(
    serves_and_is_verified,
    a_changed_byte_is_refused_and_named,
    the_application_asks_for_attestations,
    the_status_of_the_application_is_exact,
    logs_are_whole_and_in_order,
    a_service_that_fails_is_started_again,
    a_killed_supervisor_leaves_nothing,
    a_hangup_leaves_an_enclave_in_the_background_as_it_is,
    a_second_start_under_the_same_name_is_refused,
    a_service_that_never_gets_ready_fails_the_start,
    a_stop_while_it_starts_is_clean,
);

/// The registers in the verified document are those of the security module the enclave booted with; verification compares
/// them with those computed from the file.
fn serves_and_is_verified(bed: &Bed) {
    let image = bed.hello_image("hello");
    let enclave = bed.start(&image, "hello", &[8080, 8443]);
    assert!(http_get(&enclave.address(8080), "/").contains("Hello"));

    let verdict =
        bed.ok(&["verify", &enclave.url(), "--image", utf8(&image), "--root", &bed.root(), "--json"]);
    let verdict: serde_json::Value = serde_json::from_str(&verdict).unwrap();
    assert_eq!((&verdict["verified"], &verdict["simulated"]), (&true.into(), &true.into()));
    let reference = std::fs::read_to_string(format!("{}.json", utf8(&image))).unwrap();
    let reference: serde_json::Value = serde_json::from_str(&reference).unwrap();
    for index in ["0", "1", "2", "16"] {
        assert_eq!(verdict["claims"]["pcrs"][format!("PCR{index}")], reference["pcrs"][index], "PCR{index}");
    }
    assert_eq!(verdict["claims"]["pcrs"].get("PCR17"), None);

    // The same evidence is refused without its root, and without anything to compare it with.
    let refused = bed.run(&["verify", &enclave.url(), "--image", utf8(&image)]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    let refused = bed.run(&["verify", &enclave.url(), "--root", &bed.root()]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("at least one reference value"), "{}", text(&refused));
    let genuine = bed.ok(&["verify", &enclave.url(), "--root", &bed.root(), "--any-image"]);
    assert!(genuine.contains("VERIFIED") && genuine.contains("any image"), "{genuine}");

    bed.ok(&["stop", "hello"]);
    assert!(until(SOON, || bed.processes().is_empty()), "{:?}", bed.processes());
    assert_eq!(
        bed.leftovers("hello"),
        ["console.log", "events.jsonl", "instance.json", "lock", "supervisor.log"]
    );
    assert_eq!(bed.instance("hello").unwrap()["status"], "exited");
}

fn a_changed_byte_is_refused_and_named(bed: &Bed) {
    let genuine = bed.hello_image("hello");
    let changed = bed.path("hello/rootfs/etc/passwd");
    std::fs::write(&changed, "Root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/sh\n").unwrap();
    let other = bed.path("other.eif");
    bed.ok(&["build", utf8(&bed.path("hello")), "-o", utf8(&other)]);
    let enclave = bed.start(&other, "hello", &[8443]);
    let args = ["verify", &enclave.url(), "--image", utf8(&genuine), "--root", &bed.root(), "--json"];
    let refused = bed.run(&args);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    let verdict: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
    let failed: Vec<_> =
        verdict["checks"].as_array().unwrap().iter().filter(|c| c["status"] == "failed").collect();
    let names: Vec<_> = failed.iter().map(|c| c["check"].as_str().unwrap()).collect();
    assert_eq!(names, ["PCR0 (enclave image)", "PCR2 (application)"]);
    assert!(failed.iter().all(|c| c["expected"] != c["found"] && c["found"].as_str().unwrap().len() == 96));
}

fn the_application_asks_for_attestations(bed: &Bed) {
    let image = bed.hello_image("hello");
    let enclave = bed.start(&image, "hello", &[8080]);
    let nonce = "00112233445566778899aabbccddeeff";
    let answer = http_get(&enclave.address(8080), &format!("/attestation?nonce={nonce}"));
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let document = bed.path("document.b64");
    std::fs::write(&document, answer["document"].as_str().unwrap()).unwrap();
    let root = bed.root();
    let verify = |nonce: &str| {
        bed.run(&[
            "verify",
            "--document",
            utf8(&document),
            "--nonce",
            nonce,
            "--image",
            utf8(&image),
            "--root",
            &root,
        ])
    };
    let output = verify(nonce);
    assert!(output.status.success(), "{}", text(&output));
    // A prefix of the nonce is another nonce.
    assert_eq!(verify("00112233445566778899aabbccddee").status.code(), Some(1));
}

fn the_status_of_the_application_is_exact(bed: &Bed) {
    for (name, script, expected) in
        [("seven", "exit 7", 7), ("fine", "true", 0), ("killed", "kill -KILL $$", 137)]
    {
        let image = bed.shell_image(name, script, "");
        let output = bed.run(&bed.run_args(&image));
        assert_eq!(output.status.code(), Some(expected), "{}", text(&output));
        assert!(bed.leftovers(name).is_empty());
    }
}

fn logs_are_whole_and_in_order(bed: &Bed) {
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo to-stderr >&2; id -u";
    let image = bed.shell_image("talk", script, "attestation.enabled = false");
    let output = bed.run(&bed.run_args(&image));
    let shown = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = shown.lines().filter_map(|line| line.strip_prefix("app | line ")).collect();
    let expected: Vec<_> = (0..3000).map(|i| i.to_string()).collect();
    assert_eq!(lines, expected);
    assert!(shown.contains("app | to-stderr") && shown.contains("app | 0"), "{shown}");
}

fn a_service_that_fails_is_started_again(bed: &Bed) {
    let script = "if [ -e /tmp/once ]; then echo second; exec sleep 60; fi; echo first; echo > /tmp/once; kill -SEGV $$";
    let command = serde_json::to_string(&["/bin/sh", "-c", script]).unwrap();
    let manifest = format!(
        "name = \"again\"\nimage.rootfs = \"rootfs\"\nresources.memory_mib = 256\n[app]\ncommand = {command}\nrestart = \"on-failure\"\n"
    );
    let dir = bed.manifest("again", &manifest);
    let image = bed.path("again.eif");
    bed.ok(&["build", utf8(&dir), "-o", utf8(&image)]);
    let _enclave = bed.start(&image, "again", &[]);
    let seen = |word: &str| bed.ok(&["logs", "again"]).contains(word);
    assert!(until(SOON, || seen("app | second")), "{}", bed.ok(&["logs", "again"]));
    assert!(seen("app | first") && seen("ended by signal 11"), "{}", bed.ok(&["logs", "again"]));
}

/// A host process that is killed must not leave the enclave, its sockets or its namespaces behind.
fn a_killed_supervisor_leaves_nothing(bed: &Bed) {
    let image = bed.hello_image("hello");
    let enclave = bed.start(&image, "hello", &[8080]);
    let before = bed.processes();
    // On local: the supervisor, the process around the namespaces, init and its two daemons. Of the application nothing
    // here is visible; it ends with the PID namespace, as they do. On QEMU: the supervisor and QEMU.
    assert!(before.len() >= if bed.is_local() { 5 } else { 2 }, "{before:?}");
    let pid = rustix::process::Pid::from_raw(enclave.supervisor()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(until(SOON, || bed.processes().is_empty()), "{:?}", bed.processes());
    // A process that ends is out of the list before the kernel closes its files, the lock that says it lives among them.
    let status = || bed.instance("hello").unwrap()["status"].clone();
    assert!(until(SOON, || status() == "died"), "{}", status());
    let stopped = bed.run(&["stop", "hello"]);
    assert_eq!(stopped.status.code(), Some(1));
    assert!(text(&stopped).contains("not running"), "{}", text(&stopped));
    // The name can be used again at once, and its folder is tidied.
    let again = bed.start(&image, "hello", &[8080]);
    assert!(http_get(&again.address(8080), "/").contains("Hello"));
}

/// `kill -HUP` is what people know for reading a configuration again, and there is none here.
fn a_hangup_leaves_an_enclave_in_the_background_as_it_is(bed: &Bed) {
    let image = bed.hello_image("hello");
    let enclave = bed.start(&image, "hello", &[8080]);
    let pid = rustix::process::Pid::from_raw(enclave.supervisor()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    let log = bed.path("s/hello/supervisor.log");
    let told = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("nothing to read again"));
    assert!(until(SOON, told), "{:?}", std::fs::read_to_string(&log));
    assert!(http_get(&enclave.address(8080), "/").contains("Hello"));
}

fn a_second_start_under_the_same_name_is_refused(bed: &Bed) {
    let image = bed.hello_image("hello");
    let enclave = bed.start(&image, "hello", &[8080]);
    let mut args = bed.run_args(&image);
    args.extend(["--name", "hello"]);
    let second = bed.run(&args);
    assert_eq!(second.status.code(), Some(125));
    assert!(text(&second).contains("glasshouse stop hello"), "{}", text(&second));
    assert!(http_get(&enclave.address(8080), "/").contains("Hello"));
    // A port that is taken is named, and nothing is left of the start.
    let port = enclave.address(8080);
    let publish = format!("--publish={port}:8080");
    let mut args = bed.run_args(&image);
    args.extend(["--name", "other", &publish]);
    let taken = bed.run(&args);
    assert_eq!(taken.status.code(), Some(125));
    assert!(text(&taken).contains(&port), "{}", text(&taken));
    assert!(bed.leftovers("other").is_empty());
}

fn a_service_that_never_gets_ready_fails_the_start(bed: &Bed) {
    let manifest = "name = \"slow\"\nimage.rootfs = \"rootfs\"\nresources.memory_mib = 256\n[app]\n\
                    command = [\"/bin/sleep\", \"600\"]\nready = \"tcp:8080\"\nready_timeout = 2\n";
    let dir = bed.manifest("slow", manifest);
    let image = bed.path("slow.eif");
    bed.ok(&["build", utf8(&dir), "-o", utf8(&image)]);
    let mut args = bed.run_args(&image);
    args.push("--detach");
    let output = bed.run(&args);
    assert!(!output.status.success());
    assert!(text(&output).contains("not ready within 2 s"), "{}", text(&output));
    assert!(until(SOON, || bed.processes().is_empty()), "{:?}", bed.processes());
}

/// A stop that came during the boot was asked of an init that did not listen yet, once; the enclave then booted to the
/// end, ran, and was ended by force 15 seconds later.
fn a_stop_while_it_starts_is_clean(bed: &Bed) {
    let image = bed.shell_image("early", "sleep 600", "attestation.enabled = false");
    let mut args = bed.run_args(&image);
    args.push("--detach");
    let mut start = bed.command(&args).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    assert!(until(SOON, || bed.instance("early").is_some()));
    let stopped = bed.run(&["stop", "early"]);
    assert!(stopped.status.success(), "{}", text(&stopped));
    assert!(!text(&stopped).contains("by force"), "{}", text(&stopped));
    start.wait().unwrap();
    assert_eq!(bed.instance("early").unwrap()["code"], 143);
    assert!(until(SOON, || bed.processes().is_empty()), "{:?}", bed.processes());
}

/// `glasshouse logs -f NAME | head -n 1` went on until the enclave ended, long after `head` had.
#[test]
fn logs_are_followed_only_as_long_as_somebody_reads() {
    let Some(bed) = Bed::local() else { return };
    let image = bed.shell_image("quiet", "echo one; exec sleep 600", "attestation.enabled = false");
    let _enclave = bed.start(&image, "quiet", &[]);
    let mut follow = bed.command(&["logs", "-f", "quiet"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(follow.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains(" | ") || line.starts_with("* "), "{line}");
    let ended = until(SOON, || follow.try_wait().unwrap().is_some());
    if !ended {
        follow.kill().unwrap();
        follow.wait().unwrap();
    }
    assert!(ended);
}
