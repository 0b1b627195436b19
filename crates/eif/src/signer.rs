//! Signs images.
//!
//! Holds a certificate and a way to its P-384 key: the key itself, or a function that has something signed elsewhere,
//! such as a security module. [`crate::signature`] knows the format. ECDSA signatures are made with fresh randomness,
//! so two signings of one image differ in bytes. The measurements do not: PCR8 is the certificate's.

use std::{error::Error, fmt};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{self, PemObject};
use thiserror::Error;
use x509_cert::der::asn1::UintRef;
use x509_cert::der::{self, Decode, Reader, SliceReader};

use crate::measurements::{PCR_BYTES, certificate_register};
use crate::signature::{
    SignatureError, certificate_der, encode_section, public_key, signed_payload, to_be_signed,
    verify_with_key,
};

/// The length of r, and of s, in bytes.
const SCALAR_BYTES: usize = 48;
/// The length of an ES384 signature: r and s.
pub const SIGNATURE_BYTES: usize = 2 * SCALAR_BYTES;

/// What has bytes signed that this process cannot sign itself.
type External = dyn Fn(&[u8]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> + Send + Sync;

/// A key that signs images, with its certificate.
pub struct Signer {
    key: Key,
    certificate_pem: Vec<u8>,
    certificate_der: Vec<u8>,
    /// An uncompressed point.
    public_key: Vec<u8>,
}

enum Key {
    Here(Box<EcdsaKeyPair>),
    Elsewhere(Box<External>),
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
        let public = key.public_key().as_ref().to_vec();
        let signer = Self::new(Key::Here(Box::new(key)), certificate_pem)?;
        if public == signer.public_key { Ok(signer) } else { Err(SignerError::Mismatch) }
    }

    /// Takes an X.509 certificate (PEM) for a P-384 key that is elsewhere, and what has bytes signed with that key.
    ///
    /// `sign` gets the bytes of [`bytes_to_sign`](crate::bytes_to_sign), to be hashed with SHA-384, and returns an ECDSA
    /// signature: r and s of 48 bytes each, or the DER of `ECDSA-Sig-Value` (RFC 3279). What it returns is checked against
    /// the certificate, so a signature made earlier may come from here as well.
    ///
    /// # Errors
    ///
    /// When the certificate cannot be parsed or is not for P-384.
    pub fn external<F>(certificate_pem: &[u8], sign: F) -> Result<Self, SignerError>
    where
        F: Fn(&[u8]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> + Send + Sync + 'static,
    {
        Self::new(Key::Elsewhere(Box::new(sign)), certificate_pem)
    }

    fn new(key: Key, certificate_pem: &[u8]) -> Result<Self, SignerError> {
        let certificate_der = certificate_der(certificate_pem).map_err(SignerError::Certificate)?;
        let public_key = public_key(&certificate_der).map_err(SignerError::Certificate)?;
        Ok(Self { key, certificate_pem: certificate_pem.to_vec(), certificate_der, public_key })
    }

    /// The register that booting an image signed by this signer puts the certificate into.
    pub fn pcr8(&self) -> [u8; PCR_BYTES] {
        certificate_register(&self.certificate_der)
    }

    /// The signer's certificate: DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// The content of a signature section for the image with this PCR0.
    pub(crate) fn sign(&self, pcr0: &[u8; PCR_BYTES]) -> Result<Vec<u8>, SignerError> {
        let payload = signed_payload(pcr0);
        let message = to_be_signed(&payload);
        let signature = match &self.key {
            Key::Here(key) => {
                let made = key.sign(&SystemRandom::new(), &message).map_err(|_| SignerError::Refused)?;
                made.as_ref().to_vec()
            }
            Key::Elsewhere(sign) => fixed(sign(&message).map_err(SignerError::External)?)?,
        };
        // A wrong signature would show only when the image is to boot.
        verify_with_key(&self.public_key, &message, &signature).map_err(|_| SignerError::Foreign)?;
        Ok(encode_section(&self.certificate_pem, &payload, &signature))
    }
}

/// r and s of fixed length. Whatever has that length is taken for it: of DER, one in 2^40 would be as short.
fn fixed(signature: Vec<u8>) -> Result<Vec<u8>, SignerError> {
    if signature.len() == SIGNATURE_BYTES {
        return Ok(signature);
    }
    let found = signature.len();
    from_der(&signature).ok_or(SignerError::SignatureForm { found })
}

/// The r and s of an `ECDSA-Sig-Value`, if that is what it is and they are short enough for the curve.
fn from_der(signature: &[u8]) -> Option<Vec<u8>> {
    let mut input = SliceReader::new(signature).ok()?;
    let (r, s) =
        input.sequence(|pair| Ok::<_, der::Error>((UintRef::decode(pair)?, UintRef::decode(pair)?))).ok()?;
    input.finish().ok()?;
    let mut bytes = vec![0; SIGNATURE_BYTES];
    for (scalar, place) in [r, s].iter().zip(bytes.chunks_exact_mut(SCALAR_BYTES)) {
        let start = SCALAR_BYTES.checked_sub(scalar.as_bytes().len())?;
        place[start..].copy_from_slice(scalar.as_bytes());
    }
    Some(bytes)
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
    /// There is no signature from elsewhere.
    #[error("there is no signature from the external signer")]
    External(#[source] Box<dyn Error + Send + Sync>),
    /// What came from elsewhere is not a signature.
    #[error(
        "the external signature has {found} bytes and is neither r and s ({SIGNATURE_BYTES} bytes) nor the DER of both"
    )]
    SignatureForm {
        /// Its length in bytes.
        found: usize,
    },
    /// The signature that came from elsewhere is by another key, or of something else.
    #[error("the signature is not by the key of the signing certificate over this image")]
    Foreign,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// DER of `ECDSA-Sig-Value` by the rules of X.690: no needless zeros, one where the first bit is set.
    fn der(r: &[u8], s: &[u8]) -> Vec<u8> {
        let integer = |scalar: &[u8]| {
            let first = scalar.iter().position(|byte| *byte != 0).unwrap_or(scalar.len() - 1);
            let mut content = scalar[first..].to_vec();
            if content[0] >= 0x80 {
                content.insert(0, 0);
            }
            let mut bytes = vec![2, u8::try_from(content.len()).unwrap()];
            bytes.extend(content);
            bytes
        };
        let content = [integer(r), integer(s)].concat();
        [vec![0x30, u8::try_from(content.len()).unwrap()], content].concat()
    }

    proptest! {
        #[test]
        fn r_and_s_are_the_same_in_either_form(
            bytes in prop::collection::vec(any::<u8>(), SIGNATURE_BYTES),
            zeros in 0..SCALAR_BYTES - 1,
        ) {
            let mut bytes = bytes;
            bytes[..zeros].fill(0);
            let (r, s) = bytes.split_at(SCALAR_BYTES);
            prop_assert_eq!(from_der(&der(r, s)).unwrap(), bytes);
        }

        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = fixed(bytes);
        }
    }

    #[test]
    fn numbers_too_long_for_the_curve_and_trailing_bytes_are_refused() {
        assert_eq!(from_der(&der(&[1; 49], &[1; 48])), None);
        let mut trailing = der(&[1; 48], &[1; 48]);
        trailing.push(0);
        assert_eq!(from_der(&trailing), None);
    }
}
