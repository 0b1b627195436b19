//! The attestation document: what the Nitro security module signs, decoded but not verified.
//!
//! The decoder is strict and allocates nothing that a peer's length field sizes: every length is checked against
//! a named limit, and values are copied only from bytes that are really there. Checking signatures is
//! [`crate::verify`]'s job; nobody should act on a [`Document`] that did not come from a [`crate::Verified`].
//!
//! Spec: `docs/spec/attestation-document.md`. Source: AWS, "Nitro Enclaves Attestation Process", sections 2.2 and
//! 3.2 (aws-nitro-enclaves-nsm-api, docs/attestation_process.md).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use minicbor::data::Type;
use minicbor::decode::Decoder;

use crate::cbor::{Items, remaining};
use crate::cose::{COSE_SIGN1_TAG, ES384_ALGORITHM, ES384_SIGNATURE_BYTES, Sign1};
use crate::pcr::{PCR_COUNT, Pcr, PcrIndex};

/// Longest document accepted, envelope included. Genuine ones have about 4,600 bytes; the security module's
/// response is at most 12 KiB.
pub const MAX_DOCUMENT_BYTES: usize = 16 * 1024;
/// Most fields of the payload: the nine that are defined.
pub const MAX_PAYLOAD_FIELDS: u64 = 9;
/// Longest `module_id`.
pub const MAX_MODULE_ID_BYTES: usize = 256;
/// Longest certificate, in DER.
pub const MAX_CERTIFICATE_BYTES: usize = 1024;
/// Most certificates in `cabundle`: a root and six intermediates. AWS's have a root and three.
pub const MAX_CABUNDLE_CERTIFICATES: u64 = 7;
/// Longest `public_key`, `user_data` and `nonce`. The security module itself accepts at most 512 bytes of the
/// latter two; AWS's grammar allows 1024.
pub const MAX_OPTIONAL_FIELD_BYTES: usize = 1024;

const DIGEST: &str = "SHA384";
/// Characters of an unknown field's name that an error carries.
const MAX_REPORTED_CHARS: usize = 64;

/// The content of an attestation document.
///
/// By itself it proves nothing: [`crate::verify`] makes it evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Document {
    /// Which security module issued the document, and for which enclave. 1 to [`MAX_MODULE_ID_BYTES`] bytes
    /// without control characters.
    pub module_id: String,
    /// When the document was made by the module's clock: milliseconds since 1970-01-01T00:00:00Z, not 0.
    pub timestamp_ms: u64,
    /// The PCRs that were locked when the document was made.
    pub pcrs: BTreeMap<PcrIndex, Pcr>,
    /// The certificate of the key that signed the document (DER).
    pub certificate: Vec<u8>,
    /// The issuers of `certificate` (DER), root first. Never trusted for being here.
    pub cabundle: Vec<Vec<u8>>,
    /// A key that the enclave put in; `None` when absent or null.
    pub public_key: Option<Vec<u8>>,
    /// What the enclave wants to say; `None` when absent or null.
    pub user_data: Option<Vec<u8>>,
    /// The verifier's challenge; `None` when absent or null.
    pub nonce: Option<Vec<u8>>,
}

impl Document {
    /// Decodes the COSE_Sign1 `bytes` and the document in it. Verifies no signature.
    ///
    /// # Errors
    /// Whatever deviates from `docs/spec/attestation-document.md`, steps 1 to 3.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_signed(bytes).map(|(_, document)| document)
    }
}

/// Decodes envelope and payload; the envelope is what the signature is then checked over.
pub(crate) fn decode_signed(bytes: &[u8]) -> Result<(Sign1<'_>, Document), DecodeError> {
    // 1. Size and envelope.
    at_most("document", bytes.len(), MAX_DOCUMENT_BYTES)?;
    let envelope = Sign1::decode(bytes)?;
    // 2. Headers and signature length.
    let algorithm = envelope.algorithm()?;
    if algorithm != ES384_ALGORITHM {
        return Err(DecodeError::Algorithm { found: algorithm });
    }
    if !is_empty_map(envelope.unprotected) {
        return Err(DecodeError::UnprotectedHeader { found_bytes: envelope.unprotected.len() });
    }
    if envelope.signature.len() != ES384_SIGNATURE_BYTES {
        return Err(DecodeError::SignatureLength { found: envelope.signature.len() });
    }
    // 3. Payload.
    let document = Payload::decode(envelope.payload)?.into_document()?;
    Ok((envelope, document))
}

