//! Messages as OpenSSL writes them, which writes what KMS writes: BER of indefinite length, content in parts.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use kms::{EnvelopedError, OpenError, Recipient, enveloped::Enveloped};

/// An answer of KMS itself. It was given to somebody else's key.
const GENUINE: &str = include_str!("../testdata/kms-answer.b64url");

fn openssl(dir: &Path, args: &[&str]) {
    let done = Command::new("openssl").args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A certificate for the recipient's key, which OpenSSL wants to have.
fn certificate(dir: &Path, recipient: &Recipient) {
    let pem = STANDARD.encode(recipient.public_key());
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n");
    fs::write(dir.join("public.pem"), pem).unwrap();
    fs::write(dir.join("extensions"), "subjectKeyIdentifier = hash\n").unwrap();
    openssl(dir, &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ca.key"]);
    openssl(
        dir,
        &["req", "-new", "-x509", "-key", "ca.key", "-subj", "/CN=ca", "-days", "2", "-out", "ca.pem"],
    );
    openssl(dir, &["req", "-new", "-key", "ca.key", "-subj", "/CN=enclave", "-out", "request.pem"]);
    let make = ["x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
    let make = [&make[..], &["-force_pubkey", "public.pem"]].concat();
    openssl(dir, &[&make[..], &["-extfile", "extensions", "-out", "cert.pem"]].concat());
}

/// What OpenSSL makes of `content` for the certificate, with these words about it and about the recipient's key.
fn encrypt(dir: &Path, content: &[u8], how: &[&str], key: &[&str]) -> Vec<u8> {
    fs::write(dir.join("content"), content).unwrap();
    let words = ["cms", "-encrypt", "-binary", "-in", "content", "-outform", "DER", "-out", "message"];
    openssl(dir, &[&words[..], how, &["-recip", "cert.pem"], key].concat());
    fs::read(dir.join("message")).unwrap()
}

const OAEP: &str = "rsa_padding_mode:oaep";
const SHA256: &[&str] = &["-keyopt", OAEP, "-keyopt", "rsa_oaep_md:sha256", "-keyopt", "rsa_mgf1_md:sha256"];

#[test]
fn what_is_encrypted_to_the_key_is_opened_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (recipient, other) = (Recipient::generate().unwrap(), Recipient::generate().unwrap());
    assert_eq!(recipient.public_key().len(), 294);
    certificate(dir.path(), &recipient);
    for content in [&b""[..], b"a data key of 32 bytes, as usual", &[7; 4096]] {
        let message = encrypt(dir.path(), content, &["-stream", "-keyid", "-aes-256-cbc"], SHA256);
        assert_eq!(message.get(1), Some(&0x80), "of indefinite length");
        assert_eq!(**recipient.open(&message).unwrap(), *content);
        assert!(matches!(other.open(&message), Err(OpenError::Refused)));
        for length in 0..message.len() {
            assert!(Enveloped::parse(&message[..length]).is_err(), "cut after {length} bytes");
        }
        assert!(recipient.open(&[&message[..], &[0]].concat()).is_err(), "longer than it is");
    }
}

#[test]
fn other_algorithms_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let recipient = Recipient::generate().unwrap();
    certificate(dir.path(), &recipient);
    let sha1 = ["-keyopt", OAEP, "-keyopt", "rsa_oaep_md:sha1"];
    for (what, how, key) in [
        ("key encryption algorithm", "-aes-256-cbc", &[][..]),
        ("content encryption algorithm", "-aes-128-cbc", SHA256),
        ("hash of the key encryption", "-aes-256-cbc", &sha1),
    ] {
        let message = encrypt(dir.path(), b"x", &[how], key);
        match recipient.open(&message) {
            Err(OpenError::Enveloped(EnvelopedError::Algorithm(named))) => assert_eq!(named, what),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn a_genuine_answer_is_read() {
    let message = URL_SAFE_NO_PAD.decode(GENUINE.trim()).unwrap();
    let enveloped = Enveloped::parse(&message).unwrap();
    assert_eq!((enveloped.encrypted_key.len(), enveloped.encrypted_content.len()), (256, 16));
    assert!(matches!(Recipient::generate().unwrap().open(&message), Err(OpenError::Refused)));
}

#[test]
fn a_message_that_is_too_long_is_not_looked_at() {
    let error = Enveloped::parse(&[0x30; kms::MAX_MESSAGE_BYTES + 1]).unwrap_err();
    assert!(matches!(error, EnvelopedError::TooLong { .. }));
}
