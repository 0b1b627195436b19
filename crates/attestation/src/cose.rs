//! The COSE_Sign1 envelope (RFC 9052 section 4.2) as far as Nitro documents use it: ES384 (RFC 9053 section 2.1),
//! payload attached, no external data.
//!
//! Knows nothing of the payload. Spec: `docs/spec/attestation-document.md`, "Envelope".

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use minicbor::data::Type;
use minicbor::decode::Decoder;
use minicbor::encode::Encoder;
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};

use crate::cbor::remaining;
use crate::document::DecodeError;

/// The CBOR tag of a COSE_Sign1; Nitro documents come without it.
pub(crate) const COSE_SIGN1_TAG: u64 = 18;
/// The `alg` of ES384: ECDSA with SHA-384.
pub(crate) const ES384_ALGORITHM: i64 = -35;
/// An ES384 signature is r || s, each 48 bytes big-endian.
pub(crate) const ES384_SIGNATURE_BYTES: usize = 96;
const ALGORITHM_LABEL: i64 = 1;

/// The four parts of a COSE_Sign1, borrowed from its encoding.
#[derive(Debug)]
pub(crate) struct Sign1<'a> {
    /// The serialised protected header, without the byte string around it.
    pub(crate) protected: &'a [u8],
    /// The encoded map of unprotected headers.
    pub(crate) unprotected: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) signature: &'a [u8],
}

impl<'a> Sign1<'a> {
    /// Decodes an envelope, tagged or not, that fills `bytes` to the end.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let malformed = DecodeError::cbor("COSE_Sign1");
        if decoder.datatype().map_err(malformed)? == Type::Tag {
            let tag = decoder.tag().map_err(malformed)?.as_u64();
            if tag != COSE_SIGN1_TAG {
                return Err(DecodeError::Tag { found: tag });
            }
        }
        let parts = decoder.array().map_err(malformed)?;
        if parts != Some(4) {
            return Err(DecodeError::EnvelopeParts { found: parts });
        }
        let protected = decoder.bytes().map_err(DecodeError::cbor("protected header"))?;
        let unprotected = map_encoding(&mut decoder).map_err(DecodeError::cbor("unprotected header"))?;
        let payload = decoder.bytes().map_err(DecodeError::cbor("payload"))?;
        let signature = decoder.bytes().map_err(DecodeError::cbor("signature"))?;
        match remaining(&decoder) {
            0 => Ok(Sign1 { protected, unprotected, payload, signature }),
            found => Err(DecodeError::TrailingBytes { what: "COSE_Sign1", found }),
        }
    }

    /// The `alg` of the protected header, which must hold nothing else.
    pub(crate) fn algorithm(&self) -> Result<i64, DecodeError> {
        let mut decoder = Decoder::new(self.protected);
        let malformed = DecodeError::cbor("protected header");
        let entries = decoder.map().map_err(malformed)?;
        if entries != Some(1) {
            return Err(DecodeError::ProtectedHeader);
        }
        if decoder.i64().map_err(malformed)? != ALGORITHM_LABEL {
            return Err(DecodeError::ProtectedHeader);
        }
        let algorithm = decoder.i64().map_err(malformed)?;
        match remaining(&decoder) {
            0 => Ok(algorithm),
            found => Err(DecodeError::TrailingBytes { what: "protected header", found }),
        }
    }

    /// The encoded `Sig_structure` (RFC 9052 section 4.4): the bytes that are signed.
    pub(crate) fn sig_structure(&self) -> Vec<u8> {
        const HEADS_AND_CONTEXT_BYTES: usize = 32;
        let size = [self.protected.len(), self.payload.len(), HEADS_AND_CONTEXT_BYTES];
        let mut bytes = Vec::with_capacity(size.iter().fold(0, |sum, n| sum.saturating_add(*n)));
        Encoder::new(&mut bytes)
            .array(4)
            .and_then(|e| e.str("Signature1"))
            .and_then(|e| e.bytes(self.protected))
            .and_then(|e| e.bytes(&[]))
            .and_then(|e| e.bytes(self.payload))
            .expect("writing to a Vec cannot fail");
        bytes
    }
}

/// Skips one map and returns its encoding.
fn map_encoding<'a>(decoder: &mut Decoder<'a>) -> Result<&'a [u8], minicbor::decode::Error> {
    let start = decoder.position();
    let kind = decoder.datatype()?;
    if !matches!(kind, Type::Map | Type::MapIndef) {
        return Err(minicbor::decode::Error::type_mismatch(kind).with_message("expected map").at(start));
    }
    decoder.skip()?;
    let encoding = decoder.input().get(start..decoder.position());
    Ok(encoding.expect("the decoder only moves forward inside its input"))
}

/// ES384 in the form that COSE carries it. The certificate library's own ECDSA takes the ASN.1 form of X.509
/// signatures; giving it this one lets it check that the certificate's key is on P-384.
#[derive(Debug)]
pub(crate) struct Es384;

impl SignatureVerificationAlgorithm for Es384 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, public_key)
            .verify(message, signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P384
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA384
    }
}

#[cfg(test)]
mod tests;
