//! What the decoder accepts and refuses, without regard to signatures.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::LazyLock;

use attestation::{
    DecodeError, Document, MAX_CERTIFICATE_BYTES, MAX_DOCUMENT_BYTES, MAX_MODULE_ID_BYTES,
    MAX_OPTIONAL_FIELD_BYTES, Pcr, PcrIndex,
};
use proptest::prelude::*;
use support::{Chain, PROTECTED, Payload, array, bytes, envelope, null, pcr_map, text, uint};

static CHAIN: LazyLock<Chain> = LazyLock::new(Chain::new);

fn payload() -> Payload {
    Payload::new(&CHAIN)
}

/// The refusal of a payload whose `field` has this encoded value.
fn refusal(field: &str, value: Vec<u8>) -> DecodeError {
    Document::decode(&payload().set(field, value).unsigned()).unwrap_err()
}

macro_rules! assert_refused {
    ($refusal:expr, $pattern:pat $(if $guard:expr)?) => {
        let refusal = $refusal;
        assert!(matches!(&refusal, $pattern $(if $guard)?), "found {refusal:?}");
    };
}

#[test]
fn a_whole_document_is_decoded() {
    let document = Document::decode(&payload().unsigned()).unwrap();
    assert_eq!(document.module_id, "i-0123456789abcdef0-enc0123456789abcdef");
    assert_eq!(document.timestamp_ms, support::NOW_SECS * 1000);
    assert_eq!(document.pcrs.len(), 16);
    assert_eq!(document.pcrs[&PcrIndex::new(4).unwrap()], Pcr([5; 48]));
    assert_eq!((&document.certificate, &document.cabundle), (&CHAIN.leaf, &CHAIN.bundle));
    assert_eq!((document.public_key, document.user_data, document.nonce), (None, None, None));
}

#[test]
fn definite_and_indefinite_lengths_mean_the_same() {
    let definite = payload();
    let mut indefinite = payload();
    indefinite.indefinite = true;
    let with_break = |encoding: Vec<u8>, head: u8| [&[head], &encoding[1..], &[0xff]].concat();
    // Maps and arrays of up to 23 items have a head of one byte.
    let pcrs = pcr_map(&(0..16).map(|n: u8| (n.into(), vec![n + 1; 48])).collect::<Vec<_>>());
    indefinite.set("pcrs", with_break(pcrs, 0xbf));
    indefinite.set("cabundle", with_break(array(&CHAIN.bundle), 0x9f));
    assert_eq!(
        Document::decode(&indefinite.unsigned()).unwrap(),
        Document::decode(&definite.unsigned()).unwrap()
    );
}

#[test]
fn optional_fields_may_be_absent_null_empty_or_full() {
    for field in ["public_key", "user_data", "nonce"] {
        let longest = vec![7; MAX_OPTIONAL_FIELD_BYTES];
        let cases = [
            (payload().remove(field).unsigned(), None),
            (payload().set(field, null()).unsigned(), None),
            (payload().set(field, bytes(&[])).unsigned(), Some(vec![])),
            (payload().set(field, bytes(&longest)).unsigned(), Some(longest)),
        ];
        for (encoding, expected) in cases {
            let document = Document::decode(&encoding).unwrap();
            let found = match field {
                "public_key" => document.public_key,
                "user_data" => document.user_data,
                _ => document.nonce,
            };
            assert_eq!(found, expected, "{field}");
        }
        assert_refused!(
            refusal(field, bytes(&[7; MAX_OPTIONAL_FIELD_BYTES + 1])),
            DecodeError::TooLong { what, found: 1025, limit: 1024 } if *what == field
        );
        assert_refused!(refusal(field, text("text")), DecodeError::Cbor { what, .. } if *what == field);
        assert_refused!(refusal(field, vec![0xf7]), DecodeError::Cbor { what, .. } if *what == field);
    }
}

#[test]
fn all_32_pcrs_are_accepted_and_no_33rd() {
    let entries = |count| (0..count).map(|n| (n, vec![1; 48])).collect::<Vec<_>>();
    let document = Document::decode(&payload().set("pcrs", pcr_map(&entries(32))).unsigned()).unwrap();
    assert_eq!(document.pcrs.len(), 32);
    assert_refused!(refusal("pcrs", pcr_map(&entries(33))), DecodeError::TooMany { what: "PCRs", limit: 32 });
}

