//! Why a ledger cannot be opened, written or proven.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{MAX_CHAIN, MAX_PATH_BYTES, MAX_PAYLOAD_BYTES, MAX_PROOF_BYTES, StreamName};

/// Why a ledger cannot be opened, written or proven.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be opened.
    #[error("cannot open {}", path.display())]
    File {
        /// The file, or the folder that it is in.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// Another process, or another [`super::Ledger`], has it open.
    #[error("the ledger is open already")]
    AlreadyOpen,
    /// The disk failed or is full, or the file is no ledger. Of an append that failed so, all is there when the ledger is
    /// opened again, or nothing.
    #[error("cannot read or write the ledger's file")]
    Storage(#[source] Arc<redb::Error>),
    /// An earlier append failed, so that it is not known what the disk holds.
    #[error("the ledger's file failed before; open it again")]
    Broken,
    /// What the file holds does not add up.
    #[error("the ledger's file is corrupt: {what}")]
    Corrupt {
        /// What does not.
        what: String,
    },
    /// A path that no file of Linux has.
    #[error("a path of {found} bytes is longer than {MAX_PATH_BYTES}")]
    PathTooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// A payload that an entry cannot have.
    #[error("a payload of {found} bytes is longer than {MAX_PAYLOAD_BYTES}")]
    PayloadTooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// A stream that is the ledger's own.
    #[error("the stream {} is the ledger's own", StreamName::LEDGER)]
    Reserved,
    /// No checkpoint of that size was handed out lately.
    #[error("a log of {size} entries cannot be proven against any more")]
    NotRetained {
        /// The size.
        size: u64,
    },
    /// Sizes of which the log has not both, or in the wrong order.
    #[error("the log has {size} entries, asked for {from} to {to}")]
    Range {
        /// Entries in the log.
        size: u64,
        /// Of the old checkpoint.
        from: u64,
        /// Of the new one.
        to: u64,
    },
    /// More entries than [`MAX_CHAIN`], or bytes than [`MAX_PROOF_BYTES`].
    #[error("a proof opens at most {MAX_CHAIN} entries and has at most {MAX_PROOF_BYTES} bytes")]
    ProofTooLong,
}

/// Everything that redb calls by names of its own.
macro_rules! storage {
    ($($error:ty),*) => {
        $(impl From<$error> for Error {
            fn from(error: $error) -> Self {
                Error::Storage(Arc::new(error.into()))
            }
        })*
    };
}

storage!(redb::StorageError, redb::TransactionError, redb::TableError, redb::CommitError);
storage!(redb::SetDurabilityError);
