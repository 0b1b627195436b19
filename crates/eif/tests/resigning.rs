//! Signing images that are already there, and signers that are elsewhere.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Cursor, Read};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
};
use common::{key_and_certificate, small_image};
use eif::{Eif, SectionKind, Signer, SignerError, WriteError, bytes_to_sign};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

fn open(bytes: &[u8]) -> Eif<Cursor<&[u8]>> {
    Eif::open(Cursor::new(bytes)).unwrap()
}

fn signed(bytes: &[u8], signer: &Signer) -> Vec<u8> {
    let mut output = Cursor::new(Vec::new());
    open(bytes).write_signed(&mut output, signer).unwrap();
    output.into_inner()
}

/// What a section of each kind but the signature holds.
fn contents(bytes: &[u8]) -> Vec<(SectionKind, Vec<u8>)> {
    let mut image = open(bytes);
    let sections = image.sections().to_vec();
    let mut found = Vec::new();
    for section in sections.iter().filter(|section| section.kind != SectionKind::Signature) {
        let mut content = Vec::new();
        image.read(section).unwrap().read_to_end(&mut content).unwrap();
        found.push((section.kind, content));
    }
    found
}

#[test]
fn an_image_signed_later_is_the_one_signed_when_built_but_for_the_random_signature() {
    let signer = common::signer();
    let (unsigned, _) = small_image().write(None);
    let (built_signed, measurements) = small_image().write(Some(&signer));
    let later = signed(&unsigned, &signer);
    let mut image = open(&later);
    assert_eq!(image.measure().unwrap(), measurements);
    image.verify_signature().unwrap();
    assert_eq!(contents(&later), contents(&built_signed));
    assert_eq!(image.header().version, 4);
}

#[test]
fn a_signature_is_replaced_and_never_joined_by_another() {
    let (first, second) = (common::signer(), common::signer());
    let (bytes, _) = small_image().write(Some(&first));
    let again = signed(&bytes, &second);
    let count = open(&again).sections().iter().filter(|s| s.kind == SectionKind::Signature).count();
    assert_eq!(count, 1);
    assert_eq!(open(&again).verify_signature().unwrap().pcr8(), second.pcr8());
    assert_eq!(contents(&again), contents(&bytes));
}

#[test]
fn an_image_from_before_signatures_gets_the_version_that_has_them() {
    let (mut bytes, _) = small_image().write(None);
    bytes[4..6].copy_from_slice(&2_u16.to_be_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..544]);
    crc.update(&bytes[548..]);
    bytes[544..548].copy_from_slice(&crc.finalize().to_be_bytes());
    assert_eq!(open(&signed(&bytes, &common::signer())).header().version, 3);
}

/// A certificate, and a signer elsewhere that answers in the form of `algorithm`.
fn elsewhere(algorithm: &'static EcdsaSigningAlgorithm) -> Result<Signer, SignerError> {
    let (key, certificate) = key_and_certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
    let der = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let key = EcdsaKeyPair::from_private_key_der(algorithm, der.secret_der()).unwrap();
    Signer::external(certificate.as_bytes(), move |message| {
        Ok(key.sign(&SystemRandom::new(), message)?.as_ref().to_vec())
    })
}

#[test]
fn a_signer_elsewhere_may_answer_in_either_form() {
    let (unsigned, _) = small_image().write(None);
    for form in [&ECDSA_P384_SHA384_FIXED_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING] {
        let signer = elsewhere(form).unwrap();
        open(&signed(&unsigned, &signer)).verify_signature().unwrap();
    }
}

#[test]
fn a_signer_elsewhere_is_given_the_bytes_that_are_published() {
    let (unsigned, measurements) = small_image().write(None);
    let expected = bytes_to_sign(eif::Curve::P384, &measurements.pcr0);
    let (_, certificate) = key_and_certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
    let signer = Signer::external(certificate.as_bytes(), move |message| {
        assert_eq!(message, expected);
        Err("seen".into())
    });
    match open(&unsigned).write_signed(Cursor::new(Vec::new()), &signer.unwrap()) {
        Err(WriteError::Sign(SignerError::External(reason))) => assert_eq!(reason.to_string(), "seen"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_that_are_no_signature_of_this_image_are_refused() {
    let (unsigned, _) = small_image().write(None);
    let (_, certificate) = key_and_certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
    let refusal = |answer: &[u8]| {
        let answer = answer.to_vec();
        let signer = Signer::external(certificate.as_bytes(), move |_| Ok(answer.clone())).unwrap();
        open(&unsigned).write_signed(Cursor::new(Vec::new()), &signer).unwrap_err()
    };
    assert!(matches!(refusal(&[7; 96]), WriteError::Sign(SignerError::Foreign)));
    for wrong in [&[][..], &[7; 95], b"-----BEGIN SIGNATURE-----"] {
        match refusal(wrong) {
            WriteError::Sign(SignerError::SignatureForm { found, expected: 96 }) => {
                assert_eq!(found, wrong.len())
            }
            other => panic!("{other}"),
        }
    }
}