fn is_empty_map(encoding: &[u8]) -> bool {
    // Definite, or indefinite and ended at once.
    matches!(encoding, [0xa0] | [0xbf, 0xff])
}

/// The payload's fields as they are found, before it is known whether all are there.
#[derive(Default)]
struct Payload {
    module_id: Option<String>,
    digest: Option<()>,
    timestamp_ms: Option<u64>,
    pcrs: Option<BTreeMap<PcrIndex, Pcr>>,
    certificate: Option<Vec<u8>>,
    cabundle: Option<Vec<Vec<u8>>>,
    public_key: Option<Option<Vec<u8>>>,
    user_data: Option<Option<Vec<u8>>>,
    nonce: Option<Option<Vec<u8>>>,
}

impl Payload {
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let malformed = DecodeError::cbor("payload");
        let mut payload = Payload::default();
        let mut fields = Items::new(decoder.map().map_err(malformed)?);
        while fields.more(&mut decoder).map_err(malformed)? {
            if fields.seen() > MAX_PAYLOAD_FIELDS {
                return Err(DecodeError::TooMany { what: "payload fields", limit: MAX_PAYLOAD_FIELDS });
            }
            let field = decoder.str().map_err(DecodeError::cbor("payload field name"))?;
            payload.take(field, &mut decoder)?;
        }
        match remaining(&decoder) {
            0 => Ok(payload),
            found => Err(DecodeError::TrailingBytes { what: "payload", found }),
        }
    }

    fn take(&mut self, field: &str, decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
        match field {
            "module_id" => set(&mut self.module_id, "module_id", module_id(decoder)?),
            "digest" => set(&mut self.digest, "digest", digest(decoder)?),
            "timestamp" => set(&mut self.timestamp_ms, "timestamp", timestamp(decoder)?),
            "pcrs" => set(&mut self.pcrs, "pcrs", pcrs(decoder)?),
            "certificate" => set(&mut self.certificate, "certificate", certificate("certificate", decoder)?),
            "cabundle" => set(&mut self.cabundle, "cabundle", cabundle(decoder)?),
            "public_key" => set(&mut self.public_key, "public_key", optional("public_key", decoder)?),
            "user_data" => set(&mut self.user_data, "user_data", optional("user_data", decoder)?),
            "nonce" => set(&mut self.nonce, "nonce", optional("nonce", decoder)?),
            unknown => Err(DecodeError::UnknownField { found: shortened(unknown) }),
        }
    }

    fn into_document(self) -> Result<Document, DecodeError> {
        self.digest.ok_or(DecodeError::MissingField { field: "digest" })?;
        Ok(Document {
            module_id: self.module_id.ok_or(DecodeError::MissingField { field: "module_id" })?,
            timestamp_ms: self.timestamp_ms.ok_or(DecodeError::MissingField { field: "timestamp" })?,
            pcrs: self.pcrs.ok_or(DecodeError::MissingField { field: "pcrs" })?,
            certificate: self.certificate.ok_or(DecodeError::MissingField { field: "certificate" })?,
            cabundle: self.cabundle.ok_or(DecodeError::MissingField { field: "cabundle" })?,
            public_key: self.public_key.flatten(),
            user_data: self.user_data.flatten(),
            nonce: self.nonce.flatten(),
        })
    }
}

fn set<T>(slot: &mut Option<T>, field: &'static str, value: T) -> Result<(), DecodeError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(DecodeError::DuplicateField { field }),
    }
}

fn module_id(decoder: &mut Decoder<'_>) -> Result<String, DecodeError> {
    let text = decoder.str().map_err(DecodeError::cbor("module_id"))?;
    at_most("module_id", text.len(), MAX_MODULE_ID_BYTES)?;
    // It ends up on terminals and in logs.
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(DecodeError::ModuleId { found: shortened(text) });
    }
    Ok(text.to_owned())
}