#[test]
fn missing_mandatory_fields_are_named() {
    for expected in ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"] {
        assert_refused!(
            Document::decode(&payload().remove(expected).unsigned()).unwrap_err(),
            DecodeError::MissingField { field } if *field == expected
        );
        assert_refused!(refusal(expected, null()), DecodeError::Cbor { .. });
    }
}

#[test]
fn every_field_given_twice_is_named() {
    let whole = payload();
    for (name, value) in &whole.fields {
        // Nine fields at most, so another one makes room.
        let mut payload = whole.clone();
        payload.remove(if name == "nonce" { "user_data" } else { "nonce" });
        payload.add(name, value.clone());
        assert_refused!(
            Document::decode(&payload.unsigned()).unwrap_err(),
            DecodeError::DuplicateField { field } if field == name
        );
    }
}

#[test]
fn unknown_and_superfluous_fields_are_refused() {
    let mut unknown = payload();
    unknown.remove("nonce").add("debug\u{1b}[2J", uint(1));
    let refusal = Document::decode(&unknown.unsigned()).unwrap_err();
    assert_refused!(&refusal, DecodeError::UnknownField { found } if found.starts_with("debug"));
    assert!(!refusal.to_string().contains('\u{1b}'), "what is shown has no control characters");

    let mut tenth = payload();
    tenth.add("x", null());
    assert_refused!(
        Document::decode(&tenth.unsigned()).unwrap_err(),
        DecodeError::TooMany { what: "payload fields", limit: 9 }
    );
    let mut number = payload();
    number.remove("nonce");
    let mut encoding = number.encode();
    encoding[0] += 1;
    encoding.extend([uint(5), uint(5)].concat());
    assert_refused!(
        Document::decode(&envelope(PROTECTED, &[0xa0], &encoding, &[0; 96])).unwrap_err(),
        DecodeError::Cbor { what: "payload field name", .. }
    );
}

#[test]
fn module_id_digest_and_timestamp_are_checked() {
    assert_refused!(refusal("module_id", text("")), DecodeError::ModuleId { .. });
    assert_refused!(refusal("module_id", text("a\nb")), DecodeError::ModuleId { .. });
    assert_refused!(
        refusal("module_id", text(&"a".repeat(MAX_MODULE_ID_BYTES + 1))),
        DecodeError::TooLong { what: "module_id", found: 257, limit: 256 }
    );
    assert_refused!(
        refusal("module_id", vec![0x62, 0xc3, 0x28]),
        DecodeError::Cbor { what: "module_id", .. }
    );
    for digest in ["SHA256", "SHA512", "sha384", ""] {
        assert_refused!(
            refusal("digest", text(digest)),
            DecodeError::Digest { found } if found == digest
        );
    }
    assert_refused!(refusal("timestamp", uint(0)), DecodeError::ZeroTimestamp);
    assert_refused!(refusal("timestamp", vec![0x20]), DecodeError::Cbor { what: "timestamp", .. });
    let latest = Document::decode(&payload().set("timestamp", uint(u64::MAX)).unsigned()).unwrap();
    assert_eq!(latest.timestamp_ms, u64::MAX);
}

#[test]
fn pcrs_of_another_length_index_or_type_are_refused() {
    for found in [0, 32, 47, 49, 64] {
        assert_refused!(
            refusal("pcrs", pcr_map(&[(3, vec![0; found])])),
            DecodeError::PcrLength { index, found: length } if index.number() == 3 && *length == found
        );
    }
    for index in [32, 255, 256, u64::MAX] {
        assert_refused!(
            refusal("pcrs", pcr_map(&[(index, vec![0; 48])])),
            DecodeError::PcrIndex { found } if *found == index
        );
    }
    assert_refused!(
        refusal("pcrs", pcr_map(&[(3, vec![0; 48]), (3, vec![1; 48])])),
        DecodeError::DuplicatePcr { index } if index.number() == 3
    );
    assert_refused!(refusal("pcrs", pcr_map(&[])), DecodeError::Empty { what: "pcrs" });
    let text_index = [vec![0xa1], text("0"), bytes(&[0; 48])].concat();
    assert_refused!(refusal("pcrs", text_index), DecodeError::Cbor { what: "PCR index", .. });
}

