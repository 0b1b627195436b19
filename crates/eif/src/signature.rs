//! The signature section: who signed an image, and whether what they signed is this image.
//!
//! The section is CBOR: an array of one map with the signer's certificate and a COSE_Sign1 (RFC 9052) over PCR0.
//! AWS's tools encode the byte strings of this map, and of the signed payload, as arrays of integers; only that form
//! is read and written. The certificate's chain and validity period are not judged: that takes a root, and a clock.
//! See `docs/spec/eif.md`, "Signature".

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use aws_lc_rs::signature::UnparsedPublicKey;
use minicbor::data::Tag;
use minicbor::{Decoder, Encoder};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};
use thiserror::Error;
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;

use crate::curve::Curve;
use crate::measurements::{PCR_BYTES, certificate_register};

/// The longest signature section read, in bytes. One with a 2 KiB certificate has about 5 KiB.
pub const MAX_SIGNATURE_BYTES: u64 = 256 * 1024;

const CERTIFICATE_KEY: &str = "signing_certificate";
const SIGNATURE_KEY: &str = "signature";
const COSE_SIGN1: Tag = Tag::new(18);
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// A parsed signature section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSignature {
    /// As the section has it: PEM, of which the first certificate counts.
    certificate_pem: Vec<u8>,
    certificate_der: Vec<u8>,
    cose: Sign1,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Sign1 {
    protected: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl ImageSignature {
    /// Parses the content of a signature section.
    ///
    /// # Errors
    ///
    /// When it is not exactly one signature in the form above.
    pub fn decode(section: &[u8]) -> Result<Self, SignatureError> {
        let (certificate_pem, cose) = decode_section(section)?;
        let certificate_der = certificate_der(&certificate_pem)?;
        let cose = decode_sign1(&cose)?;
        Ok(Self { certificate_pem, certificate_der, cose })
    }

    /// The signer's certificate, as it was given to the tool that signed: PEM.
    pub fn certificate_pem(&self) -> &[u8] {
        &self.certificate_pem
    }

    /// The signer's certificate: DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// The register that booting the image puts this certificate into.
    pub fn pcr8(&self) -> [u8; PCR_BYTES] {
        certificate_register(&self.certificate_der)
    }

    /// Checks that the holder of the certificate signed this `pcr0`.
    ///
    /// # Errors
    ///
    /// When something else was signed, the key is on none of the [curves](Curve), the algorithm is not that curve's, or the
    /// signature is not by that key.
    pub fn verify_signature(&self, pcr0: &[u8; PCR_BYTES]) -> Result<(), SignatureError> {
        let key = PublicKey::of(&self.certificate_der)?;
        if Curve::of_header(&self.cose.protected) != Some(key.curve) {
            let protected_header = hex::encode(&self.cose.protected);
            return Err(SignatureError::Algorithm { protected_header, curve: key.curve });
        }
        if self.cose.payload != signed_payload(pcr0) {
            return Err(SignatureError::OtherPayload { pcr0: hex::encode(pcr0) });
        }
        key.verify(&to_be_signed(key.curve, &self.cose.payload), &self.cose.signature)
    }
}

/// The bytes that a signer of the image with this PCR0 signs, by ECDSA on this curve with its hash: the `Sig_structure` of
/// RFC 9052, 4.4. For signers elsewhere: see [`Signer::external`](crate::Signer::external).
pub fn bytes_to_sign(curve: Curve, pcr0: &[u8; PCR_BYTES]) -> Vec<u8> {
    to_be_signed(curve, &signed_payload(pcr0))
}

/// The payload that says "PCR0 is this".
pub(crate) fn signed_payload(pcr0: &[u8; PCR_BYTES]) -> Vec<u8> {
    encoded(|cbor| {
        cbor.map(2)?.str("register_index")?.u8(0)?.str("register_value")?;
        integers(cbor, pcr0)
    })
}

/// The bytes that a signature over `payload` covers: RFC 9052, 4.4, `Sig_structure`.
pub(crate) fn to_be_signed(curve: Curve, payload: &[u8]) -> Vec<u8> {
    encoded(|cbor| {
        cbor.array(4)?.str("Signature1")?.bytes(curve.header())?.bytes(&[])?.bytes(payload)?;
        Ok(())
    })
}

/// A certificate's public key.
pub(crate) struct PublicKey {
    pub(crate) curve: Curve,
    /// An uncompressed point.
    pub(crate) point: Vec<u8>,
}

impl PublicKey {
    pub(crate) fn of(certificate_der: &[u8]) -> Result<Self, SignatureError> {
        let certificate =
            x509_cert::Certificate::from_der(certificate_der).map_err(SignatureError::Certificate)?;
        let info = certificate.tbs_certificate().subject_public_key_info();
        let parameters = info.algorithm.parameters.as_ref();
        let found = parameters.and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
        match found.and_then(Curve::of_identifier) {
            Some(curve) if info.algorithm.oid == EC_PUBLIC_KEY => {
                Ok(Self { curve, point: info.subject_public_key.raw_bytes().to_vec() })
            }
            _ => Err(SignatureError::KeyType { found: found.unwrap_or(info.algorithm.oid).to_string() }),
        }
    }

    /// Checks a signature, r and s, over `message`.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let key = UnparsedPublicKey::new(self.curve.verification(), &self.point);
        key.verify(message, signature).map_err(|_| SignatureError::Forged)
    }
}

