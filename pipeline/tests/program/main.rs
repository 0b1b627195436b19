//! The program as operators use it: a server in a process of its own, clients from the command line, a person's terminal.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

mod enclave;
mod interrupted;
mod keys;
mod terminal;

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use enclave::{Enclave, PROGRAM, eventually, manifest, processes_with, text};

#[test]
fn a_run_is_like_a_local_command() {
    let enclave = Enclave::start();
    let mut run = enclave.client();
    run.args([
        "run",
        "--env",
        "NAME=world",
        "--command",
        "read x; echo $GREETING $NAME $x; echo err >&2; exit 42",
    ]);
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"input\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("hello world input\n".into(), "err\n".into()));
    assert_eq!(output.status.code(), Some(42));
    assert_eq!(enclave.run(&["run", "--command", "kill -TERM $$"]).status.code(), Some(143));
    let late = enclave.run(&["run", "--timeout", "0.2", "--", "sleep", "100"]);
    assert_eq!(late.status.code(), Some(137));
    assert!(text(&late.stderr).contains("longer than it was allowed"), "{late:?}");
    let missing = enclave.run(&["run", "--", "no-such-program"]);
    assert_eq!(missing.status.code(), Some(127));
    assert!(text(&missing.stderr).contains("no-such-program"), "{missing:?}");
    let directory = enclave.run(&["run", "--", "/"]);
    assert_eq!(directory.status.code(), Some(126), "{directory:?}");
}

