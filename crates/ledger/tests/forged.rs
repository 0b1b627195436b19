//! What a ledger that lies can try.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use ledger::log::{prove_consistency, verify_consistency};
use ledger::map::End;
use ledger::{
    Anchor, Checkpoint, FileNow, Hash, Opened, Proof, ProofKind, StreamEnd, StreamName, StreamPayload,
    VerifyError,
};
use support::{Small, example, file, removed};

const MODEL: &[u8] = b"/app/model.bin";

fn agent() -> StreamName {
    "app/agent".parse().unwrap()
}

fn history(small: &Small, proof: &Proof) -> Result<Vec<ledger::Observation>, VerifyError> {
    small.anchor().verify_history(MODEL, &proof.encode())
}

fn stream(small: &Small, proof: &Proof) -> Result<StreamEnd, VerifyError> {
    small.anchor().verify_stream(&agent(), &proof.encode())
}

#[test]
fn honest_proofs_say_what_is_in_the_ledger() {
    let small = example();
    let anchor = small.anchor();
    let records: Vec<_> = history(&small, &small.prove_path(ProofKind::History, MODEL)).unwrap();
    let found: Vec<_> = records.iter().map(|one| (one.index, one.sequence, one.time)).collect();
    assert_eq!(found, [(20, 0, 2000), (22, 1, 2002), (25, 2, 2005)]);
    let contents: Vec<_> = records.iter().map(|one| one.record.clone()).collect();
    assert_eq!(contents, [file(b"first"), file(b"second"), file(b"third")]);
    let now = anchor.verify_file(MODEL, &small.prove_path(ProofKind::File, MODEL).encode()).unwrap();
    assert_eq!(now, FileNow::Recorded(records[2].clone()));
    let gone = anchor.verify_file(b"/app/key", &small.prove_path(ProofKind::File, b"/app/key").encode());
    assert!(matches!(gone.unwrap(), FileNow::Recorded(one) if one.record == removed()));
    let never = anchor.verify_file(b"/app/x", &small.prove_path(ProofKind::File, b"/app/x").encode());
    assert_eq!(never.unwrap(), FileNow::Never);

    let all = stream(&small, &small.prove_stream("app/agent", 0)).unwrap();
    let payloads: Vec<_> = all.entries.iter().map(|entry| entry.payload.clone()).collect();
    let bytes = |bytes: &[u8]| StreamPayload::Bytes(bytes.to_vec());
    assert_eq!(payloads, [bytes(b"hello"), bytes(b""), bytes(b"bye")]);
    assert!(all.is_complete());
    let end = stream(&small, &small.prove_stream("app/agent", 1)).unwrap();
    assert_eq!((end.count, end.is_complete(), end.entries.as_slice()), (3, false, &all.entries[1..]));
    let gaps =
        anchor.verify_stream(&StreamName::ledger(), &small.prove_stream("ledger", 0).encode()).unwrap();
    assert!(matches!(&gaps.entries[0].payload, StreamPayload::Gap(gap) if gap.detail == "again"));
}

/// One bit of every byte, one after the other.
#[test]
fn a_proof_with_any_byte_altered_is_refused() {
    let small = example();
    let anchor = small.anchor();
    let proof = small.prove_path(ProofKind::File, b"/app/key").encode();
    for at in 0..proof.len() {
        let mut forged = proof.clone();
        forged[at] ^= 1 << (at % 8);
        assert!(anchor.verify_file(b"/app/key", &forged).is_err(), "byte {at}");
    }
}

#[test]
fn a_proof_that_is_cut_or_followed_by_more_is_refused() {
    let small = example();
    let proof = small.prove_stream("app/agent", 0).encode();
    for length in 0..proof.len() {
        assert!(small.anchor().verify_stream(&agent(), &proof[..length]).is_err(), "{length}");
    }
    let longer = [&proof[..], &[0]].concat();
    assert!(matches!(small.anchor().verify_stream(&agent(), &longer), Err(VerifyError::Decode(_))));
}

