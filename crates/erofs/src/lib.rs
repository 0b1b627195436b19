//! Read-only file systems in the EROFS format: files compressed with LZ4, everything else as it is.
//!
//! [`Writer`] makes the same image of the same files anywhere: times are zero, there is no identifier of the volume, and
//! nothing comes from a file system. It needs memory for names and attributes only. [`Reader`] takes images of unknown origin
//! and reads what [`Writer`] writes: other programs make valid images that it refuses by name.
//!
//! Neither touches a file of the machine but those it is given. What is in an image is decided by the caller.
//!
//! The format is the kernel's (`Documentation/filesystems/erofs.rst`); the part of it used here is in
//! `docs/spec/erofs.md`.

#![forbid(unsafe_code)]

mod format;
mod reader;
mod writer;

pub use format::{MAX_NAME_BYTES, MAX_TARGET_BYTES, PERMISSION_BITS};
pub use reader::{
    DirectoryEntry, FileReader, Inode, InodeKind, Node, Number, ReadAt, ReadError, Reader, WalkLimits,
};
pub use writer::{Attributes, Image, InodeId, Run, WriteError, Writer};

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// The whole name: `user.`, `trusted.` or `security.` and something, or `system.posix_acl_access` or
    /// `system.posix_acl_default`.
    pub name: Vec<u8>,
    /// The value, at most 65,535 bytes.
    pub value: Vec<u8>,
}
