//! A ledger in memory, which shows what was written, and when asked for cannot be written any more.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use ledger::{Record, State};

use crate::journal::{Happening, Journal, JournalError, Place};

#[derive(Debug, Default)]
pub(super) struct MemoryJournal {
    files: Mutex<BTreeMap<Box<[u8]>, Vec<Record>>>,
    log: Mutex<Vec<Happening>>,
    full: AtomicBool,
}

impl MemoryJournal {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn history(&self, path: &[u8]) -> Vec<Record> {
        self.files.lock().unwrap().get(path).cloned().unwrap_or_default()
    }

    /// What is there, as recorded.
    pub(super) fn states(&self) -> BTreeMap<Box<[u8]>, State> {
        let files = self.files.lock().unwrap();
        let last = files.iter().map(|(path, history)| (path.clone(), history.last().unwrap().state.clone()));
        last.filter(|(_, state)| *state != State::Removed).collect()
    }

    pub(super) fn log(&self) -> Vec<Happening> {
        self.log.lock().unwrap().clone()
    }

    pub(super) fn fill(&self) {
        self.full.store(true, Ordering::Relaxed);
    }
}

impl Journal for MemoryJournal {
    fn current(&self, path: &[u8]) -> Result<Option<Record>, JournalError> {
        Ok(self.files.lock().unwrap().get(path).and_then(|history| history.last().cloned()))
    }

    fn present(&self, after: &[u8], limit: usize) -> Result<Vec<Box<[u8]>>, JournalError> {
        Ok(self.states().into_keys().filter(|path| **path > *after).take(limit).collect())
    }

    fn size(&self) -> u64 {
        self.log.lock().unwrap().len() as u64
    }

    fn append(&self, group: Vec<Happening>) -> Result<Vec<Place>, JournalError> {
        if self.full.load(Ordering::Relaxed) {
            return Err(JournalError("no space left on device".into()));
        }
        let mut log = self.log.lock().unwrap();
        let places = group.into_iter().map(|happening| {
            let mut sequence = 0;
            if let Happening::File { path, record } = &happening {
                let mut files = self.files.lock().unwrap();
                let history = files.entry(path.clone()).or_default();
                sequence = history.len() as u64;
                history.push(record.clone());
            }
            log.push(happening);
            Place { index: log.len() as u64 - 1, sequence }
        });
        Ok(places.collect())
    }
}
