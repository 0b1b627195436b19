//! Reads a root file system from a directory of this machine.
//!
//! Who made the directory, when, with which umask and in which order must not show in the image. So everything
//! belongs to root; directories have mode 0755, or 1777 if they are sticky; files 0755 if their owner may execute
//! them, else 0644. An archive or an image layout keeps owners and modes as they are. Extended attributes that an image can
//! have are part of what the files are.

use std::{
    collections::HashMap,
    fs::{DirEntry, Metadata},
    io,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use erofs::Xattr;
use rustix::{
    fs::{lgetxattr, llistxattr},
    io::Errno,
};

use crate::{
    archive::check_symlink_target,
    content::Content,
    error::{EntryError, LayerError},
    intake::Intake,
    limits::MAX_FILE_BYTES,
    notes::NoteKind,
    path::EntryPath,
    tree::{Inode, Kind, NewEntry, Tree},
    xattrs::{CAPABILITY, Xattrs, for_everybody, is_kept},
};

/// Most bytes of names that Linux lists, and of one value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
const MAX_LIST_BYTES: usize = 64 << 10;

/// Reads the directory `root`. Symbolic links in it are taken as they are and never followed.
pub(crate) fn read_directory(root: &Path, intake: &mut Intake) -> Result<Tree, LayerError> {
    let mut walk =
        Walk { intake, tree: Tree::new(), seen: HashMap::new(), buffer: vec![0; 2 * MAX_LIST_BYTES] };
    walk.take_root(root)?;
    // Own stack: a directory may be nested deeper than a thread's stack is.
    let mut pending = vec![(root.to_owned(), EntryPath::root())];
    while let Some((directory, path)) = pending.pop() {
        for entry in sorted_entries(&directory).map_err(|e| read_error(&directory, e))? {
            let name = entry.file_name();
            let child = path.join(name.as_bytes()).map_err(|e| e.at(&path))?;
            if walk.take(&entry.path(), &child)? {
                pending.push((entry.path(), child));
            }
        }
    }
    Ok(walk.tree)
}

fn sorted_entries(directory: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = directory.read_dir()?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(DirEntry::file_name);
    Ok(entries)
}

fn read_error(path: &Path, source: io::Error) -> LayerError {
    LayerError::Read { path: path.to_owned(), source }
}

struct Walk<'a> {
    intake: &'a mut Intake,
    tree: Tree,
    /// Where files with several names were seen first, by device and inode.
    seen: HashMap<(u64, u64), EntryPath>,
    /// For names of extended attributes, then for a value.
    buffer: Vec<u8>,
}

