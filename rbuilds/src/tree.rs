//! A file system in memory: names, owners and modes, with the files' bytes left on disk.
//!
//! Layers are applied as the OCI image specification's "Applying Changesets" says. Nothing is ever extracted, so no
//! entry can reach a file of this machine; entries that would go through a symbolic link are refused all the same,
//! since extractors disagree on where they end up.

use std::{collections::BTreeMap, ops::Bound};

use erofs::Xattr;

use crate::{
    content::Content,
    error::{EntryError, LayerError},
    path::EntryPath,
};

/// A file system. The root directory is always there.
#[derive(Debug)]
pub(crate) struct Tree {
    inodes: Vec<Inode>,
    /// The layer that each is from, the lowest being 0.
    layers: Vec<usize>,
    /// How many layers were applied.
    applied: usize,
    entries: BTreeMap<EntryPath, InodeId>,
}

/// Names an inode of one [`Tree`]. Two paths with the same one are hard links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct InodeId(usize);

impl InodeId {
    /// A number that no other inode of the tree has.
    pub(crate) fn number(self) -> u64 {
        self.0 as u64
    }
}

/// What a path leads to.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    /// Permission, setuid, setgid and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) kind: Kind,
    /// Extended attributes in order of their names.
    pub(crate) xattrs: Box<[Xattr]>,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Directory,
    File(Content),
    /// The target as it is written, which may lead anywhere or nowhere.
    Symlink(Vec<u8>),
}

/// The changes one layer makes.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    pub(crate) whiteouts: Vec<Whiteout>,
    pub(crate) entries: Vec<(EntryPath, NewEntry)>,
}

#[derive(Debug)]
pub(crate) enum NewEntry {
    Inode(Inode),
    /// Another name of the file at this path.
    HardLink(EntryPath),
}

/// What a layer takes away from the layers below it.
#[derive(Debug)]
pub(crate) enum Whiteout {
    /// This path and all that is in it.
    Path(EntryPath),
    /// All that is in this directory.
    Opaque(EntryPath),
}

impl Tree {
    pub(crate) fn new() -> Self {
        let entries = BTreeMap::from([(EntryPath::root(), InodeId(0))]);
        Self { inodes: vec![implied_directory()], layers: vec![0], applied: 0, entries }
    }

    /// Applies a layer on top of what is there.
    ///
    /// Whiteouts come first wherever they stood: they hide what lower layers have and never what their own layer adds.
    pub(crate) fn apply(&mut self, layer: Layer) -> Result<(), LayerError> {
        for whiteout in &layer.whiteouts {
            match whiteout {
                Whiteout::Path(path) => self.remove(path),
                Whiteout::Opaque(directory) => self.remove_children(directory),
            }
        }
        for (path, entry) in layer.entries {
            self.insert(&path, entry).map_err(|e| e.at(&path))?;
        }
        self.applied += 1;
        Ok(())
    }

    /// Puts an entry in, in the place of what was there. A directory on a directory keeps what is in it.
    pub(crate) fn insert(&mut self, path: &EntryPath, entry: NewEntry) -> Result<(), EntryError> {
        if path.is_root() && !matches!(&entry, NewEntry::Inode(i) if i.is_directory()) {
            return Err(EntryError::RootNotDirectory);
        }
        self.ensure_parents(path)?;
        let id = match entry {
            NewEntry::Inode(inode) => self.add(inode),
            NewEntry::HardLink(target) => self.link_target(&target)?,
        };
        if !self.inode(id).is_directory() {
            self.remove_children(path);
        }
        self.entries.insert(path.clone(), id);
        Ok(())
    }

    /// Every path in order of its bytes, so that a directory comes before what is in it. The root is the first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&EntryPath, InodeId, &Inode)> {
        self.entries.iter().map(|(path, id)| (path, *id, self.inode(*id)))
    }

    /// The layer that an inode is from, the lowest being 0.
    pub(crate) fn layer(&self, id: InodeId) -> usize {
        self.layers.get(id.0).copied().unwrap_or_default()
    }

    /// The inode at a path.
    pub(crate) fn lookup(&self, path: &[u8]) -> Option<&Inode> {
        self.entries.get(path).map(|id| self.inode(*id))
    }

    fn inode(&self, id: InodeId) -> &Inode {
        self.inodes.get(id.0).expect("ids are made by `add` and inodes are never removed")
    }

    fn add(&mut self, inode: Inode) -> InodeId {
        self.inodes.push(inode);
        self.layers.push(self.applied);
        InodeId(self.inodes.len() - 1)
    }

    /// Checks that every directory above `path` is one, and makes the missing ones.
    fn ensure_parents(&mut self, path: &EntryPath) -> Result<(), EntryError> {
        let mut missing = Vec::new();
        for ancestor in path.ancestors() {
            match self.lookup(ancestor).map(|inode| &inode.kind) {
                Some(Kind::Directory) => {}
                Some(Kind::Symlink(_)) => {
                    let link = EntryPath::parse(ancestor)?.to_string();
                    return Err(EntryError::ThroughSymlink { link });
                }
                Some(Kind::File(_)) => {
                    let parent = EntryPath::parse(ancestor)?.to_string();
                    return Err(EntryError::NotInDirectory { parent });
                }
                None => missing.push(EntryPath::parse(ancestor)?),
            }
        }
        for directory in missing {
            let id = self.add(implied_directory());
            self.entries.insert(directory, id);
        }
        Ok(())
    }

    fn link_target(&self, target: &EntryPath) -> Result<InodeId, EntryError> {
        match self.entries.get(target) {
            Some(id) if self.inode(*id).is_directory() => {
                Err(EntryError::DirectoryTarget { target: target.to_string() })
            }
            Some(id) => Ok(*id),
            None => Err(EntryError::MissingTarget { target: target.to_string() }),
        }
    }

    fn remove(&mut self, path: &EntryPath) {
        self.remove_children(path);
        if !path.is_root() {
            self.entries.remove(path);
        }
    }

    fn remove_children(&mut self, path: &EntryPath) {
        let children: Vec<EntryPath> = self.children(path).cloned().collect();
        for child in children {
            self.entries.remove(&child);
        }
    }

    /// Everything below `path`, at any depth.
    fn children(&self, path: &EntryPath) -> impl Iterator<Item = &EntryPath> {
        let (mut from, mut to) = (path.as_bytes().to_vec(), path.as_bytes().to_vec());
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) = if path.is_root() {
            (Bound::Excluded(&from), Bound::Unbounded)
        } else {
            // '0' is the byte after '/', so these are all the paths that begin with `path/`.
            from.push(b'/');
            to.push(b'0');
            (Bound::Included(&from), Bound::Excluded(&to))
        };
        self.entries.range::<[u8], _>(bounds).map(|(path, _)| path)
    }
}

/// What a directory gets that no entry describes.
fn implied_directory() -> Inode {
    Inode { mode: 0o755, uid: 0, gid: 0, kind: Kind::Directory, xattrs: Box::default() }
}

impl Inode {
    pub(crate) fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory)
    }
}
