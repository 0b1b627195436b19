//! The control channel: frames of any bytes, and requests, replies and transcript entries with exactly one encoding.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use pipeline::{
    frame::{Frame, Kind},
    reply::{Accepted, Exit, Refusal},
    request::Request,
    trace::entry::Entry,
};

fuzz_target!(|data: &[u8]| {
    check(data);
    let mut bytes = BytesMut::from(data);
    while let Ok(Some(Frame { kind, payload })) = Frame::split(&mut bytes) {
        assert!(payload.len() <= kind.max_payload_bytes());
        if kind == Kind::Request {
            check(&payload);
        }
    }
});

fn check(data: &[u8]) {
    if let Ok(request) = Request::decode(data) {
        assert_eq!(request.encode().expect("what was decoded can be encoded"), data);
    }
    if let Ok(entry) = Entry::decode(data) {
        assert_eq!(entry.encode(), data);
    }
    if let Ok(reply) = Refusal::decode(data) {
        assert_eq!(reply.encode(), data);
    }
    if let Ok(reply) = Accepted::decode(data) {
        assert_eq!(reply.encode(), data);
    }
    if let Ok(reply) = Exit::decode(data) {
        assert_eq!(reply.encode(), data);
    }
}
