#![no_main]
//! The first message of a TLS client. What was decided about the beginning does not change when more comes.
use libfuzzer_sys::fuzz_target;
use pf_proxy::client_hello::{Hello, server_name};

fuzz_target!(|bytes: &[u8]| {
    let whole = server_name(bytes);
    let half = server_name(&bytes[..bytes.len() / 2]);
    assert!(half == Hello::Incomplete || half == whole);
});
