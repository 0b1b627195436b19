//! The log's Merkle tree (RFC 6962, section 2.1; RFC 9162, section 2.1): hashing, proofs, and their verification.
//!
//! Nothing of entries is known here but their bytes. The store proves, [`crate::Anchor`] and whoever keeps an old checkpoint
//! verify.

use crate::Hash;

mod tree;
mod verify;

pub use tree::{Frontier, Tree};
pub use verify::{InvalidProof, verify_consistency, verify_inclusion};

/// Most hashes in a proof: a tree of 2^64 leaves has no longer path, and consistency needs one more.
pub const MAX_PROOF_HASHES: usize = 65;

const LEAF_PREFIX: &[u8] = &[0];
const NODE_PREFIX: &[u8] = &[1];

/// The hash of a leaf: `SHA-256(0x00 || entry)`.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Hash::of(&[LEAF_PREFIX, entry])
}

/// The hash of a node: `SHA-256(0x01 || left || right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash::of(&[NODE_PREFIX, &left.0, &right.0])
}

/// The root of the tree without leaves: `SHA-256("")`.
pub fn empty_root() -> Hash {
    Hash::of(&[])
}

/// Whoever knows the hashes of complete subtrees.
pub trait Nodes {
    /// Why a hash cannot be given.
    type Error;

    /// The hash over the leaves `index << level` up to, not including, `(index + 1) << level`, all of which exist.
    ///
    /// # Errors
    /// When it is not known.
    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

/// The root of the first `size` leaves.
///
/// # Errors
/// When a hash is not known.
pub fn root<N: Nodes>(nodes: &N, size: u64) -> Result<Hash, N::Error> {
    if size == 0 { Ok(empty_root()) } else { range_hash(nodes, 0, size) }
}

/// The path from leaf `index` to the root of the first `size` leaves: RFC 6962's `PATH`, deepest hash first.
///
/// # Errors
/// When a hash is not known.
///
/// # Panics
/// If `index` is not below `size`.
pub fn prove_inclusion<N: Nodes>(nodes: &N, index: u64, size: u64) -> Result<Vec<Hash>, N::Error> {
    assert!(index < size, "leaf {index} is not among {size}");
    let (mut start, mut end) = (0, size);
    let mut siblings = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            siblings.push(range_hash(nodes, middle, end)?);
            end = middle;
        } else {
            siblings.push(range_hash(nodes, start, middle)?);
            start = middle;
        }
    }
    siblings.reverse();
    Ok(siblings)
}

/// What shows that the first `from` leaves of `to` are the tree that they were: RFC 6962's `PROOF`, deepest hash first.
/// Empty if `from` is 0 or `to`.
///
/// # Errors
/// When a hash is not known.
///
/// # Panics
/// If `from` is above `to`.
pub fn prove_consistency<N: Nodes>(nodes: &N, from: u64, to: u64) -> Result<Vec<Hash>, N::Error> {
    assert!(from <= to, "{from} leaves are not the beginning of {to}");
    let mut hashes = Vec::new();
    if from == 0 || from == to {
        return Ok(hashes);
    }
    let (mut start, mut end) = (0, to);
    while end != from {
        let middle = start + split(end - start);
        if from <= middle {
            hashes.push(range_hash(nodes, middle, end)?);
            end = middle;
        } else {
            hashes.push(range_hash(nodes, start, middle)?);
            start = middle;
        }
    }
    // The whole old tree as one node is the old root, which the verifier has.
    if start != 0 {
        hashes.push(range_hash(nodes, start, end)?);
    }
    hashes.reverse();
    Ok(hashes)
}

/// The largest power of two below `length`, which is at least 2.
fn split(length: u64) -> u64 {
    1 << (63 - (length - 1).leading_zeros())
}

/// RFC 6962's `MTH` over the leaves from `start` up to `end`. Starts are multiples of the power of two that the range
/// fits in, as the recursion has them.
fn range_hash<N: Nodes>(nodes: &N, start: u64, end: u64) -> Result<Hash, N::Error> {
    let length = end - start;
    if length.is_power_of_two() {
        let level = length.trailing_zeros();
        return nodes.node(u8::try_from(level).expect("below 64"), start >> level);
    }
    let middle = start + split(length);
    Ok(node_hash(&range_hash(nodes, start, middle)?, &range_hash(nodes, middle, end)?))
}
