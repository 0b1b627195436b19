//! The application's files as one compressed file system, and how that is found in a ramdisk again.
//!
//! The kernel is to leave the file system where it is: it skips a file whose directory is not in the archive, and init
//! reads it from the ramdisk itself (`docs/spec/image.md`).

use std::{collections::HashMap, fs::File, io, path::Path};

use eif::cpio::{Entry, HardLink, Kind as CpioKind};
use erofs::{
    Attributes, Inode, InodeId, InodeKind, Node, Number, ReadAt, ReadError, Reader, WalkLimits, Writer,
};

use crate::{
    content::Content,
    error::WriteError,
    limits::ROOTFS_PREFIX,
    path::EntryPath,
    tree::{self, Kind, Tree},
};

/// The name of the file system in ramdisk 1. No entry makes the directory it is in.
pub(crate) const IMAGE_ENTRY: &[u8] = b"rootfs.image/erofs";

/// Directories of ramdisk 1 where init mounts: the file system, and what is written above it. The first tells init that
/// there is one.
pub(crate) const MOUNT_POINTS: [&str; 2] = ["glasshouse/lower", "glasshouse/upper"];

/// Keeps groups of names apart from those of the archive around the file system.
const GROUPS: u64 = 1 << 63;

/// Makes the file system of an application in a temporary file, which lies in `folder` and has no name.
pub(crate) fn make(tree: &Tree, folder: &Path) -> Result<Content, WriteError> {
    let file = || tempfile::tempfile_in(folder).map_err(WriteError::File);
    let mut builder = Builder::new(file()?, file()?, tree)?;
    for (path, id, inode) in tree.iter().skip(1) {
        let made = match builder.made.get(&id.number()) {
            Some(made) => *made,
            None => builder.put(path, inode)?,
        };
        builder.made.insert(id.number(), made);
        let (parent, name) = path.split().expect("only the root has no name");
        let parent = builder.directories.get(parent.as_bytes()).copied();
        let parent = parent.expect("directories come before what is in them");
        builder.writer.name(parent, name, made)?;
        if inode.is_directory() {
            builder.directories.insert(path.as_bytes().to_vec(), made);
        }
    }
    let (file, len) = builder.writer.finish()?;
    Ok(Content::slice(file.into(), 0, len))
}

struct Builder {
    writer: Writer,
    /// By path.
    directories: HashMap<Vec<u8>, InodeId>,
    /// Files with several names are made once.
    made: HashMap<u64, InodeId>,
}

impl Builder {
    fn new(image: File, tails: File, tree: &Tree) -> Result<Self, WriteError> {
        let root = tree.lookup(b"").expect("there is always a root");
        let writer = Writer::new(image, tails, &attributes(root))?;
        let directories = HashMap::from([(Vec::new(), writer.root())]);
        Ok(Self { writer, directories, made: HashMap::new() })
    }

    fn put(&mut self, path: &EntryPath, inode: &tree::Inode) -> Result<InodeId, WriteError> {
        let attributes = attributes(inode);
        let unreadable = |source| WriteError::Content { path: path.to_string(), source };
        Ok(match &inode.kind {
            Kind::Directory => self.writer.directory(&attributes)?,
            Kind::Symlink(target) => self.writer.symlink(&attributes, target)?,
            Kind::File(content) => {
                let mut reader = content.open().map_err(unreadable)?;
                match self.writer.file(&attributes, &mut reader, content.len()) {
                    Err(erofs::WriteError::Content(source)) => return Err(unreadable(source)),
                    made => made?,
                }
            }
        })
    }
}

fn attributes(inode: &tree::Inode) -> Attributes {
    Attributes { permissions: inode.mode, uid: inode.uid, gid: inode.gid, xattrs: Vec::new() }
}

/// Everything in a file system as the entries that the same files would be in an archive, in order of their names, each
/// with its inode: of a file with several names, only the last has content.
pub(crate) fn entries(
    reader: &Reader<Content>,
    limits: WalkLimits,
) -> Result<Vec<(Entry, Inode)>, ReadError> {
    let mut nodes: Vec<Node> = Vec::new();
    reader.walk(limits, |node| {
        nodes.push(node);
        Ok::<_, ReadError>(())
    })?;
    nodes.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let mut names: HashMap<Number, (u32, u32)> = HashMap::new();
    for node in nodes.iter().filter(|node| node.inode.kind == InodeKind::File) {
        let (all, left) = names.entry(node.inode.number).or_default();
        (*all, *left) = (*all + 1, *left + 1);
    }
    let entry = |Node { path, inode }: Node| {
        let kind = match inode.kind {
            InodeKind::Directory => CpioKind::Directory,
            InodeKind::Symlink => CpioKind::Symlink { target: reader.symlink(&inode)? },
            InodeKind::File => {
                let (all, left) = names.get_mut(&inode.number).expect("all files were counted");
                *left -= 1;
                let link = (*all > 1).then(|| HardLink { group: GROUPS | inode.number.get(), names: *all });
                CpioKind::File { size: if *left == 0 { inode.size } else { 0 }, link }
            }
        };
        let name = match path.as_slice() {
            b"" => b"rootfs".to_vec(),
            path => [ROOTFS_PREFIX, path].concat(),
        };
        let Inode { permissions, uid, gid, .. } = inode;
        Ok((Entry { name, permissions, uid, gid, kind }, inode))
    };
    nodes.into_iter().map(entry).collect()
}

impl ReadAt for Content {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        Self::read_exact_at(self, buf, offset)
    }
}
