//! What can go wrong in a transfer, each with the name it happened to.

use std::io;

use super::{
    exclude::PatternError,
    path::{PathError, printable},
};
use crate::reply::{Code, Refusal};

/// Why a transfer did not complete.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// The connection ended before the transfer did. What was received is kept for another attempt.
    #[error("the connection was cut before the transfer was complete")]
    Cut(#[source] Option<io::Error>),
    /// Nothing moved for too long.
    #[error("nothing was transferred for {seconds} seconds")]
    Stalled {
        /// How long was waited.
        seconds: u64,
    },
    /// The other side said why it ended the transfer.
    #[error("the other side ended the transfer: {}", printable(.0.message.as_bytes()))]
    Peer(Refusal),
    /// The other side broke the protocol.
    #[error("the other side broke the protocol: {0}")]
    Protocol(&'static str),
    /// A system call on this side failed.
    #[error("{}: cannot {action}: {source}", printable(.path))]
    Io {
        /// What it was about.
        path: Vec<u8>,
        /// What could not be done.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The operator's key does not reach there.
    #[error("{}: this key may not go there", printable(.path))]
    Denied {
        /// The path.
        path: Vec<u8>,
    },
    /// A pattern of what to leave out is none.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A name or path breaks the rules.
    #[error("{}: {reason}", printable(.path))]
    Path {
        /// The path.
        path: Vec<u8>,
        /// The rule.
        reason: PathError,
    },
    /// Something is there that cannot be read from or replaced.
    #[error("{}: is {found}, not {expected}", printable(.path))]
    Kind {
        /// Where.
        path: Vec<u8>,
        /// What is there.
        found: &'static str,
        /// What would have to be there.
        expected: &'static str,
    },
    /// The file was written to while it was sent.
    #[error("{}: changed while it was being sent", printable(.path))]
    Changed {
        /// The file.
        path: Vec<u8>,
    },
    /// What arrived is not what was sent.
    #[error("{}: the digest does not agree with what was received", printable(.path))]
    Digest {
        /// The file, or the root of a tree.
        path: Vec<u8>,
    },
    /// Another transfer is writing the same file.
    #[error("{}: another transfer of this file is under way", printable(.path))]
    Busy {
        /// The file.
        path: Vec<u8>,
    },
    /// More than this side takes.
    #[error("{}: {limit}", printable(.path))]
    Limit {
        /// Where it was exceeded.
        path: Vec<u8>,
        /// Which limit.
        limit: &'static str,
    },
}

impl TransferError {
    pub(crate) fn io(path: &[u8], action: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.to_vec(), action, source: source.into() }
    }

    /// Whether another attempt can go on where this one ended.
    pub fn is_resumable(&self) -> bool {
        match self {
            Self::Cut(_) | Self::Stalled { .. } => true,
            Self::Peer(refusal) => matches!(refusal.code, Code::Idle | Code::Stopping),
            _ => false,
        }
    }

    /// What the other side is told.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(self.code(), self.to_string())
    }

    fn code(&self) -> Code {
        match self {
            Self::Io { source, .. } => io_code(source),
            Self::Denied { .. } => Code::Denied,
            Self::Path { .. } | Self::Kind { .. } => Code::PathRefused,
            Self::Digest { .. } => Code::DigestMismatch,
            Self::Peer(refusal) => refusal.code,
            Self::Stalled { .. } => Code::Idle,
            Self::Cut(_) | Self::Protocol(_) | Self::Pattern(_) => Code::Malformed,
            Self::Changed { .. } | Self::Busy { .. } | Self::Limit { .. } => Code::Failed,
        }
    }
}

fn io_code(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::NotFound => Code::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Code::NoSpace
        }
        // The kernel's word for a path that leads out.
        io::ErrorKind::CrossesDevices => Code::PathRefused,
        _ => Code::Failed,
    }
}
