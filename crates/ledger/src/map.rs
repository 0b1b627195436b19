//! The map of subjects: a sparse Merkle tree over keys of 32 bytes, whose old versions live on as long as they are held.
//!
//! A subtree without keys hashes to 32 zero bytes, one with a single key to that key's leaf, any other to its two halves. So a
//! path is as long as keys share bits, about 20 hashes for a million keys. Subtrees of few keys are kept as sorted leaves
//! and hashed when they are asked for, which needs about a tenth of the memory of one object for each node.
//!
//! Cloning a [`Map`] costs nothing and keeps that version. Used by the store; [`Proof`] is what verifiers see.

use std::sync::Arc;

use crate::Hash;

mod proof;

pub use proof::{End, InvalidProof, MAX_SIBLINGS, Proof};

/// Most leaves that are kept without a node above them.
const BUNDLE: usize = 8;

const LEAF_TAG: &[u8] = b"glasshouse/ledger/map-leaf/1\0";
const NODE_TAG: &[u8] = b"glasshouse/ledger/map-node/1\0";

/// The hash of a subtree without keys.
pub const EMPTY: Hash = Hash([0; Hash::BYTES]);

/// Where a subject is in the map: 256 bits, the most significant first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// Bits of a key, which is the depth of the deepest leaf.
    pub const BITS: usize = 256;

    /// Bit `depth`, 0 the most significant; bits beyond the last are not set.
    fn bit(&self, depth: usize) -> bool {
        let shift = 7 - depth % 8;
        self.0.get(depth / 8).is_some_and(|byte| byte >> shift & 1 == 1)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Hash(self.0).fmt(f)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({self})")
    }
}

/// What the map says of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// Entries of the subject, at least 1.
    pub count: u64,
    /// Index in the log of the last one.
    pub last: u64,
    /// Hash of that entry as a leaf of the log.
    pub leaf: Hash,
}

/// The hash of a subtree with this key alone:
/// `SHA-256("glasshouse/ledger/map-leaf/1\0" || key || count || last || leaf)`, numbers as 8 bytes, big-endian.
fn leaf_hash(key: &Key, value: &Value) -> Hash {
    let (count, last) = (value.count.to_be_bytes(), value.last.to_be_bytes());
    Hash::of(&[LEAF_TAG, &key.0, &count, &last, &value.leaf.0])
}

/// The hash of a subtree with two keys or more: `SHA-256("glasshouse/ledger/map-node/1\0" || left || right)`.
fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash::of(&[NODE_TAG, &left.0, &right.0])
}

/// A version of the map.
#[derive(Clone, Debug)]
pub struct Map {
    root: Link,
    len: u64,
}

/// A subtree and its hash.
#[derive(Clone, Debug)]
struct Link {
    hash: Hash,
    node: Node,
}

#[derive(Clone, Debug)]
enum Node {
    /// Up to [`BUNDLE`] leaves in order of keys.
    Leaves(Arc<[Leaf]>),
    Inner(Arc<[Link; 2]>),
    Empty,
}

#[derive(Clone, Copy, Debug)]
struct Leaf {
    key: Key,
    value: Value,
}

impl Default for Map {
    fn default() -> Self {
        Self::new()
    }
}

impl Map {
    /// Without keys.
    pub fn new() -> Self {
        Self { root: Link { hash: EMPTY, node: Node::Empty }, len: 0 }
    }

    /// Keys in the map.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no keys.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What commits to the whole map.
    pub fn root(&self) -> Hash {
        self.root.hash
    }

    /// What the map says of `key`.
    pub fn value(&self, key: &Key) -> Option<Value> {
        let mut link = &self.root;
        for depth in 0.. {
            match &link.node {
                Node::Inner(halves) => link = &halves[usize::from(key.bit(depth))],
                Node::Leaves(leaves) => {
                    return leaves.binary_search_by(|leaf| leaf.key.cmp(key)).ok().map(|at| leaves[at].value);
                }
                Node::Empty => return None,
            }
        }
        None
    }

