//! Where a log was, as its enclave's ledger remembers it (`docs/spec/tee-log.md#anchors`).
//!
//! The ledger is the framework's and only grows. Who keeps a log, and even who has its key, cannot take back what was written there: a log
//! that was put back or told in two ways no longer fits.

#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use crate::{Position, PublicKey};

/// Begins the payload, and says what it is.
const TAG: &[u8; 17] = b"tee-log anchor v1";
/// The tag, a number of 8 bytes, a digest, a key.
const ANCHOR_BYTES: usize = TAG.len() + 8 + 32 + 33;

/// A log's end at some time, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The place after the last entry.
    pub position: Position,
    /// The key that signed that entry.
    pub key: PublicKey,
}

/// Why what a stream holds are no anchors of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AnchorError {
    /// Something else was appended to the stream.
    #[error("entry {index} of the stream is no anchor")]
    Form {
        /// Its number in the stream.
        index: usize,
    },
    /// The log was shorter than before, or as long with another end.
    #[error(
        "entry {index} of the stream takes back what was anchored before: the log was put back, or there are two"
    )]
    Back {
        /// Its number in the stream.
        index: usize,
    },
}

impl Anchor {
    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        [&TAG[..], &self.position.sequence.to_be_bytes(), &self.position.head, &self.key.0].concat()
    }

    /// Reads a payload; none if it is none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ANCHOR_BYTES] = bytes.try_into().ok()?;
        let rest = bytes.strip_prefix(&TAG[..])?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (head, rest) = rest.split_first_chunk()?;
        let key = PublicKey(rest.try_into().ok()?);
        let position = Position { sequence: u64::from_be_bytes(*sequence), head: *head };
        // Before the first entry there is nothing to anchor.
        (position.sequence > 0).then_some(Self { position, key })
    }
}

/// The anchors of one log, of all that its stream in the ledger holds.
///
/// # Errors
/// [`AnchorError`] as its variants say.
pub fn anchors<'a>(payloads: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Anchor>, AnchorError> {
    let mut anchors: Vec<Anchor> = Vec::new();
    for (index, payload) in payloads.into_iter().enumerate() {
        let next = Anchor::decode(payload).ok_or(AnchorError::Form { index })?;
        match anchors.last() {
            // A program that starts again may say again where the log is.
            Some(last) if *last == next => {}
            Some(last) if last.position.sequence >= next.position.sequence => {
                return Err(AnchorError::Back { index });
            }
            _ => anchors.push(next),
        }
    }
    Ok(anchors)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn anchor(sequence: u64, byte: u8) -> Anchor {
        Anchor { position: Position { sequence, head: [byte; 32] }, key: PublicKey([2; 33]) }
    }

    #[test]
    fn anchors_of_one_log_only_go_on() {
        let read = |all: &[Anchor]| {
            let payloads: Vec<_> = all.iter().map(Anchor::encode).collect();
            anchors(payloads.iter().map(Vec::as_slice))
        };
        assert_eq!(read(&[]), Ok(Vec::new()));
        assert_eq!(read(&[anchor(1, 1), anchor(1, 1), anchor(5, 2)]), Ok(vec![anchor(1, 1), anchor(5, 2)]));
        assert_eq!(read(&[anchor(5, 1), anchor(4, 2)]), Err(AnchorError::Back { index: 1 }));
        assert_eq!(read(&[anchor(5, 1), anchor(5, 2)]), Err(AnchorError::Back { index: 1 }));
        assert_eq!(read(&[anchor(5, 1), anchor(0, 2)]), Err(AnchorError::Form { index: 1 }));
        assert_eq!(anchors([&b"else"[..]]), Err(AnchorError::Form { index: 0 }));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_written_is_read_again(sequence in 1_u64.., byte: u8) {
            let anchor = anchor(sequence, byte);
            let bytes = anchor.encode();
            prop_assert_eq!(Anchor::decode(&bytes), Some(anchor));
            prop_assert_eq!(Anchor::decode(&bytes[..ANCHOR_BYTES - 1]), None);
            prop_assert_eq!(Anchor::decode(&[&bytes[..], &[0]].concat()), None);
        }

        #[test]
        fn what_is_read_is_written_again(tag in 0..4, rest in prop::collection::vec(any::<u8>(), 0..90)) {
            // Mostly of the right beginning and length, where there is something to read.
            let mut bytes = if tag == 0 { Vec::new() } else { TAG.to_vec() };
            bytes.extend(&rest);
            if tag > 1 {
                bytes.resize(ANCHOR_BYTES, 7);
            }
            match Anchor::decode(&bytes) {
                Some(anchor) => prop_assert_eq!(anchor.encode(), bytes),
                None => prop_assert!(tag < 2 || rest.starts_with(&[0; 8])),
            }
        }
    }
}
