//! The simulated module and signer as their callers see them, judged by the verifier.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is a failure")]

mod documents;
mod pcrs;
mod root;
mod signer;
mod sockets;

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::SystemTime;

use attestation::{Roots, UnixTime, Verified, VerifyError};
use nsm::sim::{DevelopmentRoot, SimulatedNsm};
use nsm::{AttestationRequest, ErrorCode, PcrIndex};

const MODULE_ID: &str = "i-0123456789abcdef0-enc0123456789abcdef";

/// A root in a directory of its own.
fn new_root() -> (tempfile::TempDir, DevelopmentRoot) {
    let dir = tempfile::tempdir().unwrap();
    let root = DevelopmentRoot::load_or_create(dir.path()).unwrap();
    (dir, root)
}

fn new_module(root: &DevelopmentRoot) -> SimulatedNsm {
    let measured = [(pcr(0), [0xa0; 48]), (pcr(2), [0xa2; 48])];
    SimulatedNsm::new(root, MODULE_ID, &measured).unwrap()
}

fn pcr(index: u8) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

fn now() -> UnixTime {
    SystemTime::now().try_into().unwrap()
}

/// What the verifier says of a document when `root` is the one it trusts.
fn verify(document: &[u8], root: &DevelopmentRoot) -> Result<Verified, VerifyError> {
    let roots = Roots::custom(root.root_pem().as_bytes()).unwrap();
    attestation::verify(document, &roots, now())
}

fn with_nonce(nonce: &[u8]) -> AttestationRequest {
    AttestationRequest { nonce: Some(nonce.to_vec()), ..Default::default() }
}

/// The code a module refused with.
fn refusal<T: std::fmt::Debug>(result: Result<T, nsm::Error>) -> ErrorCode {
    match result.unwrap_err() {
        nsm::Error::Module(code) => code,
        other => panic!("{other:?}"),
    }
}

/// Whether the peer has closed the connection. One that merely keeps still has not.
fn at_end(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}