fn digest(decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
    match decoder.str().map_err(DecodeError::cbor("digest"))? {
        DIGEST => Ok(()),
        other => Err(DecodeError::Digest { found: shortened(other) }),
    }
}

fn timestamp(decoder: &mut Decoder<'_>) -> Result<u64, DecodeError> {
    match decoder.u64().map_err(DecodeError::cbor("timestamp"))? {
        0 => Err(DecodeError::ZeroTimestamp),
        millis => Ok(millis),
    }
}

fn pcrs(decoder: &mut Decoder<'_>) -> Result<BTreeMap<PcrIndex, Pcr>, DecodeError> {
    let malformed = DecodeError::cbor("pcrs");
    let mut pcrs = BTreeMap::new();
    let mut entries = Items::new(decoder.map().map_err(malformed)?);
    while entries.more(decoder).map_err(malformed)? {
        let limit = u64::from(PCR_COUNT);
        if entries.seen() > limit {
            return Err(DecodeError::TooMany { what: "PCRs", limit });
        }
        let index = decoder.u64().map_err(DecodeError::cbor("PCR index"))?;
        let index = PcrIndex::try_from(index).map_err(|_| DecodeError::PcrIndex { found: index })?;
        let value = decoder.bytes().map_err(DecodeError::cbor("PCR value"))?;
        // The grammar knows 32 and 64 bytes too, for digests other than SHA-384.
        let value =
            <[u8; 48]>::try_from(value).map_err(|_| DecodeError::PcrLength { index, found: value.len() })?;
        if pcrs.insert(index, Pcr(value)).is_some() {
            return Err(DecodeError::DuplicatePcr { index });
        }
    }
    if pcrs.is_empty() {
        return Err(DecodeError::Empty { what: "pcrs" });
    }
    Ok(pcrs)
}

fn cabundle(decoder: &mut Decoder<'_>) -> Result<Vec<Vec<u8>>, DecodeError> {
    let malformed = DecodeError::cbor("cabundle");
    let mut bundle = Vec::new();
    let mut items = Items::new(decoder.array().map_err(malformed)?);
    while items.more(decoder).map_err(malformed)? {
        if items.seen() > MAX_CABUNDLE_CERTIFICATES {
            return Err(DecodeError::TooMany {
                what: "certificates in cabundle",
                limit: MAX_CABUNDLE_CERTIFICATES,
            });
        }
        bundle.push(certificate("cabundle certificate", decoder)?);
    }
    if bundle.is_empty() {
        return Err(DecodeError::Empty { what: "cabundle" });
    }
    Ok(bundle)
}

fn certificate(what: &'static str, decoder: &mut Decoder<'_>) -> Result<Vec<u8>, DecodeError> {
    let der = decoder.bytes().map_err(DecodeError::cbor(what))?;
    at_most(what, der.len(), MAX_CERTIFICATE_BYTES)?;
    if der.is_empty() {
        return Err(DecodeError::Empty { what });
    }
    Ok(der.to_vec())
}

fn optional(field: &'static str, decoder: &mut Decoder<'_>) -> Result<Option<Vec<u8>>, DecodeError> {
    let malformed = DecodeError::cbor(field);
    if decoder.datatype().map_err(malformed)? == Type::Null {
        decoder.null().map_err(malformed)?;
        return Ok(None);
    }
    let bytes = decoder.bytes().map_err(malformed)?;
    at_most(field, bytes.len(), MAX_OPTIONAL_FIELD_BYTES)?;
    Ok(Some(bytes.to_vec()))
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), DecodeError> {
    if found > limit {
        return Err(DecodeError::TooLong { what, found, limit });
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_REPORTED_CHARS).collect()
}

