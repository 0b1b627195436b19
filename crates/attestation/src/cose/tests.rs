//! Published COSE_Sign1 examples, as far as they can apply to a decoder of ES384 without external data.
//!
//! Of `testdata/cose`, the only ES384 example is `wg_ecdsa-sig-02`: it is verified. The ES256 examples show that another
//! algorithm is noticed before any signature is looked at. The others are broken envelopes and are refused as such.
//! What an ES256 signature covers, and external data, does not arise in attestation documents and is not tested.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::*;

const ES256_ALGORITHM: i64 = -7;

const ES384_EXAMPLE: &str = include_str!("../../testdata/cose/wg_ecdsa-sig-02.json");
const WRONG_TAG: &str = include_str!("../../testdata/cose/wg_sign-fail-01.json");
const WRONG_SIGNATURE: &str = include_str!("../../testdata/cose/wg_sign-fail-02.json");
const ALGORITHM_UNPROTECTED: &str = include_str!("../../testdata/cose/wg_sign-pass-01.json");
const EXTERNAL_DATA: &str = include_str!("../../testdata/cose/wg_sign-pass-02.json");
const SIGN: &str = include_str!("../../testdata/cose/sign1-sign-0000.json");
const VERIFY_EXTERNAL: &str = include_str!("../../testdata/cose/sign1-verify-0000.json");
const VERIFY_CONTENT_TYPE: &str = include_str!("../../testdata/cose/sign1-verify-0001.json");
const OUTER_TYPE: &str = include_str!("../../testdata/cose/sign1-verify-negative-0000.json");
const INNER_TYPE: &str = include_str!("../../testdata/cose/sign1-verify-negative-0001.json");

/// The bytes that the JSON pointer `member` of an example holds as hexadecimal.
fn bytes(example: &str, member: &str) -> Vec<u8> {
    let example: Value = serde_json::from_str(example).unwrap();
    hex::decode(example.pointer(member).unwrap().as_str().unwrap()).unwrap()
}

fn working_group(example: &str) -> Vec<u8> {
    bytes(example, "/output/cbor")
}

fn verification(example: &str) -> Vec<u8> {
    bytes(example, "/sign1::verify/taggedCOSESign1/cborHex")
}

/// The example's P-384 key as an uncompressed point.
fn es384_key() -> Vec<u8> {
    let example: Value = serde_json::from_str(ES384_EXAMPLE).unwrap();
    let coordinate = |name| {
        let text = example.pointer("/input/sign0/key").unwrap()[name].as_str().unwrap();
        URL_SAFE_NO_PAD.decode(text).unwrap()
    };
    [vec![4], coordinate("x"), coordinate("y")].concat()
}

#[test]
fn the_es384_example_verifies() {
    let message = working_group(ES384_EXAMPLE);
    let envelope = Sign1::decode(&message).unwrap();
    assert_eq!(envelope.algorithm().unwrap(), ES384_ALGORITHM);
    assert_eq!(envelope.payload, b"This is the content.");
    let signed = envelope.sig_structure();
    assert_eq!(signed, bytes(ES384_EXAMPLE, "/intermediates/ToBeSign_hex"));
    Es384.verify_signature(&es384_key(), &signed, envelope.signature).unwrap();
}

#[test]
fn the_es384_example_does_not_verify_once_changed() {
    let message = working_group(ES384_EXAMPLE);
    let envelope = Sign1::decode(&message).unwrap();
    let signature = envelope.signature.to_vec();
    let verifies = |payload: &[u8], signature: &[u8]| {
        let changed = Sign1 { payload, signature, ..Sign1::decode(&message).unwrap() };
        Es384.verify_signature(&es384_key(), &changed.sig_structure(), signature).is_ok()
    };
    assert!(verifies(envelope.payload, &signature));
    assert!(!verifies(b"This is the content!", &signature));
    for position in 0..signature.len() {
        let mut changed = signature.clone();
        *changed.get_mut(position).unwrap() ^= 1;
        assert!(!verifies(envelope.payload, &changed), "byte {position}");
    }
    let zero = [0; ES384_SIGNATURE_BYTES];
    assert!(!verifies(envelope.payload, &zero));
}

#[test]
fn another_algorithm_is_noticed() {
    let examples = [
        working_group(WRONG_SIGNATURE),
        working_group(EXTERNAL_DATA),
        verification(VERIFY_EXTERNAL),
        bytes(SIGN, "/sign1::sign/expectedOutput/cborHex"),
    ];
    for example in examples {
        let envelope = Sign1::decode(&example).unwrap();
        assert_eq!(envelope.algorithm().unwrap(), ES256_ALGORITHM);
        assert!(matches!(
            crate::Document::decode(&example),
            Err(DecodeError::Algorithm { found: ES256_ALGORITHM })
        ));
    }
}

#[test]
fn a_protected_header_without_the_algorithm_or_with_more_is_refused() {
    for example in [working_group(ALGORITHM_UNPROTECTED), verification(VERIFY_CONTENT_TYPE)] {
        let envelope = Sign1::decode(&example).unwrap();
        assert!(matches!(envelope.algorithm(), Err(DecodeError::ProtectedHeader)));
    }
}

#[test]
fn a_wrong_tag_is_refused() {
    assert!(matches!(Sign1::decode(&working_group(WRONG_TAG)), Err(DecodeError::Tag { found: 998 })));
}

#[test]
fn headers_of_the_wrong_type_are_refused() {
    let outer = verification(OUTER_TYPE);
    assert!(matches!(Sign1::decode(&outer), Err(DecodeError::Cbor { what: "protected header", .. })));
    let inner = verification(INNER_TYPE);
    let envelope = Sign1::decode(&inner).unwrap();
    assert!(matches!(envelope.algorithm(), Err(DecodeError::Cbor { what: "protected header", .. })));
}
