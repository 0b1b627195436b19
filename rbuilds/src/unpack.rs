//! Reads an image again: the measured manifest in it, and its ramdisks into a directory.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, BufReader, Read, Write},
    os::fd::OwnedFd,
    path::Path,
    rc::Rc,
};

use eif::{
    Eif,
    cpio::{Entry, Kind, Reader},
};
use erofs::Xattr;
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags},
    io::Errno,
};

use crate::{
    Error, Limits, Note, NoteKind, UnpackError,
    content::Content,
    notes::Notes,
    path::{EntryPath, printable},
    rootfs_image::{self, IMAGE_ENTRY},
    xattrs::{CAPABILITY, is_kept},
};

/// Where the measured manifest stands in ramdisk 1, and so in the enclave.
pub const MANIFEST_PATH: &str = "/glasshouse/manifest.json";

/// The same path as the name of an entry.
pub(crate) const MANIFEST_ENTRY: &[u8] = b"glasshouse/manifest.json";

/// Longest manifest read, in bytes.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 1 << 20;

const BUFFER_BYTES: usize = 128 << 10;

/// What an unpacked file is owned by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// By the owner in the image. Needs the privilege to give files away.
    Keep,
    /// By the caller, who keeps access to every directory. Setuid and setgid bits are dropped, since they would lend
    /// the caller's rights.
    Squash,
}

/// The measured manifest of an image, as canonical JSON. The image is checked for damage, not measured.
///
/// # Errors
/// [`Error`] when the file is not an image, or not one built here.
pub fn measured_manifest(image: &Path) -> Result<Vec<u8>, Error> {
    let mut eif = open(image)?;
    let absent = || Error::NoManifest { path: image.to_owned() };
    let ramdisk = eif.ramdisks().nth(1).ok_or_else(absent)?;
    let damaged = |source| Error::Ramdisk { path: image.to_owned(), number: 1, source };
    let data = eif.read(&ramdisk).map_err(|source| image_error(image, source))?;
    let mut archive = Reader::new(data, ramdisk.size);
    archive.find_file(MANIFEST_ENTRY, MAX_MANIFEST_BYTES).map_err(damaged)?.ok_or_else(absent)
}

/// Unpacks the ramdisks of an image over each other into `directory`, which must be empty, as the kernel does at boot, and
/// a file system in them into its `rootfs`, where init would mount it.
/// Device nodes, pipes and sockets are left out. No entry reaches anything outside `directory`: names with `..` are
/// refused, and so are those that lead through a symbolic link.
///
/// Says which extended attributes could not be given to files: not every file system takes them, and [`Ownership::Squash`]
/// drops file capabilities.
///
/// # Errors
/// [`Error`] when the image is damaged, an entry is refused or cannot be written. What was unpacked until then stays.
pub fn unpack_ramdisks(image: &Path, directory: &Path, ownership: Ownership) -> Result<Vec<Note>, Error> {
    let mut eif = open(image)?;
    let unopened = |source| Error::File { doing: "open", path: image.to_owned(), source };
    let whole = Content::open_file(image).map_err(unopened)?;
    let mut target = Target::open(directory, ownership).map_err(|source| Error::File {
        doing: "unpack into",
        path: directory.to_owned(),
        source,
    })?;
    let ramdisks: Vec<_> = eif.ramdisks().collect();
    for (number, ramdisk) in ramdisks.iter().enumerate() {
        let data = eif.read(ramdisk).map_err(|source| image_error(image, source))?;
        let mut archive = Reader::new(data, ramdisk.size);
        let damaged = |source| Error::Ramdisk { path: image.to_owned(), number, source };
        while let Some(entry) = archive.next_entry().map_err(damaged)? {
            let done = match entry.kind {
                Kind::File { size, link: None } if entry.name == IMAGE_ENTRY => {
                    let at = ramdisk.offset.saturating_add(archive.position());
                    target.put_file_system(&whole.part(at, size))
                }
                _ => target.put(&entry, Vec::new(), &mut archive),
            };
            done.map_err(|source| unpack_error(&entry.name, source))?;
        }
        target.links.clear();
    }
    target.finish()
}

pub(crate) fn open(image: &Path) -> Result<Eif<BufReader<File>>, Error> {
    let file =
        File::open(image).map_err(|source| Error::File { doing: "open", path: image.to_owned(), source })?;
    Eif::open(BufReader::with_capacity(BUFFER_BYTES, file)).map_err(|source| image_error(image, source))
}

