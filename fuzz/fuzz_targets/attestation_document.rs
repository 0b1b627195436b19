//! Attestation documents: the input as a whole document, and as the payload in an envelope that is right.

#![no_main]

use std::sync::LazyLock;

use attestation::{Document, Roots, UnixTime, verify};
use libfuzzer_sys::fuzz_target;

static ROOTS: LazyLock<Roots> = LazyLock::new(Roots::aws);

fuzz_target!(|data: &[u8]| {
    let decoded = Document::decode(data);
    let verified = verify(data, &ROOTS, UnixTime::from_secs(1_734_075_478));
    // What verifies decodes; what only decodes is no evidence.
    assert!(decoded.is_ok() || verified.is_err());

    let _ = Document::decode(&in_envelope(data));
});

/// A COSE_Sign1 of the headers that Nitro documents have, `payload`, and a signature of zeros.
fn in_envelope(payload: &[u8]) -> Vec<u8> {
    let payload_head = [&[0x5a][..], &(payload.len() as u32).to_be_bytes()].concat();
    let before = [0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xa0];
    [&before[..], &payload_head, payload, &[0x58, 96], &[0; 96]].concat()
}
