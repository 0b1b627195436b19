//! What the monitor needs of the ledger.

use std::fmt::Debug;

use ledger::{GapReason, Record, StreamName};

/// Why the ledger cannot be read or written. The monitor ends with it.
#[derive(Debug, thiserror::Error)]
#[error("the ledger cannot be used")]
pub struct JournalError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Something that is to be in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// What was found at a path.
    File {
        /// The path.
        path: Box<[u8]>,
        /// What was found.
        record: Record,
    },
    /// Bytes in a stream.
    Stream {
        /// The stream.
        name: StreamName,
        /// The bytes, at most [`ledger::MAX_PAYLOAD_BYTES`].
        payload: Vec<u8>,
    },
    /// For some time nobody looked.
    Gap {
        /// Why.
        reason: GapReason,
        /// More words for people.
        detail: String,
    },
}

/// Where something is in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its index in the log.
    pub index: u64,
    /// How many entries its subject had before.
    pub sequence: u64,
}

/// The ledger, as far as the monitor writes it. Used by one writing thread and any number of reading ones.
pub trait Journal: Debug + Send + Sync {
    /// What was recorded of a path last.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn current(&self, path: &[u8]) -> Result<Option<Record>, JournalError>;

    /// The first `limit` recorded paths after `after`, ascending, of files that were there when they were recorded last.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    fn present(&self, after: &[u8], limit: usize) -> Result<Vec<Box<[u8]>>, JournalError>;

    /// How many entries there are.
    fn size(&self) -> u64;

    /// Appends a group, and returns once it is durable.
    ///
    /// # Errors
    /// When the ledger cannot be written. Then none of the group is acknowledged.
    fn append(&self, group: Vec<Happening>) -> Result<Vec<Place>, JournalError>;
}
