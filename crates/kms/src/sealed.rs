//! Data sealed with a data key of KMS: `docs/spec/sealed.md`.
//!
//! Who may have the data key again is the KMS key's policy to say, by the registers in the attestation document; this is the
//! envelope around it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use minicbor::{Decoder, Encoder};
use zeroize::Zeroizing;

/// Longest data that is sealed.
pub const MAX_SEALED_DATA_BYTES: usize = 64 * 1024;

/// Longest context.
pub const MAX_CONTEXT_BYTES: usize = 1024;

/// Longest name of a KMS key.
pub const MAX_KEY_ID_BYTES: usize = 2048;

/// Longest data key as KMS wraps it.
pub const MAX_WRAPPED_KEY_BYTES: usize = 6144;

/// Longest envelope: its parts, the tag, and the heads of their encoding.
pub const MAX_ENVELOPE_BYTES: usize =
    MAX_SEALED_DATA_BYTES + TAG_BYTES + MAX_KEY_ID_BYTES + MAX_WRAPPED_KEY_BYTES + NONCE_LEN + 64;

const VERSION: u8 = 1;
const SOURCE: &str = "aws-kms";
const TAG_BYTES: usize = 16;
const AAD_TAG: &str = "glasshouse sealed data";

/// An envelope: how its data key is had again, and the data, encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The KMS key that wraps the data key, as the application names it.
    key_id: String,
    /// The data key as KMS wrapped it: `CiphertextBlob`.
    wrapped_key: Vec<u8>,
    nonce: [u8; NONCE_LEN],
    /// With the tag at its end.
    ciphertext: Vec<u8>,
}

/// Why an envelope was not made or not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// A part is too long, or empty where it must not be.
    #[error("{part} has {found} bytes, not {least} to {most}")]
    Length {
        /// Which.
        part: &'static str,
        /// How long it is.
        found: usize,
        /// How long it has to be at least.
        least: usize,
        /// How long it may be.
        most: usize,
    },
    /// It is no envelope of this version.
    #[error("not a sealed envelope of version {VERSION}")]
    Malformed,
    /// The key is no AES-256 key.
    #[error("the data key has {found} bytes, not 32: ask KMS for AES_256")]
    DataKey {
        /// How long it is.
        found: usize,
    },
    /// Another key or context, or changed bytes. Which of these is not known.
    #[error("the envelope is of another data key or context, or was changed")]
    Refused,
    /// The random number generator failed.
    #[error("cannot encrypt")]
    Random,
}

impl Envelope {
    /// Seals `data` with `data_key`, which KMS gave together with `wrapped_key`.
    ///
    /// # Errors
    /// [`SealError`], but for what concerns an envelope.
    pub fn seal(
        key_id: &str,
        wrapped_key: &[u8],
        data_key: &[u8],
        context: &[u8],
        data: &[u8],
    ) -> Result<Self, SealError> {
        check("data", data.len(), 0, MAX_SEALED_DATA_BYTES)?;
        let mut envelope = Self {
            key_id: key_id.to_owned(),
            wrapped_key: wrapped_key.to_vec(),
            nonce: [0; NONCE_LEN],
            ciphertext: data.to_vec(),
        };
        let aad = Aad::from(envelope.associated_data(context)?);
        let sealed = aes(data_key)?.seal_in_place_append_tag(aad, &mut envelope.ciphertext);
        envelope.nonce = *sealed.map_err(|_| SealError::Random)?.as_ref();
        Ok(envelope)
    }

    /// The data.
    ///
    /// # Errors
    /// [`SealError::DataKey`], [`SealError::Length`] of the context, or [`SealError::Refused`].
    pub fn open(&self, data_key: &[u8], context: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let aad = Aad::from(self.associated_data(context)?);
        let mut data = Zeroizing::new(self.ciphertext.clone());
        let nonce = Nonce::from(&self.nonce);
        let length =
            aes(data_key)?.open_in_place(nonce, aad, &mut data).map_err(|_| SealError::Refused)?.len();
        data.truncate(length);
        Ok(data)
    }

    /// The KMS key that wraps the data key.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// What KMS's `Decrypt` takes as `CiphertextBlob`.
    pub fn wrapped_key(&self) -> &[u8] {
        &self.wrapped_key
    }

    /// The envelope's one encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes);
        let written = encoder.array(6).and_then(|e| {
            e.u8(VERSION)?.str(SOURCE)?.str(&self.key_id)?.bytes(&self.wrapped_key)?;
            e.bytes(&self.nonce)?.bytes(&self.ciphertext)
        });
        written.expect("a Vec takes everything");
        bytes
    }

    /// Reads an envelope.
    ///
    /// # Errors
    /// [`SealError::Length`] and [`SealError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SealError> {
        check("the envelope", bytes.len(), 1, MAX_ENVELOPE_BYTES)?;
        let envelope = Self::read(bytes).map_err(|_| SealError::Malformed)?;
        envelope.check()?;
        // One spelling: no other lengths of lengths, nothing behind it.
        if envelope.encode() != bytes {
            return Err(SealError::Malformed);
        }
        Ok(envelope)
    }

    fn read(bytes: &[u8]) -> Result<Self, minicbor::decode::Error> {
        let wrong = || minicbor::decode::Error::message("another version or source");
        let mut decoder = Decoder::new(bytes);
        if decoder.array()? != Some(6) || decoder.u8()? != VERSION || decoder.str()? != SOURCE {
            return Err(wrong());
        }
        let (key_id, wrapped_key) = (decoder.str()?.to_owned(), decoder.bytes()?.to_vec());
        let nonce = decoder.bytes()?.try_into().map_err(|_| wrong())?;
        Ok(Self { key_id, wrapped_key, nonce, ciphertext: decoder.bytes()?.to_vec() })
    }

    fn check(&self) -> Result<(), SealError> {
        check("key_id", self.key_id.len(), 1, MAX_KEY_ID_BYTES)?;
        check("the wrapped key", self.wrapped_key.len(), 1, MAX_WRAPPED_KEY_BYTES)?;
        check("the ciphertext", self.ciphertext.len(), TAG_BYTES, MAX_SEALED_DATA_BYTES + TAG_BYTES)
    }

    /// Everything but nonce and ciphertext, and the context, which is not in the envelope.
    fn associated_data(&self, context: &[u8]) -> Result<Vec<u8>, SealError> {
        check("key_id", self.key_id.len(), 1, MAX_KEY_ID_BYTES)?;
        check("the wrapped key", self.wrapped_key.len(), 1, MAX_WRAPPED_KEY_BYTES)?;
        check("context", context.len(), 0, MAX_CONTEXT_BYTES)?;
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes);
        let written = encoder.array(6).and_then(|e| {
            e.str(AAD_TAG)?.u8(VERSION)?.str(SOURCE)?.str(&self.key_id)?;
            e.bytes(&self.wrapped_key)?.bytes(context)
        });
        written.expect("a Vec takes everything");
        Ok(bytes)
    }
}

fn check(part: &'static str, found: usize, least: usize, most: usize) -> Result<(), SealError> {
    match (least..=most).contains(&found) {
        true => Ok(()),
        false => Err(SealError::Length { part, found, least, most }),
    }
}

fn aes(data_key: &[u8]) -> Result<RandomizedNonceKey, SealError> {
    RandomizedNonceKey::new(&AES_256_GCM, data_key).map_err(|_| SealError::DataKey { found: data_key.len() })
}

#[cfg(test)]
mod tests;
