//! Entries as they are kept: both signatures, each after its length, and the entry's encoding; all of it sealed for its place.

#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use super::{Error, sealer::Sealer};
use crate::{Entry, Row, SignedEntry};

/// An entry as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) signed: SignedEntry,
    /// Empty where there is none.
    legacy: Vec<u8>,
}

impl Stored {
    /// What was sealed as the entry of this number.
    pub(super) fn open(sealer: &Sealer, number: u64, sealed: &[u8]) -> Result<Self, Error> {
        let changed = || Error::Sealed { what: "entry", number };
        let bytes = sealer.open("entry", number, sealed).ok_or_else(changed)?;
        decode(&bytes).ok_or_else(changed)
    }

    pub(super) fn row(&self) -> Row {
        let row = Row::from(&self.signed);
        if self.legacy.is_empty() { row } else { row.with_legacy_signature(&self.legacy) }
    }
}

pub(super) fn encode(signed: &SignedEntry, legacy: &[u8]) -> Vec<u8> {
    let length = |der: &[u8]| u8::try_from(der.len()).expect("a signature in DER has at most 72 bytes");
    let entry = signed.entry.encode();
    [&[length(&signed.signature)], &*signed.signature, &[length(legacy)], legacy, &*entry].concat()
}

fn decode(bytes: &[u8]) -> Option<Stored> {
    let (signature, rest) = after_its_length(bytes)?;
    let (legacy, entry) = after_its_length(rest)?;
    let entry = Entry::decode(entry).ok()?;
    Some(Stored { signed: SignedEntry { entry, signature: signature.to_vec() }, legacy: legacy.to_vec() })
}

fn after_its_length(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Position, SigningKey};

    fn signed(content: String) -> SignedEntry {
        let key = SigningKey::from_bytes(&[7; 32]).unwrap();
        let entry = Entry {
            after: Position { sequence: 3, head: [1; 32] },
            key: key.public_key(),
            id: [2; 16],
            agent_id: "agent".to_owned(),
            room_id: String::new(),
            user_id: "user".to_owned(),
            kind: "x".to_owned(),
            content,
            timestamp: 1,
        };
        entry.sign(&key)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_kept_is_read_again_and_nothing_that_is_shorter_or_longer(
            content in ".{0,40}", legacy in prop::collection::vec(any::<u8>(), 0..72), cut: prop::sample::Index,
        ) {
            let signed = signed(content);
            let bytes = encode(&signed, &legacy);
            prop_assert_eq!(decode(&bytes[..cut.index(bytes.len())]), None);
            prop_assert_eq!(decode(&[&bytes[..], &[0]].concat()), None);
            prop_assert_eq!(decode(&bytes), Some(Stored { signed, legacy }));
        }

        #[test]
        fn no_bytes_end_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(Stored { signed, legacy }) = decode(&bytes) {
                prop_assert_eq!(encode(&signed, &legacy), bytes);
            }
        }
    }
}
