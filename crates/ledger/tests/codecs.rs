//! Everything that is decoded has one encoding, and any bytes are decoded or refused.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use ledger::map::{self, End};
use ledger::tile::{TileKind, TileName};
use ledger::{
    Algorithm, Attributes, Baseline, Cause, Checkpoint, Content, Device, Digests, Entry, Gap, GapReason,
    Hash, Key, Kind, Note, Opened, Proof, ProofKind, Record, State, Value,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use support::example;

fn hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash)
}

fn entry() -> impl Strategy<Value = Entry> {
    let kind = select(vec![Kind::File, Kind::Stream, Kind::Gap]);
    (kind, any::<u64>(), any::<[u8; 32]>(), prop::option::of((1..u64::MAX, any::<u64>())), hash()).prop_map(
        |(kind, time, subject, before, commitment)| Entry {
            kind,
            time,
            subject: Key(subject),
            sequence: before.map_or(0, |(sequence, _)| sequence),
            previous: before.map(|(_, previous)| previous),
            commitment,
        },
    )
}

fn digests(at_least: usize) -> impl Strategy<Value = Digests> {
    prop::sample::subsequence(Algorithm::ALL.to_vec(), at_least..=3).prop_flat_map(|algorithms| {
        vec(any::<u8>(), 64).prop_map(move |bytes| {
            algorithms.iter().fold(Digests::new(), |digests, algorithm| {
                digests.with(*algorithm, &bytes[..algorithm.bytes()])
            })
        })
    })
}

fn content() -> impl Strategy<Value = Content> {
    let device = any::<(u32, u32)>().prop_map(|(major, minor)| Device { major, minor });
    prop_oneof![
        (any::<u64>(), digests(1)).prop_map(|(size, digests)| Content::File { size, digests }),
        (any::<u64>(), digests(0)).prop_map(|(entries, digests)| Content::Directory { entries, digests }),
        vec(any::<u8>(), 1..4096).prop_map(|target| Content::Symlink { target }),
        device.clone().prop_map(Content::CharacterDevice),
        device.prop_map(Content::BlockDevice),
        Just(Content::Fifo),
        Just(Content::Socket),
        any::<u64>().prop_map(|size| Content::Unreadable { size }),
    ]
}

fn record() -> impl Strategy<Value = Record> {
    use Cause::{Access, Event, Overflow, Restart, Scan, Sweep};
    let cause = select(vec![Scan, Event, Access, Sweep, Overflow, Restart]);
    let attributes = (0..=0o7777_u16, any::<(u32, u32, i64)>())
        .prop_map(|(mode, (uid, gid, mtime))| Attributes { mode, uid, gid, mtime });
    let state = prop_oneof![
        Just(State::Removed),
        (attributes, content()).prop_map(|(attributes, content)| State::Present(attributes, content))
    ];
    (cause, state).prop_map(|(cause, state)| Record { cause, state })
}

fn gap() -> impl Strategy<Value = Gap> {
    use GapReason::{Failure, Mount, Overflow, Restart};
    (select(vec![Restart, Overflow, Mount, Failure]), any::<u64>(), "[a-zä]{0,120}")
        .prop_map(|(reason, since, detail)| Gap { reason, since, detail })
}

fn value() -> impl Strategy<Value = Value> {
    (any::<u64>(), any::<u64>(), hash()).prop_map(|(count, last, leaf)| Value { count, last, leaf })
}

fn proof() -> impl Strategy<Value = Proof> {
    let kind = select(vec![ProofKind::File, ProofKind::History, ProofKind::Stream]);
    let end = prop_oneof![
        Just(End::Empty),
        value().prop_map(End::Value),
        (any::<[u8; 32]>(), value()).prop_map(|(key, value)| End::Other(Key(key), value)),
    ];
    let opened = (vec(any::<u8>(), 0..128), vec(hash(), 0..5), any::<[u8; 32]>(), vec(any::<u8>(), 0..300))
        .prop_map(|(entry, path, nonce, payload)| Opened { entry, path, nonce, payload });
    let parts = (kind, any::<u64>(), vec(any::<u8>(), 80), vec(hash(), 0..20), end, vec(opened, 0..5));
    parts.prop_map(|(kind, size, vrf, siblings, end, chain)| Proof {
        kind,
        size,
        vrf: (kind != ProofKind::Stream).then(|| vrf.try_into().unwrap()),
        map: map::Proof { siblings, end },
        chain,
    })
}

