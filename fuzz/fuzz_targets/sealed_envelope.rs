#![no_main]
//! What is said to be sealed data. What is read has one encoding.
use kms::Envelope;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(envelope) = Envelope::decode(bytes) {
        assert_eq!(envelope.encode(), bytes);
        assert!(envelope.open(&[0; 32], b"").is_err());
    }
});
