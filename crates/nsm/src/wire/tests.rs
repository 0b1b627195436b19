#![expect(clippy::indexing_slicing, reason = "a vector without the member fails the test")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// A section of `docs/spec/vectors/nsm-wire.json`, whose proper messages AWS's crate made.
fn section(name: &str) -> Vec<Value> {
    let text = include_str!("../../../../docs/spec/vectors/nsm-wire.json");
    let all: Value = serde_json::from_str(text).unwrap();
    all[name].as_array().unwrap().clone()
}

fn member(vector: &Value, name: &str) -> String {
    vector[name].as_str().unwrap().to_owned()
}

fn bytes_of(vector: &Value) -> Vec<u8> {
    hex::decode(member(vector, "hex")).unwrap()
}

/// Messages by name.
fn vectors(name: &str) -> BTreeMap<String, Vec<u8>> {
    let vectors = section(name);
    vectors.iter().map(|vector| (member(vector, "name"), bytes_of(vector))).collect()
}

/// Name, part of the error's text, and bytes of what is refused.
fn refusals(name: &str) -> Vec<(String, String, Vec<u8>)> {
    let vectors = section(name);
    let parts = |vector| (member(vector, "name"), member(vector, "because"), bytes_of(vector));
    vectors.iter().map(parts).collect()
}

fn requests() -> Vec<(&'static str, Request)> {
    let attestation = |user_data, nonce, public_key| {
        Request::Attestation(AttestationRequest { user_data, nonce, public_key })
    };
    vec![
        ("describe-pcr-0", Request::DescribePcr { index: 0 }),
        ("describe-pcr-31", Request::DescribePcr { index: 31 }),
        ("describe-pcr-65535", Request::DescribePcr { index: 65535 }),
        ("extend-pcr-16", Request::ExtendPcr { index: 16, data: vec![0xa5; 48] }),
        ("extend-pcr-17-empty", Request::ExtendPcr { index: 17, data: vec![] }),
        ("lock-pcr-16", Request::LockPcr { index: 16 }),
        ("lock-pcrs-32", Request::LockPcrs { range: 32 }),
        ("describe-nsm", Request::DescribeNsm),
        ("attestation-bare", attestation(None, None, None)),
        ("attestation-full", attestation(Some(vec![1; 512]), Some(vec![2; 20]), Some(vec![3; 1024]))),
        ("attestation-empty-user-data", attestation(Some(vec![]), None, None)),
        ("random", Request::GetRandom),
    ]
}

fn description() -> Description {
    Description {
        version_major: 1,
        version_minor: 0,
        version_patch: 0,
        module_id: "i-0123456789abcdef0-enc0123456789abcdef".to_owned(),
        max_pcrs: 32,
        locked_pcrs: (0..16).chain([16, 31]).collect(),
        digest: Digest::Sha384,
    }
}

fn pcr_locked() -> Response {
    Response::DescribePcr { lock: true, data: vec![0xee; 48] }
}

fn responses() -> Vec<(&'static str, Response)> {
    let other_digest = Description {
        version_major: 2,
        version_minor: 300,
        version_patch: 65535,
        module_id: String::new(),
        max_pcrs: 0,
        locked_pcrs: [].into(),
        digest: Digest::Sha512,
    };
    let pcr_unlocked = Response::DescribePcr { lock: false, data: vec![0; 48] };
    let document = vec![0x84; 300];
    vec![
        ("pcr-unlocked", pcr_unlocked),
        ("pcr-locked", pcr_locked()),
        ("extended", Response::ExtendPcr { data: vec![7; 48] }),
        ("locked-pcr", Response::LockPcr),
        ("locked-pcrs", Response::LockPcrs),
        ("description", Response::DescribeNsm(description())),
        ("description-other-digest", Response::DescribeNsm(other_digest)),
        ("document", Response::Attestation { document }),
        ("random", Response::GetRandom { random: vec![9; 256] }),
        ("error-success", Response::Error(ErrorCode::Success)),
        ("error-invalid-argument", Response::Error(ErrorCode::InvalidArgument)),
        ("error-invalid-index", Response::Error(ErrorCode::InvalidIndex)),
        ("error-invalid-response", Response::Error(ErrorCode::InvalidResponse)),
        ("error-read-only-index", Response::Error(ErrorCode::ReadOnlyIndex)),
        ("error-invalid-operation", Response::Error(ErrorCode::InvalidOperation)),
        ("error-buffer-too-small", Response::Error(ErrorCode::BufferTooSmall)),
        ("error-input-too-large", Response::Error(ErrorCode::InputTooLarge)),
        ("error-internal-error", Response::Error(ErrorCode::InternalError)),
    ]
}

#[test]
fn requests_encode_as_awss_crate_does() {
    let mut vectors = vectors("requests");
    for (name, request) in requests() {
        let bytes = vectors.remove(name).expect(name);
        assert_eq!(request.encode(), bytes, "{name}");
        assert_eq!(Request::decode(&bytes).unwrap(), request, "{name}");
    }
    assert!(vectors.is_empty(), "not compared: {:?}", vectors.keys());
}

#[test]
fn responses_encode_as_awss_crate_does() {
    let mut vectors = vectors("responses");
    for (name, response) in responses() {
        let bytes = vectors.remove(name).expect(name);
        assert_eq!(response.encode(), bytes, "{name}");
        assert_eq!(Response::decode(&bytes).unwrap(), response, "{name}");
    }
    assert!(vectors.is_empty(), "not compared: {:?}", vectors.keys());
}