#[test]
fn a_history_that_leaves_out_repeats_or_reorders_is_refused() {
    let small = example();
    let honest = small.prove_path(ProofKind::History, MODEL);
    type Forgery = fn(&mut Vec<Opened>);
    let forgeries: [(&str, Forgery); 7] = [
        ("without the first", |chain| drop(chain.pop())),
        ("without the last", |chain| drop(chain.remove(0))),
        ("without one between", |chain| drop(chain.remove(1))),
        ("empty", Vec::clear),
        ("the first twice", |chain| chain.push(chain[2].clone())),
        ("the last twice", |chain| chain.insert(0, chain[0].clone())),
        ("in the other order", |chain| chain.reverse()),
    ];
    for (name, forge) in forgeries {
        let mut forged = honest.clone();
        forge(&mut forged.chain);
        assert!(history(&small, &forged).is_err(), "{name}");
    }
    // As many as there are, but others.
    for (at, other) in [(0, 1), (1, 0), (2, 1), (1, 2)] {
        let mut forged = honest.clone();
        forged.chain[at] = forged.chain[other].clone();
        let refused = history(&small, &forged).unwrap_err();
        assert!(matches!(refused, VerifyError::Entry { .. }), "{at} as {other}: {refused:?}");
    }
}

#[test]
fn payloads_that_were_not_committed_to_are_refused() {
    let small = example();
    let honest = small.prove_path(ProofKind::History, MODEL);
    let mut exchanged = honest.clone();
    exchanged.chain[0].payload = honest.chain[1].payload.clone();
    exchanged.chain[0].nonce = honest.chain[1].nonce;
    assert!(matches!(
        history(&small, &exchanged),
        Err(VerifyError::Entry { index: 25, what: "the payload" })
    ));
    let mut nonce = honest.clone();
    nonce.chain[2].nonce[31] ^= 1;
    assert!(matches!(history(&small, &nonce), Err(VerifyError::Entry { index: 20, what: "the payload" })));
}

#[test]
fn entries_of_others_and_outside_the_log_are_refused() {
    let small = example();
    let mut other = small.prove_path(ProofKind::History, MODEL);
    other.chain[1] = small.open(24);
    assert!(matches!(history(&small, &other), Err(VerifyError::Entry { what: "the subject", .. })));
    // An entry that the log never held, with a consistent story and a path that was someone else's.
    let mut fork = example();
    fork.file(4000, MODEL, &file(b"fourth"));
    let mut invented = fork.prove_path(ProofKind::File, MODEL);
    invented.size = small.tree.size();
    let refused = small.anchor().verify_file(MODEL, &invented.encode()).unwrap_err();
    assert!(matches!(refused, VerifyError::Map(_)), "{refused:?}");
    let mut path = small.prove_path(ProofKind::History, MODEL);
    path.chain[1].path.swap(0, 1);
    assert!(matches!(history(&small, &path), Err(VerifyError::Log { index: 22, .. })));
}

#[test]
fn what_exists_is_not_denied_and_what_does_not_is_not_shown() {
    let small = example();
    for end in [End::Empty, End::Other(ledger::Key([9; 32]), value(&small))] {
        let mut denied = small.prove_path(ProofKind::File, MODEL);
        denied.map.end = end;
        denied.chain.clear();
        let refused = small.anchor().verify_file(MODEL, &denied.encode()).unwrap_err();
        assert!(matches!(refused, VerifyError::Map(_)), "{refused:?}");
    }
    let mut shown = small.prove_path(ProofKind::File, b"/app/x");
    shown.chain = small.prove_path(ProofKind::File, MODEL).chain;
    let refused = small.anchor().verify_file(b"/app/x", &shown.encode()).unwrap_err();
    assert!(matches!(refused, VerifyError::Count { count: 0, found: 1 }), "{refused:?}");
    // Where another file is not.
    let mut elsewhere = small.prove_path(ProofKind::File, b"/app/x");
    elsewhere.vrf = small.prove_path(ProofKind::File, b"/app/y").vrf;
    let refused = small.anchor().verify_file(b"/app/x", &elsewhere.encode()).unwrap_err();
    assert!(matches!(refused, VerifyError::Vrf(_)), "{refused:?}");
}

