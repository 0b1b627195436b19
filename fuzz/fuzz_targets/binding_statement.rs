//! Binding statements: what decodes has exactly one encoding, the one it came from.

#![no_main]

use attestation::binding::Statement;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(statement) = Statement::decode(data) {
        assert_eq!(statement.encode(), data);
    }
});
