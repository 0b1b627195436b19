//! Signs images.
//!
//! Holds a P-384 key and the certificate that goes with it; [`crate::signature`] knows the format. ECDSA signatures
//! are made with fresh randomness, so two signings of one image differ in bytes. The measurements do not: PCR8 is the
//! certificate's.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{self, PemObject};
use thiserror::Error;

use crate::measurements::{PCR_BYTES, certificate_register};
use crate::signature::{
    SignatureError, certificate_der, encode_section, public_key, signed_payload, to_be_signed,
};

/// A key that signs images, with its certificate.
pub struct Signer {
    key: EcdsaKeyPair,
    certificate_pem: Vec<u8>,
    certificate_der: Vec<u8>,
}

impl Signer {
    /// Takes a P-384 private key (PKCS#8 or SEC 1) and an X.509 certificate for it, both PEM.
    ///
    /// All of `certificate_pem` goes into the image; its first certificate is the signer's.
    ///
    /// # Errors
    ///
    /// When either cannot be parsed, is not for P-384, or the key is not the certificate's.
    pub fn from_pem(private_key_pem: &[u8], certificate_pem: &[u8]) -> Result<Self, SignerError> {
        let der = PrivateKeyDer::from_pem_slice(private_key_pem).map_err(SignerError::KeyPem)?;
        let key = EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_FIXED_SIGNING, der.secret_der())
            .map_err(|rejected| SignerError::Key(rejected.to_string()))?;
        let certificate_der = certificate_der(certificate_pem).map_err(SignerError::Certificate)?;
        let certified = public_key(&certificate_der).map_err(SignerError::Certificate)?;
        if key.public_key().as_ref() != certified {
            return Err(SignerError::Mismatch);
        }
        Ok(Self { key, certificate_pem: certificate_pem.to_vec(), certificate_der })
    }

    /// The register that booting an image signed by this signer puts the certificate into.
    pub fn pcr8(&self) -> [u8; PCR_BYTES] {
        certificate_register(&self.certificate_der)
    }

    /// The content of a signature section for the image with this PCR0.
    pub(crate) fn sign(&self, pcr0: &[u8; PCR_BYTES]) -> Result<Vec<u8>, SignerError> {
        let payload = signed_payload(pcr0);
        let signature =
            self.key.sign(&SystemRandom::new(), &to_be_signed(&payload)).map_err(|_| SignerError::Refused)?;
        Ok(encode_section(&self.certificate_pem, &payload, signature.as_ref()))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("pcr8", &hex::encode(self.pcr8())).finish_non_exhaustive()
    }
}

/// Why a key and a certificate cannot sign images.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SignerError {
    /// There is no private key in the PEM.
    #[error("the private key is not a PEM private key")]
    KeyPem(#[source] pem::Error),
    /// The key is not a P-384 key.
    #[error("the private key is not a P-384 key in PKCS#8 or SEC 1 form: {0}")]
    Key(String),
    /// The certificate is unusable.
    #[error("the signing certificate is unusable")]
    Certificate(#[source] SignatureError),
    /// The certificate is for another key.
    #[error("the signing certificate is not for this private key")]
    Mismatch,
    /// The cryptographic library refused to sign.
    #[error("signing failed")]
    Refused,
}
