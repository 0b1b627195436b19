//! This verifier and the auditor's page must say the same of everything, not only of what the vectors have. So every value of a
//! bundle that is right is changed, dropped, doubled and encoded otherwise, one at a time and with all signatures and hashes made
//! anew around it, and both judge.

mod forms;
mod ledger;
#[path = "../../../../../crates/attestation/tests/support/mod.rs"]
mod support;
mod tree;
mod world;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use ::ledger::{Algorithm, Attributes, Cause, Content, Digests, Key, Kind, ProofKind, Record, State};
use attestation::bundle::{self, Base64};
use pipeline::reply::Exit;
use pipeline::trace::entry::{Ending, Entry, Event, Head, pcr17};
use serde_json::{Value as Json, json};

use tree::Item;
use world::World;

/// Asks the page, which has to agree with every verdict.
fn compare(cases: &[Json]) {
    let accepted = cases.iter().filter(|case| case["accepted"] == true).count();
    assert!(accepted > 0 && accepted < cases.len(), "{accepted} of {} accepted", cases.len());
    if Command::new("node").arg("--version").output().is_err() {
        println!("skipped: the auditor's page (node is not installed)");
        return;
    }
    run("node", "../ra-web-srv/tests/auditor/judge.cjs", cases);
}

/// Runs another verifier over the cases; it ends with 1 if it judges one otherwise.
fn run(program: &str, script: &str, cases: &[Json]) {
    let mut lines = String::new();
    cases.iter().for_each(|case| writeln!(lines, "{case}").unwrap());
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let output = Command::new(program).arg(script).arg(file.path()).output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
}

/// The encoding and all that differ from it in one place, with names.
fn variants(name: &str, encoding: &[u8]) -> Vec<(String, Vec<u8>)> {
    named(name, encoding, Item::read(encoding).mutations())
}

fn named(name: &str, encoding: &[u8], others: Vec<Vec<u8>>) -> Vec<(String, Vec<u8>)> {
    let named = others.into_iter().map(|other| (format!("{name}: {}", hex::encode(&other)), other));
    [(name.to_owned(), encoding.to_vec())].into_iter().chain(named).collect()
}

fn attributes() -> Attributes {
    Attributes { mode: 0o644, uid: 1, gid: 2, mtime: -3 }
}

fn record(state: State) -> Vec<u8> {
    Record { cause: Cause::Event, state }.encode()
}

fn present(content: Content) -> Vec<u8> {
    record(State::Present(attributes(), content))
}

#[test]
fn transcripts_are_judged_alike() {
    let world = World::new();
    let (operator, key) = ("ada".to_owned(), "ssh-ed25519 AAAA".to_owned());
    let entry = |number, event| Entry { number, time_ms: 7, event }.encode();
    let open = entry(1, Event::Open { operator, key, request: vec![0xa0] });
    let close =
        |ending| entry(2, Event::Close { session: 1, ending, files: 1, bytes: 2, digest: Some([5; 32]) });
    let exit = Ending::Exit(Exit { status: 1, signal: Some(9), timed_out: true });
    let seconds = [
        ("restart", entry(2, Event::Restart)),
        ("close by exit", close(exit)),
        ("close by refusal", close(Ending::Refused(7))),
        ("close by loss", close(Ending::Lost)),
    ];
    let mut transcripts: Vec<(String, Vec<Vec<u8>>)> = Vec::new();
    transcripts.extend(variants("open", &open).into_iter().map(|(name, entry)| (name, vec![entry])));
    for (name, second) in seconds {
        let two = |(name, entry): (String, Vec<u8>)| (name, vec![open.clone(), entry]);
        transcripts.extend(variants(name, &second).into_iter().map(two));
    }
    let checkpoint = ::ledger::Checkpoint::empty();
    let mut cases = Vec::new();
    for (name, entries) in
        transcripts.into_iter().filter(|(_, entries)| entries.iter().all(|entry| !entry.is_empty()))
    {
        let head = entries.iter().fold(Head::empty(), |head, entry| head.after(entry));
        let statement = world.statement(&checkpoint, Some(head.0)).encode();
        let mut bundle = world.bundle(&statement, &world.baseline(), Some(pcr17(&entries[0]).to_vec()));
        bundle.transcript = Some(entries.into_iter().map(Base64).collect());
        cases.push(world.case(&name, &bundle.encode().unwrap(), &Vec::new()));
    }
    compare(&cases);
}