fn baseline() -> impl Strategy<Value = Baseline> {
    (any::<[u8; 32]>(), any::<[u8; 32]>(), any::<u64>(), hash(), hash()).prop_map(
        |(vrf_key, ledger_key, size, log_root, map_root)| Baseline {
            vrf_key,
            ledger_key,
            checkpoint: Checkpoint { size, log_root, map_root },
        },
    )
}

fn tile_name() -> impl Strategy<Value = TileName> {
    let kind = prop_oneof![Just(TileKind::Entries), (0..8_u8).prop_map(|level| TileKind::Hashes { level })];
    (kind, any::<u64>(), 0..64_u32, 1..=256_u16).prop_map(|(kind, index, shift, width)| TileName {
        kind,
        index: index >> shift,
        width,
    })
}

/// `decode` gives back what was encoded, takes nothing else that means the same, and anything without panic.
macro_rules! one_encoding {
    ($($name:ident, $type:ty, $strategy:expr;)*) => {$(
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(96))]

            #[test]
            fn $name(value in $strategy, at in any::<Index>(), byte: u8, bytes in vec(any::<u8>(), 0..200)) {
                let encoding = value.encode();
                prop_assert_eq!(&<$type>::decode(&encoding).unwrap(), &value);
                let at = at.index(encoding.len());
                prop_assert!(<$type>::decode(&encoding[..at]).is_err());
                let mut altered = encoding.clone();
                altered[at] = byte;
                for bytes in [altered, bytes, [&encoding[..], &[byte]].concat()] {
                    if let Ok(other) = <$type>::decode(&bytes) {
                        prop_assert_eq!(other.encode(), bytes);
                    }
                }
            }
        }
    )*};
}

one_encoding! {
    an_entry_has_one_encoding, Entry, entry();
    a_record_has_one_encoding, Record, record();
    a_gap_has_one_encoding, Gap, gap();
    a_proof_has_one_encoding, Proof, proof();
    a_baseline_has_one_encoding, Baseline, baseline();
}

proptest! {
    #[test]
    fn a_tile_has_one_name(name in tile_name(), text in "tile/(entries|[0-9]{1,2})/[x0-9/]{0,12}(\\.p/[0-9]{1,3})?") {
        prop_assert_eq!(name.to_string().parse(), Ok(name));
        if let Ok(name) = text.parse::<TileName>() {
            prop_assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn notes_are_decoded_or_refused(at in any::<Index>(), byte: u8, bytes in vec(any::<u8>(), 0..200)) {
        let small = example();
        let note = small.checkpoint().sign(&small.signing).into_bytes();
        let mut altered = note.clone();
        let at = at.index(note.len());
        altered[at] = byte;
        let opened = Checkpoint::open(&altered, small.signing.public());
        prop_assert_eq!(opened.is_ok(), altered == note);
        prop_assert!(Checkpoint::open(&note[..at], small.signing.public()).is_err());
        for bytes in [altered, bytes] {
            if let Ok(note) = Note::decode(&bytes) {
                prop_assert_eq!(note.encode().into_bytes(), bytes);
            }
        }
    }
}

#[test]
fn a_detail_that_is_too_long_is_cut_between_characters() {
    let long = Gap { reason: GapReason::Failure, since: 1, detail: "ä".repeat(200) };
    assert_eq!(Gap::decode(&long.encode()).unwrap().detail, "ä".repeat(128));
}

#[test]
fn the_longest_record_fits_its_limit() {
    let all =
        Algorithm::ALL.iter().fold(Digests::new(), |digests, one| digests.with(*one, &vec![0; one.bytes()]));
    let attributes = Attributes { mode: 0o7777, uid: u32::MAX, gid: u32::MAX, mtime: i64::MIN };
    for content in [
        Content::Symlink { target: vec![b'/'; ledger::MAX_TARGET_BYTES] },
        Content::File { size: u64::MAX, digests: all },
    ] {
        let record = Record { cause: Cause::Scan, state: State::Present(attributes, content) };
        assert!(record.encode().len() <= ledger::MAX_RECORD_BYTES);
        assert_eq!(Record::decode(&record.encode()).unwrap(), record);
    }
    let entry = Entry {
        kind: Kind::Gap,
        time: u64::MAX,
        subject: Key([0; 32]),
        sequence: u64::MAX,
        previous: Some(u64::MAX),
        commitment: Hash([0; 32]),
    };
    assert!(entry.encode().len() <= ledger::MAX_ENTRY_BYTES);
}
