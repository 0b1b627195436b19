//! Why the log does not do what was asked.

use crate::{Broken, EntryError, RESERVED, store::MAX_SEARCHED};

/// Why the log does not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The storage failed.
    #[error("the log's storage")]
    Storage(#[source] Box<redb::Error>),
    /// What is stored cannot be opened with this key, or was changed.
    #[error("{what} {number} cannot be opened: another key, or changed")]
    Sealed {
        /// `entry` or `agent`.
        what: &'static str,
        /// Its number.
        number: u64,
    },
    /// What is stored is no chain.
    #[error("the stored log is broken")]
    Broken(#[from] Broken),
    /// What was asked for, or is stored, is beyond a limit or malformed.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// Types that begin with [`RESERVED`] are the log's own.
    #[error("types that begin with {RESERVED:?} are the log's own")]
    Reserved,
    /// No more fits.
    #[error("the log is full")]
    Full,
    /// The log has been closed, or no agent is there yet.
    #[error("the log is not open: register an agent first")]
    NotOpen,
    /// Content is looked for in too many entries.
    #[error("content is looked for in at most {MAX_SEARCHED} entries: narrow the query")]
    TooBroad,
    /// No random bytes.
    #[error("no random bytes")]
    Random,
}

impl Error {
    pub(super) fn storage(error: impl Into<redb::Error>) -> Self {
        Self::Storage(Box::new(error.into()))
    }
}
