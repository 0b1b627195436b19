//! Opening what another party named, without ever leaving what it may reach.
//!
//! Every path is resolved by the kernel from the descriptor of a directory (`openat2(2)`), so that a symbolic link that
//! is swapped in meanwhile is judged by the same call that follows it. Below a capability's own directory, links are
//! followed only while they stay below it. The last component of something that is written is never followed.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};

use super::{
    error::TransferError,
    path::{RemotePath, check_name},
};

/// How often a resolution is tried again when directories are renamed at the same time.
const RESOLVE_ATTEMPTS: usize = 64;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The directory that operators see as `/`.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
}

/// One name in one directory that is held open.
#[derive(Debug)]
pub struct Place {
    pub(crate) directory: OwnedFd,
    pub(crate) name: Vec<u8>,
    /// For messages.
    pub(crate) shown: Vec<u8>,
}

impl Root {
    /// Opens the directory below which everything happens.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, TransferError> {
        let shown = path.as_os_str().as_encoded_bytes();
        let directory = fs::open(path, DIRECTORY, Mode::empty())
            .map_err(|error| TransferError::io(shown, "open the root", error))?;
        Ok(Self { directory })
    }

    /// Opens a file for reading that one of `allowed` covers.
    ///
    /// # Errors
    ///
    /// If nothing covers it, if it leads outside, or if it is not a regular file. FIFOs and devices are not opened.
    pub fn file(&self, path: &RemotePath, allowed: &[RemotePath]) -> Result<OwnedFd, TransferError> {
        let shown = path.to_bytes();
        let found = self.resolve(path, allowed, OFlags::PATH)?;
        let stat = fs::fstat(&found).map_err(|error| TransferError::io(&shown, "look at it", error))?;
        expect_kind(&shown, &stat, FileType::RegularFile)?;
        reopen(&found, OFlags::RDONLY).map_err(|error| TransferError::io(&shown, "open it", error))
    }

    /// Opens a directory for reading that one of `allowed` covers.
    ///
    /// # Errors
    ///
    /// As for [`Self::file`].
    pub fn directory(&self, path: &RemotePath, allowed: &[RemotePath]) -> Result<OwnedFd, TransferError> {
        self.resolve(path, allowed, DIRECTORY)
    }

    /// Opens the directory that holds `path`, to make or replace its last component.
    ///
    /// # Errors
    ///
    /// If none of `allowed` covers the path, it leads outside, or the directory is not there.
    pub fn place(&self, path: &RemotePath, allowed: &[RemotePath]) -> Result<Place, TransferError> {
        let shown = path.to_bytes();
        let Some(name) = path.name() else {
            return Ok(Place {
                directory: self.resolve(path, allowed, DIRECTORY)?,
                name: b".".to_vec(),
                shown,
            });
        };
        let above = shown.len().saturating_sub(name.len());
        let parent = RemotePath::parse(&shown[..above])
            .map_err(|reason| TransferError::Path { path: shown.clone(), reason })?;
        // A capability for exactly this path allows to make it; its directory is then only passed through.
        let directory = if covering(path, allowed)? == path {
            self.open_beneath(self.directory.as_fd(), parent.relative(), true, DIRECTORY)
                .map_err(|error| TransferError::io(&parent.to_bytes(), "open the directory", error))?
        } else {
            self.resolve(&parent, allowed, DIRECTORY)?
        };
        Ok(Place { directory, name: name.to_vec(), shown })
    }

    fn resolve(
        &self,
        path: &RemotePath,
        allowed: &[RemotePath],
        flags: OFlags,
    ) -> Result<OwnedFd, TransferError> {
        let shown = path.to_bytes();
        let failed = |error: Errno| {
            let action = if error == Errno::XDEV { "leave what this key may reach" } else { "open it" };
            TransferError::io(&shown, action, error)
        };
        let widest = covering(path, allowed)?;
        let below = path.below(widest).unwrap_or_default();
        let root = self.directory.as_fd();
        if widest.relative().is_empty() {
            return self.open_beneath(root, below, true, flags).map_err(failed);
        }
        if below.is_empty() {
            return self.open_beneath(root, widest.relative(), true, flags).map_err(failed);
        }
        let base = self
            .open_beneath(root, widest.relative(), true, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(failed)?;
        self.open_beneath(base.as_fd(), below, false, flags).map_err(failed)
    }

    /// Opens `path` below `base`. With `as_root`, absolute links mean `base`, as they do for a process whose root it is;
    /// otherwise they lead outside and are refused.
    fn open_beneath(
        &self,
        base: BorrowedFd<'_>,
        path: &[u8],
        as_root: bool,
        flags: OFlags,
    ) -> Result<OwnedFd, Errno> {
        let within = if as_root { ResolveFlags::IN_ROOT } else { ResolveFlags::BENEATH };
        resolve(base, path, flags, within | ResolveFlags::NO_MAGICLINKS)
    }
}

