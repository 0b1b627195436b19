//! Bundles: what decodes is written, and read again as the same.

#![no_main]

use attestation::bundle::Bundle;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(bundle) = Bundle::decode(data) {
        let written = bundle.encode().expect("what was read is within the limits");
        assert_eq!(Bundle::decode(&written).expect("what was written is a bundle"), bundle);
    }
});