#[test]
fn responses_of_other_modules_decode() {
    // Fields in another order, longer integer forms, fields of a later version.
    for (name, bytes) in vectors("other_modules_responses") {
        let expected = match name.split(':').next().unwrap() {
            "description" => Response::DescribeNsm(description()),
            "pcr-locked" => pcr_locked(),
            other => panic!("no expectation for {other}"),
        };
        assert_eq!(Response::decode(&bytes).unwrap(), expected, "{name}");
    }
}

#[test]
fn requests_are_refused_each_for_its_own_reason() {
    for (name, because, bytes) in refusals("refused_requests") {
        let error = Request::decode(&bytes).expect_err(&name).to_string();
        assert!(error.contains(&because), "{name}: {error}");
    }
}

#[test]
fn responses_are_refused_each_for_its_own_reason() {
    for (name, because, bytes) in refusals("refused_responses") {
        let error = Response::decode(&bytes).expect_err(&name).to_string();
        assert!(error.contains(&because), "{name}: {error}");
    }
}

#[test]
fn every_cut_of_a_message_is_refused() {
    for (name, request) in requests() {
        let bytes = request.encode();
        for end in 0..bytes.len() {
            assert!(Request::decode(&bytes[..end]).is_err(), "{name} at {end}");
        }
    }
    for (name, response) in responses() {
        let bytes = response.encode();
        for end in 0..bytes.len() {
            assert!(Response::decode(&bytes[..end]).is_err(), "{name} at {end}");
        }
    }
}

#[test]
fn sizes_are_checked_at_the_byte() {
    let within = AttestationRequest {
        user_data: Some(vec![0; 512]),
        nonce: Some(vec![0; 512]),
        public_key: Some(vec![0; 1024]),
    };
    assert_eq!(within.check_sizes(), Ok(()));
    let over = |field, found, limit| Err(InputTooLarge { field, found, limit });

    let mut request = within.clone();
    request.user_data = Some(vec![0; 513]);
    assert_eq!(request.check_sizes(), over("user_data", 513, 512));
    let mut request = within.clone();
    request.nonce = Some(vec![0; 513]);
    assert_eq!(request.check_sizes(), over("nonce", 513, 512));
    let mut request = within;
    request.public_key = Some(vec![0; 1025]);
    assert_eq!(request.check_sizes(), over("public_key", 1025, 1024));
}

#[test]
fn a_message_over_the_size_limit_is_refused_unread() {
    let request = Request::ExtendPcr { index: 16, data: vec![0; MAX_REQUEST_BYTES] };
    assert!(matches!(Request::decode(&request.encode()), Err(DecodeError::TooLarge { .. })));
    assert!(matches!(request.encode_within_limit(), Err(crate::Error::RequestTooLarge { .. })));
    let random = vec![0; MAX_RESPONSE_BYTES];
    assert!(matches!(
        Response::decode(&Response::GetRandom { random }.encode()),
        Err(DecodeError::TooLarge { .. })
    ));
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..1200)
}

fn any_request() -> impl Strategy<Value = Request> {
    let field = || prop::option::of(bytes());
    prop_oneof![
        any::<u16>().prop_map(|index| Request::DescribePcr { index }),
        (any::<u16>(), bytes()).prop_map(|(index, data)| Request::ExtendPcr { index, data }),
        any::<u16>().prop_map(|index| Request::LockPcr { index }),
        any::<u16>().prop_map(|range| Request::LockPcrs { range }),
        Just(Request::DescribeNsm),
        (field(), field(), field()).prop_map(|(user_data, nonce, public_key)| {
            Request::Attestation(AttestationRequest { user_data, nonce, public_key })
        }),
        Just(Request::GetRandom),
    ]
}

fn any_response() -> impl Strategy<Value = Response> {
    let description = (
        any::<(u16, u16, u16, u16)>(),
        ".{0,40}",
        prop::collection::btree_set(any::<u16>(), 0..40),
        prop::sample::select(vec![Digest::Sha256, Digest::Sha384, Digest::Sha512]),
    );
    prop_oneof![
        (any::<bool>(), bytes()).prop_map(|(lock, data)| Response::DescribePcr { lock, data }),
        bytes().prop_map(|data| Response::ExtendPcr { data }),
        bytes().prop_map(|document| Response::Attestation { document }),
        bytes().prop_map(|random| Response::GetRandom { random }),
        description.prop_map(|((major, minor, patch, max), module_id, locked, digest)| {
            Response::DescribeNsm(Description {
                version_major: major,
                version_minor: minor,
                version_patch: patch,
                module_id,
                max_pcrs: max,
                locked_pcrs: locked,
                digest,
            })
        }),
    ]
}

proptest! {
    #[test]
    fn requests_come_back_as_they_went(request in any_request()) {
        prop_assert_eq!(Request::decode(&request.encode()).unwrap(), request);
    }

    #[test]
    fn responses_come_back_as_they_went(response in any_response()) {
        prop_assert_eq!(Response::decode(&response.encode()).unwrap(), response);
    }

    #[test]
    fn decoding_never_panics(bytes in bytes()) {
        let _ = Request::decode(&bytes);
        let _ = Response::decode(&bytes);
    }

    #[test]
    fn decoding_a_damaged_message_never_panics(
        request in any_request(), response in any_response(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut damaged = request.encode();
        let at_request = at.index(damaged.len());
        damaged[at_request] = byte;
        let _ = Request::decode(&damaged);
        let mut damaged = response.encode();
        let at_response = at.index(damaged.len());
        damaged[at_response] = byte;
        let _ = Response::decode(&damaged);
    }
}
