//! Signs images.
//!
//! Holds a certificate and a way to its key: the key itself, or a function that has something signed elsewhere,
//! such as a security module. [`crate::signature`] knows the format. ECDSA signatures are made with fresh randomness,
//! so two signings of one image differ in bytes. The measurements do not: PCR8 is the certificate's.

use std::{error::Error, fmt};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{EcdsaKeyPair, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{self, PemObject};
use thiserror::Error;
use x509_cert::der::asn1::UintRef;
use x509_cert::der::{self, Decode, Reader, SliceReader};

use crate::curve::Curve;
use crate::measurements::{PCR_BYTES, certificate_register};
use crate::signature::{
    PublicKey, SignatureError, certificate_der, encode_section, signed_payload, to_be_signed,
};

/// What has bytes signed that this process cannot sign itself.
type External = dyn Fn(&[u8]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> + Send + Sync;

/// A key that signs images, with its certificate.
pub struct Signer {
    key: Key,
    certificate_pem: Vec<u8>,
    certificate_der: Vec<u8>,
    public_key: PublicKey,
}

enum Key {
    Here(Box<EcdsaKeyPair>),
    Elsewhere(Box<External>),
}

impl Signer {
    /// Takes a private key on one of the [curves](Curve) (PKCS#8 or SEC 1) and an X.509 certificate for it, both PEM.
    ///
    /// All of `certificate_pem` goes into the image; its first certificate is the signer's.
    ///
    /// # Errors
    ///
    /// When either cannot be parsed, is for no such curve, or the key is not the certificate's.
    pub fn from_pem(private_key_pem: &[u8], certificate_pem: &[u8]) -> Result<Self, SignerError> {
        let der = PrivateKeyDer::from_pem_slice(private_key_pem).map_err(SignerError::KeyPem)?;
        let on = |curve: Curve| EcdsaKeyPair::from_private_key_der(curve.signing(), der.secret_der());
        let key = Curve::ALL.into_iter().find_map(|curve| on(curve).ok()).ok_or(SignerError::Key)?;
        let public = key.public_key().as_ref().to_vec();
        let signer = Self::new(Key::Here(Box::new(key)), certificate_pem)?;
        if public == signer.public_key.point { Ok(signer) } else { Err(SignerError::Mismatch) }
    }

    /// Takes an X.509 certificate (PEM) for a key that is elsewhere, and what has bytes signed with that key.
    ///
    /// `sign` gets the bytes of [`bytes_to_sign`](crate::bytes_to_sign), to be hashed with the curve's hash, and returns an
    /// ECDSA signature: r and s, each as long as the curve's numbers are, or the DER of `ECDSA-Sig-Value` (RFC 3279). What it returns is checked against
    /// the certificate, so a signature made earlier may come from here as well.
    ///
    /// # Errors
    ///
    /// When the certificate cannot be parsed or is for no such curve.
    pub fn external<F>(certificate_pem: &[u8], sign: F) -> Result<Self, SignerError>
    where
        F: Fn(&[u8]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> + Send + Sync + 'static,
    {
        Self::new(Key::Elsewhere(Box::new(sign)), certificate_pem)
    }

    fn new(key: Key, certificate_pem: &[u8]) -> Result<Self, SignerError> {
        let certificate_der = certificate_der(certificate_pem).map_err(SignerError::Certificate)?;
        let public_key = PublicKey::of(&certificate_der).map_err(SignerError::Certificate)?;
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

    /// The curve of the signer's key.
    pub fn curve(&self) -> Curve {
        self.public_key.curve
    }

    /// The content of a signature section for the image with this PCR0.
    pub(crate) fn sign(&self, pcr0: &[u8; PCR_BYTES]) -> Result<Vec<u8>, SignerError> {
        let payload = signed_payload(pcr0);
        let curve = self.curve();
        let message = to_be_signed(curve, &payload);
        let signature = match &self.key {
            Key::Here(key) => {
                let made = key.sign(&SystemRandom::new(), &message).map_err(|_| SignerError::Refused)?;
                made.as_ref().to_vec()
            }
            Key::Elsewhere(sign) => fixed(curve, sign(&message).map_err(SignerError::External)?)?,
        };
        // A wrong signature would show only when the image is to boot.
        self.public_key.verify(&message, &signature).map_err(|_| SignerError::Foreign)?;
        Ok(encode_section(curve, &self.certificate_pem, &payload, &signature))
    }
}

/// r and s of fixed length. Whatever has that length is taken for it: of DER, one in 2^24 would be as short
/// on P-256, and be refused as a wrong signature then.
fn fixed(curve: Curve, signature: Vec<u8>) -> Result<Vec<u8>, SignerError> {
    if signature.len() == curve.signature_bytes() {
        return Ok(signature);
    }
    let (found, expected) = (signature.len(), curve.signature_bytes());
    from_der(curve, &signature).ok_or(SignerError::SignatureForm { found, expected })
}

/// The r and s of an `ECDSA-Sig-Value`, if that is what it is and they are short enough for the curve.
fn from_der(curve: Curve, signature: &[u8]) -> Option<Vec<u8>> {
    let mut input = SliceReader::new(signature).ok()?;
    let (r, s) =
        input.sequence(|pair| Ok::<_, der::Error>((UintRef::decode(pair)?, UintRef::decode(pair)?))).ok()?;
    input.finish().ok()?;
    let mut bytes = vec![0; curve.signature_bytes()];
    for (scalar, place) in [r, s].iter().zip(bytes.chunks_exact_mut(curve.scalar_bytes())) {
        let start = curve.scalar_bytes().checked_sub(scalar.as_bytes().len())?;
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
    /// The key is on none of the curves.
    #[error("the private key is not one on P-256, P-384 or P-521 in PKCS#8 or SEC 1 form")]
    Key,
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
        "the external signature has {found} bytes and is neither r and s ({expected} bytes) nor the DER of both"
    )]
    SignatureForm {
        /// Its length in bytes.
        found: usize,
        /// That of r and s on the key's curve.
        expected: usize,
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
        let length = u8::try_from(content.len()).unwrap();
        // From 128 on, the length is preceded by how many bytes it has.
        let head = if length < 0x80 { vec![0x30, length] } else { vec![0x30, 0x81, length] };
        [head, content].concat()
    }

    proptest! {
        #[test]
        fn r_and_s_are_the_same_in_either_form(
            curve in prop::sample::select(&Curve::ALL[..]),
            bytes in prop::collection::vec(any::<u8>(), Curve::P521.signature_bytes()),
            zeros in 0..Curve::P256.scalar_bytes() - 1,
        ) {
            let mut bytes = bytes[..curve.signature_bytes()].to_vec();
            bytes[..zeros].fill(0);
            let (r, s) = bytes.split_at(curve.scalar_bytes());
            prop_assert_eq!(from_der(curve, &der(r, s)).unwrap(), bytes);
        }

        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Curve::ALL.map(|curve| fixed(curve, bytes.clone()));
        }
    }

    #[test]
    fn numbers_too_long_for_the_curve_and_trailing_bytes_are_refused() {
        assert_eq!(from_der(Curve::P384, &der(&[1; 49], &[1; 48])), None);
        let mut trailing = der(&[1; 48], &[1; 48]);
        trailing.push(0);
        assert_eq!(from_der(Curve::P384, &trailing), None);
    }
}
