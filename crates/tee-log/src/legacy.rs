//! Signatures as the first logs of this kind have them, for clients that know no others. They are weak (`docs/spec/tee-log.md#legacy`).
//!
//! Those logs hand the text itself to a library that takes it for a digest in hex: white space is dropped, of every character four bits are
//! kept, and of those the first 256. What comes after about 64 characters, the content above all, is not signed.

#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use crate::{Entry, PublicKey, SigningKey};

/// What is said of such a signature wherever it is shown.
pub const LEGACY: &str = "legacy (weak: hardly more than the names is signed)";

/// Hex digits of the group's order, which is all that is kept.
const DIGITS: usize = 64;

/// The text that is signed: members without escaping.
pub fn text(entry: &Entry) -> String {
    let Entry { agent_id, room_id, user_id, kind, content, timestamp, .. } = entry;
    format!("{agent_id}|{room_id}|{user_id}|{kind}|{content}|{timestamp}")
}

/// What the library makes of a text; none for one that begins with a minus sign, which it does not sign.
pub fn digest(text: &str) -> Option<[u8; 32]> {
    let units: Vec<u16> = text.encode_utf16().filter(|unit| !is_white(*unit)).collect();
    if units.first() == Some(&u16::from(b'-')) {
        return None;
    }
    // Counted with the white space, in whole bytes.
    let counted = text.encode_utf16().count().div_ceil(2).saturating_mul(2);
    let kept = units.len().saturating_sub(counted.saturating_sub(DIGITS));
    let mut number = [0; 32];
    for (place, unit) in units.iter().take(kept).rev().enumerate() {
        // The last digit is the lowest. There are never more than fit: at most as many as are counted.
        let shift = if place % 2 == 0 { 0 } else { 4 };
        let byte = 31_usize.checked_sub(place / 2).and_then(|index| number.get_mut(index))?;
        *byte |= digit(*unit) << shift;
    }
    Some(number)
}

/// Signs an entry so; DER.
pub fn sign(entry: &Entry, key: &SigningKey) -> Option<Vec<u8>> {
    Some(key.sign(&digest(&text(entry))?))
}

/// Whether `signature` (DER) is one of `key` over such a text. It says next to nothing.
pub fn verifies(entry: &Entry, key: &PublicKey, signature: &[u8]) -> bool {
    digest(&text(entry)).is_some_and(|digest| key.verifies_either(&digest, signature))
}

/// White space of ECMAScript.
fn is_white(unit: u16) -> bool {
    matches!(unit, 0x09..=0x0d | 0x20 | 0xa0 | 0x1680 | 0x2000..=0x200a | 0x2028 | 0x2029 | 0x202f | 0x205f | 0x3000 | 0xfeff)
}

fn digit(unit: u16) -> u8 {
    let digit = match unit {
        0x41..=0x46 => unit.wrapping_sub(55),
        0x61..=0x66 => unit.wrapping_sub(87),
        _ => unit.wrapping_sub(48) & 0xf,
    };
    u8::try_from(digit).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::{OPENED, Position};

    #[test]
    fn digests_and_signatures_are_the_librarys() {
        let all: Value = serde_json::from_str(include_str!("../testdata/legacy.json")).unwrap();
        let key = SigningKey::from_bytes(&[7; 32]).unwrap();
        assert_eq!(all["publicKey"], key.public_key().to_string());
        for case in all["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let found = digest(text).unwrap();
            // The library takes the order away where it can.
            let expected: [u8; 32] =
                hex::decode(case["digest"].as_str().unwrap()).unwrap().try_into().unwrap();
            let theirs = hex::decode(&case["signature"].as_str().unwrap()[2..]).unwrap();
            assert!(key.public_key().verifies_either(&found, &theirs), "{text}");
            assert!(key.public_key().verifies_either(&expected, &key.sign(&found)), "{text}");
            let mut other = found;
            other[31] ^= 1;
            assert!(!key.public_key().verifies_either(&other, &theirs), "{text}");
        }
        assert_eq!(digest(" -1"), None);
    }

    #[test]
    fn what_is_not_signed_can_be_replaced() {
        let key = SigningKey::from_bytes(&[7; 32]).unwrap();
        let entry = |content: &str, timestamp| Entry {
            after: Position::default(),
            key: key.public_key(),
            id: [0; 16],
            agent_id: "b850bc30-45f8-0041-a00a-83df46d8555d".to_owned(),
            room_id: "b850bc30-45f8-0041-a00a-83df46d8555d".to_owned(),
            user_id: "u".to_owned(),
            kind: OPENED.to_owned(),
            content: content.to_owned(),
            timestamp,
        };
        let signature = sign(&entry("paid 1", 1_735_000_000_000), &key).unwrap();
        assert!(verifies(&entry("paid 1", 1_735_000_000_000), &key.public_key(), &signature));
        assert!(verifies(&entry("paid 9", 1_999_999_999_999), &key.public_key(), &signature));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_text_has_a_digest_or_none(text in ".{0,200}") {
            let first = text.encode_utf16().find(|unit| !is_white(*unit));
            prop_assert_eq!(digest(&text).is_none(), first == Some(u16::from(b'-')));
        }
    }
}
