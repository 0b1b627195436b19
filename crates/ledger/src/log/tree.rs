//! Trees that grow: one that knows its root only, and one that can prove.

use std::convert::Infallible;

use super::{Nodes, empty_root, node_hash, root};
use crate::Hash;

/// The roots of the complete subtrees that a log consists of, largest first: what is needed to append to it and to know
/// its root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    roots: Vec<Hash>,
}

impl Frontier {
    /// Of a log without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let complete = self.size.trailing_ones();
        let mut hash = leaf;
        for _ in 0..complete {
            let left = self.roots.pop().expect("one root for every bit of the size");
            hash = node_hash(&left, &hash);
        }
        self.roots.push(hash);
        self.size += 1;
    }

    /// The root of the log.
    pub fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev();
        let Some(last) = roots.next() else { return empty_root() };
        roots.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// The hashes of all complete subtrees from some level on, in memory: twice the hashes of that level.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// The level of `levels[0]`.
    base: u8,
    /// Complete subtrees, level by level.
    levels: Vec<Vec<Hash>>,
    /// Of the leaves that are not yet in a complete subtree of level `base`.
    rest: Frontier,
    size: u64,
}

impl Tree {
    /// Of a log without leaves; knows every hash.
    pub fn new() -> Self {
        Self::default()
    }

    /// Of a log without leaves; knows the hashes of `base` and above. At most level 32.
    pub fn above(base: u8) -> Self {
        Self { base: base.min(32), ..Self::default() }
    }

    /// Leaves so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.size += 1;
        self.rest.push(leaf);
        if self.rest.size() >> self.base == 0 {
            return;
        }
        let mut hash = std::mem::take(&mut self.rest).root();
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let nodes = &mut self.levels[level];
            nodes.push(hash);
            if nodes.len() % 2 == 1 {
                return;
            }
            hash = node_hash(&nodes[nodes.len() - 2], &hash);
        }
    }

    /// What is needed to append to the log, which the tree knows too.
    pub fn frontier(&self) -> Frontier {
        let (mut roots, mut start) = (Vec::new(), 0);
        for level in (self.base..64).rev().filter(|level| self.size >> level & 1 == 1) {
            roots.extend(self.node(level, start >> level));
            start += 1 << level;
        }
        roots.extend(&self.rest.roots);
        Frontier { size: self.size, roots }
    }

    /// The hash of a complete subtree; `None` if it is below the base, or not complete.
    pub fn node(&self, level: u8, index: u64) -> Option<Hash> {
        let nodes = self.levels.get(usize::from(level.checked_sub(self.base)?))?;
        nodes.get(usize::try_from(index).ok()?).copied()
    }

    /// The root of the log, of a tree that knows every hash.
    ///
    /// # Panics
    /// If the tree was made with [`Tree::above`].
    pub fn root(&self) -> Hash {
        let Ok(root) = root(self, self.size);
        root
    }
}

/// Of a tree that knows every hash.
impl Nodes for Tree {
    type Error = Infallible;

    fn node(&self, level: u8, index: u64) -> Result<Hash, Infallible> {
        Ok(Tree::node(self, level, index).expect("a complete subtree of a tree that knows every hash"))
    }
}
