//! The application's files as one compressed file system, and how that is found in a ramdisk again.
//!
//! The kernel is to leave the file system where it is: it skips a file whose directory is not in the archive, and init
//! reads it from the ramdisk itself (`docs/spec/image.md`).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs::File,
    io::{self, Read},
    path::Path,
};

use eif::cpio::{Entry, HardLink, Kind as CpioKind};
use erofs::{
    Attributes, Image, Inode, InodeId, InodeKind, Node, Number, ReadAt, ReadError, Reader, WalkLimits, Writer,
};

use crate::{
    content::Content,
    error::WriteError,
    layer_cache::LayerCache,
    limits::ROOTFS_PREFIX,
    path::EntryPath,
    runs::{self, KeptRun, RunFile},
    source::Application,
    tree::{self, Kind, Tree},
};

/// The name of the file system in ramdisk 1. No entry makes the directory it is in.
pub(crate) const IMAGE_ENTRY: &[u8] = b"rootfs.image/erofs";

/// Directories of ramdisk 1 where init mounts: the file system, and what is written above it. The first tells init that
/// there is one.
pub(crate) const MOUNT_POINTS: [&str; 2] = ["glasshouse/lower", "glasshouse/upper"];

/// Keeps groups of names apart from those of the archive around the file system.
const GROUPS: u64 = 1 << 63;

/// How many bytes of files a run has at least, unless it is the last one: with less there is little to be gained by keeping
/// it apart.
const MIN_RUN_BYTES: u64 = 8 << 20;

/// A file system in the pieces that it was made of.
pub(crate) struct FileSystem {
    superblock: Vec<u8>,
    runs: Vec<Content>,
    metadata: Content,
}

impl FileSystem {
    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        let runs = self.runs.iter().map(Content::len).sum::<u64>();
        self.superblock.len() as u64 + runs + self.metadata.len()
    }

    /// All of it.
    pub(crate) fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        let mut all: Box<dyn Read> = Box::new(self.superblock.as_slice());
        for piece in self.runs.iter().chain([&self.metadata]) {
            all = Box::new(all.chain(piece.open()?));
        }
        Ok(all)
    }
}

/// Makes the file system of an application. Temporary files lie in `folder` and have no names; runs of blocks are taken from
/// and left in `cache`.
pub(crate) fn make(
    application: &Application,
    folder: &Path,
    cache: Option<&LayerCache>,
) -> Result<FileSystem, WriteError> {
    match make_with(application, folder, cache) {
        // The cache may be full, which is no reason to fail.
        Err(WriteError::FileSystem(erofs::WriteError::Io(_))) if cache.is_some() => {
            make_with(application, folder, None)
        }
        made => made,
    }
}

fn make_with(
    application: &Application,
    folder: &Path,
    cache: Option<&LayerCache>,
) -> Result<FileSystem, WriteError> {
    let tree = &application.tree;
    let file = || tempfile::tempfile_in(folder).map_err(WriteError::File);
    let mut builder = Builder::new(file()?, tree)?;
    let groups = groups(tree);
    let names: Vec<_> =
        groups.iter().map(|group| runs::name(&application.origins, group.named(tree))).collect();
    let mut kept = cache.map(|cache| runs::find_all(cache, &names)).unwrap_or_default().into_iter();
    let mut runs = Vec::new();
    for (group, name) in groups.iter().zip(&names) {
        let place = cache.zip(name.as_ref());
        runs.push(match kept.next().flatten() {
            Some(kept) => builder.put_known(group, kept)?,
            None => builder.put_run(group, RunFile::create(place, folder).map_err(WriteError::File)?)?,
        });
    }
    builder.put_names(tree)?;
    let mut metadata = file()?;
    let Image { superblock, metadata_bytes } = builder.writer.finish(&mut metadata)?;
    Ok(FileSystem { superblock, runs, metadata: Content::slice(metadata.into(), 0, metadata_bytes) })
}

