//! Files and directories from one side to the other: whole, checked and confined, or not at all.
//!
//! A transfer has a sender and a receiver; which of them is the client depends on the verb. Both work
//! on a thread of their own while a task moves bytes. [`TransferVerbs`] is the server's
//! side of the verbs and [`client`] the other.
//!
//! - A file appears under its name when all of it is there and its BLAKE3 digest agrees, and not before.
//! - What a peer names is one component in a directory that is held open, so neither `..`, nor a link, nor a directory
//!   moved meanwhile leads elsewhere. Nothing but new files is written to.
//! - What a cut transfer left is found again by the next one, and used if its digest agrees.
//! - Memory does not grow with files or trees.
//!
//! Spec: `docs/spec/transfer.md`.

mod answer;
mod bridge;
pub mod cli;
pub mod client;
mod confine;
mod content;
pub mod entry;
mod error;
mod exclude;
mod inflow;
mod meter;
mod partial;
mod path;
mod receive;
mod send;
mod verbs;
mod wire;

use std::{
    fmt,
    io::{Read, Write},
    os::fd::OwnedFd,
};

pub use confine::{Place, Root, local_directory, local_file};
pub use error::TransferError;
pub use exclude::{Excludes, MAX_PATTERN_BYTES, MAX_PATTERNS, PatternError};
pub use meter::Meter;
pub use partial::KEPT_BYTES;
pub use path::{
    MAX_NAME_BYTES, MAX_PATH_BYTES, PathError, RemotePath, check_name, check_relative, printable,
};
pub use receive::MAX_DEPTH;
pub use verbs::TransferVerbs;

/// How many bytes a file takes on its disk, which is what it will take on the other side at most.
pub(crate) fn allocated(file: &OwnedFd, shown: &[u8]) -> Result<u64, TransferError> {
    let stat = rustix::fs::fstat(file).map_err(|error| TransferError::io(shown, "look at it", error))?;
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    Ok(content::size(&stat).min(blocks.saturating_mul(content::STAT_BLOCK_BYTES)))
}

/// What is sent.
pub enum Source {
    /// A regular file.
    File {
        /// The open file.
        file: OwnedFd,
        /// Its path, for messages.
        shown: Vec<u8>,
    },
    /// Bytes until they end. They cannot be gone on with after a cut.
    Stream {
        /// Where they come from.
        stream: Box<dyn Read + Send>,
        /// The mode of the file that they become.
        mode: u32,
    },
    /// A directory and all that is in it.
    Tree {
        /// The open directory.
        directory: OwnedFd,
        /// Its path, for messages.
        shown: Vec<u8>,
        /// What is left out.
        excludes: Excludes,
    },
}

/// Where it goes.
pub enum Target {
    /// A file.
    File {
        /// Its name.
        place: Place,
        /// Its mode, in place of what the sender says.
        mode: Option<u32>,
    },
    /// A stream, which may have got bytes when it turns out that their digest does not agree.
    Stream(Box<dyn Write + Send>),
    /// A directory, new or there already.
    Tree(Place),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File { .. } => "Source::File",
            Self::Stream { .. } => "Source::Stream",
            Self::Tree { .. } => "Source::Tree",
        })
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File { .. } => "Target::File",
            Self::Stream(_) => "Target::Stream",
            Self::Tree(_) => "Target::Tree",
        })
    }
}

/// How a receiver goes about it.
#[derive(Clone, Copy, Debug)]
pub struct ReceiveOptions {
    /// Go on with what is there.
    pub resume: bool,
    /// Keep set-user-id and set-group-id bits, which are dropped otherwise.
    pub special_bits: bool,
    /// Have every file on its disk before it gets its name, and every name before the transfer is confirmed.
    pub durable: bool,
    /// Most bytes of files that are taken.
    pub max_bytes: u64,
    /// Most files, directories and links that are taken.
    pub max_entries: u64,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self { resume: true, special_bits: false, durable: false, max_bytes: u64::MAX, max_entries: u64::MAX }
    }
}

/// A transfer that is complete and was confirmed by both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What it was.
    pub total: entry::Total,
    /// The digest of the content, if it was one file.
    pub content: Option<entry::Digest>,
}
