//! The signer for documents QEMU leaves unsigned.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use attestation::{Document, Policy, ReferenceValues};
use minicbor::Encoder;
use nsm::Provider;
use nsm::sim::{ResignError, Signer, serve_signer};

use crate::{at_end, new_module, new_root, now, verify, with_nonce};

/// A document of the form QEMU makes: all in place but signature and certificates.
fn unsigned(timestamp_ms: u64, nonce: &[u8]) -> Vec<u8> {
    let mut payload = Encoder::new(Vec::new());
    let e = &mut payload;
    e.map(9).unwrap();
    e.str("module_id").unwrap().str("hello-world").unwrap();
    e.str("digest").unwrap().str("SHA384").unwrap();
    e.str("timestamp").unwrap().u64(timestamp_ms).unwrap();
    e.str("pcrs").unwrap().map(17).unwrap();
    for index in 0..17 {
        e.u8(index).unwrap().bytes(&[index; 48]).unwrap();
    }
    e.str("certificate").unwrap().bytes(&[0; 64]).unwrap();
    e.str("cabundle").unwrap().array(1).unwrap().bytes(&[0; 64]).unwrap();
    e.str("public_key").unwrap().null().unwrap();
    e.str("user_data").unwrap().bytes(b"").unwrap();
    e.str("nonce").unwrap().bytes(nonce).unwrap();
    let payload = payload.into_writer();
    let mut document = Encoder::new(Vec::new());
    let e = &mut document;
    e.array(4).unwrap().bytes(&[0xa1, 0x01, 0x20]).unwrap().map(0).unwrap();
    e.bytes(&payload).unwrap().bytes(&[0; 64]).unwrap();
    document.into_writer()
}

fn now_ms() -> u64 {
    now().as_secs() * 1000
}

#[test]
fn a_resigned_document_verifies_and_says_the_same() {
    let (_dir, root) = new_root();
    let made = now_ms();
    let signed = Signer::new(&root).resign(&unsigned(made, b"nonce")).unwrap();
    let verified = verify(&signed, &root).unwrap();
    assert_eq!(verified.module_id(), "hello-world");
    assert_eq!(verified.timestamp_ms(), made);
    assert_eq!(verified.nonce(), Some(&b"nonce"[..]));
    assert_eq!((verified.user_data(), verified.public_key()), (Some(&[][..]), None));
    let pcrs: Vec<_> = verified.pcrs().values().map(|pcr| pcr.0).collect();
    assert_eq!(pcrs, (0..17).map(|index| [index; 48]).collect::<Vec<_>>());
    assert_eq!(Document::decode(&signed).unwrap().cabundle.len(), 4);

    let policy = Policy { allow_debug: true, ..Policy::new(ReferenceValues::AnyImage) };
    assert!(attestation::appraise(&verified, &policy).unwrap().is_simulated());
}

#[test]
fn a_document_that_is_signed_already_is_not_signed_again() {
    let (_dir, root) = new_root();
    let signer = Signer::new(&root);
    let genuine = new_module(&root).attest(&with_nonce(b"n")).unwrap();
    assert!(matches!(signer.resign(&genuine), Err(ResignError::Document(_))));
    let resigned = signer.resign(&unsigned(now_ms(), b"n")).unwrap();
    assert!(matches!(signer.resign(&resigned), Err(ResignError::Document(_))));
}

#[test]
fn the_real_modules_limits_hold() {
    // QEMU itself has none.
    let (_dir, root) = new_root();
    let signer = Signer::new(&root);
    assert!(signer.resign(&unsigned(now_ms(), &[0; 512])).is_ok());
    let error = signer.resign(&unsigned(now_ms(), &[0; 513])).unwrap_err();
    assert!(error.to_string().contains("nonce"), "{error}");
}

#[test]
fn a_document_of_another_time_is_refused() {
    let (_dir, root) = new_root();
    let signer = Signer::new(&root);
    for made in [0, now_ms() - 3_600_000, now_ms() + 4 * 3_600_000, u64::MAX] {
        let refused = signer.resign(&unsigned(made, b""));
        assert!(
            matches!(refused, Err(ResignError::Timestamp { timestamp_ms }) if timestamp_ms == made),
            "{made}: {refused:?}"
        );
    }
}

fn exchange(stream: &mut UnixStream, length: u32, body: &[u8]) -> Vec<u8> {
    stream.write_all(&length.to_be_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    answer
}

#[test]
fn the_socket_signs_and_answers_a_refusal_with_nothing() {
    let (dir, root) = new_root();
    let path = dir.path().join("signer");
    let listener = UnixListener::bind(&path).unwrap();
    let _handle = serve_signer(listener, Arc::new(Signer::new(&root))).unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();

    assert_eq!(exchange(&mut stream, 3, b"bad"), b"");
    let document = unsigned(now_ms(), b"over the socket");
    let signed = exchange(&mut stream, u32::try_from(document.len()).unwrap(), &document);
    assert_eq!(verify(&signed, &root).unwrap().nonce(), Some(&b"over the socket"[..]));

    assert_eq!(exchange(&mut stream, 0x3001, b""), b"");
    assert!(at_end(&mut stream));
}