    /// Sets all of `updates`, of which the last for a key counts. Every node on the way is hashed once.
    pub fn apply(&mut self, mut updates: Vec<(Key, Value)>) {
        // Stable, so the last one of a key stays the last.
        updates.sort_by_key(|update| update.0);
        let mut leaves: Vec<Leaf> = Vec::with_capacity(updates.len());
        for (key, value) in updates {
            match leaves.last_mut().filter(|last| last.key == key) {
                Some(last) => last.value = value,
                None => leaves.push(Leaf { key, value }),
            }
        }
        self.root = updated(&self.root, 0, &leaves, &mut self.len);
    }

    /// What shows the value of `key`, or that it has none.
    pub fn prove(&self, key: &Key) -> Proof {
        let mut siblings = Vec::new();
        let mut link = &self.root;
        let mut leaves: &[Leaf] = loop {
            match &link.node {
                Node::Inner(halves) => {
                    let right = key.bit(siblings.len());
                    siblings.push(halves[usize::from(!right)].hash);
                    link = &halves[usize::from(right)];
                }
                Node::Leaves(leaves) => break leaves,
                Node::Empty => break &[],
            }
        };
        while leaves.len() > 1 {
            let depth = siblings.len();
            let (left, right) = halves(leaves, depth);
            let (same, other) = if key.bit(depth) { (right, left) } else { (left, right) };
            siblings.push(hash(other, depth + 1));
            leaves = same;
        }
        siblings.reverse();
        let end = match leaves.first() {
            Some(leaf) if leaf.key == *key => End::Value(leaf.value),
            Some(leaf) => End::Other(leaf.key, leaf.value),
            None => End::Empty,
        };
        Proof { siblings, end }
    }
}

/// The subtree at `depth` with `updates` in it, all of which belong there; counts the keys that are new.
fn updated(link: &Link, depth: usize, updates: &[Leaf], len: &mut u64) -> Link {
    if updates.is_empty() {
        return link.clone();
    }
    match &link.node {
        Node::Inner(old) => {
            let (left, right) = halves(updates, depth);
            let (left, right) =
                (updated(&old[0], depth + 1, left, len), updated(&old[1], depth + 1, right, len));
            inner(left, right)
        }
        Node::Leaves(old) => built(&merged(old, updates, len), depth),
        Node::Empty => built(&merged(&[], updates, len), depth),
    }
}

fn inner(left: Link, right: Link) -> Link {
    Link { hash: node_hash(&left.hash, &right.hash), node: Node::Inner(Arc::new([left, right])) }
}

/// Both in order of keys; of two with the same key the update stays.
fn merged(old: &[Leaf], updates: &[Leaf], len: &mut u64) -> Vec<Leaf> {
    let mut all = Vec::with_capacity(old.len() + updates.len());
    let mut old = old.iter().peekable();
    for update in updates {
        while let Some(before) = old.next_if(|leaf| leaf.key < update.key) {
            all.push(*before);
        }
        if old.next_if(|leaf| leaf.key == update.key).is_none() {
            *len += 1;
        }
        all.push(*update);
    }
    all.extend(old);
    all
}

/// The subtree at `depth` that has just these leaves.
fn built(leaves: &[Leaf], depth: usize) -> Link {
    if leaves.len() > BUNDLE {
        let (left, right) = halves(leaves, depth);
        return inner(built(left, depth + 1), built(right, depth + 1));
    }
    let node = if leaves.is_empty() { Node::Empty } else { Node::Leaves(leaves.into()) };
    Link { hash: hash(leaves, depth), node }
}

/// The leaves of a subtree at `depth` whose keys go left and right there.
fn halves(leaves: &[Leaf], depth: usize) -> (&[Leaf], &[Leaf]) {
    leaves.split_at(leaves.partition_point(|leaf| !leaf.key.bit(depth)))
}

fn hash(leaves: &[Leaf], depth: usize) -> Hash {
    match leaves {
        [] => EMPTY,
        [leaf] => leaf_hash(&leaf.key, &leaf.value),
        _ => {
            let (left, right) = halves(leaves, depth);
            node_hash(&hash(left, depth + 1), &hash(right, depth + 1))
        }
    }
}

#[cfg(test)]
mod tests;
