//! Keys, certificates and signatures of images.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Cursor;

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use common::{key_and_certificate, small_image};
use eif::{Curve, Eif, ImageSignature, ReadError, SignatureError, Signer, SignerError};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

fn p384() -> (String, String) {
    key_and_certificate(&rcgen::PKCS_ECDSA_P384_SHA384)
}

/// The same key in the form that `openssl ecparam -genkey` writes, with the parameters before it.
fn as_sec1(pkcs8_pem: &str) -> String {
    let der = PrivateKeyDer::from_pem_slice(pkcs8_pem.as_bytes()).unwrap();
    let key = EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_FIXED_SIGNING, der.secret_der()).unwrap();
    let der: EcPrivateKeyRfc5915Der<'_> = key.private_key().as_der().unwrap();
    let encoded = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    format!(
        "-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n\
         -----BEGIN EC PRIVATE KEY-----\n{encoded}\n-----END EC PRIVATE KEY-----\n"
    )
}

#[test]
fn signing_changes_no_measurement_but_register_8() {
    let (key, certificate) = p384();
    let signer = Signer::from_pem(key.as_bytes(), certificate.as_bytes()).unwrap();
    let (_, unsigned) = small_image().write(None);
    let (first, signed) = small_image().write(Some(&signer));
    let (second, again) = small_image().write(Some(&signer));
    assert_eq!(eif::Measurements { pcr8: None, ..signed.clone() }, unsigned);
    assert_eq!(signed.pcr8, Some(signer.pcr8()));
    assert_eq!(signed, again);
    assert!(first != second, "signatures are randomised");

    let mut image = Eif::open(Cursor::new(first)).unwrap();
    assert_eq!(image.measure().unwrap(), signed);
    assert_eq!(image.verify_signature().unwrap().certificate_pem(), certificate.as_bytes());
}

#[test]
fn keys_are_taken_in_pkcs8_and_sec1_form() {
    let (key, certificate) = p384();
    let pkcs8 = Signer::from_pem(key.as_bytes(), certificate.as_bytes()).unwrap();
    let sec1 = Signer::from_pem(as_sec1(&key).as_bytes(), certificate.as_bytes()).unwrap();
    assert_eq!(pkcs8.pcr8(), sec1.pcr8());
    let (bytes, _) = small_image().write(Some(&sec1));
    Eif::open(Cursor::new(bytes)).unwrap().verify_signature().unwrap();
}

#[test]
fn refuses_keys_and_certificates_that_cannot_sign() {
    let (key, certificate) = p384();
    let (other_key, _) = p384();
    let (p256_key, p256_certificate) = key_and_certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
    let (ed25519_key, ed25519_certificate) = key_and_certificate(&rcgen::PKCS_ED25519);
    let refused =
        |key: &str, certificate: &str| Signer::from_pem(key.as_bytes(), certificate.as_bytes()).unwrap_err();
    assert!(matches!(refused(&other_key, &certificate), SignerError::Mismatch));
    assert!(matches!(refused(&certificate, &certificate), SignerError::KeyPem(_)));
    assert!(matches!(refused(&key, &key), SignerError::Certificate(SignatureError::CertificatePem(_))));
    assert!(matches!(refused(&p256_key, &certificate), SignerError::Mismatch));
    assert!(matches!(refused(&key, &p256_certificate), SignerError::Mismatch));
    assert!(matches!(refused(&ed25519_key, &certificate), SignerError::Key));
    match refused(&key, &ed25519_certificate) {
        SignerError::Certificate(SignatureError::KeyType { found }) => assert_eq!(found, "1.3.101.112"),
        other => panic!("{other}"),
    }
    let broken = certificate.replace("MII", "MIJ");
    assert!(matches!(refused(&key, &broken), SignerError::Certificate(SignatureError::Certificate(_))));
}

#[test]
fn every_curve_of_awss_tools_signs() {
    for (algorithm, curve) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, Curve::P256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, Curve::P384),
        (&rcgen::PKCS_ECDSA_P521_SHA512, Curve::P521),
    ] {
        let (key, certificate) = key_and_certificate(algorithm);
        let signer = Signer::from_pem(key.as_bytes(), certificate.as_bytes()).unwrap();
        assert_eq!(signer.curve(), curve);
        let (bytes, measurements) = small_image().write(Some(&signer));
        let signature = Eif::open(Cursor::new(bytes)).unwrap().verify_signature().unwrap();
        assert_eq!(Some(signature.pcr8()), measurements.pcr8);
    }
}

#[test]
fn a_signer_does_not_show_its_key() {
    let (key, certificate) = p384();
    let signer = Signer::from_pem(key.as_bytes(), certificate.as_bytes()).unwrap();
    assert_eq!(format!("{signer:?}"), format!("Signer {{ pcr8: \"{}\", .. }}", hex::encode(signer.pcr8())));
}

/// The signature section of the small image, signed by somebody.
fn section() -> (Vec<u8>, [u8; 48]) {
    let (bytes, measurements) = small_image().write(Some(&common::signer()));
    let mut image = Eif::open(Cursor::new(bytes)).unwrap();
    let section = *image.sections().last().unwrap();
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut image.read(&section).unwrap(), &mut content).unwrap();
    (content, measurements.pcr0)
}

#[test]
fn a_signature_over_another_image_is_refused() {
    let (section, mut pcr0) = section();
    let signature = ImageSignature::decode(&section).unwrap();
    signature.verify_signature(&pcr0).unwrap();
    pcr0[47] ^= 1;
    match signature.verify_signature(&pcr0) {
        Err(SignatureError::OtherPayload { pcr0: expected }) => assert_eq!(expected, hex::encode(pcr0)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_signature_by_another_key_is_refused() {
    let (mut section, pcr0) = section();
    // The last integer is the last byte of the signature: keep its encoded length.
    let last = section.last_mut().unwrap();
    *last = if *last < 24 { (*last + 1) % 24 } else { 24 + (*last - 24 + 1) % 232 };
    let signature = ImageSignature::decode(&section).unwrap();
    assert!(matches!(signature.verify_signature(&pcr0), Err(SignatureError::Forged)));
}

#[test]
fn another_algorithm_in_the_header_is_refused() {
    let (mut section, pcr0) = section();
    // The integers of {1: -35}; ES512 would be -36.
    let header = [0x18, 0xa1, 0x01, 0x18, 0x38, 0x18, 0x22];
    let at = section.windows(header.len()).position(|window| window == header).unwrap();
    section[at + 6] = 0x23;
    match ImageSignature::decode(&section).unwrap().verify_signature(&pcr0) {
        Err(SignatureError::Algorithm { protected_header, curve: Curve::P384 }) => {
            assert_eq!(protected_header, "a1013823")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_signature_section_with_bytes_behind_it_is_refused() {
    let (mut section, _) = section();
    section.push(0);
    assert!(matches!(ImageSignature::decode(&section), Err(SignatureError::Shape(_))));
}

#[test]
fn an_unsigned_image_is_not_verified() {
    let mut image = Eif::open(Cursor::new(small_image().write(None).0)).unwrap();
    assert!(matches!(image.verify_signature(), Err(ReadError::Unsigned)));
    assert_eq!(image.signature().unwrap(), None);
}