fn value(small: &Small) -> ledger::Value {
    match small.prove_path(ProofKind::File, MODEL).map.end {
        End::Value(value) => value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn proofs_hold_for_what_they_are_about_alone() {
    let small = example();
    let anchor = small.anchor();
    let file = small.prove_path(ProofKind::File, MODEL).encode();
    assert!(matches!(anchor.verify_file(b"/app/key", &file), Err(VerifyError::Vrf(_))));
    assert!(matches!(anchor.verify_history(MODEL, &file), Err(VerifyError::Kind { .. })));
    assert!(matches!(anchor.verify_stream(&agent(), &file), Err(VerifyError::Kind { .. })));
    let stream = small.prove_stream("app/agent", 0).encode();
    let other = "egress".parse().unwrap();
    assert!(matches!(anchor.verify_stream(&other, &stream), Err(VerifyError::Map(_))));
    let strange = Anchor::new(small.checkpoint(), &[3; 32]);
    let key = strange.map(|anchor| anchor.verify_file(MODEL, &file).unwrap_err());
    assert!(matches!(key, Err(_) | Ok(VerifyError::Vrf(_))), "{key:?}");
}

#[test]
fn proofs_hold_for_their_checkpoint_alone() {
    let small = example();
    let proof = small.prove_path(ProofKind::File, MODEL).encode();
    let checkpoint = small.checkpoint();
    let refused = |checkpoint: Checkpoint| {
        let anchor = Anchor::new(checkpoint, &small.vrf_key()).unwrap();
        anchor.verify_file(MODEL, &proof).unwrap_err()
    };
    let size = checkpoint.size + 1;
    assert!(matches!(refused(Checkpoint { size, ..checkpoint }), VerifyError::Size { .. }));
    let (log_root, map_root) = (Hash([1; 32]), Hash([1; 32]));
    assert!(matches!(refused(Checkpoint { log_root, ..checkpoint }), VerifyError::Log { index: 25, .. }));
    assert!(matches!(refused(Checkpoint { map_root, ..checkpoint }), VerifyError::Map(_)));
}

#[test]
fn a_map_that_hides_entries_does_not_fit_the_log() {
    // The map says one entry where the log has three.
    let mut liar = example();
    let mut value = value(&liar);
    let key = ledger::file_key(&liar.vrf.output(MODEL));
    value.count = 1;
    liar.map.apply(vec![(key, value)]);
    let mut proof = liar.prove_path(ProofKind::History, MODEL);
    proof.chain.truncate(1);
    let refused = liar.anchor().verify_history(MODEL, &proof.encode()).unwrap_err();
    assert!(matches!(refused, VerifyError::Entry { what: "the sequence number", .. }), "{refused:?}");
    // The map says no entries at all and points to one.
    value.count = 0;
    liar.map.apply(vec![(key, value)]);
    let proof = liar.prove_path(ProofKind::File, MODEL);
    let refused = liar.anchor().verify_file(MODEL, &proof.encode()).unwrap_err();
    assert!(matches!(refused, VerifyError::Entry { what: "the sequence number", .. }), "{refused:?}");
}

#[test]
fn logs_that_were_forked_or_cut_are_not_consistent() {
    let (mut honest, mut fork) = (example(), example());
    let seen = honest.checkpoint();
    honest.stream(5000, "app/agent", b"one story");
    fork.stream(5000, "app/agent", b"another");
    honest.stream(5001, "app/agent", b"more");
    fork.stream(5001, "app/agent", b"more");
    let (one, other) = (honest.checkpoint(), fork.checkpoint());
    let proof = prove_consistency(&honest.tree, seen.size, one.size).unwrap();
    verify_consistency(seen.size, &seen.log_root, one.size, &one.log_root, &proof).unwrap();
    // Whoever saw one story is not led to the other, by neither's hashes.
    let size = one.size - 1;
    for tree in [&honest.tree, &fork.tree] {
        let proof = prove_consistency(tree, size, other.size).unwrap();
        verify_consistency(size, &honest.root_at(size), other.size, &other.log_root, &proof).unwrap_err();
    }
    // A log that was cut off is not a continuation.
    verify_consistency(one.size, &one.log_root, seen.size, &seen.log_root, &proof).unwrap_err();
}
