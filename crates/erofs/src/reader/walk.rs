//! Everything in an image, by name.

use std::collections::HashSet;

use super::{Inode, InodeKind, Number, ReadAt, ReadError, Reader};
use crate::format::MAX_TARGET_BYTES;

/// How deep directories may lie in each other: a path of as many bytes as there may be has no more.
const MAX_DEPTH: usize = MAX_TARGET_BYTES / 2 + 1;

/// What a walk may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkLimits {
    /// Entries, the root among them.
    pub entries: u64,
    /// Bytes of all paths and targets together.
    pub name_bytes: u64,
}

/// What a walk comes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// From the root, without a `/` at the beginning; the root's is empty.
    pub path: Vec<u8>,
    /// What is there.
    pub inode: Inode,
}

struct Walk<'r, S> {
    reader: &'r Reader<S>,
    limits: WalkLimits,
    entries: u64,
    name_bytes: u64,
    directories: HashSet<Number>,
}

impl<S: ReadAt> Reader<S> {
    /// Calls `found` with everything there is, directories before what is in them, and names in order of their bytes.
    ///
    /// # Errors
    /// [`ReadError`], and what `found` returns.
    pub fn walk<E: From<ReadError>>(
        &self,
        limits: WalkLimits,
        mut found: impl FnMut(Node) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut walk = Walk { reader: self, limits, entries: 0, name_bytes: 0, directories: HashSet::new() };
        let root = walk.admit(Vec::new(), self.root)?;
        if root.inode.kind != InodeKind::Directory {
            return Err(ReadError::Malformed { what: "the root directory" }.into());
        }
        let mut open = vec![walk.names(&root)?];
        found(root)?;
        while let Some(directory) = open.last_mut() {
            let Some((path, number)) = directory.next() else {
                open.pop();
                continue;
            };
            let node = walk.admit(path, number)?;
            if node.inode.kind == InodeKind::Directory {
                if open.len() == MAX_DEPTH {
                    return Err(ReadError::Malformed { what: "the depth of a directory" }.into());
                }
                open.push(walk.names(&node)?);
            }
            found(node)?;
        }
        Ok(())
    }
}

/// What is left of a directory that is being walked through.
type Names = std::vec::IntoIter<(Vec<u8>, Number)>;

impl<S: ReadAt> Walk<'_, S> {
    fn admit(&mut self, path: Vec<u8>, number: Number) -> Result<Node, ReadError> {
        let inode = self.reader.inode(number)?;
        // A directory with two names could be its own ancestor.
        if inode.kind == InodeKind::Directory && !self.directories.insert(number) {
            return Err(ReadError::Malformed { what: "a directory with two names" });
        }
        if inode.kind == InodeKind::Symlink {
            self.count_bytes(inode.size)?;
        }
        Ok(Node { path, inode })
    }

    /// The names in a directory. All of them are held, within the limits.
    fn names(&mut self, directory: &Node) -> Result<Names, ReadError> {
        let mut names = Vec::new();
        self.reader.directory(&directory.inode, |entry| {
            let path = match directory.path.as_slice() {
                b"" => entry.name,
                parent => [parent, b"/", &entry.name].concat(),
            };
            self.entries = self.entries.saturating_add(1);
            if self.entries >= self.limits.entries {
                return Err(ReadError::TooMany { what: "entries", limit: self.limits.entries });
            }
            self.count_bytes(path.len() as u64)?;
            names.push((path, entry.inode));
            Ok(())
        })?;
        Ok(names.into_iter())
    }

    fn count_bytes(&mut self, bytes: u64) -> Result<(), ReadError> {
        self.name_bytes = self.name_bytes.saturating_add(bytes);
        match self.name_bytes > self.limits.name_bytes {
            true => Err(ReadError::TooMany { what: "bytes of names", limit: self.limits.name_bytes }),
            false => Ok(()),
        }
    }
}
