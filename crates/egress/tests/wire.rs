//! Requests, replies and records: the vectors of the specification, and properties.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::net::IpAddr;

use egress::{
    Destination, MAX_NAME_BYTES, Name, Outcome, Protocol, Record,
    wire::{
        DatagramHead, MAX_DATAGRAM_BYTES, MAX_REQUEST_BYTES, REPLY_BYTES, Reply, Request, Status, WireError,
        message_bytes,
    },
};
use proptest::prelude::*;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../docs/spec/vectors/egress.json")).unwrap()
}

fn each(list: &str, least: usize, check: impl Fn(&str, Vec<u8>, &Value)) {
    let vectors = vectors();
    let list = vectors[list].as_array().unwrap();
    assert!(list.len() >= least, "{} vectors", list.len());
    for vector in list {
        check(
            vector["name"].as_str().unwrap(),
            hex::decode(vector["bytes"].as_str().unwrap()).unwrap(),
            vector,
        );
    }
}

fn wanted(vector: &Value) -> Request {
    let text = |member: &str| vector[member].as_str().map(str::to_owned);
    let protocol = match text("kind").as_deref() {
        Some("resolve") => return Request::Resolve,
        Some("udp") => Protocol::Udp,
        _ => Protocol::Tcp,
    };
    let name = text("host").map(|name| name.parse::<Name>().unwrap());
    let address = text("address").map(|address| address.parse::<IpAddr>().unwrap());
    let destination = match (name, address) {
        (Some(name), Some(address)) => Destination::Resolved(name, address),
        (Some(name), None) => Destination::Name(name),
        (None, address) => Destination::Address(address.unwrap()),
    };
    let number = |member: &str| vector[member].as_u64().unwrap_or_default();
    let port = u16::try_from(number("port")).unwrap();
    Request::Connect { protocol, destination, port, timeout_ms: u32::try_from(number("timeout_ms")).unwrap() }
}

#[test]
fn requests_are_as_specified() {
    each("requests", 6, |name, bytes, vector| {
        let request = wanted(vector);
        assert_eq!(hex::encode(request.encode()), hex::encode(&bytes), "{name}");
        assert_eq!(Request::decode(&bytes).unwrap(), request, "{name}");
    });
    each("refused_requests", 12, |name, bytes, _| assert!(Request::decode(&bytes).is_err(), "{name}"));
}

#[test]
fn replies_are_as_specified() {
    each("replies", 3, |name, bytes, vector| {
        let address = vector["address"].as_str().map(|address| address.parse().unwrap());
        let status = Status::from_code(u8::try_from(vector["status"].as_u64().unwrap()).unwrap()).unwrap();
        let reply = Reply { status, address };
        assert_eq!(reply.encode().as_slice(), bytes, "{name}");
        assert_eq!(Reply::decode(&bytes.try_into().unwrap()).unwrap(), reply, "{name}");
    });
    each("refused_replies", 5, |name, bytes, _| {
        assert!(Reply::decode(&bytes.try_into().unwrap()).is_err(), "{name}");
    });
}

#[test]
fn records_are_as_specified() {
    each("records", 2, |name, bytes, vector| {
        let record: Record = serde_json::from_value(vector["record"].clone()).unwrap();
        assert_eq!(hex::encode(record.to_cbor()), hex::encode(&bytes), "{name}");
        assert_eq!(Record::from_cbor(&bytes).unwrap(), record, "{name}");
    });
    each("refused_records", 5, |name, bytes, _| assert!(Record::from_cbor(&bytes).is_err(), "{name}"));
}

fn name() -> impl Strategy<Value = Name> {
    prop::collection::vec("[a-z_]{1,63}", 1..=4)
        .prop_map(|labels| labels.join("."))
        .prop_filter("too long", |text| text.len() <= MAX_NAME_BYTES)
        .prop_map(|text| text.parse().unwrap())
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
        any::<u128>().prop_map(|bits| IpAddr::from(bits.to_be_bytes()).to_canonical()),
    ]
}

