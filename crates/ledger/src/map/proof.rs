//! What shows a key's value, or that it has none.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{EMPTY, Key, Value, leaf_hash, node_hash};
use crate::Hash;

/// Most hashes in a proof: one for each bit of a key.
pub const MAX_SIBLINGS: usize = Key::BITS;

/// The path from a key to the map's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The hashes beside the path, the deepest first.
    pub siblings: Vec<Hash>,
    /// What is where the path ends.
    pub end: End,
}

/// What is where the path of a key ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The key, with this value.
    Value(Value),
    /// Another key, with its value, which is alone where the key would be.
    Other(Key, Value),
    /// No key at all.
    Empty,
}

/// A proof about the map does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidProof {
    /// More hashes than a key has bits.
    #[error("the proof has {found} hashes, more than the map is deep")]
    Length {
        /// Hashes in the proof.
        found: usize,
    },
    /// The other key is the key itself, or would not lie there.
    #[error("the proof names another key that says nothing about this one")]
    OtherKey,
    /// The hashes lead to another root.
    #[error("the proof leads to another root than the checkpoint's")]
    Root,
}

impl Proof {
    /// Checks the proof for `key` against the map's root and returns the key's value, `None` if it has none.
    ///
    /// # Errors
    /// When neither is shown.
    pub fn verify(&self, key: &Key, root: &Hash) -> Result<Option<Value>, InvalidProof> {
        let depth = self.siblings.len();
        if depth > MAX_SIBLINGS {
            return Err(InvalidProof::Length { found: depth });
        }
        let (end, value) = match &self.end {
            End::Value(value) => (leaf_hash(key, value), Some(*value)),
            End::Other(other, value) => {
                let beside = (0..depth).all(|depth| other.bit(depth) == key.bit(depth));
                if !beside || other == key {
                    return Err(InvalidProof::OtherKey);
                }
                (leaf_hash(other, value), None)
            }
            End::Empty => (EMPTY, None),
        };
        let depths = (0..depth).rev();
        let found = self.siblings.iter().zip(depths).fold(end, |hash, (sibling, depth)| {
            if key.bit(depth) { node_hash(sibling, &hash) } else { node_hash(&hash, sibling) }
        });
        if found == *root { Ok(value) } else { Err(InvalidProof::Root) }
    }
}