#[test]
fn certificates_are_limited_in_size_and_number() {
    let too_long = vec![0x30; MAX_CERTIFICATE_BYTES + 1];
    assert_refused!(
        refusal("certificate", bytes(&too_long)),
        DecodeError::TooLong { what: "certificate", found: 1025, limit: 1024 }
    );
    assert_refused!(refusal("certificate", bytes(&[])), DecodeError::Empty { what: "certificate" });
    assert_refused!(
        refusal("cabundle", array(&[too_long])),
        DecodeError::TooLong { what: "cabundle certificate", found: 1025, limit: 1024 }
    );
    assert_refused!(
        refusal("cabundle", array(&[vec![]])),
        DecodeError::Empty { what: "cabundle certificate" }
    );
    assert_refused!(refusal("cabundle", array(&[])), DecodeError::Empty { what: "cabundle" });
    let eight = vec![vec![0x30]; 8];
    assert_refused!(
        refusal("cabundle", array(&eight)),
        DecodeError::TooMany { what: "certificates in cabundle", limit: 7 }
    );
}

#[test]
fn absurd_lengths_are_refused_without_allocation() {
    let huge = |head: u8| [&[head], &[0xff; 8][..]].concat();
    assert_refused!(refusal("nonce", huge(0x5b)), DecodeError::Cbor { what: "nonce", .. });
    assert_refused!(refusal("module_id", huge(0x7b)), DecodeError::Cbor { what: "module_id", .. });
    assert_refused!(refusal("cabundle", huge(0x9b)), DecodeError::Cbor { .. });
    assert_refused!(refusal("pcrs", huge(0xbb)), DecodeError::Cbor { .. });
    for envelope in [huge(0x9b), huge(0xbb), huge(0x5b), [vec![0x84], huge(0x5b)].concat()] {
        assert!(Document::decode(&envelope).is_err());
    }
    let nested = vec![0x81; MAX_DOCUMENT_BYTES];
    assert!(Document::decode(&nested).is_err());
    let nested_header = [vec![0x84, 0x40, 0xa1, 0x01], vec![0x81; 16_000]].concat();
    assert!(Document::decode(&nested_header).is_err());
}

#[test]
fn the_longest_document_is_16_kib() {
    assert_refused!(
        Document::decode(&[0x84; MAX_DOCUMENT_BYTES + 1]).unwrap_err(),
        DecodeError::TooLong { what: "document", found: 16_385, limit: 16_384 }
    );
}

#[test]
fn trailing_bytes_are_refused_everywhere() {
    let mut after_envelope = payload().unsigned();
    after_envelope.push(0);
    assert_refused!(
        Document::decode(&after_envelope).unwrap_err(),
        DecodeError::TrailingBytes { what: "COSE_Sign1", found: 1 }
    );
    let mut after_payload = payload().encode();
    after_payload.extend([0xf6, 0xf6]);
    assert_refused!(
        Document::decode(&envelope(PROTECTED, &[0xa0], &after_payload, &[0; 96])).unwrap_err(),
        DecodeError::TrailingBytes { what: "payload", found: 2 }
    );
    let after_header = [PROTECTED, &[0]].concat();
    assert_refused!(
        Document::decode(&envelope(&after_header, &[0xa0], &payload().encode(), &[0; 96])).unwrap_err(),
        DecodeError::TrailingBytes { what: "protected header", found: 1 }
    );
}

#[test]
fn the_envelope_is_an_array_of_four_tagged_18_or_not() {
    let document = payload().unsigned();
    assert!(Document::decode(&[&[0xd2], &document[..]].concat()).is_ok());
    assert_refused!(
        Document::decode(&[&[0xd3], &document[..]].concat()).unwrap_err(),
        DecodeError::Tag { found: 19 }
    );
    assert_refused!(
        Document::decode(&[&[0xd2, 0xd2], &document[..]].concat()).unwrap_err(),
        DecodeError::Cbor { what: "COSE_Sign1", .. }
    );
    assert_refused!(
        Document::decode(&[&[0x83], &document[1..]].concat()).unwrap_err(),
        DecodeError::EnvelopeParts { found: Some(3) }
    );
    assert_refused!(
        Document::decode(&[&[0x9f], &document[1..], &[0xff]].concat()).unwrap_err(),
        DecodeError::EnvelopeParts { found: None }
    );
    assert_refused!(Document::decode(&[]).unwrap_err(), DecodeError::Cbor { what: "COSE_Sign1", .. });
}

