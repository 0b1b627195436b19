//! The log's tree against published roots, against `ct-merkle`, and against the definition.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use ledger::Hash;
use ledger::log::{
    Frontier, InvalidProof, Tree, empty_root, leaf_hash, prove_consistency, prove_inclusion, root,
    verify_consistency, verify_inclusion,
};
use sha2::{Digest, Sha256};

/// The inputs and roots of the reference implementation of RFC 6962 (Certificate Transparency's test data).
const INPUTS: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

#[test]
fn the_published_roots_come_out() {
    let (mut tree, mut frontier) = (Tree::new(), Frontier::new());
    assert_eq!(tree.root(), empty_root());
    for (input, expected) in INPUTS.iter().zip(ROOTS) {
        let leaf = leaf_hash(&hex::decode(input).unwrap());
        tree.push(leaf);
        frontier.push(leaf);
        assert_eq!(tree.root().to_string(), expected);
        assert_eq!(frontier.root(), tree.root());
    }
}

/// RFC 6962's MTH, word for word.
fn naive(entries: &[Vec<u8>]) -> Vec<u8> {
    match entries {
        [] => Sha256::digest(b"").to_vec(),
        [entry] => Sha256::digest([&[0], &entry[..]].concat()).to_vec(),
        _ => {
            let k = entries.len().next_power_of_two() / 2;
            let (left, right) = entries.split_at(k);
            Sha256::digest([&[1], &naive(left)[..], &naive(right)[..]].concat()).to_vec()
        }
    }
}

/// RFC 6962's PATH, word for word.
fn naive_path(m: usize, entries: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if entries.len() == 1 {
        return Vec::new();
    }
    let k = entries.len().next_power_of_two() / 2;
    let (left, right) = entries.split_at(k);
    let (mut path, sibling) =
        if m < k { (naive_path(m, left), naive(right)) } else { (naive_path(m - k, right), naive(left)) };
    path.push(sibling);
    path
}

/// RFC 6962's SUBPROOF, word for word.
fn naive_subproof(m: usize, entries: &[Vec<u8>], whole: bool) -> Vec<Vec<u8>> {
    if m == entries.len() {
        return if whole { Vec::new() } else { vec![naive(entries)] };
    }
    let k = entries.len().next_power_of_two() / 2;
    let (left, right) = entries.split_at(k);
    let (mut proof, sibling) = if m <= k {
        (naive_subproof(m, left, whole), naive(right))
    } else {
        (naive_subproof(m - k, right, false), naive(left))
    };
    proof.push(sibling);
    proof
}

fn entries(count: u64) -> Vec<Vec<u8>> {
    (0..count).map(|number| number.to_be_bytes().to_vec()).collect()
}

fn tree_of(entries: &[Vec<u8>]) -> Tree {
    let mut tree = Tree::new();
    entries.iter().for_each(|entry| tree.push(leaf_hash(entry)));
    tree
}

fn bytes(hashes: &[Hash]) -> Vec<Vec<u8>> {
    hashes.iter().map(|hash| hash.0.to_vec()).collect()
}

#[test]
fn proofs_are_those_of_the_definition_and_hold() {
    let all = entries(70);
    let tree = tree_of(&all);
    for size in 1..=70_u64 {
        let beginning = &all[..usize::try_from(size).unwrap()];
        let new_root = root(&tree, size).unwrap();
        assert_eq!(new_root.0.to_vec(), naive(beginning));
        for index in 0..size {
            let at = usize::try_from(index).unwrap();
            let proof = prove_inclusion(&tree, index, size).unwrap();
            assert_eq!(bytes(&proof), naive_path(at, beginning));
            assert_eq!(verify_inclusion(&leaf_hash(&all[at]), index, size, &new_root, &proof), Ok(()));
        }
        for from in 0..=size {
            let proof = prove_consistency(&tree, from, size).unwrap();
            if from > 0 {
                assert_eq!(bytes(&proof), naive_subproof(usize::try_from(from).unwrap(), beginning, true));
            }
            let old_root = root(&tree, from).unwrap();
            assert_eq!(verify_consistency(from, &old_root, size, &new_root, &proof), Ok(()));
        }
    }
}

#[test]
fn proofs_are_those_of_another_implementation() {
    let all = entries(200);
    let tree = tree_of(&all);
    let mut oracle = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    for (size, entry) in (1..).zip(&all) {
        oracle.push(entry.clone());
        assert_eq!(oracle.root().as_bytes()[..], root(&tree, size).unwrap().0);
        for index in [0, size / 3, size / 2, size - 1] {
            let theirs = oracle.prove_inclusion(usize::try_from(index).unwrap());
            assert_eq!(theirs.as_bytes(), bytes(&prove_inclusion(&tree, index, size).unwrap()).concat());
        }
        for from in [1, size / 3 + 1, size / 2 + 1, size] {
            let theirs = oracle.prove_consistency(usize::try_from(size - from).unwrap());
            assert_eq!(theirs.as_bytes(), bytes(&prove_consistency(&tree, from, size).unwrap()).concat());
        }
    }
}

