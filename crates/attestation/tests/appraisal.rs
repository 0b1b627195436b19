//! Appraisal of verified documents under policies.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeMap;

use attestation::binding::{ApplicationData, Statement};
use attestation::{
    Appraisal, BindingPolicy, ControlPolicy, ControlState, Pcr, PcrIndex, Policy, ReferenceValues, Refusal,
    Refused, Roots, Sha256, Status, Subject, UnixTime, Verified, appraise, verify,
};
use support::{Chain, NOW_SECS, Payload, bytes, pcr_map};

fn index(number: u8) -> PcrIndex {
    PcrIndex::new(number).unwrap()
}

/// A verified document, changed by `change` before it is signed.
fn verified(change: impl FnOnce(&mut Payload)) -> Verified {
    let chain = Chain::with(1, |_, _| {});
    let mut payload = Payload::new(&chain);
    change(&mut payload);
    let roots = Roots::custom(chain.root()).unwrap();
    verify(&payload.sign(&chain), &roots, UnixTime::from_secs(NOW_SECS)).unwrap()
}

fn with_user_data(user_data: &[u8]) -> Verified {
    verified(|payload| {
        payload.set("user_data", bytes(user_data));
    })
}

fn reference_values(values: &[(u8, u8)]) -> ReferenceValues {
    let pcrs: BTreeMap<_, _> = values.iter().map(|(n, byte)| (index(*n), Pcr([*byte; 48]))).collect();
    ReferenceValues::Pcrs(pcrs)
}

fn any_image() -> Policy {
    Policy::new(ReferenceValues::AnyImage)
}

fn bound(binding: BindingPolicy) -> Policy {
    Policy { binding, ..any_image() }
}

fn statuses(checks: &[attestation::Check]) -> Vec<(Subject, Status)> {
    checks.iter().map(|check| (check.subject, check.status)).collect()
}

fn texts(refused: &Refused) -> Vec<String> {
    refused.refusals.iter().map(Refusal::to_string).collect()
}

#[test]
fn reference_values_that_match_pass() {
    let policy = Policy::new(reference_values(&[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (8, 9)]));
    let appraisal: Appraisal = appraise(&verified(|_| {}), &policy).unwrap();
    assert!(!appraisal.any_image && !appraisal.debug);
    assert!(appraisal.is_simulated(), "the document is not under the AWS root");
    let pcrs = appraisal.checks.iter().filter(|check| matches!(check.subject, Subject::Pcr(_)));
    assert_eq!(pcrs.filter(|check| check.status == Status::Passed).count(), 6);
}

#[test]
fn each_pcr_that_differs_or_is_absent_is_named() {
    let policy = Policy::new(reference_values(&[(0, 1), (2, 99), (16, 5)]));
    let refused = appraise(&verified(|_| {}), &policy).unwrap_err();
    assert_eq!(
        texts(&refused),
        [
            format!("PCR2 (application): expected {}, found {}", "63".repeat(48), "03".repeat(48)),
            format!("PCR16 (framework state at boot): expected {}, found none (not locked)", "05".repeat(48)),
        ]
    );
    assert!(statuses(&refused.checks).contains(&(Subject::Pcr(index(0)), Status::Passed)));
    assert!(statuses(&refused.checks).contains(&(Subject::Pcr(index(2)), Status::Failed)));
}

#[test]
fn pcrs_up_to_31_can_be_expected() {
    let document = verified(|payload| {
        let entries: Vec<_> = (0..32).map(|n: u8| (n.into(), vec![n; 48])).collect();
        payload.set("pcrs", pcr_map(&entries));
    });
    let values: Vec<_> = (0..32).map(|n| (n, n)).collect();
    appraise(&document, &Policy::new(reference_values(&values))).unwrap();
}

#[test]
fn one_wrong_byte_of_a_pcr_is_enough() {
    let document = verified(|_| {});
    for position in 0..48 {
        let mut value = [1; 48];
        value[position] = 0;
        let pcrs = BTreeMap::from([(index(0), Pcr(value))]);
        assert!(appraise(&document, &Policy::new(ReferenceValues::Pcrs(pcrs))).is_err());
    }
}

