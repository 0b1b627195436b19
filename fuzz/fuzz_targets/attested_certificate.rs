//! Certificates that carry a document.

#![no_main]

use attestation::certificate::{Attested, MAX_ATTESTED_CERTIFICATE_BYTES, extension_value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(attested) = Attested::of(data) {
        assert!(attested.document.len() < data.len() && data.len() <= MAX_ATTESTED_CERTIFICATE_BYTES);
        // The wrapper has one form but for the lengths of CBOR's heads, and ours are the shortest.
        assert!(extension_value(&attested.document).len() <= data.len());
    }
});
