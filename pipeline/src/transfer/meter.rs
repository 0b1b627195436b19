//! How far a transfer is, for whoever shows it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Names of things left out that are kept for the report.
const MAX_SKIPPED_NAMES: usize = 64;

/// Counters of one transfer, updated as it goes on and read at any time.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    kept: AtomicU64,
    entries: AtomicU64,
    expected: AtomicU64,
    skipped: AtomicU64,
    names: Mutex<Vec<Vec<u8>>>,
}

impl Meter {
    /// Bytes of files done, holes and what was there before included.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }

    /// Of these, the bytes that did not have to be sent because the receiver had them.
    pub fn kept(&self) -> u64 {
        self.0.kept.load(Relaxed)
    }

    /// Files, directories and links done.
    pub fn entries(&self) -> u64 {
        self.0.entries.load(Relaxed)
    }

    /// Bytes of the whole transfer, once that is known.
    pub fn expected(&self) -> Option<u64> {
        Some(self.0.expected.load(Relaxed)).filter(|bytes| *bytes > 0)
    }

    /// How many FIFOs, sockets and devices were left out.
    pub fn skipped(&self) -> u64 {
        self.0.skipped.load(Relaxed)
    }

    /// The paths of the first of them.
    pub fn skipped_paths(&self) -> Vec<Vec<u8>> {
        self.0.names.lock().map(|names| names.clone()).unwrap_or_default()
    }

    pub(crate) fn add_bytes(&self, count: u64) {
        self.0.bytes.fetch_add(count, Relaxed);
    }

    pub(crate) fn add_kept(&self, count: u64) {
        self.0.kept.fetch_add(count, Relaxed);
        self.add_bytes(count);
    }

    pub(crate) fn add_entry(&self) {
        self.0.entries.fetch_add(1, Relaxed);
    }

    pub(crate) fn expect(&self, bytes: u64) {
        self.0.expected.store(bytes, Relaxed);
    }

    pub(crate) fn skip(&self, path: &[u8]) {
        self.0.skipped.fetch_add(1, Relaxed);
        if let Ok(mut names) = self.0.names.lock()
            && names.len() < MAX_SKIPPED_NAMES
        {
            names.push(path.to_vec());
        }
    }
}
