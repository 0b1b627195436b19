//! Writing attestation documents.
//!
//! Layout: AWS, "Verifying the root of trust" (`COSE_Sign1`, RFC 9052 section 4.2, over a map); order and forms of the map's
//! entries are those of the documents AWS's modules make.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use super::chain::{Chain, IssueError};
use crate::pcr::{Pcr, PcrIndex};
use crate::wire::fields::{encoded, write_optional};
use crate::wire::{AttestationRequest, ClippedName, Digest};

/// The protected header `{1: -35}`, algorithm ES384 (RFC 9053 section 2.1), as a CBOR map.
const PROTECTED_ES384: [u8; 4] = [0xa1, 0x01, 0x38, 0x22];

/// Largest `module_id` in bytes.
const MAX_MODULE_ID_BYTES: usize = 128;

/// A `module_id` that a document or a certificate should not carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the module_id {found} is not 1 to {MAX_MODULE_ID_BYTES} bytes without control characters")]
pub struct ModuleIdError {
    /// Its beginning.
    pub found: ClippedName,
}

/// Refuses a `module_id` that a document or a certificate should not carry.
pub(super) fn check_module_id(module_id: &str) -> Result<(), ModuleIdError> {
    let fits = (1..=MAX_MODULE_ID_BYTES).contains(&module_id.len());
    if fits && !module_id.chars().any(char::is_control) {
        return Ok(());
    }
    Err(ModuleIdError { found: ClippedName::new(module_id) })
}

/// What a document says, apart from who vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) module_id: String,
    /// Milliseconds since the Unix epoch.
    pub(super) timestamp_ms: u64,
    /// The locked PCRs.
    pub(super) pcrs: BTreeMap<PcrIndex, Pcr>,
    pub(super) extra: AttestationRequest,
}

impl Claims {
    /// The signed document, an untagged `COSE_Sign1`.
    pub(super) fn sign(&self, chain: &Chain) -> Result<Vec<u8>, IssueError> {
        let payload = self.payload(&chain.certificate, &chain.cabundle);
        let signature = chain.sign(&sig_structure(&payload))?;
        Ok(encoded(|e| {
            e.array(4)?.bytes(&PROTECTED_ES384)?.map(0)?;
            e.bytes(&payload)?.bytes(&signature)?;
            Ok(())
        }))
    }

    fn payload(&self, certificate: &[u8], cabundle: &[Vec<u8>]) -> Vec<u8> {
        encoded(|e| {
            e.map(9)?;
            e.str("module_id")?.str(&self.module_id)?;
            e.str("digest")?.str(Digest::Sha384.name())?;
            e.str("timestamp")?.u64(self.timestamp_ms)?;
            e.str("pcrs")?.map(self.pcrs.len() as u64)?;
            for (index, value) in &self.pcrs {
                e.u8((*index).into())?.bytes(&value.0)?;
            }
            e.str("certificate")?.bytes(certificate)?;
            e.str("cabundle")?.array(cabundle.len() as u64)?;
            for authority in cabundle {
                e.bytes(authority)?;
            }
            write_optional(e, "public_key", self.extra.public_key.as_deref())?;
            write_optional(e, "user_data", self.extra.user_data.as_deref())?;
            write_optional(e, "nonce", self.extra.nonce.as_deref())
        })
    }
}

/// What is signed: RFC 9052 section 4.4.
fn sig_structure(payload: &[u8]) -> Vec<u8> {
    encoded(|e| {
        e.array(4)?.str("Signature1")?.bytes(&PROTECTED_ES384)?;
        e.bytes(&[])?.bytes(payload)?;
        Ok(())
    })
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a vector without the member fails the test")]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn payloads_encode_as_awss_crate_does() {
        let text = include_str!("../../../../docs/spec/vectors/nsm-wire.json");
        let vectors: Value = serde_json::from_str(text).unwrap();
        let bare = AttestationRequest::default();
        let full = AttestationRequest {
            user_data: Some(vec![1; 64]),
            nonce: Some(vec![2; 20]),
            public_key: Some(vec![]),
        };
        for (vector, extra) in [(0, bare), (1, full)] {
            let claims = Claims {
                module_id: "i-0123456789abcdef0-enc0123456789abcdef".to_owned(),
                timestamp_ms: 1_765_432_109_876,
                pcrs: (0..17)
                    .chain([31])
                    .map(|index| (PcrIndex::new(index).unwrap(), Pcr([index; 48])))
                    .collect(),
                extra,
            };
            let payload = claims.payload(&[0xcc; 32], &[vec![0xa0; 16], vec![0xa1; 300]]);
            let expected = &vectors["document_payloads"][vector]["hex"];
            assert_eq!(hex::encode(payload), *expected);
        }
    }
}