/// A signature section: `signature` is r and s over [`to_be_signed`]`(curve, payload)`.
pub(crate) fn encode_section(
    curve: Curve,
    certificate_pem: &[u8],
    payload: &[u8],
    signature: &[u8],
) -> Vec<u8> {
    let sign1 = encoded(|cbor| {
        cbor.array(4)?.bytes(curve.header())?.map(0)?.bytes(payload)?.bytes(signature)?;
        Ok(())
    });
    encoded(|cbor| {
        cbor.array(1)?.map(2)?;
        integers(cbor.str(CERTIFICATE_KEY)?, certificate_pem)?;
        integers(cbor.str(SIGNATURE_KEY)?, &sign1)
    })
}

/// The first certificate in `pem`.
pub(crate) fn certificate_der(pem: &[u8]) -> Result<Vec<u8>, SignatureError> {
    Ok(CertificateDer::from_pem_slice(pem).map_err(SignatureError::CertificatePem)?.to_vec())
}

type EncodeResult = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn encoded(write: impl FnOnce(&mut Encoder<Vec<u8>>) -> EncodeResult) -> Vec<u8> {
    let mut cbor = Encoder::new(Vec::new());
    write(&mut cbor).expect("writing to a vector does not fail");
    cbor.into_writer()
}

fn integers(cbor: &mut Encoder<Vec<u8>>, bytes: &[u8]) -> EncodeResult {
    cbor.array(bytes.len() as u64)?;
    bytes.iter().try_for_each(|byte| cbor.u8(*byte).map(|_| ()))
}

fn decode_section(section: &[u8]) -> Result<(Vec<u8>, Vec<u8>), SignatureError> {
    let mut cbor = Decoder::new(section);
    let count = definite(cbor.array()?)?;
    if count != 1 {
        return Err(SignatureError::Count { found: count });
    }
    let (mut certificate, mut signature) = (None, None);
    for _ in 0..definite(cbor.map()?)? {
        let slot = match cbor.str()? {
            CERTIFICATE_KEY => &mut certificate,
            SIGNATURE_KEY => &mut signature,
            _ => {
                return Err(SignatureError::Shape("a key that is neither signing_certificate nor signature"));
            }
        };
        if slot.replace(decode_integers(&mut cbor)?).is_some() {
            return Err(SignatureError::Shape("the same key twice"));
        }
    }
    at_end(&cbor, section)?;
    certificate.zip(signature).ok_or(SignatureError::Shape("no signing_certificate or no signature"))
}

fn decode_sign1(bytes: &[u8]) -> Result<Sign1, SignatureError> {
    let mut cbor = Decoder::new(bytes);
    if cbor.clone().tag().is_ok_and(|tag| tag == COSE_SIGN1) {
        cbor.tag()?;
    }
    if cbor.array()? != Some(4) {
        return Err(SignatureError::Shape("a COSE_Sign1 that is not an array of four"));
    }
    let protected = cbor.bytes()?.to_vec();
    if cbor.map()? != Some(0) {
        return Err(SignatureError::Shape("an unprotected header that is not empty"));
    }
    let payload = cbor.bytes()?.to_vec();
    let signature = cbor.bytes()?.to_vec();
    at_end(&cbor, bytes)?;
    Ok(Sign1 { protected, payload, signature })
}

/// An array of integers below 256. Each takes at least one byte of input, so what is collected is no longer than that.
fn decode_integers(cbor: &mut Decoder<'_>) -> Result<Vec<u8>, SignatureError> {
    let count = definite(cbor.array()?)?;
    let mut bytes = Vec::new();
    for _ in 0..count {
        bytes.push(cbor.u8()?);
    }
    Ok(bytes)
}