#[test]
fn another_enclave_gets_nothing_and_another_key_is_not_let_in() {
    let enclave = Enclave::start();
    let mut wrong = enclave.client_of("alice");
    let output = wrong
        .arg("--pcr")
        .arg(format!("0={}", "00".repeat(48)))
        .args(["run", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("PCR0"), "{output:?}");
    let output = enclave.client_of("alice").args(["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "nothing says which image: {output:?}");
    let output = enclave.client_of("mallory").args(["--any-image", "status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("unknown key"), "{output:?}");
    assert!(enclave.is_unentered());
}

#[test]
fn a_debug_enclave_and_one_of_an_unknown_root_are_refused() {
    let debug = Enclave::start_with([0; 48]);
    let output = debug.client_of("alice").args(["--any-image", "status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("debug"), "{output:?}");
    let enclave = Enclave::start();
    let mut unrooted = Command::new(PROGRAM);
    unrooted.env("HOME", enclave.folder.path()).env_remove("SSH_AUTH_SOCK").env_remove("XDG_CONFIG_HOME");
    unrooted.arg("--addr").arg(format!("unix:{}", enclave.path("control").display()));
    unrooted.arg("--identity").arg(enclave.path("alice")).args(["--any-image", "status"]);
    let output = unrooted.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(text(&output.stderr).contains("evidence was refused"), "{output:?}");
    assert!(debug.is_unentered() && enclave.is_unentered());
}

/// Another image, as far as a server can tell: the same, with other operators in its manifest.
#[test]
fn a_key_that_a_new_image_leaves_out_is_revoked() {
    let mut enclave = Enclave::start();
    assert_eq!(enclave.run(&["run", "--", "true"]).status.code(), Some(0));
    let other = std::fs::read_to_string(enclave.path("mallory.pub")).unwrap();
    std::fs::write(enclave.path("manifest.json"), manifest(other.trim())).unwrap();
    enclave.kill_and_restart();
    let output = enclave.run(&["run", "--", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("unknown key"), "{output:?}");
}

#[test]
fn runs_without_a_client_are_followed_and_all_is_in_the_transcript() {
    let enclave = Enclave::start();
    let id = text(&enclave.run(&["run", "--no-wait", "--command", "echo begun; sleep 0.3; exit 3"]).stdout);
    let id = id.trim();
    let logs = enclave.run(&["logs", "--follow", id]);
    assert_eq!((text(&logs.stdout), logs.status.code()), ("begun\n".into(), Some(3)));
    let status = text(&enclave.run(&["status", "--json", id]).stdout);
    assert!(status.contains("\"status\":3"), "{status}");
    let table = text(&enclave.run(&["status"]).stdout);
    assert!(table.starts_with("id ") && table.contains("ended"), "{table}");
    let killed = enclave.run(&["kill", "--signal", "KILL", id]);
    assert_eq!(killed.status.code(), Some(1), "it has ended: {killed:?}");
    let transcript = enclave.run(&["transcript"]);
    assert_eq!(transcript.status.code(), Some(0));
    assert!(text(&transcript.stderr).contains("agrees with the enclave's evidence"), "{transcript:?}");
    assert!(text(&transcript.stdout).contains("sleep 0.3"), "{transcript:?}");
    assert_eq!(enclave.run(&["seal"]).status.code(), Some(1));
}

#[test]
fn a_sealed_enclave_admits_nobody() {
    let enclave = Enclave::start();
    let sealed = enclave.run(&["seal"]);
    assert_eq!(sealed.status.code(), Some(0), "{sealed:?}");
    let refused = enclave.run(&["run", "--", "true"]);
    assert_eq!(refused.status.code(), Some(125));
    assert!(text(&refused.stderr).contains("sealed"), "{refused:?}");
    assert!(enclave.is_unentered());
}

#[test]
fn files_go_there_and_back() {
    let enclave = Enclave::start();
    let (here, there, back) = (enclave.path("here"), enclave.path("there"), enclave.path("back"));
    std::fs::write(&here, vec![7; 3_000_000]).unwrap();
    let (here, there, back) = (here.to_str().unwrap(), there.to_str().unwrap(), back.to_str().unwrap());
    let sent = enclave.run(&["send-file", "--quiet", here, there]);
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    let received = enclave.run(&["recv-file", "--quiet", there, back]);
    assert_eq!(received.status.code(), Some(0), "{received:?}");
    assert_eq!(std::fs::read(back).unwrap(), vec![7; 3_000_000]);
}

/// A server that was killed left the programs of its operators behind, for ever.
#[test]
fn the_programs_of_a_killed_server_are_ended_by_the_next_one() {
    let mut enclave = Enclave::start();
    let word = format!("{}00077", std::process::id());
    let script = format!("set -m; sleep {word} & sleep {word} & echo ready; wait");
    let mut waited = enclave.client();
    waited.args(["run", "--command", &script]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut waited = waited.stderr(Stdio::null()).spawn().unwrap();
    let mut first = [0; 6];
    waited.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let unwaited = enclave.run(&["run", "--no-wait", "--command", &format!("sleep {word}")]);
    assert!(unwaited.status.success(), "{unwaited:?}");
    assert!(processes_with(&word) >= 3);
    enclave.kill_and_restart();
    assert!(!waited.wait().unwrap().success());
    eventually("the programs are gone", || processes_with(&word) == 0);
    assert_eq!(enclave.run(&["run", "--", "true"]).status.code(), Some(0));
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_run() {
    let enclave = Enclave::start();
    let mut client = enclave.client();
    client.args(["run", "--command", "yes word"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = client.stdin(Stdio::null()).spawn().unwrap();
    let mut first = [0; 5];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((&first, output.status.code(), text(&output.stderr)), (b"word\n", Some(141), String::new()));
}

#[test]
fn the_program_explains_itself() {
    let output = |words: &[&str]| text(&Command::new(PROGRAM).args(words).output().unwrap().stdout);
    for verb in
        ["run", "shell", "services", "status", "logs", "kill", "seal", "transcript", "listen", "send-file"]
    {
        assert!(output(&["--help"]).contains(&format!("\n  {verb}")), "{verb}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(output(&["completions", shell]).contains("send-file"), "{shell}");
    }
    // One page has everything: there is none for a verb of its own.
    let page = output(&["man"]);
    for words in
        [".TH pipeline", "\"PIPELINE RUN\"", "no\\-wait", "\"PIPELINE SERVICES RESTART\"", "special\\-bits"]
    {
        assert!(page.contains(words), "{words}");
    }
}

#[test]
fn a_refusal_with_a_simple_reason_says_what_to_do() {
    let enclave = Enclave::start();
    let folder = enclave.folder.path().to_str().unwrap();
    let here = enclave.path("alice.pub");
    for (words, told) in [
        (
            ["send-file", here.to_str().unwrap(), folder],
            "with a \"/\" at the end of its path the file goes into it",
        ),
        (["recv-file", folder, "/dev/null"], "recv-dir, or cp -r, receives directories"),
        (["recv-file", "/no-such-*", folder], "patterns are not expanded"),
    ] {
        let refused = enclave.run(&words);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(text(&refused.stderr).contains(told), "{refused:?}");
    }
}
