//! Which path an entry of the log is about. The log does not say: it is known while the record is made, and otherwise found
//! among the ledger's paths.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ledger::{
    Key, Kind, Observation,
    store::{Error, Ledger},
};
use tokio::sync::broadcast::{Receiver, error::TryRecvError};

/// Most paths remembered from records as they were made.
const MAX_FRESH: usize = 8192;
/// Entries whose paths are looked for in one go through all paths, which takes about a second for a million of them.
const WINDOW: usize = 32 * 1024;
/// Paths read at a time.
const PAGE: usize = 1024;

type Records = Receiver<Arc<(Vec<u8>, Observation)>>;

#[derive(Debug)]
pub(super) struct Paths {
    ledger: Arc<Ledger>,
    records: Records,
    /// By index in the log.
    fresh: HashMap<u64, Vec<u8>>,
    /// By place in the map.
    found: HashMap<Key, Vec<u8>>,
}

impl Paths {
    pub(super) fn new(ledger: Arc<Ledger>, records: Records) -> Self {
        Self { ledger, records, fresh: HashMap::new(), found: HashMap::new() }
    }

    /// The path of the file that entry `index` is about. Entries are asked for in their order.
    pub(super) fn path(&mut self, index: u64, subject: &Key) -> Result<Vec<u8>, Error> {
        self.receive(index);
        if let Some(path) = self.fresh.get(&index).or_else(|| self.found.get(subject)) {
            return Ok(path.clone());
        }
        self.search(index)?;
        let wrong = || Error::Corrupt { what: format!("no path of entry {index}") };
        self.found.get(subject).cloned().ok_or_else(wrong)
    }

    /// Takes what was recorded meanwhile. Who lags behind loses the oldest, which are then searched for.
    fn receive(&mut self, index: u64) {
        if self.fresh.len() >= MAX_FRESH {
            self.fresh.retain(|known, _| *known >= index);
        }
        while self.fresh.len() < MAX_FRESH {
            match self.records.try_recv() {
                Ok(record) => drop(self.fresh.insert(record.1.index, record.0.clone())),
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// Looks for the paths of the entries from `index` on.
    fn search(&mut self, index: u64) -> Result<(), Error> {
        let entries = self.ledger.entries(index, WINDOW)?;
        let files = entries.into_iter().filter(|(_, entry)| entry.kind == Kind::File);
        let mut wanted: HashSet<Key> = files.map(|(_, entry)| entry.subject).collect();
        self.found.clear();
        let mut after: Option<Vec<u8>> = None;
        while !wanted.is_empty() {
            let page = self.ledger.files(after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.path().to_vec());
            for file in page {
                if wanted.remove(&file.key()) {
                    self.found.insert(file.key(), file.path().to_vec());
                }
            }
        }
        Ok(())
    }
}
