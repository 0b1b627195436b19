#![no_main]
//! What is said to be an answer of AWS KMS. What is read is a part of it, and no longer.
use kms::enveloped::Enveloped;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(enveloped) = Enveloped::parse(bytes) {
        let taken = enveloped.encrypted_key.len() + enveloped.iv.len() + enveloped.encrypted_content.len();
        assert!(taken < bytes.len());
    }
});