fn definite(length: Option<u64>) -> Result<u64, SignatureError> {
    length.ok_or(SignatureError::Shape("an array or map of indefinite length"))
}

fn at_end(cbor: &Decoder<'_>, input: &[u8]) -> Result<(), SignatureError> {
    if cbor.position() == input.len() { Ok(()) } else { Err(SignatureError::Shape("bytes after the end")) }
}

/// Why a signature section was refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// It is not CBOR, or not of the expected types.
    #[error("the signature section is not the expected CBOR")]
    Cbor(#[from] minicbor::decode::Error),
    /// It is CBOR, but not arranged as a signature section is.
    #[error("the signature section has {0}")]
    Shape(&'static str),
    /// There is not exactly one signature.
    #[error("the signature section holds {found} signatures where one is expected")]
    Count {
        /// How many it says it holds.
        found: u64,
    },
    /// The certificate is not PEM.
    #[error("the signing certificate is not a PEM certificate")]
    CertificatePem(#[source] pem::Error),
    /// The certificate is not X.509.
    #[error("the signing certificate cannot be parsed")]
    Certificate(#[source] x509_cert::der::Error),
    /// The certificate's key is not of the kind that signs images here.
    #[error("the signing certificate has a key of type or on curve {found}; expected P-256, P-384 or P-521")]
    KeyType {
        /// The object identifier of its curve, or of its type if it is not on a curve.
        found: String,
    },
    /// The signature's header names another algorithm than that of the key's curve.
    #[error(
        "the signature's protected header is {protected_header}; expected {} for a key on {curve}",
        hex::encode(curve.header())
    )]
    Algorithm {
        /// The header, in hex.
        protected_header: String,
        /// The key's curve.
        curve: Curve,
    },
    /// What was signed is not this image's PCR0.
    #[error("the signature is over something else than this image's PCR0, {pcr0}")]
    OtherPayload {
        /// What should have been signed, in hex.
        pcr0: String,
    },
    /// The signature does not verify under the certificate's key.
    #[error("the signature is not by the holder of the signing certificate")]
    Forged,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn encodes_byte_strings_as_arrays_of_integers_like_aws_tools() {
        let section = encode_section(Curve::P384, b"PEM", &[], &[]);
        let sign1 = "84 44a1013822 a0 40 40".replace(' ', "");
        let as_integers: String = hex::decode(sign1).unwrap().iter().map(integer_hex).collect();
        let expected = format!(
            "81a273{}831850184518 4d69{}89{as_integers}",
            hex::encode(CERTIFICATE_KEY),
            hex::encode(SIGNATURE_KEY)
        );
        assert_eq!(hex::encode(section), expected.replace(' ', ""));
    }

    fn integer_hex(byte: &u8) -> String {
        if *byte < 24 { hex::encode([*byte]) } else { hex::encode([0x18, *byte]) }
    }

    #[test]
    fn refuses_other_numbers_of_signatures_than_one() {
        for (section, found) in
            [(&[0x80][..], 0), (&[0x82][..], 2), (&[0x9b, 0xff, 0, 0, 0, 0, 0, 0, 0][..], 0xff << 56)]
        {
            match ImageSignature::decode(section) {
                Err(SignatureError::Count { found: count }) => assert_eq!(count, found),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_hostile_length_sizes_no_buffer() {
        // One map, its first value an array that claims 2^63 elements and has one.
        let mut section = hex::decode("81a273").unwrap();
        section.extend(CERTIFICATE_KEY.as_bytes());
        section.extend([0x9b, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x01]);
        assert!(matches!(ImageSignature::decode(&section), Err(SignatureError::Cbor(_))));
    }

    proptest! {
        #[test]
        fn decoding_the_cbor_of_a_section_gives_back_its_parts(
            certificate in prop::collection::vec(any::<u8>(), 0..200),
            payload in prop::collection::vec(any::<u8>(), 0..100),
            signature in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let (pem, cose) = decode_section(&encode_section(Curve::P521, &certificate, &payload, &signature)).unwrap();
            prop_assert_eq!(pem, certificate);
            prop_assert_eq!(decode_sign1(&cose).unwrap(), Sign1 { protected: Curve::P521.header().to_vec(), payload, signature });
        }

        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = ImageSignature::decode(&bytes);
            let _ = decode_sign1(&bytes);
        }
    }
}
