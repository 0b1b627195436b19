//! Messages and records of the attested channel: what decodes is encoded to the bytes it came from, and nothing is waited
//! for that no message or record can be.

#![no_main]

use channel::{Message, record_length};
use libfuzzer_sys::fuzz_target;

/// A record's header, and the most that may follow it.
const MAX_RECORD_BYTES: usize = 5 + (1 << 14) + 256;

fuzz_target!(|data: &[u8]| {
    if let Ok(Some((message, length))) = Message::decode(data) {
        assert_eq!(message.encode(), data[..length]);
    }
    match record_length(data) {
        Ok(Some(length)) => assert!(length <= data.len() && length <= MAX_RECORD_BYTES),
        Ok(None) => assert!(data.len() < MAX_RECORD_BYTES),
        Err(_) => {}
    }
});
