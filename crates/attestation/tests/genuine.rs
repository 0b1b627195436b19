//! Genuine documents made by real security modules, with the outcome that `testdata/SOURCES.md` states for each.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::atomic::{AtomicUsize, Ordering};

use attestation::{
    BindingPolicy, CertificatePosition, ControlPolicy, Document, Pcr, PcrIndex, Policy, ReferenceValues,
    Refusal, Roots, Sha256, TrustedRoot, UnixTime, Verified, Verifier, VerifyError, appraise, verify,
};
use base64::Engine;

const OYSTER: &[u8] = include_bytes!("../testdata/oyster_aws.cose");
const OYSTER_PCR16: &[u8] = include_bytes!("../testdata/oyster_aws_pcr16.cose");
const OYSTER_CUSTOM: &[u8] = include_bytes!("../testdata/oyster_custom_root.cose");
const DSTACK: &[u8] = include_bytes!("../testdata/dstack_debug_scale.bin");
const NITRIDING_BASE64: &str = include_str!("../testdata/nitriding_sample.b64");
const EVERVAULT: &[u8] = include_bytes!("../testdata/evervault_valid.cose");

/// A document, and the first and last second at which its chain is valid.
struct Sample {
    name: &'static str,
    bytes: Vec<u8>,
    window: [&'static str; 2],
    made_at: &'static str,
}

fn aws_samples() -> [Sample; 5] {
    let sample =
        |name, bytes: &[u8], window, made_at| Sample { name, bytes: bytes.to_vec(), window, made_at };
    [
        sample(
            "oyster_aws",
            OYSTER,
            ["2024-12-13T05:57:42Z", "2024-12-13T08:57:45Z"],
            "2024-12-13T07:37:58Z",
        ),
        sample(
            "oyster_aws_pcr16",
            OYSTER_PCR16,
            ["2025-04-29T10:31:39Z", "2025-04-29T13:31:42Z"],
            "2025-04-29T10:32:39Z",
        ),
        sample(
            "dstack_debug",
            debug_document(),
            ["2025-12-25T08:20:43Z", "2025-12-25T11:20:46Z"],
            "2025-12-25T08:20:46Z",
        ),
        sample(
            "nitriding",
            &nitriding(),
            ["2025-02-21T03:44:34Z", "2025-02-21T06:44:37Z"],
            "2025-02-21T03:44:37Z",
        ),
        sample(
            "evervault",
            EVERVAULT,
            ["2022-10-13T08:57:59Z", "2022-10-13T11:58:02Z"],
            "2022-10-13T08:58:02Z",
        ),
    ]
}

/// The document inside its SCALE wrapping.
fn debug_document() -> &'static [u8] {
    &DSTACK[4..4 + 4529]
}

fn nitriding() -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(NITRIDING_BASE64.trim()).unwrap()
}

fn at(text: &str) -> UnixTime {
    text.parse().unwrap()
}

fn verify_aws(document: &[u8], time: &str) -> Verified {
    verify(document, &Roots::aws(), at(time)).unwrap()
}

fn index(number: u8) -> PcrIndex {
    PcrIndex::new(number).unwrap()
}

#[test]
fn documents_of_real_modules_verify_under_the_aws_root() {
    for sample in aws_samples() {
        let verified = verify_aws(&sample.bytes, sample.made_at);
        assert_eq!(verified.root(), TrustedRoot::Aws, "{}", sample.name);
        assert_eq!(verified.timestamp(), at(sample.made_at), "{}", sample.name);
    }
}

#[test]
fn the_first_and_the_last_second_of_the_leaf_are_inside_and_the_next_ones_outside() {
    let verifier = Verifier::new(Roots::aws());
    for sample in aws_samples() {
        let [first, last] = sample.window.map(at);
        let before = UnixTime::from_secs(first.as_secs() - 1);
        let after = UnixTime::from_secs(last.as_secs() + 1);
        // The second round meets a verifier that knows the issuer.
        for round in 0..2 {
            let name = sample.name;
            verifier.verify(&sample.bytes, first).unwrap_or_else(|e| panic!("{name} {round}: {e}"));
            verifier.verify(&sample.bytes, last).unwrap_or_else(|e| panic!("{name} {round}: {e}"));
            let leaf = CertificatePosition::Leaf;
            assert!(matches!(
                verifier.verify(&sample.bytes, before),
                Err(VerifyError::NotYetValid { position, not_before, .. })
                    if position == leaf && not_before == first
            ));
            assert!(matches!(
                verifier.verify(&sample.bytes, after),
                Err(VerifyError::Expired { position, not_after, .. })
                    if position == leaf && not_after == last
            ));
        }
    }
}