/// A verifier without anything to compare with used to say yes to every enclave.
#[test]
fn without_reference_values_the_answer_is_no() {
    let refused = appraise(&verified(|_| {}), &Policy::new(reference_values(&[]))).unwrap_err();
    assert!(matches!(refused.refusals[..], [Refusal::NoReferenceValues]));
}

#[test]
fn any_image_passes_only_by_choice_and_the_answer_says_so() {
    let appraisal = appraise(&verified(|_| {}), &any_image()).unwrap();
    assert!(appraisal.any_image);
    assert!(statuses(&appraisal.checks).contains(&(Subject::ReferenceValues, Status::Unchecked)));
}

#[test]
fn debug_mode_is_refused_unless_allowed() {
    let document = verified(|payload| {
        let entries = [0, 1, 2, 4].map(|n| (n, vec![u8::from(n == 4); 48]));
        payload.set("pcrs", pcr_map(&entries));
    });
    let refused = appraise(&document, &any_image()).unwrap_err();
    assert!(matches!(refused.refusals[..], [Refusal::Debug]));
    let allowed = appraise(&document, &Policy { allow_debug: true, ..any_image() }).unwrap();
    assert!(allowed.debug);
    assert!(statuses(&allowed.checks).contains(&(Subject::DebugMode, Status::Waived)));
}

#[test]
fn zero_reference_values_do_not_let_a_debug_enclave_through() {
    let document = verified(|payload| {
        payload.set("pcrs", pcr_map(&[0, 1, 2].map(|n| (n, vec![0; 48]))));
    });
    let refused = appraise(&document, &Policy::new(reference_values(&[(0, 0), (1, 0), (2, 0)]))).unwrap_err();
    assert!(matches!(refused.refusals[..], [Refusal::Debug]));
}

#[test]
fn absent_image_pcrs_count_as_debug() {
    let document = verified(|payload| {
        payload.set("pcrs", pcr_map(&[(4, vec![1; 48])]));
    });
    assert!(document.is_debug());
    for n in 0..3 {
        let one = verified(|payload| {
            payload.set("pcrs", pcr_map(&[(n, vec![1; 48])]));
        });
        assert!(!one.is_debug(), "PCR{n} alone is set");
    }
}

/// Verifiers in the field compared only the bytes that both sides had.
#[test]
fn the_nonce_is_compared_as_a_whole() {
    let document = verified(|payload| {
        payload.set("nonce", bytes(b"0123456789"));
    });
    let with = |nonce: &[u8]| appraise(&document, &Policy { nonce: Some(nonce.to_vec()), ..any_image() });
    with(b"0123456789").unwrap();
    for other in [&b""[..], b"0", b"012345678", b"01234567890", b"0123456788"] {
        assert!(matches!(with(other).unwrap_err().refusals[..], [Refusal::Nonce { .. }]));
    }
}

#[test]
fn an_absent_nonce_answers_no_challenge() {
    let document = verified(|_| {});
    for nonce in [&b""[..], b"0123456789"] {
        let policy = Policy { nonce: Some(nonce.to_vec()), ..any_image() };
        let refused = appraise(&document, &policy).unwrap_err();
        assert!(matches!(refused.refusals[..], [Refusal::Nonce { found: None, .. }]));
    }
    let empty = verified(|payload| {
        payload.set("nonce", bytes(b""));
    });
    appraise(&empty, &Policy { nonce: Some(Vec::new()), ..any_image() }).unwrap();
}

#[test]
fn without_a_challenge_the_nonce_is_reported_as_unchecked() {
    let appraisal = appraise(&verified(|_| {}), &any_image()).unwrap();
    assert!(statuses(&appraisal.checks).contains(&(Subject::Nonce, Status::Unchecked)));
}

fn server(tls_key: u8) -> Statement {
    Statement::Server {
        tls_key: Sha256([tls_key; 32]),
        application_key: None,
        control_head: None,
        ledger: None,
    }
}

fn channel(exporter: u8) -> Statement {
    let control_head = Some(Sha256([9; 32]));
    Statement::Channel { exporter: Sha256([exporter; 32]), control_head, ledger: None }
}

