use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const VECTORS: &str = include_str!("../../../../docs/spec/vectors/bundle.json");

fn vectors(member: &str) -> Vec<Value> {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    vectors[member].as_array().unwrap().clone()
}

#[test]
fn vectors_that_are_bundles_are_read_and_written_again() {
    let valid = vectors("valid");
    assert!(valid.len() >= 3);
    for vector in valid {
        let text = serde_json::to_vec(&vector["bundle"]).unwrap();
        let bundle = Bundle::decode(&text).unwrap_or_else(|e| panic!("{}: {e:?}", vector["name"]));
        let again: Value = serde_json::from_slice(&bundle.encode().unwrap()).unwrap();
        assert_eq!(again, vector["bundle"], "{}", vector["name"]);
    }
}

#[test]
fn vectors_that_are_none_are_refused() {
    let refused = vectors("refused");
    assert!(refused.len() >= 12);
    for vector in refused {
        let error = Bundle::decode(vector["text"].as_str().unwrap().as_bytes()).unwrap_err();
        let mut message = error.to_string();
        if let BundleError::Json(source) = error {
            message = format!("{message}: {source}");
        }
        let reason = vector["reason"].as_str().unwrap();
        assert!(message.contains(reason), "{}: {message:?} lacks {reason:?}", vector["name"]);
    }
}

#[test]
fn a_transcript_of_nothing_is_not_the_same_as_none() {
    let mut bundle = Bundle::new(vec![1], vec![0; 8]);
    let none = bundle.encode().unwrap();
    bundle.transcript = Some(Vec::new());
    let empty = bundle.encode().unwrap();
    assert_ne!(none, empty);
    assert_eq!(Bundle::decode(&none).unwrap().transcript, None);
    assert_eq!(Bundle::decode(&empty).unwrap().transcript, Some(Vec::new()));
}

#[test]
fn what_is_too_much_is_neither_written_nor_read() {
    let too_long = |change: &dyn Fn(&mut Bundle)| {
        let mut bundle = Bundle::new(vec![1], vec![0; 8]);
        change(&mut bundle);
        assert!(matches!(bundle.encode(), Err(BundleError::TooLong { .. })));
        let text = serde_json::to_vec(&bundle).unwrap();
        assert!(matches!(Bundle::decode(&text), Err(BundleError::TooLong { .. })));
    };
    let proof = Proof { kind: ProofKind::File, subject: Name(b"/x".to_vec()), proof: Base64(vec![1]) };
    let consistency = Consistency { from: 1, to: 2, hashes: Vec::new() };
    let hashes = vec![Sha256([0; 32]); MAX_CONSISTENCY_HASHES + 1];
    too_long(&|bundle| bundle.document.0.resize(MAX_DOCUMENT_BYTES + 1, 0));
    too_long(&|bundle| bundle.manifest = Some(Base64(vec![0; MAX_MANIFEST_BYTES + 1])));
    too_long(&|bundle| bundle.baseline = Some(Base64(vec![0; MAX_BASELINE_BYTES + 1])));
    too_long(&|bundle| bundle.tls_key = Some(Base64(vec![0; MAX_TLS_KEY_BYTES + 1])));
    too_long(&|bundle| bundle.batch = Some(NoncePath { index: 0, size: 2, hashes: hashes.clone() }));
    too_long(&|bundle| bundle.proofs = vec![proof.clone(); MAX_PROOFS + 1]);
    too_long(&|bundle| {
        let subject = Name([&b"/"[..], &[b'x'; MAX_NAME_BYTES]].concat());
        bundle.proofs = vec![Proof { subject, ..proof.clone() }];
    });
    too_long(&|bundle| {
        bundle.proofs = vec![Proof { proof: Base64(vec![0; MAX_PROOF_BYTES + 1]), ..proof.clone() }]
    });
    too_long(&|bundle| bundle.consistency = vec![consistency.clone(); MAX_CONSISTENCY + 1]);
    too_long(&|bundle| {
        bundle.consistency = vec![Consistency { hashes: hashes.clone(), ..consistency.clone() }]
    });
    too_long(&|bundle| bundle.transcript = Some(vec![Base64(vec![1]); MAX_TRANSCRIPT_ENTRIES + 1]));
    too_long(&|bundle| bundle.transcript = Some(vec![Base64(vec![0; MAX_TRANSCRIPT_ENTRY_BYTES + 1])]));
    // Each part within its limit, all together not.
    let entries = vec![Base64(vec![0; MAX_TRANSCRIPT_ENTRY_BYTES]); 100];
    too_long(&|bundle| bundle.transcript = Some(entries.clone()));
}

#[test]
fn a_later_version_is_refused_for_being_one() {
    let later = json!({"version": 2, "something": "else"}).to_string();
    assert!(matches!(Bundle::decode(later.as_bytes()), Err(BundleError::Version { found: 2 })));
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..most)
}

fn hashes() -> impl Strategy<Value = Vec<Sha256>> {
    prop::collection::vec(any::<[u8; 32]>().prop_map(Sha256), 0..4)
}

fn proof() -> impl Strategy<Value = Proof> {
    let name = prop::collection::vec(1_u8.., 1..40);
    (0_usize..3, name, bytes(50)).prop_map(|(kind, mut name, proof)| {
        let kind = [ProofKind::File, ProofKind::History, ProofKind::Stream][kind];
        match kind {
            ProofKind::Stream => name.insert(0, b'a'),
            _ => name.insert(0, b'/'),
        }
        Proof { kind, subject: Name(name), proof: Base64(proof) }
    })
}

prop_compose! {
    fn bundle()(
        document in bytes(100),
        nonce in prop::collection::vec(any::<u8>(), NONCE_BYTES),
        batch in prop::option::of((any::<u32>(), hashes())),
        parts in prop::array::uniform3(prop::option::of(bytes(60))),
        proofs in prop::collection::vec(proof(), 0..4),
        consistency in prop::collection::vec((any::<u32>(), any::<u32>(), hashes()), 0..MAX_CONSISTENCY),
        transcript in prop::option::of(prop::collection::vec(bytes(40), 0..4)),
    ) -> Bundle {
        let [tls_key, manifest, baseline] = parts.map(|part| part.map(Base64));
        Bundle {
            tls_key,
            manifest,
            baseline,
            batch: batch.map(|(index, hashes)| NoncePath { index: index.into(), size: u64::from(index) + 1, hashes }),
            proofs,
            consistency: consistency
                .into_iter()
                .map(|(a, b, hashes)| Consistency { from: a.min(b).into(), to: a.max(b).into(), hashes })
                .collect(),
            transcript: transcript.map(|entries| entries.into_iter().map(Base64).collect()),
            ..Bundle::new(document, nonce)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_again(bundle in bundle()) {
        prop_assert_eq!(Bundle::decode(&bundle.encode().unwrap()).unwrap(), bundle);
    }

    #[test]
    fn a_bundle_with_another_byte_is_read_as_something_else_or_not_at_all(
        bundle in bundle(), place in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut text = bundle.encode().unwrap();
        let place = place.index(text.len());
        text[place] = byte;
        if let Ok(read) = Bundle::decode(&text) {
            let again = read.encode().unwrap();
            prop_assert_eq!(Bundle::decode(&again).unwrap(), read);
        }
    }

    #[test]
    fn every_name_has_one_text(name in prop::collection::vec(any::<u8>(), 0..40), text in "[!-~%]{0,12}") {
        let name = Name(name);
        prop_assert_eq!(name.to_string().parse::<Name>(), Ok(name));
        if let Ok(read) = text.parse::<Name>() {
            prop_assert_eq!(read.to_string(), text);
        }
    }
}
