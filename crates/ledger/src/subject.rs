//! Whom entries are about: files, whose names stay secret, and streams, whose names do not.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hmac;

use crate::{Hash, map::Key};

/// Longest path of a file.
pub const MAX_PATH_BYTES: usize = 4096;
/// Longest name of a stream.
pub const MAX_STREAM_NAME_BYTES: usize = 128;
/// Longest payload of an entry.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 10;
/// Bytes of the secret that opens a commitment.
pub const NONCE_BYTES: usize = 32;

const STREAM_TAG: &[u8] = b"glasshouse/ledger/stream/1\0";
const PAYLOAD_TAG: &[u8] = b"glasshouse/ledger/payload/1\0";
const NONCE_TAG: &[u8] = b"glasshouse/ledger/nonce/1\0";

/// The name of a stream: 1 to [`MAX_STREAM_NAME_BYTES`] bytes of `a` to `z`, `0` to `9`, `-`, `_`, `.` and `/`, of which no
/// part between slashes is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(String);

impl StreamName {
    /// The ledger's own stream: gaps.
    pub const LEDGER: &str = "ledger";

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the stream is in the map: `SHA-256("glasshouse/ledger/stream/1\0" || name)`.
    pub fn key(&self) -> Key {
        Key(Hash::of(&[STREAM_TAG, self.0.as_bytes()]).0)
    }

    /// The ledger's own stream.
    pub fn ledger() -> Self {
        Self(Self::LEDGER.to_owned())
    }
}

impl FromStr for StreamName {
    type Err = InvalidStreamName;

    fn from_str(name: &str) -> Result<Self, InvalidStreamName> {
        let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        let part = |part: &str| !part.is_empty() && part.chars().all(letter);
        match name.len() <= MAX_STREAM_NAME_BYTES && name.split('/').all(part) {
            true => Ok(Self(name.to_owned())),
            false => Err(InvalidStreamName),
        }
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that names no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a stream's name has 1 to {MAX_STREAM_NAME_BYTES} characters of a-z, 0-9, - _ . and parts between slashes"
)]
pub struct InvalidStreamName;

/// Where the file that has this output of the verifiable random function is in the map: the output's first 32 bytes.
///
/// # Panics
/// If the output is shorter, which none of ECVRF-EDWARDS25519-SHA512-TAI is.
pub fn file_key(output: &vrf::Output) -> Key {
    Key(*output.as_bytes().first_chunk().expect("an output of 64 bytes"))
}

/// What the log holds of a payload: `SHA-256("glasshouse/ledger/payload/1\0" || nonce || payload)`.
pub fn commitment(nonce: &[u8; NONCE_BYTES], payload: &[u8]) -> Hash {
    Hash::of(&[PAYLOAD_TAG, nonce, payload])
}

/// The nonces of a ledger: derived, so that they need not be kept.
pub struct Nonces {
    key: hmac::Key,
}

impl Nonces {
    /// From the ledger's secret.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// The nonce of one entry: HMAC-SHA-256 under the ledger's secret over a tag, the subject, the sequence number (8 bytes,
    /// big-endian) and the payload. It depends on the payload, so one nonce never stands for two.
    pub fn nonce(&self, subject: &Key, sequence: u64, payload: &[u8]) -> [u8; NONCE_BYTES] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [NONCE_TAG, &subject.0, &sequence.to_be_bytes(), payload] {
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("HMAC-SHA-256 gives 32 bytes")
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonces")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_streams_are_few_characters_in_parts() {
        for name in ["egress", "app/agent-1", "a/b/c.d_e", &"x".repeat(128)] {
            assert_eq!(name.parse::<StreamName>().unwrap().to_string(), name);
        }
        for name in ["", "/", "a/", "/a", "a//b", "A", "a b", "ä", "a\n", &"x".repeat(129)] {
            assert_eq!(name.parse::<StreamName>(), Err(InvalidStreamName), "{name:?}");
        }
        assert_eq!(StreamName::LEDGER.parse(), Ok(StreamName::ledger()));
    }

    #[test]
    fn a_nonce_belongs_to_one_secret_subject_number_and_payload() {
        let nonce = |secret, subject, sequence, payload: &[u8]| {
            Nonces::new(&[secret; 32]).nonce(&Key([subject; 32]), sequence, payload)
        };
        let one = nonce(1, 1, 1, b"payload");
        assert_eq!(one, nonce(1, 1, 1, b"payload"));
        for other in [nonce(2, 1, 1, b"payload"), nonce(1, 2, 1, b"payload"), nonce(1, 1, 2, b"payload")] {
            assert_ne!(one, other);
        }
        assert_ne!(one, nonce(1, 1, 1, b"payloae"));
    }
}