#[test]
fn what_is_altered_is_refused() {
    let all = entries(33);
    let tree = tree_of(&all);
    let new_root = tree.root();
    for index in 0..33_u64 {
        let leaf = leaf_hash(&all[usize::try_from(index).unwrap()]);
        let proof = prove_inclusion(&tree, index, 33).unwrap();
        for (other, at) in [(index + 1, 33), (index, 32), (index + 33, 66)] {
            assert!(verify_inclusion(&leaf, other, at, &new_root, &proof).is_err(), "{index}: {other}/{at}");
        }
        assert!(verify_inclusion(&leaf_hash(b"other"), index, 33, &new_root, &proof).is_err());
        assert!(verify_inclusion(&leaf, index, 33, &leaf, &proof).is_err());
        altered(&proof, |forged| {
            assert!(verify_inclusion(&leaf, index, 33, &new_root, forged).is_err(), "{index}");
        });
    }
    for from in 1..33_u64 {
        let old_root = root(&tree, from).unwrap();
        let proof = prove_consistency(&tree, from, 33).unwrap();
        altered(&proof, |forged| {
            assert!(verify_consistency(from, &old_root, 33, &new_root, forged).is_err(), "{from}");
        });
        // A log that was forked: another old root, another new one.
        let forked = verify_consistency(from, &leaf_hash(b"fork"), 33, &new_root, &proof);
        assert!(forked.is_err(), "{from}");
        assert!(verify_consistency(from, &old_root, 33, &leaf_hash(b"fork"), &proof).is_err(), "{from}");
        assert!(verify_consistency(from + 1, &old_root, 33, &new_root, &proof).is_err(), "{from}");
    }
}

/// Every proof that differs from `proof` by one bit flipped, one hash removed, one too many, or two exchanged.
fn altered(proof: &[Hash], mut check: impl FnMut(&[Hash])) {
    for at in 0..proof.len() {
        let mut forged = proof.to_vec();
        forged[at].0[at % 32] ^= 1 << (at % 8);
        check(&forged);
        let mut forged = proof.to_vec();
        forged.remove(at);
        check(&forged);
        if at > 0 {
            let mut forged = proof.to_vec();
            forged.swap(at - 1, at);
            check(&forged);
        }
    }
    check(&[proof, &[Hash([0; 32])]].concat());
}

#[test]
fn logs_do_not_shrink_and_empty_ones_are_the_beginning_of_all() {
    let (small, large) = (tree_of(&entries(3)), tree_of(&entries(5)));
    let shrunk = verify_consistency(5, &large.root(), 3, &small.root(), &[]);
    assert_eq!(shrunk, Err(InvalidProof::Shrunk { from: 5, to: 3 }));
    assert_eq!(verify_consistency(0, &empty_root(), 5, &large.root(), &[]), Ok(()));
    assert_eq!(verify_consistency(0, &empty_root(), 0, &empty_root(), &[]), Ok(()));
    for forged in [
        verify_consistency(0, &small.root(), 5, &large.root(), &[]),
        verify_consistency(0, &empty_root(), 0, &small.root(), &[]),
        verify_consistency(3, &small.root(), 3, &large.root(), &[]),
        verify_consistency(0, &empty_root(), 5, &large.root(), &[empty_root()]),
    ] {
        assert!(forged.is_err(), "{forged:?}");
    }
    assert_eq!(
        verify_inclusion(&small.root(), 0, 0, &empty_root(), &[]),
        Err(InvalidProof::Index { index: 0, size: 0 })
    );
}

#[test]
fn a_tree_above_a_level_knows_what_it_keeps() {
    let (whole, mut above) = (tree_of(&entries(100)), Tree::above(3));
    entries(100).iter().for_each(|entry| above.push(leaf_hash(entry)));
    for level in 0..8_u8 {
        for index in 0..101 {
            let expected = if level < 3 { None } else { whole.node(level, index) };
            assert_eq!(above.node(level, index), expected, "{level}/{index}");
        }
    }
}

#[test]
fn a_tree_goes_on_where_its_frontier_does() {
    for base in [0, 3] {
        let (mut tree, mut frontier) = (Tree::above(base), Frontier::new());
        assert_eq!(tree.frontier(), frontier);
        for entry in entries(100) {
            tree.push(leaf_hash(&entry));
            frontier.push(leaf_hash(&entry));
            assert_eq!(tree.frontier(), frontier, "base {base}");
        }
    }
}
