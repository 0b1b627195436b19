//! Archives in cpio's "newc" format, as Linux unpacks them into its root file system at boot.
//!
//! [`Writer`] makes the same archive of the same entries anywhere: times are zero, inode numbers count up from 1 in
//! the order of entries, and nothing comes from a file system. [`Reader`] takes archives of unknown origin. Neither
//! touches a file: an entry's name is bytes, and whoever creates files under such names must confine them (`..`,
//! a leading `/`, a way through a symbolic link).
//!
//! The format is described in the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`, and here in
//! `docs/spec/eif.md`, "Ramdisks".

mod header;
mod reader;
mod writer;

pub use reader::{ReadError, Reader};
pub use writer::{WriteError, Writer};

/// The longest name and the longest target of a symbolic link, in bytes: Linux's `PATH_MAX` without the NUL. The kernel
/// silently skips an entry whose name is longer.
pub const MAX_PATH_BYTES: usize = 4095;
/// The largest file, in bytes: sizes have eight hexadecimal digits.
pub const MAX_FILE_BYTES: u64 = u32::MAX as u64;
/// The permission bits an entry may have, with set-user-ID, set-group-ID and sticky.
pub const PERMISSION_BITS: u32 = 0o7777;

/// The name that ends an archive.
const TRAILER: &[u8] = b"TRAILER!!!";
/// Names and contents are padded to a multiple of this, in bytes.
const ALIGNMENT: u64 = 4;

/// One name in an archive and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path, with neither a NUL nor the trailer's name: 1 to [`MAX_PATH_BYTES`] bytes. Directories come before
    /// what is in them.
    pub name: Vec<u8>,
    /// Permissions: some of [`PERMISSION_BITS`].
    pub permissions: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// What it is.
    pub kind: Kind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// The length of the content that goes with this entry, in bytes. Of a file with several names, only the last
        /// one has content; the others say 0.
        size: u64,
        /// Says which other entries are the same file; `None` for a file with one name.
        link: Option<HardLink>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads: 1 to [`MAX_PATH_BYTES`] bytes.
        target: Vec<u8>,
    },
    /// A character device.
    CharacterDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

/// What makes names the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardLink {
    /// The same for all names of one file. To the writer any number will do; the reader gives the inode number, with
    /// the number of the archive in the upper half when several follow each other.
    pub group: u64,
    /// How many names the file has, at least 2.
    pub names: u32,
}

/// The number of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

impl Kind {
    /// The file type bits of a mode (`S_IFMT`).
    fn type_bits(&self) -> u32 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharacterDevice(_) => 0o020_000,
            Self::Directory => 0o040_000,
            Self::BlockDevice(_) => 0o060_000,
            Self::File { .. } => 0o100_000,
            Self::Symlink { .. } => 0o120_000,
            Self::Socket => 0o140_000,
        }
    }
}

/// How many zero bytes follow `length` bytes.
fn padding(length: u64) -> u64 {
    length.wrapping_neg() % ALIGNMENT
}

/// A name for an error: printable, and marked where it is not text.
fn printable(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

#[cfg(test)]
mod tests;
