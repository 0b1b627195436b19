//! Checking proofs of others (RFC 9162, sections 2.1.3.2 and 2.1.4.2).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{empty_root, node_hash};
use crate::Hash;

/// A proof about the log's tree does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidProof {
    /// There is no such leaf in a log of that size.
    #[error("entry {index} is not in a log of {size}")]
    Index {
        /// The leaf.
        index: u64,
        /// Leaves in the log.
        size: u64,
    },
    /// A log cannot have become smaller.
    #[error("a log of {from} entries cannot have become one of {to}")]
    Shrunk {
        /// Leaves before.
        from: u64,
        /// Leaves now.
        to: u64,
    },
    /// More or fewer hashes than the tree has levels there.
    #[error("the proof has {found} hashes, which is not the number that the tree needs")]
    Length {
        /// Hashes in the proof.
        found: usize,
    },
    /// The hashes lead to another root.
    #[error("the proof leads to another root than the checkpoint's")]
    Root,
    /// The hashes lead to another root of the old log.
    #[error("the proof leads to another root than the old checkpoint's")]
    OldRoot,
}

/// Checks that the leaf with hash `leaf` is number `index` (from 0) of the log that has `size` leaves and this root.
///
/// # Errors
/// When it is not shown.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    root: &Hash,
    proof: &[Hash],
) -> Result<(), InvalidProof> {
    let last =
        size.checked_sub(1).filter(|last| index <= *last).ok_or(InvalidProof::Index { index, size })?;
    let length = InvalidProof::Length { found: proof.len() };
    let (mut node, mut last, mut hash) = (index, last, *leaf);
    for sibling in proof {
        if last == 0 {
            return Err(length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    match (last, hash == *root) {
        (0, true) => Ok(()),
        (0, false) => Err(InvalidProof::Root),
        _ => Err(length),
    }
}

/// Checks that the log of `to` leaves with `to_root` begins with the log of `from` leaves with `from_root`.
///
/// # Errors
/// When it is not shown.
pub fn verify_consistency(
    from: u64,
    from_root: &Hash,
    to: u64,
    to_root: &Hash,
    proof: &[Hash],
) -> Result<(), InvalidProof> {
    if from > to {
        return Err(InvalidProof::Shrunk { from, to });
    }
    let length = InvalidProof::Length { found: proof.len() };
    if from == 0 || from == to {
        return match (proof, from) {
            ([], 0) if *from_root != empty_root() => Err(InvalidProof::OldRoot),
            ([], _) if from == to && from_root != to_root => Err(InvalidProof::Root),
            ([], _) => Ok(()),
            _ => Err(length),
        };
    }
    // An old tree that is complete is a node of the new one, and its hash is not sent again.
    let (first, rest) = match from.is_power_of_two() {
        true => (*from_root, proof),
        false => proof.split_first().map(|(first, rest)| (*first, rest)).ok_or(length)?,
    };
    let (mut node, mut last) = (from.saturating_sub(1), to.saturating_sub(1));
    while node & 1 == 1 {
        (node, last) = (node >> 1, last >> 1);
    }
    let (mut old, mut new) = (first, first);
    for hash in rest {
        if last == 0 {
            return Err(length);
        }
        if node & 1 == 1 || node == last {
            (old, new) = (node_hash(hash, &old), node_hash(hash, &new));
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        } else {
            new = node_hash(&new, hash);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    match (last, old == *from_root, new == *to_root) {
        (0, true, true) => Ok(()),
        (0, false, _) => Err(InvalidProof::OldRoot),
        (0, ..) => Err(InvalidProof::Root),
        _ => Err(length),
    }
}
