//! Policy files and reference values: any bytes are read or refused, and what is read can be judged by.

#![no_main]

use expected::{PolicyFile, Reference, Registers};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(policy) = PolicyFile::parse(data) {
        let registers = policy.reference_values(&Registers::new());
        assert!(expected::names_an_image(&registers), "a policy says which image");
    }
    let _ = Reference::decode(data);
});