#[test]
fn far_past_and_far_future_are_refused() {
    for sample in aws_samples() {
        for time in [0, u64::MAX] {
            let time = UnixTime::from_secs(time);
            assert!(verify(&sample.bytes, &Roots::aws(), time).is_err(), "{}", sample.name);
        }
    }
}

#[test]
fn claims_are_those_that_were_signed() {
    let verified = verify_aws(OYSTER, "2024-12-13T07:37:58Z");
    assert_eq!(verified.module_id(), "i-0f1cd77d37fd8bcc9-enc018e7aa61e2040ff");
    assert_eq!(verified.timestamp_ms(), 1_734_075_478_960);
    assert_eq!(verified.pcrs().len(), 16);
    let non_zero: Vec<_> = verified.pcrs().iter().filter(|(_, pcr)| **pcr != Pcr::ZERO).collect();
    let non_zero: Vec<_> = non_zero.iter().map(|(index, _)| index.number()).collect();
    assert_eq!(non_zero, [0, 1, 2, 4]);
    assert!(verified.pcr(index(0)).unwrap().to_string().starts_with("189038eccf28a3a0"));
    assert_eq!(verified.public_key().map(<[u8]>::len), Some(64));
    assert_eq!((verified.user_data(), verified.nonce()), (None, None));
    assert!(!verified.is_debug());
}

#[test]
fn pcr16_and_empty_user_data_survive() {
    let verified = verify_aws(OYSTER_PCR16, "2025-04-29T10:32:39Z");
    assert_eq!(verified.pcrs().len(), 17);
    assert_ne!(verified.pcr(index(16)), Some(Pcr::ZERO));
    assert!(verified.pcr(index(0)).unwrap().to_string().starts_with("2984ab215649c40f"));
    assert_eq!(verified.public_key().map(<[u8]>::len), Some(32));
    assert_eq!(verified.user_data(), Some(&[][..]));
}

#[test]
fn nonce_public_key_and_user_data_of_nitriding_are_read() {
    let verified = verify_aws(&nitriding(), "2025-02-21T03:44:37Z");
    let nonce = hex::decode("0123456789abcdef0123456789abcdef01234567").unwrap();
    assert_eq!(verified.nonce(), Some(&nonce[..]));
    assert_eq!(verified.public_key(), Some(&b"dummy"[..]));
    let user_data = verified.user_data().unwrap();
    assert_eq!((user_data.len(), &user_data[..2]), (68, &[0x12, 0x20][..]));
    assert_eq!(user_data[36..], [0; 32]);
    assert!(verified.pcr(index(0)).unwrap().to_string().starts_with("294e8442cb9eccf0"));
}

#[test]
fn a_long_nonce_and_the_pcrs_of_role_and_signer_are_read() {
    let verified = verify_aws(EVERVAULT, "2022-10-13T08:58:02Z");
    assert_eq!(verified.nonce().map(<[u8]>::len), Some(256));
    assert!(verified.pcr(index(0)).unwrap().to_string().starts_with("f4d48b81a460c991"));
    assert_ne!(verified.pcr(index(3)), Some(Pcr::ZERO));
    assert_ne!(verified.pcr(index(8)), Some(Pcr::ZERO));
}

#[test]
fn a_debug_enclave_is_genuine_but_refused_unless_allowed() {
    let verified = verify_aws(debug_document(), "2025-12-25T08:20:46Z");
    assert!(verified.is_debug());
    assert_ne!(verified.pcr(index(4)), Some(Pcr::ZERO));
    assert_eq!(verified.user_data(), Some(&[0; 64][..]));

    let mut policy = Policy::new(ReferenceValues::AnyImage);
    let refused = appraise(&verified, &policy).unwrap_err();
    assert!(matches!(refused.refusals[..], [Refusal::Debug]));
    policy.allow_debug = true;
    assert!(appraise(&verified, &policy).unwrap().debug);
}

