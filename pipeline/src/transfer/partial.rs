//! A file on its way in: written under a name of its own, renamed when it is whole.
//!
//! The unfinished file is `.glasshouse-HASH.partial` in the directory of the final name, where HASH depends on that name
//! only, so that the next attempt finds it. It is locked while it is written. What is left of an attempt that was cut
//! needs no other state: the next one compares the digest of its bytes with the sender's.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT},
    io::{self, Errno},
};

use super::{
    confine::{expect_kind, kind_word, look},
    content::hash_prefix,
    entry::Meta,
    error::TransferError,
    path::{is_partial_name, partial_name},
    wire::Beat,
};

/// Less than this of a file is not worth keeping when a transfer is cut, in bytes.
pub const KEPT_BYTES: u64 = 64 << 10;
/// How often opening is tried again when others take the file away.
const OPEN_ATTEMPTS: usize = 16;

/// A file that is not yet whole. Dropped before it is, it is removed, unless [`Partial::keep`] was said.
#[derive(Debug)]
pub(crate) struct Partial {
    directory: Arc<OwnedFd>,
    name: Vec<u8>,
    file: OwnedFd,
    length: u64,
    ends: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Remove,
    Keep,
    Renamed,
}

impl Partial {
    /// Opens what an earlier attempt for `name` left, or a new file.
    pub(crate) fn open(directory: &Arc<OwnedFd>, name: &[u8], path: &[u8]) -> Result<Self, TransferError> {
        let name = partial_name(name);
        for _ in 0..OPEN_ATTEMPTS {
            if let Some((file, length)) = open_once(directory.as_fd(), &name, path)? {
                return Ok(Self { directory: Arc::clone(directory), name, file, length, ends: End::Remove });
            }
        }
        Err(TransferError::Busy { path: path.to_vec() })
    }

    /// Whether an earlier attempt for `name` left something.
    pub(crate) fn is_there(directory: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
        Ok(look(directory, &partial_name(name))?.is_some())
    }

    /// How many bytes of the file are there.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The digest's state after what is there; `None` if somebody shortened it.
    pub(crate) fn hash(&self, beat: &Beat) -> Result<Option<blake3::Hasher>, Errno> {
        hash_prefix(&self.file, self.length, beat)
    }

    /// Takes the file up: from here on it is removed again, unless it is kept or finished.
    pub(crate) fn take_up(&mut self) {
        self.ends = End::Remove;
    }

    /// Throws away what is there.
    pub(crate) fn restart(&mut self) -> Result<(), Errno> {
        if self.length > 0 {
            fs::ftruncate(&self.file, 0)?;
            self.length = 0;
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let count = io::retry_on_intr(|| io::pwrite(&self.file, bytes, self.length))?;
            if count == 0 {
                return Err(Errno::NOSPC);
            }
            bytes = &bytes[count..];
            self.length += count as u64;
        }
        Ok(())
    }

    pub(crate) fn hole(&mut self, length: u64) -> Result<(), Errno> {
        let end = self.length.checked_add(length).ok_or(Errno::FBIG)?;
        fs::ftruncate(&self.file, end)?;
        self.length = end;
        Ok(())
    }

    /// Leaves what is there for another attempt.
    pub(crate) fn keep(&mut self) {
        self.ends = End::Keep;
    }

    /// Gives the file its metadata and its final name.
    pub(crate) fn finish(mut self, name: &[u8], meta: Meta, durable: bool) -> Result<(), Errno> {
        apply(self.file.as_fd(), meta)?;
        if durable {
            fs::fsync(&self.file)?;
        }
        fs::renameat(&*self.directory, &self.name, &*self.directory, name)?;
        self.ends = End::Renamed;
        if durable { fs::fsync(&*self.directory) } else { Ok(()) }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let keep = match self.ends {
            End::Renamed => true,
            End::Keep => self.length >= KEPT_BYTES,
            End::Remove => false,
        };
        if !keep {
            // It is locked, so the name is still this file's. If it cannot be removed now, a later transfer does.
            let _ = fs::unlinkat(&*self.directory, &self.name, AtFlags::empty());
        }
    }
}

/// One attempt; `None` if somebody else changed what was found meanwhile.
fn open_once(
    directory: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
) -> Result<Option<(OwnedFd, u64)>, TransferError> {
    let failed = |error| TransferError::io(path, "create it", error);
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let new = flags | OFlags::CREATE | OFlags::EXCL;
    let file = match fs::openat(directory, name, new, Mode::RUSR | Mode::WUSR) {
        Err(Errno::EXIST) => {
            let Some(found) = look(directory, name).map_err(failed)? else { return Ok(None) };
            if !is_ours(&found) {
                fs::unlinkat(directory, name, AtFlags::empty()).map_err(failed)?;
                return Ok(None);
            }
            match fs::openat(directory, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => return Ok(None),
                other => other,
            }
        }
        other => other,
    }
    .map_err(failed)?;
    match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Err(TransferError::Busy { path: path.to_vec() }),
        other => other.map_err(failed)?,
    }
    // Between opening and locking, whoever had the lock may have given the file its final name.
    let (held, named) = (fs::fstat(&file).map_err(failed)?, look(directory, name).map_err(failed)?);
    let same = named.is_some_and(|named| is_ours(&named) && is_same(&named, &held));
    Ok(same.then(|| (file, u64::try_from(held.st_size).unwrap_or(0))))
}

/// Whether an unfinished file is one that a transfer of this user made: nobody else may choose what is written to.
fn is_ours(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_nlink == 1
        && stat.st_uid == rustix::process::geteuid().as_raw()
}

pub(crate) fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Gives an open file or directory its mode and time.
pub(crate) fn apply(file: BorrowedFd<'_>, meta: Meta) -> Result<(), Errno> {
    fs::fchmod(file, Mode::from_raw_mode(meta.mode))?;
    fs::futimens(file, &times(meta))
}

pub(crate) fn times(meta: Meta) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: meta.seconds, tv_nsec: meta.nanoseconds.into() },
    }
}

/// Refuses to put a file or link where something stands that it must not replace.
pub(crate) fn check_replaceable(
    directory: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
) -> Result<(), TransferError> {
    let failed = |error| TransferError::io(path, "look at it", error);
    let Some(found) = look(directory, name).map_err(failed)? else { return Ok(()) };
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile | FileType::Symlink => Ok(()),
        found => Err(TransferError::Kind {
            path: path.to_vec(),
            found: kind_word(found),
            expected: kind_word(FileType::RegularFile),
        }),
    }
}

/// Opens a regular file without following links or waiting.
pub(crate) fn open_regular(
    directory: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
) -> Result<(OwnedFd, Stat), TransferError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = fs::openat(directory, name, flags, Mode::empty())
        .map_err(|error| TransferError::io(path, "open it", error))?;
    let stat = fs::fstat(&file).map_err(|error| TransferError::io(path, "look at it", error))?;
    expect_kind(path, &stat, FileType::RegularFile)?;
    Ok((file, stat))
}

/// Removes what interrupted transfers left in a directory whose transfer is complete. What another transfer is writing
/// is locked, and stays.
pub(crate) fn remove_stale(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    for entry in fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !is_partial_name(name) || !look(directory, name)?.is_some_and(|stat| is_ours(&stat)) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = fs::openat(directory, name, flags, Mode::empty()) else { continue };
        if fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
            && look(directory, name)?
                .is_some_and(|named| fs::fstat(&file).is_ok_and(|held| is_same(&named, &held)))
        {
            fs::unlinkat(directory, name, AtFlags::empty())?;
        }
    }
    Ok(())
}