#[test]
fn headers_other_than_those_of_nitro_are_refused() {
    let decode = |protected: &[u8], unprotected: &[u8], signature: &[u8]| {
        Document::decode(&envelope(protected, unprotected, &payload().encode(), signature)).unwrap_err()
    };
    let signature = [0; 96];
    let es256 = [0xa1, 0x01, 0x26];
    assert_refused!(decode(&es256, &[0xa0], &signature), DecodeError::Algorithm { found: -7 });
    let content_type = [0xa1, 0x03, 0x00];
    assert_refused!(decode(&content_type, &[0xa0], &signature), DecodeError::ProtectedHeader);
    let with_crit = [0xa2, 0x01, 0x38, 0x22, 0x02, 0x81, 0x03];
    assert_refused!(decode(&with_crit, &[0xa0], &signature), DecodeError::ProtectedHeader);
    assert_refused!(decode(&[], &[0xa0], &signature), DecodeError::Cbor { what: "protected header", .. });
    let key_id = [0xa1, 0x04, 0x41, 0x31];
    assert_refused!(
        decode(PROTECTED, &key_id, &signature),
        DecodeError::UnprotectedHeader { found_bytes: 4 }
    );
    assert_refused!(
        decode(PROTECTED, &[0x80], &signature),
        DecodeError::Cbor { what: "unprotected header", .. }
    );
    for found in [0, 64, 95, 97, 132] {
        assert_refused!(
            decode(PROTECTED, &[0xa0], &vec![0; found]),
            DecodeError::SignatureLength { found: length } if *length == found
        );
    }
}

#[test]
fn a_payload_that_is_null_or_of_another_type_is_refused() {
    let parts =
        |payload: &[u8]| [&[0x84][..], &bytes(PROTECTED), &[0xa0], payload, &bytes(&[0; 96])].concat();
    assert_refused!(
        Document::decode(&parts(&null())).unwrap_err(),
        DecodeError::Cbor { what: "payload", .. }
    );
    assert_refused!(
        Document::decode(&parts(&payload().encode())).unwrap_err(),
        DecodeError::Cbor { what: "payload", .. }
    );
    assert_refused!(
        Document::decode(&parts(&bytes(&array(&[])))).unwrap_err(),
        DecodeError::Cbor { what: "payload", .. }
    );
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = Document::decode(&bytes);
    }

    #[test]
    fn any_payload_is_decoded_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = Document::decode(&envelope(PROTECTED, &[0xa0], &bytes, &[0; 96]));
    }

    #[test]
    fn a_document_with_bytes_replaced_is_decoded_without_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut document = payload().unsigned();
        for (at, byte) in changes {
            let position = at.index(document.len());
            document[position] = byte;
        }
        let _ = Document::decode(&document);
    }

    #[test]
    fn decoding_undoes_encoding(
        millis in 1..=u64::MAX,
        pcrs in prop::collection::btree_map(0_u64..32, any::<u8>(), 1..=32),
        nonce in prop::option::of(prop::collection::vec(any::<u8>(), 0..=1024)),
    ) {
        let entries: Vec<_> = pcrs.iter().map(|(index, byte)| (*index, vec![*byte; 48])).collect();
        let mut payload = payload();
        payload.set("timestamp", uint(millis)).set("pcrs", pcr_map(&entries));
        payload.set("nonce", nonce.as_ref().map_or_else(null, |nonce| bytes(nonce)));
        let document = Document::decode(&payload.unsigned()).unwrap();
        prop_assert_eq!(document.timestamp_ms, millis);
        prop_assert_eq!(document.nonce, nonce);
        let found: Vec<_> = document.pcrs.iter().map(|(n, pcr)| (n.number().into(), pcr.0.to_vec())).collect();
        prop_assert_eq!(found, entries);
    }
}
