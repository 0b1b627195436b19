//! Reading the documents QEMU leaves unsigned.
//!
//! Its `nitro-enclave` machine fills a document properly and puts zeros where signature and certificates belong. Exactly that
//! shape is read here, specified in `docs/spec/nsm-socket.md`, section "Signer socket"; anything that somebody did sign, AWS
//! above all, is refused.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use minicbor::Decoder;

use super::document::{Claims, ModuleIdError, check_module_id};
use crate::pcr::{PCR_BYTES, Pcr, PcrIndex, PcrIndexOutOfRange};
use crate::wire::fields::{
    array_len, decode_whole, each_field, expect_length, keep, map_len, optional_bytes, required, unknown,
};
use crate::wire::{AttestationRequest, ClippedName, DecodeError, Digest, InputTooLarge, MAX_RESPONSE_BYTES};

/// Largest unsigned document in bytes; a module's response holds no larger one.
pub(super) const MAX_UNSIGNED_BYTES: usize = MAX_RESPONSE_BYTES;

/// The protected header QEMU writes: `{1: -1}`, an algorithm that signs nothing.
const PROTECTED_UNSIGNED: [u8; 3] = [0xa1, 0x01, 0x20];

/// Why bytes are no unsigned document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnsignedError {
    /// Not the CBOR of a document.
    #[error("not an attestation document")]
    Decode(#[from] DecodeError),
    /// A protected header other than QEMU's.
    #[error("the protected header is not that of an unsigned document")]
    ProtectedHeader,
    /// Something that must be zeros is not.
    #[error("the document's {part} is not blank: it was signed already")]
    AlreadySigned {
        /// `signature`, `certificate` or `cabundle`.
        part: &'static str,
    },
    /// PCRs made with another hash.
    #[error("the document's digest is {found}, expected SHA384")]
    Digest {
        /// The digest it names.
        found: ClippedName,
    },
    /// A PCR that does not exist.
    #[error(transparent)]
    PcrIndex(#[from] PcrIndexOutOfRange),
    /// A PCR given twice.
    #[error("{index} is given twice")]
    DuplicatePcr {
        /// Which.
        index: PcrIndex,
    },
    /// A PCR value of another length than SHA-384's.
    #[error("{index} has {found} bytes, expected {PCR_BYTES}")]
    PcrLength {
        /// Which.
        index: PcrIndex,
        /// Its length in bytes.
        found: usize,
    },
    /// A name that no certificate can carry.
    #[error(transparent)]
    ModuleId(#[from] ModuleIdError),
    /// A field that a real module would not have taken.
    #[error(transparent)]
    InputTooLarge(#[from] InputTooLarge),
}

/// The claims of an unsigned document.
///
/// # Errors
/// Everything that is not exactly such a document, or that a real module would not have put into one.
pub(super) fn read(document: &[u8]) -> Result<Claims, UnsignedError> {
    let envelope = decode_whole(document, MAX_UNSIGNED_BYTES, Envelope::read)?;
    if envelope.protected != PROTECTED_UNSIGNED {
        return Err(UnsignedError::ProtectedHeader);
    }
    blank("signature", envelope.signature)?;
    decode_whole(envelope.payload, MAX_UNSIGNED_BYTES, Payload::read)?.check()
}

/// A `COSE_Sign1` taken apart.
struct Envelope<'b> {
    protected: &'b [u8],
    payload: &'b [u8],
    signature: &'b [u8],
}

impl<'b> Envelope<'b> {
    fn read(d: &mut Decoder<'b>) -> Result<Self, DecodeError> {
        expect_length("COSE_Sign1", 4, array_len(d)?)?;
        let protected = d.bytes()?;
        expect_length("unprotected header", 0, map_len(d)?)?;
        let payload = d.bytes()?;
        let signature = d.bytes()?;
        Ok(Self { protected, payload, signature })
    }
}

/// A payload taken apart, nothing checked but its form.
struct Payload<'b> {
    module_id: &'b str,
    digest: &'b str,
    timestamp_ms: u64,
    pcrs: Vec<(u64, &'b [u8])>,
    certificate: &'b [u8],
    cabundle: Vec<&'b [u8]>,
    extra: AttestationRequest,
}

impl<'b> Payload<'b> {
    fn read(d: &mut Decoder<'b>) -> Result<Self, DecodeError> {
        let (mut module_id, mut digest, mut timestamp, mut pcrs) = (None, None, None, None);
        let (mut certificate, mut cabundle) = (None, None);
        let (mut public_key, mut user_data, mut nonce) = (None, None, None);
        each_field(d, |name, d| match name {
            "module_id" => keep(&mut module_id, "module_id", d.str()?),
            "digest" => keep(&mut digest, "digest", d.str()?),
            "timestamp" => keep(&mut timestamp, "timestamp", d.u64()?),
            "pcrs" => keep(&mut pcrs, "pcrs", read_pcrs(d)?),
            "certificate" => keep(&mut certificate, "certificate", d.bytes()?),
            "cabundle" => keep(&mut cabundle, "cabundle", read_list(d)?),
            "public_key" => keep(&mut public_key, "public_key", optional_bytes(d)?),
            "user_data" => keep(&mut user_data, "user_data", optional_bytes(d)?),
            "nonce" => keep(&mut nonce, "nonce", optional_bytes(d)?),
            other => Err(unknown("field", other)),
        })?;
        Ok(Self {
            module_id: required(module_id, "module_id")?,
            digest: required(digest, "digest")?,
            timestamp_ms: required(timestamp, "timestamp")?,
            pcrs: required(pcrs, "pcrs")?,
            certificate: required(certificate, "certificate")?,
            cabundle: required(cabundle, "cabundle")?,
            extra: AttestationRequest {
                public_key: required(public_key, "public_key")?,
                user_data: required(user_data, "user_data")?,
                nonce: required(nonce, "nonce")?,
            },
        })
    }

    fn check(self) -> Result<Claims, UnsignedError> {
        check_module_id(self.module_id)?;
        if self.digest != Digest::Sha384.name() {
            return Err(UnsignedError::Digest { found: ClippedName::new(self.digest) });
        }
        blank("certificate", self.certificate)?;
        for authority in &self.cabundle {
            blank("cabundle", authority)?;
        }
        self.extra.check_sizes()?;
        Ok(Claims {
            module_id: self.module_id.to_owned(),
            timestamp_ms: self.timestamp_ms,
            pcrs: check_pcrs(self.pcrs)?,
            extra: self.extra,
        })
    }
}

fn check_pcrs(pcrs: Vec<(u64, &[u8])>) -> Result<BTreeMap<PcrIndex, Pcr>, UnsignedError> {
    let mut checked = BTreeMap::new();
    for (index, value) in pcrs {
        let index = PcrIndex::new(index)?;
        let value = value.try_into().map_err(|_| UnsignedError::PcrLength { index, found: value.len() })?;
        if checked.insert(index, Pcr(value)).is_some() {
            return Err(UnsignedError::DuplicatePcr { index });
        }
    }
    Ok(checked)
}

fn blank(part: &'static str, bytes: &[u8]) -> Result<(), UnsignedError> {
    match bytes.iter().all(|byte| *byte == 0) {
        true => Ok(()),
        false => Err(UnsignedError::AlreadySigned { part }),
    }
}

fn read_pcrs<'b>(d: &mut Decoder<'b>) -> Result<Vec<(u64, &'b [u8])>, DecodeError> {
    (0..map_len(d)?).map(|_| Ok((d.u64()?, d.bytes()?))).collect()
}

fn read_list<'b>(d: &mut Decoder<'b>) -> Result<Vec<&'b [u8]>, DecodeError> {
    (0..array_len(d)?).map(|_| Ok(d.bytes()?)).collect()
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a vector without the member fails the test")]
mod tests {
    use std::error::Error;

