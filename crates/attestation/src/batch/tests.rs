//! The vectors of the specification, a tree built the way RFC 6962 defines it, and every bit of a path.

#![expect(clippy::indexing_slicing, reason = "a vector without the member fails the test")]
#![expect(clippy::arithmetic_side_effects, reason = "small numbers of a test")]

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const VECTORS: &str = include_str!("../../../../docs/spec/vectors/nonce-batch.json");

fn vectors(list: &str) -> Vec<Value> {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    vectors[list].as_array().unwrap().clone()
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn path_of(vector: &Value) -> NoncePath {
    NoncePath {
        index: vector["index"].as_u64().unwrap(),
        size: vector["size"].as_u64().unwrap(),
        hashes: texts(&vector["path"]).iter().map(|text| text.parse().unwrap()).collect(),
    }
}

#[test]
fn valid_vectors_give_their_root_and_their_paths() {
    for vector in vectors("valid") {
        let nonces: Vec<_> = texts(&vector["nonces"]).iter().map(|text| hex::decode(text).unwrap()).collect();
        let batch = NonceBatch::new(&nonces).unwrap();
        let root: Sha256 = vector["root"].as_str().unwrap().parse().unwrap();
        assert_eq!(batch.root(), root, "{}", vector["name"]);
        let paths = vector["paths"].as_array().unwrap();
        assert_eq!(paths.len(), nonces.len());
        for (place, (nonce, path)) in nonces.iter().zip(paths).enumerate() {
            let path = path_of(path);
            assert_eq!(batch.path(place as u64).as_ref(), Some(&path), "{}", vector["name"]);
            assert_eq!(path.root(nonce), Ok(root), "{}", vector["name"]);
        }
    }
}

#[test]
fn vectors_to_refuse_are_refused_for_the_reason_stated() {
    for vector in vectors("refused") {
        let nonce = hex::decode(vector["nonce"].as_str().unwrap()).unwrap();
        let found = match path_of(&vector).root(&nonce) {
            Err(error) => format!("{error:?}"),
            Ok(root) if root.to_string() == vector["root"] => "accepted".to_owned(),
            Ok(_) => "OtherRoot".to_owned(),
        };
        let expected = vector["refusal"].as_str().unwrap();
        assert!(found.starts_with(expected), "{}: expected {expected}, found {found}", vector["name"]);
    }
}

/// The tree as RFC 6962, section 2.1, defines it: from the top, split at the largest power of two below the size.
fn defined_root(nonces: &[Vec<u8>]) -> Sha256 {
    match nonces {
        [nonce] => leaf_hash(nonce),
        more => {
            let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
            node_hash(defined_root(left), defined_root(right))
        }
    }
}

#[test]
fn a_nonce_alone_and_none_are_no_batch() {
    assert_eq!(NonceBatch::new(Vec::<Vec<u8>>::new()).unwrap_err(), BatchSizeError { found: 0 });
    assert_eq!(NonceBatch::new([[7; 32]]).unwrap_err(), BatchSizeError { found: 1 });
}

#[test]
fn the_largest_batch_has_the_longest_paths_and_no_larger_one_is_made() {
    let nonces = (0..MAX_BATCH_NONCES).map(u64::to_be_bytes);
    let batch = NonceBatch::new(nonces).unwrap();
    let path = batch.path(MAX_BATCH_NONCES - 1).unwrap();
    assert_eq!(path.hashes.len(), MAX_PATH_HASHES);
    assert_eq!(path.root(&(MAX_BATCH_NONCES - 1).to_be_bytes()), Ok(batch.root()));
    let found = usize::try_from(MAX_BATCH_NONCES).unwrap() + 1;
    let refused = NonceBatch::new((0..found).map(usize::to_be_bytes)).unwrap_err();
    assert_eq!(refused, BatchSizeError { found });
}

#[test]
fn every_changed_bit_of_nonce_or_path_gives_another_root() {
    let nonces: Vec<_> = (0..7_u8).map(|byte| [byte; 8]).collect();
    let batch = NonceBatch::new(nonces).unwrap();
    let path = batch.path(3).unwrap();
    for bit in 0..64 {
        let mut nonce = [3; 8];
        nonce[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(path.root(&nonce), Ok(batch.root()));
    }
    for hash in 0..path.hashes.len() {
        for bit in 0..256 {
            let mut changed = path.clone();
            changed.hashes[hash].0[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(changed.root(&[3; 8]), Ok(batch.root()));
        }
    }
}

/// A verifier's nonce may be 64 bytes of anybody's choice: without the prefixes the two children of a node, sent as a
/// nonce, would have that node's hash.
#[test]
fn a_nonce_that_imitates_a_node_is_a_leaf() {
    let batch = NonceBatch::new([[1; 8], [2; 8]]).unwrap();
    let children = [leaf_hash(&[1; 8]).0, leaf_hash(&[2; 8]).0].concat();
    assert_ne!(leaf_hash(&children), batch.root());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_nonce_has_a_path_to_the_root_that_the_rfc_defines(
        nonces in prop::collection::vec(prop::collection::vec(any::<u8>(), 8..=64), 2..70),
    ) {
        let batch = NonceBatch::new(&nonces).unwrap();
        prop_assert_eq!(batch.root(), defined_root(&nonces));
        for (index, nonce) in (0..).zip(&nonces) {
            prop_assert_eq!(batch.path(index).unwrap().root(nonce), Ok(batch.root()));
        }
        prop_assert_eq!(batch.path(nonces.len() as u64), None);
    }

    #[test]
    fn no_path_makes_it_panic(
        index: u64, size: u64, hashes in prop::collection::vec(any::<[u8; 32]>().prop_map(Sha256), 0..20),
    ) {
        for size in [size, size % 70_000, size % 20] {
            for index in [index, index % size.max(1)] {
                let path = NoncePath { index, size, hashes: hashes.clone() };
                if let Ok(root) = path.root(b"nonce") {
                    prop_assert!(size >= 2 && index < size && hashes.len() <= MAX_PATH_HASHES);
                    prop_assert_ne!(root, leaf_hash(b"nonce"));
                }
            }
        }
    }
}