impl Walk<'_> {
    fn take_root(&mut self, root: &Path) -> Result<(), LayerError> {
        let metadata = root.metadata().map_err(|e| read_error(root, e))?;
        if !metadata.is_dir() {
            return Err(EntryError::RootNotDirectory.at(root.display()));
        }
        let xattrs = self.attributes(root, &EntryPath::root())?;
        let inode = owned_by_root(directory_mode(&metadata), Kind::Directory, xattrs);
        self.tree.insert(&EntryPath::root(), NewEntry::Inode(inode)).map_err(|e| e.at("/"))
    }

    /// Takes one entry. True if it is a directory, to be walked next.
    fn take(&mut self, host: &Path, path: &EntryPath) -> Result<bool, LayerError> {
        let metadata = host.symlink_metadata().map_err(|e| read_error(host, e))?;
        let file_type = metadata.file_type();
        let target = if file_type.is_symlink() { symlink_target(host)? } else { Vec::new() };
        self.intake.take_entry(path.as_bytes().len() + target.len())?;
        let entry = if file_type.is_dir() {
            let xattrs = self.attributes(host, path)?;
            NewEntry::Inode(owned_by_root(directory_mode(&metadata), Kind::Directory, xattrs))
        } else if file_type.is_symlink() {
            check_symlink_target(&target).map_err(|e| e.at(path))?;
            NewEntry::Inode(owned_by_root(0o777, Kind::Symlink(target), Box::default()))
        } else if file_type.is_file() {
            self.file(host, path, &metadata)?
        } else {
            self.leave_out(path, &metadata)?;
            return Ok(false);
        };
        self.tree.insert(path, entry).map_err(|e| e.at(path))?;
        Ok(file_type.is_dir())
    }

    fn file(&mut self, host: &Path, path: &EntryPath, metadata: &Metadata) -> Result<NewEntry, LayerError> {
        if metadata.nlink() > 1 {
            let inode = (metadata.dev(), metadata.ino());
            if let Some(first) = self.seen.get(&inode) {
                return Ok(NewEntry::HardLink(first.clone()));
            }
            self.seen.insert(inode, path.clone());
        }
        if metadata.len() > MAX_FILE_BYTES {
            return Err(EntryError::FileTooLarge { found: metadata.len() }.at(path));
        }
        self.intake.take_bytes(metadata.len())?;
        if metadata.mode() & 0o6000 != 0 {
            self.intake.note(NoteKind::SetIdDropped, path);
        }
        let mode = if metadata.mode() & 0o100 == 0 { 0o644 } else { 0o755 };
        let content = Content::path(host.to_owned(), metadata);
        let xattrs = self.attributes(host, path)?;
        Ok(NewEntry::Inode(owned_by_root(mode, Kind::File(content), xattrs)))
    }

    /// The extended attributes of a file or directory.
    fn attributes(&mut self, host: &Path, path: &EntryPath) -> Result<Box<[Xattr]>, LayerError> {
        let unreadable = |errno: Errno| read_error(host, errno.into());
        let (names, value) = self.buffer.split_at_mut(MAX_LIST_BYTES);
        let len = match llistxattr(host, &mut *names) {
            // A file system that has none.
            Err(Errno::NOTSUP) | Ok(0) => return Ok(Box::default()),
            found => found.map_err(unreadable)?,
        };
        let mut xattrs = Xattrs::default();
        for name in names[..len].split(|b| *b == 0).filter(|name| !name.is_empty()) {
            let mut found = Vec::new();
            if is_kept(name) {
                let len = lgetxattr(host, name, &mut *value).map_err(unreadable)?;
                found = value[..len].to_vec();
            }
            if name == CAPABILITY {
                found = for_everybody(found);
            }
            xattrs.set(name.to_vec(), found);
        }
        self.intake.take_names(xattrs.bytes())?;
        if xattrs.left_out {
            self.intake.note(NoteKind::AttributesLeftOut, path);
        }
        xattrs.into_checked().map_err(|e| e.at(path))
    }

    fn leave_out(&mut self, path: &EntryPath, metadata: &Metadata) -> Result<(), LayerError> {
        let file_type = metadata.file_type();
        let kind = if file_type.is_socket() {
            self.intake.note(NoteKind::SocketLeftOut, path);
            return Ok(());
        } else if file_type.is_fifo() && !path.is_below(b"dev") {
            self.intake.note(NoteKind::PipeLeftOut, path);
            return Ok(());
        } else if file_type.is_fifo() {
            "named pipe"
        } else if file_type.is_block_device() {
            "block device"
        } else {
            "character device"
        };
        if !path.is_below(b"dev") {
            return Err(EntryError::Device { kind }.at(path));
        }
        self.intake.note(NoteKind::DeviceLeftOut, path);
        Ok(())
    }
}

fn symlink_target(host: &Path) -> Result<Vec<u8>, LayerError> {
    let target: PathBuf = host.read_link().map_err(|e| read_error(host, e))?;
    Ok(target.into_os_string().into_vec())
}

fn directory_mode(metadata: &Metadata) -> u32 {
    if metadata.mode() & 0o1000 == 0 { 0o755 } else { 0o1777 }
}

fn owned_by_root(mode: u32, kind: Kind, xattrs: Box<[Xattr]>) -> Inode {
    Inode { mode, uid: 0, gid: 0, kind, xattrs }
}
