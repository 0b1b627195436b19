//! Reference values in a file: `docs/spec/reference-values.md`, as far as a verifier needs it.

use std::{borrow::Cow, collections::BTreeMap};

use attestation::{ParseHexError, Pcr, PcrIndex, PcrIndexError};
use serde::Deserialize;

use crate::Registers;

/// Longest file of reference values, in bytes.
pub const MAX_REFERENCE_BYTES: usize = 1 << 20;

/// The version that is read.
const VERSION: u64 = 1;

/// What reference values say of an enclave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The registers.
    pub registers: Registers,
    /// SHA-384 of the measured manifest, of an image whose PCR16 cannot be known before it boots.
    pub manifest_sha384: Option<Pcr>,
}

/// Why bytes are no reference values.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// More bytes than such a file has.
    #[error("has {found} bytes, more than the {MAX_REFERENCE_BYTES} allowed")]
    TooLong {
        /// How many.
        found: usize,
    },
    /// Not JSON, or without version and registers.
    #[error("does not hold reference values")]
    Json(#[from] serde_json::Error),
    /// Another version of the form.
    #[error("has version {found}, this program reads version {VERSION}")]
    Version {
        /// The version found.
        found: u64,
    },
    /// A register that does not exist.
    #[error("names a register that does not exist")]
    Index(#[from] PcrIndexError),
    /// A digest of the manifest that is none.
    #[error("`manifest_sha384`")]
    Manifest(#[source] ParseHexError),
    /// A register's value that is none.
    #[error("PCR{index}")]
    Value {
        /// Which register.
        index: u64,
        /// Why not.
        source: ParseHexError,
    },
}

#[derive(Deserialize)]
struct Form<'a> {
    version: u64,
    #[serde(borrow)]
    pcrs: BTreeMap<u64, Cow<'a, str>>,
    #[serde(borrow)]
    manifest_sha384: Option<Cow<'a, str>>,
}

impl Reference {
    /// Reads the registers, and nothing else of the file.
    ///
    /// # Errors
    /// [`ReferenceError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, ReferenceError> {
        if bytes.len() > MAX_REFERENCE_BYTES {
            return Err(ReferenceError::TooLong { found: bytes.len() });
        }
        let Form { version, pcrs, manifest_sha384 } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(ReferenceError::Version { found: version });
        }
        let mut registers = Registers::new();
        for (index, text) in pcrs {
            let value: Pcr = text.parse().map_err(|source| ReferenceError::Value { index, source })?;
            registers.insert(PcrIndex::try_from(index)?, value);
        }
        let manifest = manifest_sha384.map(|text| text.parse()).transpose();
        Ok(Self { registers, manifest_sha384: manifest.map_err(ReferenceError::Manifest)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_of_the_specification_is_read() {
        let bytes = include_bytes!("../../../docs/spec/vectors/reference-values.json");
        let reference = Reference::decode(bytes).unwrap();
        let indices: Vec<_> = reference.registers.keys().map(|index| index.number()).collect();
        assert_eq!(indices, [0, 1, 2, 16]);
    }

    #[test]
    fn what_a_verifier_needs_is_enough_and_must_be_right() {
        let value = "ab".repeat(48);
        let read = |text: &str| Reference::decode(text.as_bytes());
        let reference = read(&format!(r#"{{"version":1,"pcrs":{{"0":"{value}"}},"later":[1]}}"#)).unwrap();
        assert_eq!(reference.registers[&PcrIndex::IMAGE], Pcr([0xab; 48]));
        assert_eq!(reference.manifest_sha384, None);
        let monitored = format!(r#"{{"version":1,"pcrs":{{"0":"{value}"}},"manifest_sha384":"{value}"}}"#);
        assert_eq!(read(&monitored).unwrap().manifest_sha384, Some(Pcr([0xab; 48])));
        let refused = |text: &str| read(text).unwrap_err();
        assert!(matches!(
            refused(r#"{"version":1,"pcrs":{},"manifest_sha384":"ab"}"#),
            ReferenceError::Manifest(_)
        ));
        assert!(matches!(refused(r#"{"version":2,"pcrs":{}}"#), ReferenceError::Version { found: 2 }));
        assert!(matches!(
            refused(&format!(r#"{{"version":1,"pcrs":{{"32":"{value}"}}}}"#)),
            ReferenceError::Index(_)
        ));
        assert!(matches!(
            refused(r#"{"version":1,"pcrs":{"0":"ab"}}"#),
            ReferenceError::Value { index: 0, .. }
        ));
        for text in ["", "[]", r#"{"pcrs":{}}"#, r#"{"version":1}"#, r#"{"version":1,"pcrs":{"x":"00"}}"#] {
            assert!(matches!(refused(text), ReferenceError::Json(_)), "{text}");
        }
        assert!(matches!(
            Reference::decode(&vec![b' '; MAX_REFERENCE_BYTES + 1]),
            Err(ReferenceError::TooLong { .. })
        ));
    }
}
