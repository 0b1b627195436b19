//! Appending: whoever comes while another commits waits in a queue, and the next to commit takes all of it along.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use redb::Durability;

use super::tables::{ENTRIES, FILES, HEAD, PAYLOADS, STREAMS};
use super::{Appended, Event, Ledger, Snapshot, Writer};
use crate::log::{Frontier, leaf_hash};
use crate::store::Error;
use crate::{
    Checkpoint, Entry, Hash, Key, Kind, MAX_PAYLOAD_BYTES, Nonces, StreamName, Value, commitment, map::Map,
};

/// Appends that wait for whoever commits next.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Vec<Waiting>,
}

struct Waiting {
    time: u64,
    events: Vec<Event>,
    answer: Answer,
}

/// Where an append finds out that another has done it.
type Answer = Arc<Mutex<Option<Result<Vec<Appended>, Error>>>>;

impl Ledger {
    /// Appends `events` in their order, all or none, and returns where they are once they are durable. `time` is by the
    /// enclave's clock, in nanoseconds since 1970. Appends of several threads at a time share a commit.
    ///
    /// # Errors
    /// [`Error::PayloadTooLong`] and [`Error::Reserved`] for events that cannot be; [`Error::Storage`] if the disk fails or is
    /// full, and [`Error::Broken`] from then on.
    pub fn append(&self, time: u64, events: Vec<Event>) -> Result<Vec<Appended>, Error> {
        events.iter().try_for_each(check)?;
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let answer = Answer::default();
        let waiting = Waiting { time, events, answer: Arc::clone(&answer) };
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).waiting.push(waiting);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return done;
        }
        let all = std::mem::take(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner).waiting);
        let result = self.commit(&mut writer, &all);
        writer.broken |= result.is_err();
        let mut appended = result.as_ref().map(|appended| appended.iter().copied()).map_err(Error::clone);
        for waiting in &all {
            let own = appended.as_mut().map(|all| all.take(waiting.events.len()).collect());
            let own = own.map_err(|error| error.clone());
            *waiting.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(own);
        }
        let own = answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        own.expect("whoever is not done is in the queue")
    }

    /// Writes what waits in one transaction, then shows it.
    fn commit(&self, writer: &mut Writer, all: &[Waiting]) -> Result<Vec<Appended>, Error> {
        if writer.broken {
            return Err(Error::Broken);
        }
        let Snapshot { map, .. } = self.current();
        let mut batch = Batch::new(writer.frontier.clone(), map, &self.nonces);
        for waiting in all {
            waiting.events.iter().for_each(|event| batch.take(waiting.time, event));
        }
        let (snapshot, frontier, rows) = batch.finish();
        self.write(&snapshot.checkpoint, &rows)?;
        let appended = rows.iter().map(|row| Appended { index: row.index, sequence: row.sequence }).collect();
        let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
        rows.iter().for_each(|row| published.tree.push(row.leaf));
        published.snapshot = snapshot;
        writer.frontier = frontier;
        Ok(appended)
    }

    fn write(&self, checkpoint: &Checkpoint, rows: &[Row<'_>]) -> Result<(), Error> {
        let mut transaction = self.db.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut payloads = transaction.open_table(PAYLOADS)?;
            let mut files = transaction.open_table(FILES)?;
            let mut streams = transaction.open_table(STREAMS)?;
            for row in rows {
                entries.insert(row.index, row.entry.as_slice())?;
                payloads.insert(row.index, row.payload.as_slice())?;
                match row.event {
                    Event::File { file, .. } if row.sequence == 0 => {
                        files.insert(file.path.as_slice(), file.key.0)?;
                    }
                    Event::File { .. } => {}
                    Event::Stream { .. } | Event::Gap(_) => {
                        streams.insert((row.subject.0, row.sequence), row.index)?;
                    }
                }
            }
            let Checkpoint { size, log_root, map_root } = checkpoint;
            transaction.open_table(HEAD)?.insert((), (*size, log_root.0, map_root.0))?;
        }
        transaction.commit()?;
        Ok(())
    }
}

