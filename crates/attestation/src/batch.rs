//! Nonce batches: one attestation document that answers many verifiers, each with a challenge of its own.
//!
//! The challenges of verifiers who wait at the same time are the leaves of a Merkle tree, and its root is the nonce of one
//! document. Each verifier gets the document and the path from his leaf to the root, computes the root himself
//! ([`NoncePath::root`]) and then demands it as the document's nonce, whole, like any nonce. Pure: built by the
//! enclave's server, recomputed by whoever verifies.
//!
//! Spec: `docs/spec/nonce-batch.md`, with vectors in `docs/spec/vectors/nonce-batch.json`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;

/// Most nonces in one batch.
pub const MAX_BATCH_NONCES: u64 = 65_536;
/// Most hashes in one path: a tree of [`MAX_BATCH_NONCES`] leaves has as many levels above them.
pub const MAX_PATH_HASHES: usize = 16;

/// First byte of what a leaf's hash is of, and then the domain tag (RFC 6962, section 2.1, whose leaves have no tag).
const LEAF_PREFIX: &[u8] = b"\x00glasshouse nonce batch v1\n";
/// First byte of what an inner node's hash is of.
const NODE_PREFIX: u8 = 0x01;

/// Where a nonce is in its batch: all that its verifier needs beside the document. As JSON: `index`, `size` and `path`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoncePath {
    /// Position of the nonce, from 0.
    pub index: u64,
    /// Nonces in the batch, at least 2.
    pub size: u64,
    /// The hashes beside the way from the leaf to the root, the lowest first.
    #[serde(rename = "path")]
    pub hashes: Vec<Sha256>,
}

/// A path that no batch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoncePathError {
    /// A nonce alone is the document's nonce itself, and larger batches are not made.
    #[error("a batch of {found} nonces: expected 2 to {MAX_BATCH_NONCES}")]
    Size {
        /// The size stated.
        found: u64,
    },
    /// The position is outside the batch.
    #[error("position {found} in a batch of {size} nonces")]
    Index {
        /// The position stated.
        found: u64,
        /// The size stated.
        size: u64,
    },
    /// The path has not as many hashes as the way from that position to the root.
    #[error("a path of {found} hashes: expected {expected}")]
    Hashes {
        /// What position and size ask for.
        expected: usize,
        /// What there is.
        found: usize,
    },
}

impl NoncePath {
    /// The root of the batch that has `nonce` at this place: what the document's nonce has to be.
    ///
    /// # Errors
    /// When no batch has such a path ([`NoncePathError`]). A path to another nonce is no error: it gives another root.
    pub fn root(&self, nonce: &[u8]) -> Result<Sha256, NoncePathError> {
        if !(2..=MAX_BATCH_NONCES).contains(&self.size) {
            return Err(NoncePathError::Size { found: self.size });
        }
        if self.index >= self.size {
            return Err(NoncePathError::Index { found: self.index, size: self.size });
        }
        let sides = sides(self.index, self.size);
        if sides.len() != self.hashes.len() {
            return Err(NoncePathError::Hashes { expected: sides.len(), found: self.hashes.len() });
        }
        Ok(sides.iter().zip(&self.hashes).fold(leaf_hash(nonce), |node, (side, sibling)| match side {
            Side::Left => node_hash(*sibling, node),
            Side::Right => node_hash(node, *sibling),
        }))
    }
}

/// On which side of the way the other node is.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// The siblings on the way from leaf `index` to the root of a tree of `size` leaves, the lowest first. A node without a
/// sibling is the last of its level, and is its own parent.
fn sides(index: u64, size: u64) -> Vec<Side> {
    let mut sides = Vec::new();
    let (mut index, mut last) = (index, size.saturating_sub(1));
    while last > 0 {
        if index & 1 == 1 {
            sides.push(Side::Left);
        } else if index < last {
            sides.push(Side::Right);
        }
        index >>= 1;
        last >>= 1;
    }
    sides
}

/// The tree over the nonces of one batch.
#[derive(Debug, Clone)]
pub struct NonceBatch {
    /// The leaves first, the root last. A node that is alone at the end of its level is on the next one again.
    levels: Vec<Vec<Sha256>>,
}

/// A number of nonces that is no batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a batch of {found} nonces: expected 2 to {MAX_BATCH_NONCES}")]
pub struct BatchSizeError {
    /// How many there are.
    pub found: usize,
}

impl NonceBatch {
    /// The batch of `nonces`, in this order.
    ///
    /// # Errors
    /// Unless there are 2 to [`MAX_BATCH_NONCES`]: a nonce alone is put into its document as it is.
    pub fn new<N: AsRef<[u8]>>(nonces: impl IntoIterator<Item = N>) -> Result<Self, BatchSizeError> {
        let mut nodes: Vec<_> = nonces.into_iter().map(|nonce| leaf_hash(nonce.as_ref())).collect();
        if nodes.len() < 2 || nodes.len() as u64 > MAX_BATCH_NONCES {
            return Err(BatchSizeError { found: nodes.len() });
        }
        let mut levels = Vec::new();
        while nodes.len() > 1 {
            let above = nodes.chunks(2).map(parent).collect();
            levels.push(std::mem::replace(&mut nodes, above));
        }
        levels.push(nodes);
        Ok(NonceBatch { levels })
    }

    /// How many nonces it has.
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// The nonce of the batch's document.
    pub fn root(&self) -> Sha256 {
        *self.levels.last().and_then(|top| top.first()).expect("a batch has at least two leaves")
    }

    /// The path of the nonce at `index`; `None` outside the batch.
    pub fn path(&self, index: u64) -> Option<NoncePath> {
        if index >= self.size() {
            return None;
        }
        let mut place = usize::try_from(index).ok()?;
        let mut hashes = Vec::new();
        for level in &self.levels {
            // The root, and a node without a sibling, have nobody beside them.
            hashes.extend(level.get(place ^ 1));
            place >>= 1;
        }
        Some(NoncePath { index, size: self.size(), hashes })
    }
}

fn parent(children: &[Sha256]) -> Sha256 {
    match children {
        [left, right] => node_hash(*left, *right),
        [alone, ..] => *alone,
        [] => unreachable!("chunks are never empty"),
    }
}

fn leaf_hash(nonce: &[u8]) -> Sha256 {
    Sha256::of(&[LEAF_PREFIX, nonce].concat())
}

fn node_hash(left: Sha256, right: Sha256) -> Sha256 {
    Sha256::of(&[&[NODE_PREFIX][..], &left.0, &right.0].concat())
}

#[cfg(test)]
mod tests;