fn destination() -> impl Strategy<Value = Destination> {
    prop_oneof![
        name().prop_map(Destination::Name),
        address().prop_map(Destination::Address),
        (name(), address()).prop_map(|(name, address)| Destination::Resolved(name, address)),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn request() -> impl Strategy<Value = Request> {
    let connect = (protocol(), destination(), 1_u16.., any::<u32>()).prop_map(
        |(protocol, destination, port, timeout_ms)| Request::Connect {
            protocol,
            destination,
            port,
            timeout_ms,
        },
    );
    prop_oneof![9 => connect, 1 => Just(Request::Resolve)]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let asked = (0_u8..=9).prop_map(|code| Outcome::Asked(Status::from_code(code).unwrap()));
    prop_oneof![Just(Outcome::Denied), Just(Outcome::NoAnswer), asked]
}

fn record() -> impl Strategy<Value = Record> {
    let peer = (prop::option::of(name()), prop::option::of(address()), any::<u16>());
    let numbers = (any::<[u64; 4]>(), 1_u64..);
    (peer, protocol(), outcome(), prop::option::of("[!-~]{0,300}"), numbers).prop_map(
        |(
            (name, address, port),
            protocol,
            outcome,
            rule,
            ([time_ms, sent, received, duration_ms], count),
        )| Record {
            time_ms,
            protocol,
            name,
            address,
            port,
            outcome,
            rule,
            sent,
            received,
            duration_ms,
            count,
        },
    )
}

proptest! {
    #[test]
    fn a_request_survives_its_encoding(request in request(), behind in any::<[u8; 3]>()) {
        let bytes = request.encode();
        prop_assert!(bytes.len() <= MAX_REQUEST_BYTES);
        prop_assert_eq!(Request::decode(&bytes).unwrap(), request);
        // A reader that asks what is missing gets it whole, and not a byte of what comes behind it.
        let stream = [bytes.as_slice(), &behind].concat();
        let mut read = 0;
        while let missing @ 1.. = Request::missing(&stream[..read]).unwrap() {
            read += missing;
        }
        prop_assert_eq!(read, bytes.len());
        for length in 0..bytes.len() {
            prop_assert!(Request::decode(&bytes[..length]).is_err());
        }
        prop_assert!(Request::decode(&stream).is_err());
    }

    #[test]
    fn what_is_accepted_has_one_encoding(mut bytes in request().prop_map(|r| r.encode()), at: prop::sample::Index, byte: u8) {
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(request) = Request::decode(&bytes) {
            prop_assert_eq!(request.encode(), bytes);
        }
    }

    #[test]
    fn bytes_of_any_kind_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Request::missing(&bytes);
        let _ = Request::decode(&bytes);
        let _ = Record::from_cbor(&bytes);
        if let Some(reply) = bytes.first_chunk::<REPLY_BYTES>() && let Ok(decoded) = Reply::decode(reply) {
            prop_assert_eq!(decoded.encode(), *reply);
        }
    }

    #[test]
    fn a_reply_survives_its_encoding(code in 0_u8..=9, address in prop::option::of(address())) {
        let reply = Reply { status: Status::from_code(code).unwrap(), address };
        prop_assert_eq!(Reply::decode(&reply.encode()).unwrap(), reply);
    }

    #[test]
    fn a_record_survives_both_encodings(record in record()) {
        let bytes = record.to_cbor();
        prop_assert_eq!(Record::from_cbor(&bytes).unwrap(), record.clone());
        prop_assert_eq!(Record::from_json(&record.to_json()).unwrap(), record);
    }

    #[test]
    fn a_record_has_one_encoding(mut bytes in record().prop_map(|r| r.to_cbor()), at: prop::sample::Index, byte: u8) {
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(record) = Record::from_cbor(&bytes) {
            prop_assert_eq!(record.to_cbor(), bytes);
        }
    }
}

#[test]
fn frames_have_the_lengths_that_datagrams_and_messages_have() {
    assert_eq!(DatagramHead::decode([0, 0]), Ok(DatagramHead::Datagram(0)));
    let longest = DatagramHead::Datagram(MAX_DATAGRAM_BYTES);
    assert_eq!(longest.encode().map(DatagramHead::decode), Some(Ok(longest)));
    assert_eq!(DatagramHead::Datagram(MAX_DATAGRAM_BYTES + 1).encode(), None);
    assert_eq!(DatagramHead::decode([0xff, 0xff]), Ok(DatagramHead::PortUnreachable));
    for length in 65_508..=65_534_u16 {
        assert_eq!(DatagramHead::decode(length.to_be_bytes()), Err(WireError::Frame(length)));
    }
    assert_eq!(message_bytes([0, 11]), Err(WireError::Frame(11)));
    assert_eq!(message_bytes([0, 12]), Ok(12));
    assert_eq!(message_bytes([0xff, 0xff]), Ok(65_535));
}

/// A host that answers nonsense is told from one that answers.
#[test]
fn a_host_that_talks_nonsense_is_noticed() {
    let right = Reply { status: Status::Connected, address: None }.encode();
    assert_eq!(Reply::decode(b"HTTP/1.1 200 OK\r\nServer:"), Err(WireError::Magic));
    for (at, byte, error) in [
        (4, 2, WireError::Version { found: 2 }),
        (5, 10, WireError::Status(10)),
        (6, 3, WireError::Form(3)),
        (7, 1, WireError::Padding),
        (23, 1, WireError::Padding),
    ] {
        let mut wrong = right;
        wrong[at] = byte;
        assert_eq!(Reply::decode(&wrong), Err(error));
    }
}