#[test]
fn wrapping_around_a_document_is_refused() {
    assert!(matches!(verify(DSTACK, &Roots::aws(), at("2025-12-25T08:20:46Z")), Err(VerifyError::Decode(_))));
    let with_suffix = &DSTACK[4..];
    assert!(matches!(
        verify(with_suffix, &Roots::aws(), at("2025-12-25T08:20:46Z")),
        Err(VerifyError::Decode(attestation::DecodeError::TrailingBytes { found: 151, .. }))
    ));
}

/// Verifiers in the field took the root from the document's own bundle, so that anybody could sign.
#[test]
fn a_root_in_the_bundle_is_never_trusted() {
    let time = at("2024-12-13T09:05:45Z");
    let own_root = &Document::decode(OYSTER_CUSTOM).unwrap().cabundle[0];
    let sha256 = Sha256::of(own_root);
    match verify(OYSTER_CUSTOM, &Roots::aws(), time) {
        Err(VerifyError::UntrustedRoot { expected, found }) => {
            assert_eq!(expected, [TrustedRoot::Aws]);
            assert_eq!(found, sha256);
        }
        other => panic!("{other:?}"),
    }
    let verified = verify(OYSTER_CUSTOM, &Roots::custom(own_root).unwrap(), time).unwrap();
    assert_eq!(verified.root(), TrustedRoot::Custom { sha256 });
    assert_eq!(verified.user_data(), Some(&[0xab, 0xcd, 0xef][..]));
    assert_eq!(verified.public_key(), Some(&[0x12, 0x34, 0x56, 0x78][..]));
}

#[test]
fn a_document_of_aws_is_refused_when_another_root_is_trusted() {
    let own_root = &Document::decode(OYSTER_CUSTOM).unwrap().cabundle[0];
    let roots = Roots::custom(own_root).unwrap();
    assert!(matches!(
        verify(OYSTER, &roots, at("2024-12-13T07:37:58Z")),
        Err(VerifyError::UntrustedRoot { .. })
    ));
}

#[test]
fn the_tagged_form_is_accepted() {
    let tagged = [&[0xd2], OYSTER].concat();
    assert_eq!(verify_aws(&tagged, "2024-12-13T07:37:58Z"), verify_aws(OYSTER, "2024-12-13T07:37:58Z"));
}

#[test]
fn every_changed_byte_of_a_genuine_document_is_refused() {
    let time = at("2024-12-13T07:37:58Z");
    // A verifier that knows the issuer answers faster, and is the one with more to go wrong.
    let verifier = Verifier::new(Roots::aws());
    verifier.verify(OYSTER, time).unwrap();
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let position = next.fetch_add(1, Ordering::Relaxed);
                    let Some(byte) = OYSTER.get(position) else { break };
                    let mut document = OYSTER.to_vec();
                    // Another bit each time, so that all kinds of change come up.
                    document[position] = byte ^ (1 << (position % 8));
                    assert!(verifier.verify(&document, time).is_err(), "byte {position}");
                }
            });
        }
    });
    assert!(next.load(Ordering::Relaxed) >= OYSTER.len());
}

#[test]
fn every_truncation_of_a_genuine_document_is_refused() {
    for length in 0..OYSTER.len() {
        assert!(Document::decode(&OYSTER[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn a_genuine_document_passes_the_appraisal_it_should_pass_and_no_other() {
    let verified = verify_aws(&nitriding(), "2025-02-21T03:44:37Z");
    let pcrs = [0, 1, 2, 3, 4, 8].map(|n| (index(n), verified.pcr(index(n)).unwrap()));
    let policy = Policy {
        reference_values: ReferenceValues::Pcrs(pcrs.into()),
        nonce: verified.nonce().map(<[u8]>::to_vec),
        binding: BindingPolicy::Unchecked,
        control: ControlPolicy::Unchecked,
        allow_debug: false,
    };
    assert!(!appraise(&verified, &policy).unwrap().is_simulated());

    let other = verify_aws(OYSTER, "2024-12-13T07:37:58Z");
    let refused = appraise(&other, &policy).unwrap_err();
    let found: Vec<_> = refused.refusals.iter().map(|r| r.to_string()).collect();
    assert_eq!(refused.refusals.len(), 5, "PCR0, 1, 2, 4 and the nonce: {found:?}");
}
