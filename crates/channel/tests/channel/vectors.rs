//! The vectors of the specification.

#![expect(clippy::indexing_slicing, reason = "a vector without the member fails the test")]

use channel::ssh::{PublicKey, verify_sshsig};
use channel::{Exporter, Message, NAMESPACE, Refusal, client_message};
use proptest::prelude::*;
use serde_json::Value;

const VECTORS: &str = include_str!("../../../../docs/spec/vectors/channel.json");

fn vectors(list: &str) -> Vec<Value> {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    vectors[list].as_array().unwrap().clone()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn message(value: &Value) -> Message {
    match value["type"].as_str().unwrap() {
        "HELLO" => Message::Hello {
            version: value["version"].as_u64().unwrap().try_into().unwrap(),
            nonce: bytes(&value["nonce"]).try_into().unwrap(),
        },
        "EVIDENCE" => Message::Evidence(bytes(&value["document"])),
        "AUTHENTICATE" => Message::Authenticate(bytes(&value["signature"])),
        "ACCEPTED" => Message::Accepted,
        _ => Message::Refused(Refusal::from_code(value["reason"].as_u64().unwrap().try_into().unwrap())),
    }
}

fn exporter(vector: &Value) -> Exporter {
    Exporter(bytes(&vector["exporter"]).try_into().unwrap())
}

#[test]
fn messages_decode_and_encode_to_the_same_bytes() {
    for vector in vectors("messages") {
        let (expected, encoding) = (message(&vector["message"]), bytes(&vector["encoding"]));
        assert_eq!(expected.encode(), encoding, "{}", vector["name"]);
        let followed = [&encoding[..], b"more"].concat();
        assert_eq!(
            Message::decode(&followed).unwrap(),
            Some((expected, encoding.len())),
            "{}",
            vector["name"]
        );
    }
}

#[test]
fn messages_to_refuse_are_refused_however_much_follows() {
    for vector in vectors("refused") {
        for more in [0, 100_000] {
            let encoding = [bytes(&vector["encoding"]), vec![1; more]].concat();
            let found = format!("{:?}", Message::decode(&encoding).unwrap_err());
            assert!(found.starts_with(vector["refusal"].as_str().unwrap()), "{}: {found}", vector["name"]);
        }
    }
}

#[test]
fn the_beginning_of_a_message_is_waited_for() {
    for vector in vectors("incomplete") {
        assert_eq!(Message::decode(&bytes(&vector)), Ok(None), "{vector}");
    }
}

#[test]
fn signatures_of_ssh_keygen_verify() {
    for vector in vectors("signatures") {
        let message = client_message(&exporter(&vector));
        let key = verify_sshsig(&bytes(&vector["signature"]), NAMESPACE, &message).unwrap();
        assert_eq!(key.to_string(), vector["key"].as_str().unwrap());
        assert_eq!(key.fingerprint(), vector["fingerprint"].as_str().unwrap());
    }
}

#[test]
fn signatures_to_refuse_are_refused_for_the_reason_stated() {
    for vector in vectors("refused_signatures") {
        let message = client_message(&exporter(&vector));
        let refusal = verify_sshsig(&bytes(&vector["signature"]), NAMESPACE, &message).unwrap_err();
        let found = format!("{refusal:?}");
        assert!(found.starts_with(vector["refusal"].as_str().unwrap()), "{}: {found}", vector["name"]);
    }
}

#[test]
fn no_byte_of_a_signature_can_be_changed() {
    for vector in vectors("signatures") {
        let (message, signature) = (client_message(&exporter(&vector)), bytes(&vector["signature"]));
        for position in 0..signature.len() {
            let mut changed = signature.clone();
            changed[position] ^= 1;
            assert!(verify_sshsig(&changed, NAMESPACE, &message).is_err(), "byte {position}");
        }
    }
}

#[test]
fn every_reason_has_one_number() {
    for code in 0..=u8::MAX {
        assert_eq!(Refusal::from_code(code).code(), code);
    }
    assert_eq!(Refusal::from_code(2), Refusal::Sealed);
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_without_panic(kind in 0_u8..8, rest in prop::collection::vec(any::<u8>(), 0..64)) {
        let bytes = [&[kind][..], &rest].concat();
        if let Ok(Some((message, length))) = Message::decode(&bytes) {
            prop_assert_eq!(&message.encode()[..], &bytes[..length]);
        }
    }

    #[test]
    fn any_key_or_signature_is_decoded_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(verify_sshsig(&bytes, NAMESPACE, b"").is_err());
        if let Ok(key) = PublicKey::from_blob(&bytes) {
            prop_assert_eq!(key.to_blob(), bytes);
        }
    }

    #[test]
    fn any_line_is_read_without_panic(line in "(ssh-ed25519 |ssh-rsa |)\\PC{0,80}") {
        if let Ok(key) = line.parse::<PublicKey>() {
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }
    }
}