pub(crate) fn image_error(image: &Path, source: eif::ReadError) -> Error {
    Error::Image { path: image.to_owned(), source }
}

fn unpack_error(name: &[u8], source: UnpackError) -> Error {
    Error::Unpack { entry: printable(name), source }
}

/// The directory that is unpacked into.
struct Target {
    root: Rc<OwnedFd>,
    ownership: Ownership,
    /// The directory of the last entry: entries of one directory come together.
    last: (EntryPath, Rc<OwnedFd>),
    /// Files with several names: the first name, and how many are to come.
    links: HashMap<u64, (EntryPath, u32)>,
    /// Directories get their modes at the end, since a mode may forbid to put something in.
    directories: Vec<(EntryPath, Attributes)>,
    notes: Notes,
}

/// What files and directories get when they are complete.
#[derive(Clone)]
struct Attributes {
    uid: u32,
    gid: u32,
    permissions: u32,
    xattrs: Vec<Xattr>,
}

impl Target {
    fn open(directory: &Path, ownership: Ownership) -> io::Result<Self> {
        if directory.read_dir()?.next().is_some() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = Rc::new(rustix::fs::open(directory, flags, Mode::empty())?);
        let last = (EntryPath::root(), Rc::clone(&root));
        let (links, directories, notes) = (HashMap::new(), Vec::new(), Notes::default());
        Ok(Self { root, ownership, last, links, directories, notes })
    }

    /// Puts in what a file system holds.
    fn put_file_system(&mut self, content: &Content) -> Result<(), UnpackError> {
        let reader = erofs::Reader::open(content.clone(), content.len())?;
        for (entry, inode) in rootfs_image::entries(&reader, Limits::default().walk())? {
            let xattrs = reader.xattrs(&inode)?;
            match entry.kind {
                Kind::File { size: 1.., .. } => self.put(&entry, xattrs, &mut reader.file(&inode)?)?,
                _ => self.put(&entry, xattrs, &mut io::empty())?,
            }
        }
        Ok(())
    }

    fn put(&mut self, entry: &Entry, xattrs: Vec<Xattr>, content: &mut impl Read) -> Result<(), UnpackError> {
        let path = EntryPath::parse_ramdisk_name(&entry.name).map_err(UnpackError::Name)?;
        let Some((parent, name)) = path.split() else { return Ok(()) };
        let Entry { uid, gid, permissions, .. } = *entry;
        let attributes = Attributes { uid, gid, permissions, xattrs };
        match &entry.kind {
            Kind::Directory => {
                make_directory(&*self.directory(&parent)?, name)?;
                self.directories.push((path, attributes));
            }
            Kind::File { size, link } => {
                let directory = self.directory(&parent)?;
                let is_last = match link {
                    None => make(&directory, name, || create_file(&directory, name)).map(|()| true)?,
                    Some(link) => self.put_name(&path, link.group, link.names)?,
                };
                let file = fill(&directory, name, *size, content)?;
                if is_last {
                    self.complete(&file.into(), &path, attributes, FileType::RegularFile)?;
                }
            }
            Kind::Symlink { target } => {
                let directory = self.directory(&parent)?;
                make(&directory, name, || rustix::fs::symlinkat(target.as_slice(), &directory, name))?;
                self.own_symlink(&directory, name, &attributes)?;
            }
            Kind::CharacterDevice(_) | Kind::BlockDevice(_) | Kind::Fifo | Kind::Socket => {}
        }
        Ok(())
    }

