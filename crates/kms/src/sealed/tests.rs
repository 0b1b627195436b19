//! Envelopes: `docs/spec/vectors/sealed.json`, and whatever else there may be.

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

const KEY: [u8; 32] = [7; 32];

fn envelope(data: &[u8]) -> Envelope {
    Envelope::seal("alias/agent", b"wrapped", &KEY, b"settings", data).unwrap()
}

#[test]
fn what_was_sealed_is_opened_with_the_same_key_and_context_only() {
    let sealed = envelope(b"a secret");
    assert_eq!(*sealed.open(&KEY, b"settings").unwrap(), b"a secret");
    assert!(matches!(sealed.open(&[8; 32], b"settings"), Err(SealError::Refused)));
    assert!(matches!(sealed.open(&KEY, b"other"), Err(SealError::Refused)));
    assert!(matches!(sealed.open(&KEY[..31], b"settings"), Err(SealError::DataKey { found: 31 })));
}

#[test]
fn the_same_data_is_never_encrypted_the_same_way() {
    assert_ne!(envelope(b"x").encode(), envelope(b"x").encode());
}

#[test]
fn every_changed_byte_is_refused() {
    let bytes = envelope(b"a secret").encode();
    for index in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[index] ^= 1;
        let opened = Envelope::decode(&changed).and_then(|envelope| envelope.open(&KEY, b"settings"));
        assert!(opened.is_err(), "byte {index}");
    }
}

#[test]
fn lengths_are_limited() {
    let seal = |key_id: &str, wrapped: usize, context: usize, data: usize| {
        Envelope::seal(key_id, &vec![1; wrapped], &KEY, &vec![2; context], &vec![3; data])
    };
    let longest = "k".repeat(MAX_KEY_ID_BYTES);
    let full = seal(&longest, MAX_WRAPPED_KEY_BYTES, MAX_CONTEXT_BYTES, MAX_SEALED_DATA_BYTES).unwrap();
    assert_eq!(Envelope::decode(&full.encode()).unwrap(), full);
    for refused in [
        seal("", 1, 0, 0),
        seal(&format!("{longest}k"), 1, 0, 0),
        seal("k", 0, 0, 0),
        seal("k", MAX_WRAPPED_KEY_BYTES + 1, 0, 0),
        seal("k", 1, MAX_CONTEXT_BYTES + 1, 0),
        seal("k", 1, 0, MAX_SEALED_DATA_BYTES + 1),
    ] {
        assert!(matches!(refused, Err(SealError::Length { .. })), "{refused:?}");
    }
}

#[derive(Deserialize)]
struct Vectors {
    opened: Vec<Opened>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
struct Opened {
    envelope: String,
    data_key: String,
    context: String,
    key_id: String,
    wrapped_key: String,
    data: String,
}

#[derive(Deserialize)]
struct Refused {
    envelope: String,
    why: String,
}

#[test]
fn the_vectors_are_opened_and_refused() {
    let vectors: Vectors =
        serde_json::from_str(include_str!("../../../../docs/spec/vectors/sealed.json")).unwrap();
    assert!(!vectors.opened.is_empty() && !vectors.refused.is_empty());
    let bytes = |text: &str| hex::decode(text).unwrap();
    for vector in vectors.opened {
        let envelope = Envelope::decode(&bytes(&vector.envelope)).unwrap();
        let opened = envelope.open(&bytes(&vector.data_key), &bytes(&vector.context)).unwrap();
        assert_eq!(*opened, bytes(&vector.data));
        assert_eq!(
            (envelope.key_id(), envelope.wrapped_key()),
            (&*vector.key_id, &*bytes(&vector.wrapped_key))
        );
    }
    for Refused { envelope, why } in vectors.refused {
        assert!(Envelope::decode(&bytes(&envelope)).is_err(), "{why}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn decoding_undoes_encoding(
        key_id in "[ -~]{1,80}",
        wrapped in prop::collection::vec(any::<u8>(), 1..300),
        data in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let sealed = Envelope::seal(&key_id, &wrapped, &KEY, &data, &data).unwrap();
        let decoded = Envelope::decode(&sealed.encode()).unwrap();
        prop_assert_eq!(&*decoded.open(&KEY, &data).unwrap(), &data);
        prop_assert_eq!(decoded, sealed);
    }

    #[test]
    fn any_bytes_are_decoded_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Envelope::decode(&bytes);
    }
}