fn application(data: &[u8]) -> Statement {
    let data = ApplicationData::new(data.to_vec()).unwrap();
    Statement::Application { application_key: None, data, ledger: None }
}

#[test]
fn the_key_of_the_connection_must_be_the_one_attested() {
    let document = with_user_data(&server(7).encode());
    let policy = |key| bound(BindingPolicy::Server { tls_key: Sha256([key; 32]) });
    let appraisal = appraise(&document, &policy(7)).unwrap();
    assert_eq!(appraisal.statement, Some(server(7)));
    let refused = appraise(&document, &policy(8)).unwrap_err();
    let expected = format!(
        "TLS key: expected {} (the connection's), found {} (the enclave's)",
        "08".repeat(32),
        "07".repeat(32)
    );
    assert_eq!(refused.to_string(), expected);
}

/// What an application says must never pass for the framework's word.
#[test]
fn a_statement_of_the_other_kind_is_refused() {
    let imitation = application(&server(7).encode());
    let refused = appraise(
        &with_user_data(&imitation.encode()),
        &bound(BindingPolicy::Server { tls_key: Sha256([7; 32]) }),
    )
    .unwrap_err();
    assert!(matches!(
        refused.refusals[..],
        [Refusal::BindingKind { expected: "server", found: "application" }]
    ));
    let refused =
        appraise(&with_user_data(&server(7).encode()), &bound(BindingPolicy::Application { data: None }))
            .unwrap_err();
    assert!(matches!(
        refused.refusals[..],
        [Refusal::BindingKind { expected: "application", found: "server" }]
    ));
}

/// A relay ends the caller's TLS itself and hands on the enclave's own, genuine document.
#[test]
fn a_document_about_another_connection_is_refused() {
    let document = with_user_data(&channel(7).encode());
    let policy = |exporter| bound(BindingPolicy::Channel { exporter: Sha256([exporter; 32]) });
    let appraisal = appraise(&document, &policy(7)).unwrap();
    assert_eq!(appraisal.statement.unwrap().control_head(), Some(Sha256([9; 32])));
    let last = appraisal.checks.last().unwrap();
    assert_eq!((last.subject, last.status), (Subject::Exporter, Status::Passed));
    let refused = appraise(&document, &policy(8)).unwrap_err();
    let expected = format!(
        "connection: expected exporter digest {} (this connection's), found {} (the enclave's)",
        "08".repeat(32),
        "07".repeat(32)
    );
    assert_eq!(refused.to_string(), expected);
}

/// The same 32 bytes as TLS key, as exporter and as application data are three different words.
#[test]
fn the_kinds_of_statement_are_never_taken_for_each_other() {
    let digest = Sha256([7; 32]);
    let statements = [server(7), channel(7), application(&digest.0)];
    let policies = [
        BindingPolicy::Server { tls_key: digest },
        BindingPolicy::Channel { exporter: digest },
        BindingPolicy::Application { data: Some(digest.0.to_vec()) },
    ];
    for (said, statement) in statements.iter().enumerate() {
        for (wanted, policy) in policies.iter().enumerate() {
            let answer = appraise(&with_user_data(&statement.encode()), &bound(policy.clone()));
            if said == wanted {
                assert_eq!(answer.unwrap().statement.as_ref(), Some(statement));
                continue;
            }
            let refused = answer.unwrap_err();
            assert!(matches!(refused.refusals[..], [Refusal::BindingKind { .. }]), "{refused}");
        }
    }
}

#[test]
fn application_data_is_compared_exactly_or_reported() {
    let document = with_user_data(&application(b"hello").encode());
    let policy = |data: Option<&[u8]>| bound(BindingPolicy::Application { data: data.map(<[u8]>::to_vec) });
    appraise(&document, &policy(Some(b"hello"))).unwrap();
    let appraisal = appraise(&document, &policy(None)).unwrap();
    let check = appraisal.checks.last().unwrap();
    assert_eq!((check.subject, check.status), (Subject::ApplicationData, Status::Unchecked));
    assert_eq!(check.found.as_deref(), Some("68656c6c6f"));
    for other in [&b""[..], b"hell", b"hello "] {
        let refused = appraise(&document, &policy(Some(other))).unwrap_err();
        assert!(matches!(refused.refusals[..], [Refusal::ApplicationData { .. }]));
    }
}

