//! The two ramdisks of an image, which the kernel unpacks over each other into the root directory.
//!
//! Their contents are specified in `docs/spec/image.md`.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
};

use eif::cpio::{Device, Entry, HardLink, Kind as CpioKind, Writer};

use crate::{
    error::WriteError,
    limits::ROOTFS_PREFIX,
    path::EntryPath,
    rootfs_image::{FileSystem, IMAGE_ENTRY, MOUNT_POINTS},
    tree::{Inode, InodeId, Kind, Tree},
};

/// A file for the first ramdisk.
pub(crate) struct BootFile<'a> {
    pub(crate) content: &'a mut dyn Read,
    /// In bytes.
    pub(crate) len: u64,
}

/// Writes ramdisk 0: what boots and brings the application up.
pub(crate) fn write_boot<W: Write>(
    output: W,
    init: BootFile<'_>,
    nsm_ko: Option<BootFile<'_>>,
) -> Result<(), WriteError> {
    let mut archive = Writer::new(output);
    archive.entry(&entry("dev", 0o755, CpioKind::Directory))?;
    // The kernel opens it for init before anything is mounted.
    let console = CpioKind::CharacterDevice(Device { major: 5, minor: 1 });
    archive.entry(&entry("dev/console", 0o600, console))?;
    archive.entry(&entry("glasshouse", 0o755, CpioKind::Directory))?;
    put_file(&mut archive, "init", 0o755, init)?;
    if let Some(nsm_ko) = nsm_ko {
        put_file(&mut archive, "nsm.ko", 0o644, nsm_ko)?;
    }
    archive.entry(&entry("proc", 0o755, CpioKind::Directory))?;
    archive.entry(&entry("rootfs", 0o755, CpioKind::Directory))?;
    archive.entry(&entry("run", 0o755, CpioKind::Directory))?;
    archive.entry(&entry("sys", 0o755, CpioKind::Directory))?;
    archive.entry(&entry("tmp", 0o1777, CpioKind::Directory))?;
    archive.finish()?;
    Ok(())
}

/// The application's files, as ramdisk 1 has them.
pub(crate) enum Files<'a> {
    /// Each an entry.
    Each(&'a Tree),
    /// In a file system.
    Image(FileSystem),
}

/// Writes ramdisk 1: the measured manifest and the application's files.
pub(crate) fn write_application<W: Write>(
    output: W,
    manifest: &[u8],
    files: &Files<'_>,
) -> Result<(), WriteError> {
    let mut archive = Writer::new(output);
    let [lower, upper] = MOUNT_POINTS;
    let mount_point = |archive: &mut Writer<W>, name| match files {
        Files::Each(_) => Ok(()),
        Files::Image(_) => archive.entry(&entry(name, 0o700, CpioKind::Directory)),
    };
    archive.entry(&entry("glasshouse", 0o755, CpioKind::Directory))?;
    mount_point(&mut archive, lower)?;
    let file = BootFile { content: &mut &*manifest, len: manifest.len() as u64 };
    put_file(&mut archive, "glasshouse/manifest.json", 0o644, file)?;
    mount_point(&mut archive, upper)?;
    match files {
        Files::Each(tree) => {
            let mut names = NamesLeft::of(tree);
            for (path, id, inode) in tree.iter() {
                put_inode(&mut archive, path, inode, names.next(id))?;
            }
        }
        Files::Image(image) => {
            let mut content = image.open()?;
            let kind = CpioKind::File { size: image.len(), link: None };
            let name = IMAGE_ENTRY.to_vec();
            archive.file(&Entry { name, permissions: 0o400, uid: 0, gid: 0, kind }, &mut content)?;
        }
    }
    archive.finish()?;
    Ok(())
}

fn entry(name: &str, permissions: u32, kind: CpioKind) -> Entry {
    Entry { name: name.into(), permissions, uid: 0, gid: 0, kind }
}

fn put_file<W: Write>(
    archive: &mut Writer<W>,
    name: &str,
    permissions: u32,
    file: BootFile<'_>,
) -> Result<(), WriteError> {
    let kind = CpioKind::File { size: file.len, link: None };
    Ok(archive.file(&entry(name, permissions, kind), file.content)?)
}

fn put_inode<W: Write>(
    archive: &mut Writer<W>,
    path: &EntryPath,
    inode: &Inode,
    name: NameOfFile,
) -> Result<(), WriteError> {
    let mut content: Box<dyn Read> = Box::new(io::empty());
    let kind = match &inode.kind {
        Kind::Directory => CpioKind::Directory,
        Kind::Symlink(target) => CpioKind::Symlink { target: target.clone() },
        // The content goes with the last name.
        Kind::File(_) if !name.is_last => CpioKind::File { size: 0, link: name.link },
        Kind::File(file) => {
            let failed = |source| WriteError::Content { path: path.to_string(), source };
            content = Box::new(file.open().map_err(failed)?);
            CpioKind::File { size: file.len(), link: name.link }
        }
    };
    let name = match path.as_bytes() {
        b"" => b"rootfs".to_vec(),
        path => [ROOTFS_PREFIX, path].concat(),
    };
    let entry = Entry { name, permissions: inode.mode, uid: inode.uid, gid: inode.gid, kind };
    Ok(archive.file(&entry, &mut content)?)
}

/// Which names of a file are still to come.
struct NamesLeft(HashMap<InodeId, (u32, u32)>);

/// One name of a file.
struct NameOfFile {
    link: Option<HardLink>,
    is_last: bool,
}

impl NamesLeft {
    fn of(tree: &Tree) -> Self {
        let mut names = HashMap::new();
        for (_, id, inode) in tree.iter() {
            if matches!(inode.kind, Kind::File(_)) {
                let (all, left) = names.entry(id).or_insert((0, 0));
                (*all, *left) = (*all + 1, *left + 1);
            }
        }
        names.retain(|_, (all, _)| *all > 1);
        Self(names)
    }

    /// The next name of this inode.
    fn next(&mut self, id: InodeId) -> NameOfFile {
        let Some((all, left)) = self.0.get_mut(&id) else {
            return NameOfFile { link: None, is_last: true };
        };
        *left -= 1;
        let link = HardLink { group: id.number(), names: *all };
        NameOfFile { link: Some(link), is_last: *left == 0 }
    }
}
