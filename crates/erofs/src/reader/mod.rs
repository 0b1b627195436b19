//! Reads images of unknown origin, as far as [`crate::Writer`] could have written them.
//!
//! What an image says of a place or a length is compared with the image's own length before anything is read or held.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod directory;
mod fields;
mod file;
mod inode;
mod walk;

use std::{fs::File, io, os::unix::fs::FileExt};

use crate::format::{
    BLOCK_BITS, BLOCK_BYTES, COMPAT_MTIME, INCOMPAT_BIG_CLUSTER, INCOMPAT_ZERO_PADDING, LZ4_BIT, MAGIC,
    SLOT_BYTES, SUPERBLOCK_AT, SUPERBLOCK_BYTES,
};

use self::fields::Fields;
pub use self::{
    directory::DirectoryEntry,
    file::FileReader,
    inode::{Inode, InodeKind},
    walk::{Node, WalkLimits},
};

/// Where an image is read from.
pub trait ReadAt {
    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When there are not as many bytes, or they cannot be read.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }
}

impl ReadAt for File {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Its source fails.
    #[error("the file system image cannot be read")]
    Io(#[from] io::Error),
    /// There is no superblock.
    #[error("it is no EROFS file system")]
    NoSuperblock,
    /// It uses what is not read here.
    #[error("it is an EROFS file system with {what}, which is not read here")]
    Unsupported {
        /// What that is.
        what: &'static str,
    },
    /// Something lies outside the image.
    #[error("{what} lies outside the file system image")]
    Outside {
        /// What that is.
        what: &'static str,
    },
    /// Something contradicts itself.
    #[error("{what} is malformed")]
    Malformed {
        /// What that is.
        what: &'static str,
    },
    /// There are more entries, or more bytes of names, than may be held in memory.
    #[error("the file system image has more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
}

/// Names an inode of an image by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(u64);

impl Number {
    /// As a number.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// An image opened for reading.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    /// In bytes.
    len: u64,
    /// Where inodes begin, in bytes.
    inodes_at: u64,
    root: Number,
}

impl<S: ReadAt> Reader<S> {
    /// Opens an image of `len` bytes.
    ///
    /// # Errors
    /// [`ReadError`] when it is none, or not one that is read here.
    pub fn open(source: S, len: u64) -> Result<Self, ReadError> {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        if len < BLOCK_BYTES {
            return Err(ReadError::NoSuperblock);
        }
        source.read_exact_at(&mut bytes, SUPERBLOCK_AT as u64)?;
        let fields = Fields(&bytes);
        if fields.u32(0) != MAGIC {
            return Err(ReadError::NoSuperblock);
        }
        let known = fields.u8(12) == BLOCK_BITS
            && fields.u8(13) == 0
            && fields.u32(8) & !COMPAT_MTIME == 0
            && fields.u32(80) == INCOMPAT_ZERO_PADDING | INCOMPAT_BIG_CLUSTER
            && fields.u16(84) == LZ4_BIT;
        if !known {
            return Err(ReadError::Unsupported { what: "features other than LZ4" });
        }
        if u64::from(fields.u32(36)).saturating_mul(BLOCK_BYTES) != len {
            return Err(ReadError::Malformed { what: "the length in the superblock" });
        }
        let inodes_at = u64::from(fields.u32(40)).saturating_mul(BLOCK_BYTES);
        Ok(Self { source, len, inodes_at, root: Number(fields.u16(14).into()) })
    }

    /// The root directory.
    pub fn root(&self) -> Number {
        self.root
    }

    /// Fills `buf` from `at`, after looking whether that is within the image.
    fn read(&self, buf: &mut [u8], at: u64, what: &'static str) -> Result<(), ReadError> {
        let end = at.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        end.ok_or(ReadError::Outside { what })?;
        Ok(self.source.read_exact_at(buf, at)?)
    }

    fn place(&self, number: Number) -> Result<u64, ReadError> {
        let at = number.0.checked_mul(SLOT_BYTES).and_then(|at| at.checked_add(self.inodes_at));
        at.ok_or(ReadError::Outside { what: "an inode" })
    }
}
