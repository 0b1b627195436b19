//! What an enclave asks its host for, what the host answers, records and rules: one encoding each, and no harm.

#![no_main]

use egress::{
    Destination, Policy, Protocol, Record, Rule,
    wire::{REPLY_BYTES, Reply, Request},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = Request::decode(data) {
        assert_eq!(request.encode(), data);
        assert_eq!(Request::missing(data), Ok(0));
    }
    let missing = Request::missing(data).unwrap_or_default();
    assert!(missing <= egress::wire::MAX_REQUEST_BYTES);
    if let Some(bytes) = data.first_chunk::<REPLY_BYTES>()
        && let Ok(reply) = Reply::decode(bytes)
    {
        assert_eq!(reply.encode(), *bytes);
    }
    if let Ok(record) = Record::from_cbor(data) {
        assert_eq!(record.to_cbor(), data);
        assert_eq!(Record::from_json(&record.to_json()).expect("it was a record"), record);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Record::from_json(text);
    let Ok(rule) = text.parse::<Rule>() else { return };
    assert_eq!(rule.to_string().parse::<Rule>().as_ref(), Ok(&rule));
    let policy = Policy::compile(&[rule.clone()], &[rule], &[]).expect("two rules are not too many");
    let name = Destination::Name("a.example".parse().expect("it is a name"));
    assert!(!policy.evaluate(&name, 443, Protocol::Tcp).is_allowed(), "what is allowed and denied is denied");
});