    /// Opens a directory without following a symbolic link anywhere on the way.
    fn directory(&mut self, path: &EntryPath) -> io::Result<Rc<OwnedFd>> {
        if self.last.0 == *path {
            return Ok(Rc::clone(&self.last.1));
        }
        let mut directory = Rc::clone(&self.root);
        for component in path.as_bytes().split(|b| *b == b'/').filter(|c| !c.is_empty()) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            directory = Rc::new(rustix::fs::openat(&directory, component, flags, Mode::empty())?);
        }
        self.last = (path.clone(), Rc::clone(&directory));
        Ok(directory)
    }

    /// Makes one name of a file that has several. True if it was the last.
    fn put_name(&mut self, path: &EntryPath, group: u64, names: u32) -> io::Result<bool> {
        let (parent, name) = path.split().unwrap_or_else(|| (EntryPath::root(), b"."));
        let directory = self.directory(&parent)?;
        let Some((first, left)) = self.links.get(&group).cloned() else {
            make(&directory, name, || create_file(&directory, name))?;
            self.links.insert(group, (path.clone(), names.saturating_sub(1)));
            return Ok(names <= 1);
        };
        let (first_parent, first_name) = first.split().unwrap_or_else(|| (EntryPath::root(), b"."));
        let from = self.directory(&first_parent)?;
        make(&directory, name, || rustix::fs::linkat(&from, first_name, &directory, name, AtFlags::empty()))?;
        let left = left.saturating_sub(1);
        self.links.insert(group, (first, left));
        Ok(left == 0)
    }

    /// Gives a file or directory that is complete its owner, mode and extended attributes.
    fn complete(
        &mut self,
        file: &OwnedFd,
        path: &EntryPath,
        attributes: Attributes,
        kind: FileType,
    ) -> io::Result<()> {
        let Attributes { uid, gid, permissions, xattrs } = attributes;
        let permissions = match (self.ownership, kind) {
            (Ownership::Keep, _) => permissions,
            (Ownership::Squash, FileType::Directory) => permissions & 0o1777 | 0o700,
            (Ownership::Squash, _) => permissions & 0o1777,
        };
        if self.ownership == Ownership::Keep {
            rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        // After the owner: giving a file away drops its capabilities and its setuid bit. Before the mode, which may forbid it.
        let given = xattrs.iter().filter(|xattr| self.give(file, xattr)).count();
        if given < xattrs.len() {
            self.notes.add(NoteKind::AttributesNotUnpacked, path);
        }
        Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(permissions))?)
    }

    /// Gives a file an extended attribute, if it is one that images have.
    fn give(&self, file: &OwnedFd, xattr: &Xattr) -> bool {
        let lends_rights = self.ownership == Ownership::Squash && xattr.name == CAPABILITY;
        is_kept(&xattr.name)
            && !lends_rights
            && rustix::fs::fsetxattr(file, &*xattr.name, &xattr.value, XattrFlags::empty()).is_ok()
    }

    fn own_symlink(&self, directory: &OwnedFd, name: &[u8], attributes: &Attributes) -> io::Result<()> {
        if self.ownership == Ownership::Keep {
            let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(directory, name, Some(uid), Some(gid), flags)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Note>, Error> {
        let mut directories = std::mem::take(&mut self.directories);
        // A later ramdisk's word on a directory is the last one.
        let mut done: HashSet<EntryPath> = HashSet::new();
        directories.reverse();
        for (path, attributes) in directories {
            if done.insert(path.clone()) {
                self.complete_directory(&path, attributes)
                    .map_err(|e| unpack_error(path.as_bytes(), UnpackError::File(e)))?;
            }
        }
        Ok(self.notes.into_vec())
    }

    fn complete_directory(&mut self, path: &EntryPath, attributes: Attributes) -> io::Result<()> {
        let (parent, name) = path.split().unwrap_or_else(|| (EntryPath::root(), b"."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(self.directory(&parent)?, name, flags, Mode::empty())?;
        self.complete(&directory, path, attributes, FileType::Directory)
    }
}

/// Gives a file its content.
fn fill(directory: &OwnedFd, name: &[u8], size: u64, content: &mut impl Read) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(directory, name, flags, Mode::empty())?);
    copy(content, &mut file, size)?;
    Ok(file)
}

/// Makes something in the place of the file that may be there. A directory is never replaced.
fn make(directory: &OwnedFd, name: &[u8], create: impl Fn() -> Result<(), Errno>) -> io::Result<()> {
    match create() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
            Ok(create()?)
        }
        result => Ok(result?),
    }
}

fn create_file(directory: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR).map(drop)
}

/// Makes a directory, or keeps the one that is there.
fn make_directory(directory: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match rustix::fs::mkdirat(directory, name, Mode::RWXU) {
        Err(Errno::EXIST) => {
            let there = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(there.st_mode) {
                FileType::Directory => Ok(()),
                _ => Err(io::ErrorKind::NotADirectory.into()),
            }
        }
        result => Ok(result?),
    }
}

fn copy(content: &mut impl Read, file: &mut File, size: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(size).unwrap_or(BUFFER_BYTES))];
    let mut left = size;
    while left > 0 {
        let n = content.read(&mut buffer)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.write_all(&buffer[..n])?;
        left = left.saturating_sub(n as u64);
    }
    Ok(())
}
