//! The vectors in `docs/spec/vectors/` are what this code makes, and refuse what it refuses.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::path::Path;

use pipeline::{
    reply::Exit,
    request::{Program, Request, Run, RunId, SendFile, Setting, Shell, Terminal, WindowSize},
    trace::{
        chain::Chain,
        entry::{Ending, Entry, Event, Head, pcr17},
    },
};
use serde_json::{Value, json};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn vectors(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/spec/vectors").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn run() -> Run {
    Run {
        program: Program::Words(vec![b"ls".to_vec(), b"-l".to_vec(), vec![0xff]]),
        setting: Setting {
            env: vec![b"A=b".to_vec()],
            cwd: Some(b"/srv".to_vec()),
            user: Some("www:tls".into()),
        },
        timeout_ms: std::num::NonZeroU64::new(1500),
        terminal: None,
        no_wait: true,
    }
}

fn requests() -> Vec<Request> {
    let terminal = Terminal { term: "xterm".into(), size: WindowSize { columns: 80, rows: 24 } };
    vec![
        Request::Run(run()),
        Request::Shell(Shell { program: None, setting: Setting::default(), terminal }),
        Request::SendFile(SendFile {
            path: b"/a".to_vec(),
            mode: Some(0o644),
            size: Some(1 << 32),
            resume: true,
        }),
        Request::Services,
        Request::ServiceRestart { service: "web".into() },
        Request::Status { id: None },
        Request::Logs { id: RunId(300), follow: true },
        Request::Kill { id: RunId(7), signal: 9 },
        Request::Transcript { from: 1 },
        Request::Seal,
        Request::Secrets,
        Request::SecretSet { secret: "token".into() },
    ]
}

#[test]
fn requests_are_those_of_the_specification() {
    let valid: Vec<_> = requests()
        .iter()
        .map(|request| json!({ "verb": request.verb(), "hex": hex(&request.encode().unwrap()) }))
        .collect();
    let vectors = vectors("pipeline-requests.json");
    assert_eq!(vectors["valid"], json!(valid), "{}", serde_json::to_string_pretty(&valid).unwrap());
    let invalid = vectors["invalid"].as_array().unwrap();
    assert!(invalid.len() >= 8);
    for vector in invalid {
        let bytes = unhex(vector["hex"].as_str().unwrap());
        assert!(Request::decode(&bytes).is_err(), "{}", vector["why"]);
    }
}

#[test]
fn entries_and_heads_are_those_of_the_specification() {
    let request = Request::Run(run()).encode().unwrap();
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    let open = Event::Open { operator: "alice".into(), key: key.into(), request };
    let exit = Exit { status: 137, signal: Some(9), timed_out: true };
    let close = |ending| Event::Close { session: 1, ending, files: 2, bytes: 300, digest: Some([7; 32]) };
    let events =
        [open, close(Ending::Exit(exit)), Event::Restart, close(Ending::Refused(8)), close(Ending::Lost)];
    let (mut chain, mut found) = (Chain::default(), Vec::new());
    for (number, event) in (1..).zip(events) {
        let bytes = Entry { number, time_ms: 1_700_000_000_000, event }.encode();
        chain.push(&bytes).unwrap();
        let mut vector = json!({ "entry": hex(&bytes), "head": chain.head().to_string() });
        if number == 1 {
            vector["pcr17"] = json!(hex(&pcr17(&bytes)));
        }
        found.push(vector);
    }
    let found = json!({ "empty": Head::empty().to_string(), "entries": found });
    assert_eq!(vectors("control-trace.json"), found, "{}", serde_json::to_string_pretty(&found).unwrap());
}
