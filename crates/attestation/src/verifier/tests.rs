//! What the cache keeps. That its answers are right is tested in `tests/chains.rs`.

use rcgen::{GeneralSubtree, NameConstraints};

use super::*;

#[path = "../../tests/support/mod.rs"]
mod support;

use support::{Authority, Chain, NOW_SECS, Payload, Place};

const NOW: UnixTime = UnixTime::from_secs(NOW_SECS);

fn known(verifier: &Verifier) -> usize {
    verifier.issuers.lock().unwrap().len()
}

#[test]
fn one_issuer_is_remembered_for_all_its_leaves() {
    let mut authority = Authority::with(2, |_, _| {});
    let leaves = [(); 3].map(|()| authority.leaf(|_| {}));
    let verifier = Verifier::new(Roots::custom(leaves[0].root()).unwrap());
    for leaf in &leaves {
        verifier.verify(&Payload::new(leaf).sign(leaf), NOW).unwrap();
        assert_eq!(known(&verifier), 1);
        assert!(verifier.recall(&leaf.bundle).is_some());
    }
}

#[test]
fn an_issuer_is_found_by_its_exact_bundle_only() {
    let chain = Chain::new();
    let verifier = Verifier::new(Roots::custom(chain.root()).unwrap());
    verifier.verify(&Payload::new(&chain).sign(&chain), NOW).unwrap();
    for certificate in 0..chain.bundle.len() {
        let mut bundle = chain.bundle.clone();
        *bundle[certificate].last_mut().unwrap() ^= 1;
        assert!(verifier.recall(&bundle).is_none());
    }
    let mut shorter = chain.bundle.clone();
    shorter.remove(0);
    assert!(verifier.recall(&shorter).is_none());
    assert!(verifier.recall(&chain.bundle).is_some());
}

#[test]
fn nothing_is_remembered_of_a_document_that_is_refused() {
    let (chain, other) = (Chain::new(), Chain::new());
    let verifier = Verifier::new(Roots::custom(chain.root()).unwrap());
    verifier.verify(&Payload::new(&chain).sign(&other), NOW).unwrap_err();
    verifier.verify(&Payload::new(&other).sign(&other), NOW).unwrap_err();
    assert_eq!(known(&verifier), 0);
}

#[test]
fn the_least_recently_used_issuer_is_forgotten_first() {
    let verifier = Verifier::new(Roots::aws());
    let bundles = u8::try_from(MAX_CACHED_ISSUERS + 1).unwrap();
    let issuer = |number: u8| Issuer {
        cabundle: vec![vec![number]],
        root: verifier.roots.iter().next().unwrap(),
        validities: Vec::new(),
        anchor: verifier.roots.anchors()[0].clone(),
    };
    for number in 0..bundles {
        // Number 0 stays in use.
        assert_eq!(verifier.recall(&[vec![0]]).is_some(), number > 0);
        verifier.remember(issuer(number));
    }
    assert_eq!(known(&verifier), MAX_CACHED_ISSUERS);
    assert!(verifier.recall(&[vec![0]]).is_some());
    assert!(verifier.recall(&[vec![1]]).is_none());
    assert!(verifier.recall(&[vec![2]]).is_some());
}

/// A constraint of a certificate further up reaches down to the leaf, but a remembered issuer stands alone.
#[test]
fn an_issuer_under_name_constraints_is_not_remembered() {
    let chain = Chain::with(2, |place, plan| {
        if place == Place::Intermediate(1) {
            plan.params.name_constraints = Some(NameConstraints {
                permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".into())],
                excluded_subtrees: Vec::new(),
            });
        }
    });
    let verifier = Verifier::new(Roots::custom(chain.root()).unwrap());
    verifier.verify(&Payload::new(&chain).sign(&chain), NOW).unwrap();
    assert_eq!(known(&verifier), 0);
}

/// The bundle does not say which of its certificates issued the leaf.
#[test]
fn a_leaf_of_another_issuer_in_the_bundle_is_verified_in_full() {
    let chain = Chain::new();
    let verifier = Verifier::new(Roots::custom(chain.root()).unwrap());
    let document = Payload::new(&chain).sign(&chain);
    verifier.verify(&document, NOW).unwrap();
    let known = verifier.recall(&chain.bundle).unwrap();
    let upper = borrowed(&chain.bundle[1]);
    verifier.remember(Issuer {
        cabundle: known.cabundle.clone(),
        root: known.root,
        validities: known.validities.clone(),
        anchor: webpki::anchor_from_trusted_cert(&upper).unwrap().to_owned(),
    });
    verifier.verify(&document, NOW).unwrap();
}

#[test]
fn a_verifier_is_shared_between_threads() {
    let chain = Chain::new();
    let document = Payload::new(&chain).sign(&chain);
    let verifier = Verifier::new(Roots::custom(chain.root()).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| verifier.verify(&document, NOW).unwrap());
        }
    });
    assert_eq!(known(&verifier), 1);
}
