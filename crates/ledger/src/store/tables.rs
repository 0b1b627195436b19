//! What is in the file.

use redb::TableDefinition;

use crate::store::Error;

/// `format` and the secrets.
pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Index in the log to entry.
pub(super) const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
/// Index in the log to payload.
pub(super) const PAYLOADS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("payloads");
/// Path to key, of every file that the log knows.
pub(super) const FILES: TableDefinition<'_, &[u8], [u8; 32]> = TableDefinition::new("files");
/// Key of a stream and sequence number to index in the log.
pub(super) const STREAMS: TableDefinition<'_, ([u8; 32], u64), u64> = TableDefinition::new("streams");
/// The state after the last commit: size and both roots.
pub(super) const HEAD: TableDefinition<'_, (), (u64, [u8; 32], [u8; 32])> = TableDefinition::new("head");

/// Of the tables above.
pub(super) const FORMAT: &[u8] = b"glasshouse ledger 1";

pub(super) fn corrupt(what: impl Into<String>) -> Error {
    Error::Corrupt { what: what.into() }
}
