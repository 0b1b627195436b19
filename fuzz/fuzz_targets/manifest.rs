#![no_main]
//! Text a developer wrote and bytes from an image: both are read or refused, never a panic; what is read is canonical.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(measured) = manifest::Measured::from_canonical_json(bytes) {
        assert_eq!(measured.to_canonical_json(), bytes);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = manifest::Manifest::parse(text);
    }
});