#[test]
fn documents_are_judged_alike() {
    let world = World::new();
    let checkpoint = ::ledger::Checkpoint::empty();
    let statement = world.statement(&checkpoint, None).encode();
    let payload = world.payload(&statement, &[(16, world.framework(&world.baseline()))]).encode();
    let base = world.bundle(&statement, &world.baseline(), None);
    let mut cases = Vec::new();
    let mut add = |name: String, document: Vec<u8>| {
        if !document.is_empty() {
            let bundle = bundle::Bundle { document: Base64(document), ..base.clone() };
            cases.push(world.case(&name, &bundle.encode().unwrap(), &Vec::new()));
        }
    };
    let signed = |protected: &[u8], payload: &[u8]| {
        let signature = support::sign(&world.chain.leaf_key_pkcs8, protected, payload);
        support::envelope(protected, &[0xa0], payload, &signature)
    };
    for (name, payload) in variants("payload", &payload) {
        add(name, signed(support::PROTECTED, &payload));
    }
    for (name, protected) in variants("protected header", support::PROTECTED) {
        add(name, signed(&protected, &payload));
    }
    let right = signed(support::PROTECTED, &payload);
    for (name, document) in variants("envelope", &right) {
        add(name, document);
    }
    for tag in [&[0xd2][..], &[0xd8, 0x12], &[0xd9, 0, 0x12], &[0xd1], &[0xd8, 0x3d], &[0xd2, 0xd2]] {
        add(format!("tag {}", hex::encode(tag)), [tag, &right].concat());
    }
    compare(&cases);
}

/// A question is answered by a proof of its own, and only about what is watched.
#[test]
fn questions_are_judged_alike() {
    let world = World::new();
    let (key, _) = world.place();
    let sha256 = Digests::new().with(Algorithm::Sha256, &[8; 32]);
    let states = [
        ("file", present(Content::File { size: 5, digests: sha256.clone() })),
        ("directory", present(Content::Directory { entries: 5, digests: sha256 })),
        ("removed", record(State::Removed)),
    ];
    let (same, other) = ("08".repeat(32), "09".repeat(32));
    let path = world::PATH;
    let questions: [Vec<Json>; 9] = [
        vec![json!({ "path": path })],
        vec![json!({ "path": path, "sha256": same })],
        vec![json!({ "path": path, "sha256": other })],
        vec![json!({ "path": path, "absent": true })],
        vec![json!({ "path": path }), json!({ "path": path, "absent": true })],
        vec![json!({ "path": path, "sha256": same }), json!({ "path": path, "sha256": other })],
        vec![json!({ "path": "/app/other" })],
        vec![json!({ "path": "/elsewhere", "absent": true })],
        vec![json!({ "path": "/app/a.log", "absent": true })],
    ];
    let mut cases = Vec::new();
    for (name, payload) in states {
        let alone = world.alone(ProofKind::File, key, &World::entry(Kind::File, key, &payload), &payload);
        let bundle = world.proved(&alone.checkpoint, bundle::ProofKind::File, path, alone.proof.encode());
        for asked in &questions {
            cases.push(world.case(&format!("{name}, {asked:?}"), &bundle.encode().unwrap(), asked));
        }
    }
    // A subject that nothing was recorded of: the place in the map is empty.
    let empty = ::ledger::Checkpoint::empty();
    for (subject, kind) in [
        ("ledger", bundle::ProofKind::Stream),
        ("Not a name", bundle::ProofKind::Stream),
        ("a//b", bundle::ProofKind::Stream),
    ] {
        let end = ::ledger::map::Proof { siblings: Vec::new(), end: ::ledger::map::End::Empty };
        let proof =
            ::ledger::Proof { kind: ProofKind::Stream, size: 0, vrf: None, map: end, chain: Vec::new() };
        let bundle = world.proved(&empty, kind, subject, proof.encode());
        cases.push(world.case(subject, &bundle.encode().unwrap(), &Vec::new()));
    }
    assert_ne!(key, Key([0; 32]));
    compare(&cases);
}