fn check(event: &Event) -> Result<(), Error> {
    match event {
        Event::Stream { payload, .. } if payload.len() > MAX_PAYLOAD_BYTES => {
            Err(Error::PayloadTooLong { found: payload.len() })
        }
        Event::Stream { name, .. } if name.as_str() == StreamName::LEDGER => Err(Error::Reserved),
        Event::File { record, .. } => match record.encode().len() {
            found if found > crate::MAX_RECORD_BYTES => Err(Error::PayloadTooLong { found }),
            _ => Ok(()),
        },
        Event::Stream { .. } | Event::Gap(_) => Ok(()),
    }
}

/// What one transaction appends.
struct Batch<'a> {
    frontier: Frontier,
    map: Map,
    nonces: &'a Nonces,
    heads: HashMap<Key, Value>,
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    event: &'a Event,
    subject: Key,
    index: u64,
    sequence: u64,
    entry: Vec<u8>,
    leaf: Hash,
    payload: Vec<u8>,
}

impl<'a> Batch<'a> {
    fn new(frontier: Frontier, map: Map, nonces: &'a Nonces) -> Self {
        Self { frontier, map, nonces, heads: HashMap::new(), rows: Vec::new() }
    }

    fn take(&mut self, time: u64, event: &'a Event) {
        let (kind, subject, payload) = match event {
            Event::File { file, record } => (Kind::File, file.key, record.encode()),
            Event::Stream { name, payload } => (Kind::Stream, name.key(), payload.clone()),
            Event::Gap(gap) => (Kind::Gap, StreamName::ledger().key(), gap.encode()),
        };
        let head = self.heads.get(&subject).copied().or_else(|| self.map.value(&subject));
        let (sequence, previous) = head.map_or((0, None), |head| (head.count, Some(head.last)));
        let nonce = self.nonces.nonce(&subject, sequence, &payload);
        let commitment = commitment(&nonce, &payload);
        let entry = Entry { kind, time, subject, sequence, previous, commitment }.encode();
        let (index, leaf) = (self.frontier.size(), leaf_hash(&entry));
        self.frontier.push(leaf);
        self.heads.insert(subject, Value { count: sequence + 1, last: index, leaf });
        self.rows.push(Row { event, subject, index, sequence, entry, leaf, payload });
    }

    fn finish(self) -> (Snapshot, Frontier, Vec<Row<'a>>) {
        let Self { frontier, mut map, heads, rows, .. } = self;
        map.apply(heads.into_iter().collect());
        let checkpoint =
            Checkpoint { size: frontier.size(), log_root: frontier.root(), map_root: map.root() };
        (Snapshot { checkpoint, map }, frontier, rows)
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::store::{File, Options};
    use crate::{Cause, Record, State};

    #[test]
    fn what_is_on_the_disk_is_not_shown_before_its_checkpoint_is() {
        let ledger = Ledger::open_backend(InMemoryBackend::new(), 0, Options::default()).unwrap();
        let name: StreamName = "app".parse().unwrap();
        let events = |path: &str| {
            let file = ledger.file(path.into()).unwrap();
            let record = Record { cause: Cause::Event, state: State::Removed };
            vec![Event::File { file, record }, Event::Stream { name: name.clone(), payload: path.into() }]
        };
        ledger.append(1, events("/shown")).unwrap();
        let written = events("/before");
        let frontier = ledger.writer.lock().unwrap().frontier.clone();
        let mut batch = Batch::new(frontier, ledger.current().map, &ledger.nonces);
        written.iter().for_each(|event| batch.take(1, event));
        let (snapshot, _, rows) = batch.finish();
        ledger.write(&snapshot.checkpoint, &rows).unwrap();

        let files = ledger.files(None, 1).unwrap();
        assert_eq!(files.iter().map(File::path).collect::<Vec<_>>(), [b"/shown"]);
        assert!(ledger.last(&files[0]).unwrap().is_some());
        assert_eq!(ledger.stream(&name, 0, 10).unwrap().len(), 1);
        assert_eq!(ledger.entries(0, 10).unwrap().len(), 2);
    }
}
