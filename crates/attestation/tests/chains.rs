//! Certificate chains and signatures that are wrong in one way each.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use attestation::{
    CertificatePosition, DecodeError, Roots, Sha256, TrustedRoot, UnixTime, Verified, Verifier, VerifyError,
    verify,
};
use rcgen::{
    BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use support::{Authority, Chain, NOW_SECS, PROTECTED, Payload, Place, Plan, array, envelope, sign};

const NOW: UnixTime = UnixTime::from_secs(NOW_SECS);

fn verify_document(chain: &Chain, document: &[u8]) -> Result<Verified, VerifyError> {
    verify(document, &Roots::custom(chain.root()).unwrap(), NOW)
}

/// Verifies a document that is right apart from its certificates.
fn verify_chain(chain: &Chain) -> Result<Verified, VerifyError> {
    verify_document(chain, &Payload::new(chain).sign(chain))
}

/// A chain in which only the certificate at `wanted` is changed.
fn changed(wanted: Place, mut change: impl FnMut(&mut Plan)) -> Chain {
    Chain::with(3, |place, plan| {
        if place == wanted {
            change(plan);
        }
    })
}

macro_rules! assert_refused {
    ($result:expr, $pattern:pat $(if $guard:expr)?) => {
        let result = $result;
        assert!(matches!(&result, Err($pattern) $(if $guard)?), "found {result:?}");
    };
}

#[test]
fn a_chain_like_that_of_aws_verifies_under_its_own_root() {
    let chain = Chain::new();
    let sha256 = Sha256::of(chain.root());
    assert_eq!(verify_chain(&chain).unwrap().root(), TrustedRoot::Custom { sha256 });
}

#[test]
fn chains_of_other_lengths_verify() {
    for intermediates in [0, 1, 6] {
        verify_chain(&Chain::with(intermediates, |_, _| {})).unwrap();
    }
}

#[test]
fn the_bundle_may_leave_out_the_root() {
    let mut chain = Chain::new();
    let root = chain.bundle.remove(0);
    let document = Payload::new(&chain).sign(&chain);
    verify(&document, &Roots::custom(&root).unwrap(), NOW).unwrap();
}

#[test]
fn the_root_is_found_among_several() {
    let (chain, other) = (Chain::new(), Chain::new());
    let pem = |der: &[u8]| {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    let roots = Roots::custom((pem(other.root()) + &pem(chain.root())).as_bytes()).unwrap();
    let verified = verify(&Payload::new(&chain).sign(&chain), &roots, NOW).unwrap();
    assert_eq!(verified.root().sha256(), Sha256::of(chain.root()));
}

#[test]
fn an_expired_certificate_is_named_with_its_time() {
    let places = [
        (Place::Leaf, CertificatePosition::Leaf),
        (Place::Intermediate(3), CertificatePosition::Bundle(3)),
        (Place::Intermediate(1), CertificatePosition::Bundle(1)),
        (Place::Root, CertificatePosition::Root),
    ];
    for (place, expected) in places {
        let chain = changed(place, |plan| plan.params.not_after = date_time_ymd(2025, 2, 1));
        let expiry: UnixTime = "2025-02-01T00:00:00Z".parse().unwrap();
        assert_refused!(
            verify_chain(&chain),
            VerifyError::Expired { position, not_after, at }
                if (*position, *not_after, *at) == (expected, expiry, NOW)
        );
        let chain = changed(place, |plan| plan.params.not_before = date_time_ymd(2025, 12, 1));
        let start: UnixTime = "2025-12-01T00:00:00Z".parse().unwrap();
        assert_refused!(
            verify_chain(&chain),
            VerifyError::NotYetValid { position, not_before, at }
                if (*position, *not_before, *at) == (expected, start, NOW)
        );
    }
}

#[test]
fn a_leaf_on_another_curve_is_refused() {
    let chain = changed(Place::Leaf, |plan| plan.algorithm = &PKCS_ECDSA_P256_SHA256);
    let payload = Payload::new(&chain).encode();
    // Signed by whatever P-384 key: the refusal must be about the leaf's.
    let signature = sign(&Chain::new().leaf_key_pkcs8, PROTECTED, &payload);
    let document = envelope(PROTECTED, &[0xa0], &payload, &signature);
    assert_refused!(
        verify_document(&chain, &document),
        VerifyError::Signature { source: webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) }
    );
}

#[test]
fn an_issuer_on_another_curve_is_refused() {
    let chain = changed(Place::Intermediate(2), |plan| plan.algorithm = &PKCS_ECDSA_P256_SHA256);
    assert_refused!(verify_chain(&chain), VerifyError::Chain { .. });
}

#[test]
fn an_issuer_that_is_no_authority_is_refused() {
    let chain = changed(Place::Intermediate(3), |plan| plan.params.is_ca = IsCa::ExplicitNoCa);
    assert_refused!(verify_chain(&chain), VerifyError::Chain { source: webpki::Error::EndEntityUsedAsCa });
}

#[test]
fn a_leaf_that_is_an_authority_is_refused() {
    let chain = changed(Place::Leaf, |plan| {
        plan.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    assert_refused!(verify_chain(&chain), VerifyError::Chain { source: webpki::Error::CaUsedAsEndEntity });
}

#[test]
fn a_chain_longer_than_its_authority_allows_is_refused() {
    let constrained = |length| {
        changed(Place::Intermediate(1), move |plan| {
            plan.params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        })
    };
    verify_chain(&constrained(2)).unwrap();
    assert_refused!(
        verify_chain(&constrained(1)),
        VerifyError::Chain { source: webpki::Error::PathLenConstraintViolated }
    );
}

#[test]
fn a_chain_longer_than_any_is_refused() {
    let mut chain = Chain::with(7, |_, _| {});
    assert_refused!(verify_chain(&chain), VerifyError::Decode(DecodeError::TooMany { .. }));
    let root = chain.bundle.remove(0);
    let document = Payload::new(&chain).sign(&chain);
    assert_refused!(
        verify(&document, &Roots::custom(&root).unwrap(), NOW),
        VerifyError::Chain { source: webpki::Error::MaximumPathDepthExceeded }
    );
}

#[test]
fn keys_without_the_usage_for_it_are_refused() {
    let leaf = changed(Place::Leaf, |plan| {
        plan.params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    });
    assert_refused!(
        verify_chain(&leaf),
        VerifyError::KeyUsage { position: CertificatePosition::Leaf, expected: "digitalSignature" }
    );
    let none = changed(Place::Leaf, |plan| plan.params.key_usages.clear());
    assert_refused!(verify_chain(&none), VerifyError::KeyUsage { .. });
    let issuer = changed(Place::Intermediate(2), |plan| {
        plan.params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    });
    assert_refused!(
        verify_chain(&issuer),
        VerifyError::KeyUsage { position: CertificatePosition::Bundle(2), expected: "keyCertSign" }
    );
}

#[test]
fn a_leaf_for_servers_only_is_refused() {
    let with_purpose = |purpose: ExtendedKeyUsagePurpose| {
        changed(Place::Leaf, move |plan| plan.params.extended_key_usages = vec![purpose.clone()])
    };
    verify_chain(&with_purpose(ExtendedKeyUsagePurpose::ClientAuth)).unwrap();
    assert_refused!(
        verify_chain(&with_purpose(ExtendedKeyUsagePurpose::ServerAuth)),
        VerifyError::Chain { source: webpki::Error::RequiredEkuNotFoundContext(_) }
    );
}

#[test]
fn a_bundle_with_a_gap_does_not_lead_to_the_root() {
    let mut chain = Chain::new();
    chain.bundle.remove(2);
    let found = Sha256::of(chain.root());
    assert_refused!(
        verify_chain(&chain),
        VerifyError::UntrustedRoot { found: bundle, .. } if *bundle == found
    );
}

/// Names can be chosen freely: only the key tells a root from an impostor.
#[test]
fn a_foreign_root_of_the_same_name_is_refused() {
    let (genuine, impostor) = (Chain::new(), Chain::new());
    let document = Payload::new(&impostor).sign(&impostor);
    assert_refused!(
        verify_document(&genuine, &document),
        VerifyError::Chain { source: webpki::Error::InvalidSignatureForPublicKey }
    );
    // Even with the genuine root's certificate in the bundle.
    let mut mixed = impostor.clone();
    mixed.bundle[0] = genuine.bundle[0].clone();
    assert_refused!(
        verify_document(&genuine, &Payload::new(&mixed).sign(&mixed)),
        VerifyError::Chain { source: webpki::Error::InvalidSignatureForPublicKey }
    );
}

#[test]
fn a_certificate_that_is_none_is_refused() {
    let chain = Chain::new();
    let mut payload = Payload::new(&chain);
    payload.set("certificate", support::bytes(b"no certificate"));
    assert_refused!(verify_document(&chain, &payload.sign(&chain)), VerifyError::Certificate { .. });
    let mut payload = Payload::new(&chain);
    let mut bundle = chain.bundle.clone();
    bundle[3] = b"no certificate".to_vec();
    payload.set("cabundle", array(&bundle));
    assert_refused!(verify_document(&chain, &payload.sign(&chain)), VerifyError::Chain { .. });
}

#[test]
fn a_document_signed_by_another_key_is_refused() {
    let (chain, other) = (Chain::new(), Chain::new());
    let document = Payload::new(&chain).sign(&other);
    assert_refused!(
        verify_document(&chain, &document),
        VerifyError::Signature { source: webpki::Error::InvalidSignatureForPublicKey }
    );
}

#[test]
fn the_signature_of_one_document_does_not_fit_another() {
    let chain = Chain::new();
    let signature = sign(&chain.leaf_key_pkcs8, PROTECTED, &Payload::new(&chain).encode());
    let mut other = Payload::new(&chain);
    other.set("nonce", support::bytes(b"fresh"));
    let document = envelope(PROTECTED, &[0xa0], &other.encode(), &signature);
    assert_refused!(verify_document(&chain, &document), VerifyError::Signature { .. });
}

#[test]
fn refusals_say_what_was_expected_and_found() {
    let chain = changed(Place::Leaf, |plan| plan.params.not_after = date_time_ymd(2025, 2, 1));
    assert_eq!(
        verify_chain(&chain).unwrap_err().to_string(),
        "the leaf certificate: expected to be valid at 2025-06-01T00:00:00Z, \
         found that it is valid until 2025-02-01T00:00:00Z"
    );
    let chain = Chain::new();
    let document = Payload::new(&chain).sign(&chain);
    let found = Sha256::of(chain.root());
    assert_eq!(
        verify(&document, &Roots::aws(), NOW).unwrap_err().to_string(),
        format!(
            "chain: expected it to lead to AWS Nitro Enclaves Root G1, \
             found a bundle that begins with {found}"
        )
    );
}

#[test]
fn a_verifier_that_knows_the_issuer_answers_as_one_that_does_not() {
    let mut authority = Authority::with(3, |_, _| {});
    let good = authority.leaf(|_| {});
    let leaves = [
        authority.leaf(|_| {}),
        authority.leaf(|plan| plan.params.not_after = date_time_ymd(2025, 2, 1)),
        authority.leaf(|plan| plan.params.key_usages.clear()),
        authority.leaf(|plan| plan.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        // Another authority's leaf under this one's bundle.
        Chain { bundle: good.bundle.clone(), ..Chain::new() },
    ];
    let roots = Roots::custom(good.root()).unwrap();
    let verifier = Verifier::new(roots.clone());
    verifier.verify(&Payload::new(&good).sign(&good), NOW).unwrap();
    for (number, leaf) in leaves.iter().enumerate() {
        let document = Payload::new(leaf).sign(leaf);
        let expected = verify(&document, &roots, NOW);
        let found = verifier.verify(&document, NOW);
        assert_eq!(expected.is_ok(), number == 0, "leaf {number}");
        assert_eq!(format!("{found:?}"), format!("{expected:?}"), "leaf {number}");
    }
}

/// Remembering that a chain was good must not outlive the chain.
#[test]
fn a_verifier_checks_the_times_of_remembered_certificates_again() {
    let (early, late): (UnixTime, UnixTime) =
        ("2025-02-01T00:00:00Z".parse().unwrap(), "2025-04-01T00:00:00Z".parse().unwrap());
    let places = [
        (Place::Intermediate(3), CertificatePosition::Bundle(3)),
        (Place::Intermediate(1), CertificatePosition::Bundle(1)),
        (Place::Root, CertificatePosition::Root),
    ];
    for (place, expected) in places {
        let chain = changed(place, |plan| plan.params.not_after = date_time_ymd(2025, 3, 1));
        let document = Payload::new(&chain).sign(&chain);
        let verifier = Verifier::new(Roots::custom(chain.root()).unwrap());
        verifier.verify(&document, early).unwrap();
        verifier.verify(&document, early).unwrap();
        assert_refused!(
            verifier.verify(&document, late),
            VerifyError::Expired { position, .. } if *position == expected
        );
    }
}
