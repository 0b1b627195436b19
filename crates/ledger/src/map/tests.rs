//! The map against a tree that is computed from nothing but its definition.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn value(number: u64) -> Value {
    Value { count: number + 1, last: number * 7, leaf: Hash::of(&[&number.to_be_bytes()]) }
}

fn key(number: u64) -> Key {
    Key(Hash::of(&[b"key", &number.to_be_bytes()]).0)
}

/// The root by the specification's words, with the hashes spelled out, by another implementation of SHA-256.
fn naive(keys: &[(Key, Value)], depth: usize) -> [u8; 32] {
    use sha2::Digest;
    match keys {
        [] => [0; 32],
        [(key, value)] => sha2::Sha256::new()
            .chain_update(b"glasshouse/ledger/map-leaf/1\0")
            .chain_update(key.0)
            .chain_update(value.count.to_be_bytes())
            .chain_update(value.last.to_be_bytes())
            .chain_update(value.leaf.0)
            .finalize()
            .into(),
        _ => {
            let bit = |key: &Key| key.0[depth / 8] & (0x80 >> (depth % 8)) != 0;
            let (right, left): (Vec<_>, Vec<_>) = keys.iter().copied().partition(|(key, _)| bit(key));
            sha2::Sha256::new()
                .chain_update(b"glasshouse/ledger/map-node/1\0")
                .chain_update(naive(&left, depth + 1))
                .chain_update(naive(&right, depth + 1))
                .finalize()
                .into()
        }
    }
}

fn naive_root(model: &BTreeMap<Key, Value>) -> Hash {
    Hash(naive(&model.iter().map(|(key, value)| (*key, *value)).collect::<Vec<_>>(), 0))
}

/// Keys that share long prefixes, as honest ones never do.
fn close_keys() -> impl Strategy<Value = Key> {
    (0..4_usize, any::<[u8; 2]>(), 0..32_usize).prop_map(|(shared, bytes, at)| {
        let mut key = [0; 32];
        key[at.max(shared * 8).min(30)..][..2].copy_from_slice(&bytes);
        Key(key)
    })
}

fn any_key() -> impl Strategy<Value = Key> {
    prop_oneof![close_keys(), any::<[u8; 32]>().prop_map(Key)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_root_is_the_one_of_the_definition(
        batches in prop::collection::vec(prop::collection::vec((any_key(), 0..50_u64), 0..40), 0..8),
        others in prop::collection::vec(any_key(), 0..10),
    ) {
        let (mut map, mut model) = (Map::new(), BTreeMap::new());
        for batch in batches {
            let (before, root_before) = (map.clone(), map.root());
            let updates: Vec<_> = batch.iter().map(|(key, number)| (*key, value(*number))).collect();
            model.extend(updates.iter().copied());
            map.apply(updates);
            prop_assert_eq!(map.root(), naive_root(&model));
            prop_assert_eq!(map.len(), model.len() as u64);
            prop_assert_eq!(before.root(), root_before);
        }
        for key in model.keys().copied().chain(others) {
            prop_assert_eq!(map.value(&key), model.get(&key).copied());
            prop_assert_eq!(map.prove(&key).verify(&key, &map.root()), Ok(model.get(&key).copied()));
        }
    }

    #[test]
    fn a_proof_shows_one_thing_only(count in 1..200_u64, asked in 0..400_u64, flip in any::<prop::sample::Index>()) {
        let mut map = Map::new();
        map.apply((0..count).map(|number| (key(number), value(number))).collect());
        let (asked, proof) = (key(asked), map.prove(&key(asked)));
        let shown = proof.verify(&asked, &map.root()).unwrap();
        let mut forged = proof.clone();
        if !forged.siblings.is_empty() {
            let at = flip.index(forged.siblings.len());
            forged.siblings[at].0[0] ^= 1;
            prop_assert_eq!(forged.verify(&asked, &map.root()), Err(InvalidProof::Root));
            forged.siblings.remove(at);
            prop_assert!(forged.verify(&asked, &map.root()).is_err());
        }
        for end in [End::Empty, End::Value(value(1000)), End::Other(key(5000), value(1)), End::Other(asked, value(1))] {
            if end != proof.end {
                let forged = Proof { end, ..proof.clone() };
                prop_assert!(forged.verify(&asked, &map.root()).is_err());
            }
        }
        if let (Some(value), End::Value(_)) = (shown, proof.end) {
            let denied = Proof { end: End::Other(asked, value), ..proof };
            prop_assert_eq!(denied.verify(&asked, &map.root()), Err(InvalidProof::OtherKey));
        }
    }
}

#[test]
fn versions_live_as_long_as_they_are_held() {
    let mut map = Map::new();
    let mut versions = Vec::new();
    for round in 0..50_u64 {
        map.apply((0..20).map(|number| (key(number * round), value(number + round))).collect());
        versions.push((map.clone(), map.root()));
    }
    for (version, root) in &versions {
        let proof = version.prove(&key(7));
        assert_eq!(proof.verify(&key(7), root), Ok(version.value(&key(7))));
    }
}

#[test]
fn proofs_deeper_than_keys_are_refused() {
    let siblings = vec![EMPTY; MAX_SIBLINGS + 1];
    let found = siblings.len();
    let proof = Proof { siblings, end: End::Empty };
    assert_eq!(proof.verify(&key(0), &EMPTY), Err(InvalidProof::Length { found }));
}

#[test]
fn keys_that_differ_in_the_last_bit_have_proofs_of_full_depth() {
    let (zero, mut one) = (Key([0; 32]), Key([0; 32]));
    one.0[31] = 1;
    let mut map = Map::new();
    map.apply((2..20).map(|number| (key(number), value(number))).collect());
    map.apply(vec![(zero, value(0)), (one, value(1))]);
    for (key, number) in [(zero, 0), (one, 1)] {
        let proof = map.prove(&key);
        assert_eq!(proof.siblings.len(), 256);
        assert_eq!(proof.verify(&key, &map.root()), Ok(Some(value(number))));
    }
}