/// Files and symbolic links of one layer, or of several that follow each other, in order of layers and then of paths.
#[derive(Default)]
struct Group<'a> {
    files: Vec<(&'a EntryPath, tree::InodeId, &'a tree::Inode)>,
    bytes: u64,
}

impl<'a> Group<'a> {
    /// The files with the layers that they are from.
    fn named(&self, tree: &Tree) -> impl Iterator<Item = (usize, &'a tree::Inode)> {
        self.files.iter().map(|(_, id, inode)| (tree.layer(*id), *inode))
    }
}

/// Parts the files between layers, so that what is of lower ones stays as it is when upper ones change.
fn groups(tree: &Tree) -> Vec<Group<'_>> {
    let mut layers: BTreeMap<usize, Group<'_>> = BTreeMap::new();
    let mut seen = HashSet::new();
    for (path, id, inode) in tree.iter().filter(|(_, _, inode)| !inode.is_directory()) {
        if seen.insert(id) {
            let layer = layers.entry(tree.layer(id)).or_default();
            layer.files.push((path, id, inode));
            if let Kind::File(content) = &inode.kind {
                layer.bytes = layer.bytes.saturating_add(content.len());
            }
        }
    }
    let mut groups: Vec<Group<'_>> = Vec::new();
    for layer in layers.into_values() {
        match groups.last_mut().filter(|group| group.bytes < MIN_RUN_BYTES) {
            Some(group) => {
                group.files.extend(layer.files);
                group.bytes = group.bytes.saturating_add(layer.bytes);
            }
            None => groups.push(layer),
        }
    }
    groups
}

struct Builder {
    writer: Writer<RunFile>,
    /// By path.
    directories: HashMap<Vec<u8>, InodeId>,
    /// Files with several names are made once.
    made: HashMap<u64, InodeId>,
}

impl Builder {
    fn new(tails: File, tree: &Tree) -> Result<Self, WriteError> {
        let root = tree.lookup(b"").expect("there is always a root");
        let writer = Writer::new(tails, &attributes(root))?;
        let directories = HashMap::from([(Vec::new(), writer.root())]);
        Ok(Self { writer, directories, made: HashMap::new() })
    }

    fn put_run(&mut self, group: &Group<'_>, file: RunFile) -> Result<Content, WriteError> {
        self.writer.begin_run(file);
        self.put_files(group)?;
        let (run, file) = self.writer.end_run()?;
        let file = file.expect("what is written to is given back");
        file.finish(&run).map_err(|e| erofs::WriteError::Io(e).into())
    }

    fn put_known(&mut self, group: &Group<'_>, kept: KeptRun) -> Result<Content, WriteError> {
        self.writer.begin_known_run(&kept.run);
        self.put_files(group)?;
        self.writer.end_run()?;
        Ok(kept.blocks)
    }

    fn put_files(&mut self, group: &Group<'_>) -> Result<(), WriteError> {
        for (path, id, inode) in &group.files {
            let made = self.put(path, inode)?;
            self.made.insert(id.number(), made);
        }
        Ok(())
    }

    /// Puts directories in, and the names of everything.
    fn put_names(&mut self, tree: &Tree) -> Result<(), WriteError> {
        for (path, id, inode) in tree.iter().skip(1) {
            let made = match self.made.get(&id.number()) {
                Some(made) => *made,
                None => self.put(path, inode)?,
            };
            let (parent, name) = path.split().expect("only the root has no name");
            let parent = self.directories.get(parent.as_bytes()).copied();
            let parent = parent.expect("directories come before what is in them");
            self.writer.name(parent, name, made)?;
            if inode.is_directory() {
                self.directories.insert(path.as_bytes().to_vec(), made);
            }
        }
        Ok(())
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
    let xattrs = inode.xattrs.to_vec();
    Attributes { permissions: inode.mode, uid: inode.uid, gid: inode.gid, xattrs }
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
