#![expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")]

use proptest::prelude::*;

use super::*;

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..40).prop_filter("a name", |name| check_name(name).is_ok())
}

fn meta() -> impl Strategy<Value = Meta> {
    (0_u32..=0o7777, any::<i64>(), 0_u32..1_000_000_000).prop_map(|(mode, seconds, nanoseconds)| Meta {
        mode,
        seconds,
        nanoseconds,
    })
}

fn start(size: u64) -> impl Strategy<Value = Start> {
    prop_oneof![(0..=size).prop_map(Start::At), any::<Digest>().prop_map(Start::Whole)]
}

fn entry() -> impl Strategy<Value = Entry> {
    let file = (0..=MAX_FILE_BYTES).prop_flat_map(|size| (name(), meta(), Just(Some(size)), start(size)));
    prop_oneof![
        file.prop_map(|(name, meta, size, start)| Entry::File { name, meta, size, start }),
        meta().prop_map(|meta| Entry::File { name: Vec::new(), meta, size: None, start: Start::At(0) }),
        (name(), meta()).prop_map(|(name, meta)| Entry::Directory { name, meta }),
        (name(), meta(), name()).prop_map(|(name, meta, target)| Entry::Symlink { name, meta, target }),
        (name(), prop::collection::vec(name(), 1..5))
            .prop_map(|(name, target)| Entry::HardLink { name, target: target.join(&b'/') }),
        Just(Entry::Leave),
        name().prop_map(|name| Entry::Skipped { name }),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    (name(), any::<u64>(), any::<i64>(), any::<u32>()).prop_map(|(name, size, seconds, nanoseconds)| Asked {
        name,
        size,
        seconds,
        nanoseconds,
    })
}

fn have() -> impl Strategy<Value = Have> {
    prop_oneof![
        Just(Have::Nothing),
        (any::<u64>(), any::<Digest>()).prop_map(|(length, digest)| Have::Part(length, digest)),
        any::<Digest>().prop_map(Have::Whole),
    ]
}

const FILE_ENTRY: Entry = Entry::File {
    name: Vec::new(),
    meta: Meta { mode: 0o644, seconds: 1, nanoseconds: 2 },
    size: Some(5),
    start: Start::At(3),
};

#[test]
fn what_breaks_a_rule_is_refused() {
    let Entry::File { name, meta, size, start } = FILE_ENTRY else { unreachable!() };
    let read = |name: &[u8], meta, size| {
        Entry::decode(&Entry::File { name: name.to_vec(), meta, size: Some(size), start }.encode()).is_ok()
    };
    assert!(read(&name, meta, size.unwrap()));
    assert!(!read(&name, Meta { mode: 0o10000, ..meta }, 5));
    assert!(!read(&name, Meta { nanoseconds: 1_000_000_000, ..meta }, 5));
    assert!(!read(&name, meta, MAX_FILE_BYTES + 1));
    assert!(!read(&name, meta, 2), "it begins behind its end");
    assert!(!read(b"a/b", meta, 5));
    let link = |target: &[u8]| {
        let meta = Meta { mode: 0, seconds: 0, nanoseconds: 0 };
        Entry::decode(&Entry::Symlink { name: b"l".to_vec(), meta, target: target.to_vec() }.encode())
    };
    assert!(link(b"../anywhere").is_ok() && link(b"").is_err() && link(b"a\0").is_err());
    assert!(link(&[b'a'; 4096]).is_err());
}

#[test]
fn other_spellings_are_refused() {
    let canonical = FILE_ENTRY.encode();
    assert_eq!(Entry::decode(&canonical), Ok(FILE_ENTRY));
    // The map's head says seven members; the kind comes first.
    assert_eq!(canonical[..3], [0xa7, 0, 0]);
    let mut longer = canonical.clone();
    longer.splice(2..3, [0x18, 0]);
    let mut trailing = canonical.clone();
    trailing.push(0);
    let indefinite = [&[0xbf], &canonical[1..], &[0xff]].concat();
    let twice = [&[0xa8, 0, 0], &canonical[1..]].concat();
    let unknown = [&[0xa8], &canonical[1..], &[9, 0]].concat();
    let huge = [&[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &canonical[1..]].concat();
    for other in [longer, trailing, indefinite, twice, unknown, huge] {
        assert!(Entry::decode(&other).is_err(), "{other:x?}");
    }
    assert!(Entry::decode(&vec![0; MAX_CONTROL_BYTES + 1]).is_err());
}

#[test]
fn counts_are_checked_before_they_size_anything() {
    for head in [&[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], &[0x99, 1, 1], &[0x9f]] {
        assert!(decode_have(head).is_err());
        assert!(decode_asked(head).is_err());
    }
}

/// A list of `docs/spec/vectors/transfer.json`: name, bytes, and what they mean where that is said.
fn vectors(list: &str) -> Vec<(String, Vec<u8>, serde_json::Value)> {
    let text = include_str!("../../../../docs/spec/vectors/transfer.json");
    let all: serde_json::Value = serde_json::from_str(text).unwrap();
    let list = all[list].as_array().unwrap();
    let one = |vector: &serde_json::Value| {
        let name = vector["name"].as_str().unwrap().to_owned();
        (name, hex(&vector["encoding"]), vector["entry"].clone())
    };
    list.iter().map(one).collect()
}

fn hex(value: &serde_json::Value) -> Vec<u8> {
    let digits = value.as_str().unwrap_or_default().as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

fn entry_of(value: &serde_json::Value) -> Entry {
    let (name, target) = (hex(&value["name"]), hex(&value["target"]));
    let number = |member: &str| u32::try_from(value[member].as_u64().unwrap_or(0)).unwrap();
    let seconds = value["seconds"].as_i64().unwrap_or(0);
    let meta = Meta { mode: number("mode"), seconds, nanoseconds: number("nanoseconds") };
    let start = match value["digest"].is_null() {
        true => Start::At(value["offset"].as_u64().unwrap_or(0)),
        false => Start::Whole(hex(&value["digest"]).try_into().unwrap()),
    };
    match value["kind"].as_u64().unwrap() {
        FILE => Entry::File { name, meta, size: value["size"].as_u64(), start },
        DIRECTORY => Entry::Directory { name, meta },
        SYMLINK => Entry::Symlink { name, meta, target },
        HARD_LINK => Entry::HardLink { name, target },
        LEAVE => Entry::Leave,
        _ => Entry::Skipped { name },
    }
}

#[test]
fn the_specification_has_the_same_bytes() {
    for (name, bytes, meant) in vectors("entries") {
        assert_eq!(Entry::decode(&bytes).as_ref(), Ok(&entry_of(&meant)), "{name}");
        assert_eq!(entry_of(&meant).encode(), bytes, "{name}");
    }
    for (name, bytes, _) in vectors("asked") {
        assert_eq!(encode_asked(&decode_asked(&bytes).expect(&name)), bytes, "{name}");
    }
    for (name, bytes, _) in vectors("have") {
        assert_eq!(encode_have(&decode_have(&bytes).expect(&name)), bytes, "{name}");
    }
    for (name, bytes, _) in vectors("totals") {
        assert_eq!(Total::decode(&bytes).expect(&name).encode(), bytes, "{name}");
    }
}

#[test]
fn what_the_specification_refuses_is_refused() {
    for (name, bytes, _) in vectors("refused_entries") {
        assert!(Entry::decode(&bytes).is_err(), "{name}");
    }
    for (name, bytes, _) in vectors("refused_lists") {
        assert!(decode_asked(&bytes).is_err() && decode_have(&bytes).is_err(), "{name}");
        assert!(Total::decode(&bytes).is_err(), "{name}");
    }
}

proptest! {
    #[test]
    fn entries_survive(entry in entry()) {
        prop_assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
    }

    #[test]
    fn the_digest_covers_what_is_the_same_for_all(entry in entry(), other: Digest) {
        let covered = entry.encode_for_digest();
        if let Entry::File { name, meta, size, .. } = entry {
            for start in [Start::At(0), Start::Whole(other)] {
                let again = Entry::File { name: name.clone(), meta, size, start };
                prop_assert_eq!(again.encode_for_digest(), covered.clone());
            }
        } else {
            prop_assert_eq!(covered, entry.encode());
        }
    }

    #[test]
    fn questions_and_answers_survive(
        asked in prop::collection::vec(asked(), 0..5),
        have in prop::collection::vec(have(), 0..5),
        entries: u64,
        bytes: u64,
        digest: Digest,
    ) {
        prop_assert_eq!(decode_asked(&encode_asked(&asked)), Ok(asked));
        prop_assert_eq!(decode_have(&encode_have(&have)), Ok(have));
        let total = Total { entries, bytes, digest };
        prop_assert_eq!(Total::decode(&total.encode()), Ok(total));
    }

    #[test]
    fn decoding_never_panics_and_knows_one_encoding(bytes: Vec<u8>, entry in entry(), at: usize, flip: u8) {
        let mut near = entry.encode();
        let at = at % near.len();
        near[at] ^= flip;
        for bytes in [bytes, near] {
            if let Ok(entry) = Entry::decode(&bytes) {
                prop_assert_eq!(entry.encode(), bytes.clone());
            }
            if let Ok(asked) = decode_asked(&bytes) {
                prop_assert_eq!(encode_asked(&asked), bytes.clone());
            }
            if let Ok(have) = decode_have(&bytes) {
                prop_assert_eq!(encode_have(&have), bytes.clone());
            }
            if let Ok(total) = Total::decode(&bytes) {
                prop_assert_eq!(total.encode(), bytes);
            }
        }
    }
}