impl Place {
    /// A place that the user of this side named: the directory above is resolved as usual, the name is not followed.
    ///
    /// # Errors
    ///
    /// If its directory cannot be opened.
    pub fn local(path: &Path) -> Result<Self, TransferError> {
        let shown = path.as_os_str().as_encoded_bytes().to_vec();
        let Some(name) = path.file_name() else {
            return Ok(Self { directory: local_directory(path)?, name: b".".to_vec(), shown });
        };
        let name = name.as_encoded_bytes().to_vec();
        check_name(&name).map_err(|reason| TransferError::Path { path: shown.clone(), reason })?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = fs::open(parent, DIRECTORY, Mode::empty()).map_err(|error| {
            TransferError::io(parent.as_os_str().as_encoded_bytes(), "open the directory", error)
        })?;
        Ok(Self { directory, name, shown })
    }
}

impl Place {
    /// Refuses a transfer for which there is no room, before it begins. What is announced decides nothing else.
    pub(crate) fn check_room(&self, bytes: u64) -> Result<(), TransferError> {
        let failed = |error| TransferError::io(&self.shown, "make room for it", error);
        let room = fs::fstatvfs(&self.directory).map_err(failed)?;
        if room.f_blocks > 0 && room.f_bavail.saturating_mul(room.f_frsize) < bytes {
            return Err(failed(Errno::NOSPC));
        }
        Ok(())
    }
}

/// The widest of `allowed` that covers `path`.
fn covering<'a>(path: &RemotePath, allowed: &'a [RemotePath]) -> Result<&'a RemotePath, TransferError> {
    let covers = allowed.iter().filter(|one| path.is_within(one));
    covers
        .min_by_key(|one| one.relative().len())
        .ok_or_else(|| TransferError::Denied { path: path.to_bytes() })
}

/// Opens `path` below `base`, by no link and across nothing that leads outside.
pub(crate) fn open_beneath_without_links(
    base: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    resolve(
        base,
        path,
        flags,
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}

fn resolve(base: BorrowedFd<'_>, path: &[u8], flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    for _ in 0..RESOLVE_ATTEMPTS {
        match fs::openat2(base, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens what an `O_PATH` descriptor stands for.
fn reopen(found: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsRawFd;
    let itself = format!("/proc/self/fd/{}", found.as_raw_fd());
    fs::open(itself, flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())
}

/// Opens a regular file that the user of this side named. FIFOs and devices are not opened.
///
/// # Errors
///
/// If it cannot be opened or is something else.
pub fn local_file(path: &Path) -> Result<OwnedFd, TransferError> {
    let shown = path.as_os_str().as_encoded_bytes();
    let found = fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| TransferError::io(shown, "open it", error))?;
    let stat = fs::fstat(&found).map_err(|error| TransferError::io(shown, "look at it", error))?;
    expect_kind(shown, &stat, FileType::RegularFile)?;
    reopen(&found, OFlags::RDONLY).map_err(|error| TransferError::io(shown, "open it", error))
}

/// Opens a directory that the user of this side named.
///
/// # Errors
///
/// If it cannot be opened or is something else.
pub fn local_directory(path: &Path) -> Result<OwnedFd, TransferError> {
    fs::open(path, DIRECTORY, Mode::empty())
        .map_err(|error| TransferError::io(path.as_os_str().as_encoded_bytes(), "open it", error))
}

/// What is at `name`, without following it.
pub(crate) fn look(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Refuses what is not of kind `expected`.
pub(crate) fn expect_kind(path: &[u8], stat: &Stat, expected: FileType) -> Result<(), TransferError> {
    let found = FileType::from_raw_mode(stat.st_mode);
    if found == expected {
        return Ok(());
    }
    Err(TransferError::Kind { path: path.to_vec(), found: kind_word(found), expected: kind_word(expected) })
}

/// A kind of file, in words.
pub(crate) fn kind_word(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something unknown",
    }
}