    use serde_json::Value;

    use super::*;

    fn vectors(section: &str) -> Vec<(String, String, Vec<u8>)> {
        let text = include_str!("../../../../docs/spec/vectors/nsm-unsigned-document.json");
        let all: Value = serde_json::from_str(text).unwrap();
        let entries = all[section].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        entries
            .map(|vector| {
                let bytes = hex::decode(text(&vector["hex"])).unwrap();
                (text(&vector["name"]), text(&vector["because"]), bytes)
            })
            .collect()
    }

    /// An error and its causes, in one line.
    fn whole_text(error: &(dyn Error + 'static)) -> String {
        let causes = std::iter::successors(Some(error), |&error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }

    #[test]
    fn reads_a_document_as_qemu_makes_it() {
        let (_, _, document) = vectors("accepted").remove(0);
        let numbers = (0..17).chain([31]);
        let expected = Claims {
            module_id: "hello-world".to_owned(),
            timestamp_ms: 1_800_000_000_000,
            pcrs: numbers.map(|n| (PcrIndex::new(n).unwrap(), Pcr([n; 48]))).collect(),
            extra: AttestationRequest {
                public_key: None,
                user_data: Some(vec![1, 2, 3]),
                nonce: Some(vec![]),
            },
        };
        assert_eq!(read(&document).unwrap(), expected);
    }

    #[test]
    fn refuses_everything_else_for_its_own_reason() {
        for (name, because, document) in vectors("refused") {
            let error = read(&document).expect_err(&name);
            let text = whole_text(&error);
            assert!(text.contains(&because), "{name}: {text}");
        }
    }

    #[test]
    fn refuses_more_than_a_module_could_answer() {
        let error = read(&vec![0; MAX_UNSIGNED_BYTES + 1]).unwrap_err();
        assert!(matches!(error, UnsignedError::Decode(DecodeError::TooLarge { .. })), "{error}");
    }

    #[test]
    fn refuses_every_cut() {
        let (_, _, document) = vectors("accepted").remove(0);
        for end in 0..document.len() {
            assert!(read(&document[..end]).is_err(), "cut at {end}");
        }
    }

    proptest::proptest! {
        #[test]
        fn damage_never_panics(at in proptest::prelude::any::<proptest::sample::Index>(), byte: u8) {
            let (_, _, mut document) = vectors("accepted").remove(0);
            let at = at.index(document.len());
            document[at] = byte;
            let _ = read(&document);
        }
    }
}