#[test]
fn user_data_that_is_absent_or_no_statement_is_refused() {
    let policy = bound(BindingPolicy::Server { tls_key: Sha256([7; 32]) });
    let refused = appraise(&verified(|_| {}), &policy).unwrap_err();
    assert!(matches!(refused.refusals[..], [Refusal::BindingAbsent { expected: "server" }]));
    for user_data in [&b""[..], b"not CBOR", &[0; 64]] {
        let refused = appraise(&with_user_data(user_data), &policy).unwrap_err();
        assert!(matches!(refused.refusals[..], [Refusal::BindingMalformed { expected: "server", .. }]));
    }
}

#[test]
fn all_refusals_are_collected_in_order() {
    let document = verified(|payload| {
        payload.set("pcrs", pcr_map(&[0, 1, 2].map(|n| (n, vec![0; 48]))));
        payload.set("nonce", bytes(b"old"));
        payload.set("user_data", bytes(&server(7).encode()));
    });
    let policy = Policy {
        reference_values: reference_values(&[(0, 1), (1, 1), (8, 1)]),
        nonce: Some(b"new".to_vec()),
        binding: BindingPolicy::Server { tls_key: Sha256([8; 32]) },
        control: ControlPolicy::Unchecked,
        allow_debug: false,
    };
    let refused = appraise(&document, &policy).unwrap_err();
    assert!(matches!(
        refused.refusals[..],
        [
            Refusal::Debug,
            Refusal::PcrDiffers { .. },
            Refusal::PcrDiffers { .. },
            Refusal::PcrAbsent { .. },
            Refusal::Nonce { .. },
            Refusal::TlsKey { .. },
        ]
    ));
    let expected = [
        (Subject::Root, Status::Passed),
        (Subject::DebugMode, Status::Failed),
        (Subject::Pcr(index(0)), Status::Failed),
        (Subject::Pcr(index(1)), Status::Failed),
        (Subject::Pcr(index(8)), Status::Failed),
        (Subject::Nonce, Status::Failed),
        (Subject::Control, Status::Unchecked),
        (Subject::Binding, Status::Passed),
        (Subject::TlsKey, Status::Failed),
    ];
    assert_eq!(statuses(&refused.checks), expected);
    assert_eq!(refused.to_string().matches("expected").count(), 6);
}

/// PCR17 absent, zero and extended, under each policy. A comparison with zero alone would take an absent register for a
/// sealed one, and a prefix of zeros for zero.
#[test]
fn the_control_register_says_whether_somebody_entered() {
    let with = |value: Option<[u8; 48]>| {
        verified(|payload| {
            let mut entries = vec![(0_u64, vec![1; 48]), (16, vec![2; 48])];
            entries.extend(value.map(|value| (17, value.to_vec())));
            payload.set("pcrs", pcr_map(&entries));
        })
    };
    let mut nearly_zero = [0; 48];
    nearly_zero[47] = 1;
    let passes = |document: &Verified| {
        [ControlPolicy::Unchecked, ControlPolicy::NeverEntered, ControlPolicy::Sealed]
            .map(|control| appraise(document, &Policy { control, ..any_image() }).is_ok())
    };
    assert_eq!(passes(&with(None)), [true, true, false]);
    assert_eq!(passes(&with(Some([0; 48]))), [true, true, true]);
    assert_eq!(passes(&with(Some(nearly_zero))), [true, false, false]);

    let policy = Policy { control: ControlPolicy::NeverEntered, ..any_image() };
    let refused = appraise(&with(Some(nearly_zero)), &policy).unwrap_err();
    assert!(
        matches!(refused.refusals[..], [Refusal::Control { found: ControlState::Entered(Pcr(v)), .. }] if v == nearly_zero)
    );
    assert!(statuses(&refused.checks).contains(&(Subject::Control, Status::Failed)));
}
