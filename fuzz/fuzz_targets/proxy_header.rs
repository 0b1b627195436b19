#![no_main]
//! The header by which a proxy names its client.
use libfuzzer_sys::fuzz_target;
use pf_proxy::proxy_header::{encode, parse};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(parsed)) = parse(bytes) {
        assert!(parsed.length <= bytes.len());
        let again = encode(parsed.ends);
        let found = parse(&again).expect("our own header").expect("all of it");
        assert_eq!((found.ends, found.length), (parsed.ends, again.len()));
    }
});
