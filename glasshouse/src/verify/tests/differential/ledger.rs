//! Proofs of a ledger, which a third verifier judges as well: the one in Python that was written from the specification.

use ::ledger::{
    Algorithm, Checkpoint, Content, Device, Digests, Gap, GapReason, Kind, ProofKind, State, StreamName,
};
use attestation::bundle;
use serde_json::{Value as Json, json};

use super::{compare, named, present, record, run, tree::Item, variants, world, world::World};

/// Proofs with this verifier's verdict, for each of the others.
#[derive(Default)]
struct Cases {
    page: Vec<Json>,
    python: Vec<Json>,
}

impl Cases {
    /// A proof about the world's file or the stream `ledger`.
    fn add(&mut self, world: &World, name: &str, checkpoint: &Checkpoint, is_file: bool, proof: Vec<u8>) {
        let (kind, subject) = match is_file {
            true => (bundle::ProofKind::File, world::PATH),
            false => (bundle::ProofKind::Stream, StreamName::LEDGER),
        };
        self.python.push(json!({
            "name": name, "vrf_key": hex::encode(world.vrf_key()), "size": checkpoint.size,
            "log_root": checkpoint.log_root.to_string(), "map_root": checkpoint.map_root.to_string(),
            "kind": kind, "subject": if is_file { hex::encode(subject) } else { subject.to_owned() },
            "proof": hex::encode(&proof),
        }));
        let proved = world.proved(checkpoint, kind, subject, proof);
        let case = world.case(name, &proved.encode().unwrap(), &Vec::new());
        self.python.last_mut().unwrap()["accepted"] = case["accepted"].clone();
        self.page.push(case);
    }

    fn compare(&self) {
        compare(&self.page);
        run("python3", "../crates/ledger/tests/stranger.py", &self.python);
    }
}

/// An encoded array and all that differ from it in the last member.
fn last_variants(name: &str, encoding: &[u8]) -> Vec<(String, Vec<u8>)> {
    named(name, encoding, Item::read(encoding).last_mutations())
}

#[test]
fn entries_and_proofs_are_judged_alike() {
    let world = World::new();
    let (key, _) = world.place();
    let file = present(Content::File { size: 5, digests: Digests::new().with(Algorithm::Sha256, &[8; 32]) });
    let entry = World::entry(Kind::File, key, &file);
    let right = world.alone(ProofKind::File, key, &entry, &file);
    let mut cases = Cases::default();
    for (name, entry) in variants("entry", &entry) {
        let alone = world.alone(ProofKind::File, key, &entry, &file);
        cases.add(&world, &name, &alone.checkpoint, true, alone.proof.encode());
    }
    for (name, proof) in variants("proof", &right.proof.encode()) {
        cases.add(&world, &name, &right.checkpoint, true, proof);
    }
    cases.compare();
}

#[test]
fn records_and_gaps_are_judged_alike() {
    let world = World::new();
    let (key, _) = world.place();
    let digests = Digests::new().with(Algorithm::Blake3, &[7; 32]).with(Algorithm::Sha256, &[8; 32]);
    let digests = digests.with(Algorithm::Sha3_512, &[9; 64]);
    let device = Device { major: 8, minor: 1 };
    // What all of them have is changed in one of them.
    let whole = [("removed", record(State::Removed)), ("file", present(Content::File { size: 5, digests }))];
    let rest = [
        ("directory", present(Content::Directory { entries: 2, digests: Digests::new() })),
        ("link", present(Content::Symlink { target: b"there".to_vec() })),
        ("device", present(Content::CharacterDevice(device))),
        ("pipe", present(Content::Fifo)),
        ("unreadable", present(Content::Unreadable { size: 5 })),
    ];
    let whole = whole.iter().flat_map(|(name, encoding)| variants(name, encoding));
    let rest = rest.iter().flat_map(|(name, encoding)| last_variants(name, encoding));
    let mut cases = Cases::default();
    for (name, payload) in whole.chain(rest) {
        let alone = world.alone(ProofKind::File, key, &World::entry(Kind::File, key, &payload), &payload);
        cases.add(&world, &name, &alone.checkpoint, true, alone.proof.encode());
    }
    let gap = Gap { reason: GapReason::Overflow, since: 4, detail: "words".to_owned() }.encode();
    let longest = Gap { reason: GapReason::Mount, since: 4, detail: "\u{fc}".repeat(128) }.encode();
    let key = StreamName::ledger().key();
    for (name, payload) in variants("gap", &gap).into_iter().chain(last_variants("long gap", &longest)) {
        let alone = world.alone(ProofKind::Stream, key, &World::entry(Kind::Gap, key, &payload), &payload);
        cases.add(&world, &name, &alone.checkpoint, false, alone.proof.encode());
    }
    cases.compare();
}

#[test]
fn statements_and_baselines_are_judged_alike() {
    let world = World::new();
    let (key, _) = world.place();
    let file = present(Content::Fifo);
    let right = world.alone(ProofKind::File, key, &World::entry(Kind::File, key, &file), &file);
    let (statement, baseline) =
        (world.statement(&right.checkpoint, Some([6; 32])).encode(), world.baseline());
    let mut cases = Vec::new();
    for (name, statement) in variants("statement", &statement) {
        let bundle = world.bundle(&statement, &baseline, None);
        cases.push(world.case(&name, &bundle.encode().unwrap(), &Vec::new()));
    }
    for (name, baseline) in variants("baseline", &baseline) {
        let bundle = world.bundle(&statement, &baseline, None);
        cases.push(world.case(&name, &bundle.encode().unwrap(), &Vec::new()));
    }
    compare(&cases);
}
