//! The key to which KMS encrypts its answers.

use aws_lc_rs::{
    cipher::{AES_256, AES_256_KEY_LEN, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey},
    encoding::{AsDer, PublicKeyX509Der},
    iv::FixedLength,
    rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey},
};
use zeroize::Zeroizing;

use crate::enveloped::{Enveloped, EnvelopedError};

/// An RSA key of 2048 bits that was made here and is in memory only.
pub struct Recipient {
    key: OaepPrivateDecryptingKey,
    public_key: Vec<u8>,
}

/// A key could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an RSA key")]
pub struct GenerateError;

/// Why an answer of KMS was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is no such answer.
    #[error(transparent)]
    Enveloped(#[from] EnvelopedError),
    /// It is for another key, or was changed. What of it does not fit is not said.
    #[error("the message is not for this enclave's key, or was changed")]
    Refused,
}

impl std::fmt::Debug for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recipient").finish_non_exhaustive()
    }
}

impl Recipient {
    /// Makes a key. Takes some tenths of a second.
    ///
    /// # Errors
    /// When the random number generator fails.
    pub fn generate() -> Result<Self, GenerateError> {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).map_err(|_| GenerateError)?;
        let public_key: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| GenerateError)?;
        let public_key = public_key.as_ref().to_vec();
        let key = OaepPrivateDecryptingKey::new(key).map_err(|_| GenerateError)?;
        Ok(Self { key, public_key })
    }

    /// What the attestation document's `public_key` has to be: a DER SubjectPublicKeyInfo (RFC 5280, section 4.1) of 294
    /// bytes.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    /// The plaintext of an answer's `CiphertextForRecipient`, decoded from base64.
    ///
    /// # Errors
    /// [`OpenError`] for anything that KMS did not make for this key.
    pub fn open(&self, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let Enveloped { encrypted_key, iv, encrypted_content } = Enveloped::parse(message)?;
        let mut room = Zeroizing::new(vec![0; self.key.min_output_size()]);
        let key = self.key.decrypt(&OAEP_SHA256_MGF1SHA256, encrypted_key, &mut room, None);
        let key = key.map_err(|_| OpenError::Refused)?;
        if key.len() != AES_256_KEY_LEN {
            return Err(OpenError::Refused);
        }
        let key = UnboundCipherKey::new(&AES_256, key).map_err(|_| OpenError::Refused)?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(|_| OpenError::Refused)?;
        let mut content = Zeroizing::new(encrypted_content);
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        let length = key.decrypt(&mut content, context).map_err(|_| OpenError::Refused)?.len();
        content.truncate(length);
        Ok(content)
    }
}