/// Why bytes are no attestation document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A part is longer than its limit.
    #[error("{what}: expected at most {limit} bytes, found {found}")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Its length in bytes.
        found: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A part holds more items than allowed.
    #[error("{what}: expected at most {limit}, found more")]
    TooMany {
        /// Which items.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A part that must hold something holds nothing.
    #[error("{what}: expected content, found none")]
    Empty {
        /// Which part.
        what: &'static str,
    },
    /// The CBOR is broken, ends early or has another type than expected.
    #[error("{what} is not the CBOR expected")]
    Cbor {
        /// Which part was being read.
        what: &'static str,
        /// What the decoder found, and where.
        #[source]
        source: minicbor::decode::Error,
    },
    /// Bytes follow where nothing may.
    #[error("{what}: expected nothing after it, found {found} bytes")]
    TrailingBytes {
        /// After which part.
        what: &'static str,
        /// How many bytes.
        found: usize,
    },
    /// The envelope has a CBOR tag other than that of COSE_Sign1.
    #[error("expected no CBOR tag or tag {COSE_SIGN1_TAG} (COSE_Sign1), found tag {found}")]
    Tag {
        /// The tag found.
        found: u64,
    },
    /// The envelope is not an array of four.
    #[error("COSE_Sign1: expected an array of 4, found {}", array_length(*.found))]
    EnvelopeParts {
        /// The length found; `None` when it is indefinite.
        found: Option<u64>,
    },
    /// The protected header is not a map with the algorithm alone.
    #[error("protected header: expected the algorithm (label 1) and nothing else")]
    ProtectedHeader,
    /// The unprotected header, which no signature covers, is not empty.
    #[error("unprotected header: expected an empty map, found one of {found_bytes} bytes")]
    UnprotectedHeader {
        /// Length of the encoded map.
        found_bytes: usize,
    },
    /// The signature algorithm is not ES384.
    #[error("signature algorithm: expected {ES384_ALGORITHM} (ES384), found {found}")]
    Algorithm {
        /// The COSE algorithm number found.
        found: i64,
    },
    /// The signature does not have the length of an ES384 signature.
    #[error("signature: expected {ES384_SIGNATURE_BYTES} bytes, found {found}")]
    SignatureLength {
        /// Its length in bytes.
        found: usize,
    },
    /// A mandatory field is not there.
    #[error("expected the field {field}, found none")]
    MissingField {
        /// Its name.
        field: &'static str,
    },
    /// A field is there twice.
    #[error("expected the field {field} once, found it again")]
    DuplicateField {
        /// Its name.
        field: &'static str,
    },
    /// A field that no known version of the document has. Refused, not skipped: whoever cannot read a signed claim
    /// cannot say what was claimed.
    #[error("expected only known fields, found {found:?}")]
    UnknownField {
        /// The beginning of its name.
        found: String,
    },
    /// `module_id` is empty or holds control characters.
    #[error("module_id: expected text without control characters, found {found:?}")]
    ModuleId {
        /// Its beginning.
        found: String,
    },
    /// `digest` names another function than SHA-384.
    #[error("digest: expected {DIGEST:?}, found {found:?}")]
    Digest {
        /// The beginning of what was found.
        found: String,
    },
    /// `timestamp` is 0.
    #[error("timestamp: expected milliseconds since 1970, found 0")]
    ZeroTimestamp,
    /// A PCR has an index that does not exist.
    #[error("PCR index: expected 0 to 31, found {found}")]
    PcrIndex {
        /// The number found.
        found: u64,
    },
    /// A PCR value does not have the length of a SHA-384 digest.
    #[error("{index}: expected 48 bytes, found {found}")]
    PcrLength {
        /// Which PCR.
        index: PcrIndex,
        /// Its length in bytes.
        found: usize,
    },
    /// A PCR is there twice.
    #[error("expected {index} once, found it again")]
    DuplicatePcr {
        /// Which PCR.
        index: PcrIndex,
    },
}

impl DecodeError {
    /// Makes the function that adds `what` was being read to an error of the CBOR decoder.
    pub(crate) fn cbor(what: &'static str) -> impl Fn(minicbor::decode::Error) -> Self + Copy {
        move |source| DecodeError::Cbor { what, source }
    }
}

fn array_length(found: Option<u64>) -> String {
    found.map_or_else(|| "one of indefinite length".to_owned(), |n| n.to_string())
}
