//! Reading without proofs: for the ledger's own side, which trusts it.

use redb::ReadableDatabase as _;

use super::prove::Reader;
use super::tables::{FILES, STREAMS, corrupt};
use super::{File, Ledger, Logged, What};
use crate::store::Error;
use crate::{Entry, Gap, Key, Kind, Observation, Record, StreamEntry, StreamName, StreamPayload, Value};

impl Ledger {
    /// Entries in the log.
    pub fn size(&self) -> u64 {
        self.current().checkpoint.size
    }

    /// Subjects in the map: files and streams.
    pub fn subjects(&self) -> u64 {
        self.current().map.len()
    }

    /// What the map says of a subject now: how many entries it has, and which is the last.
    pub fn value(&self, key: &Key) -> Option<Value> {
        self.current().map.value(key)
    }

    /// The last record of a file; `None` if there is none.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn last(&self, file: &File) -> Result<Option<Observation>, Error> {
        self.last_at(file, None)
    }

    /// The last record of a file at the checkpoint of size `at`, or now; `None` if there was none.
    ///
    /// # Errors
    /// [`Error::NotRetained`], and those of the disk.
    pub fn last_at(&self, file: &File, at: Option<u64>) -> Result<Option<Observation>, Error> {
        let Some(value) = self.snapshot(at)?.map.value(&file.key) else { return Ok(None) };
        observation(&self.reader()?, value.last).map(Some)
    }

    /// Up to `limit` records of a file, the last one first.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn history(&self, file: &File, limit: usize) -> Result<Vec<Observation>, Error> {
        let mut next = self.value(&file.key).map(|value| value.last);
        let reader = self.reader()?;
        let mut history = Vec::new();
        while let Some(index) = next.filter(|_| history.len() < limit) {
            let entry = decode(index, &reader.entry(index)?)?;
            history.push(observation(&reader, index)?);
            next = entry.previous;
        }
        Ok(history)
    }

    /// Up to `limit` files that were ever recorded, whose paths come after `after`, in order of bytes.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn files(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<File>, Error> {
        use std::ops::Bound::{Excluded, Unbounded};
        // Not more than what is shown elsewhere, which is behind the disk for a moment.
        let shown = self.current().map;
        let table = self.db.begin_read()?.open_table(FILES)?;
        let rows = table.range::<&[u8]>((after.map_or(Unbounded, Excluded), Unbounded))?;
        let files = rows.map(|row| {
            let (path, key) = row?;
            Ok(File { path: path.value().to_vec(), key: Key(key.value()) })
        });
        let is_shown = |file: &File| shown.value(&file.key).is_some();
        files.filter(|file| file.as_ref().map_or(true, is_shown)).take(limit).collect()
    }

    /// Up to `limit` entries of the log from number `from` on.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn entries(&self, from: u64, limit: usize) -> Result<Vec<(u64, Entry)>, Error> {
        // As for the files.
        let size = self.size();
        let reader = self.reader()?;
        let rows = reader.entries.range(from..size.max(from))?.take(limit);
        rows.map(|row| {
            let (index, entry) = row?;
            Ok((index.value(), decode(index.value(), entry.value())?))
        })
        .collect()
    }

    /// As [`Ledger::entries`], with what each of them stands for.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn logged(&self, from: u64, limit: usize) -> Result<Vec<Logged>, Error> {
        let entries = self.entries(from, limit)?.into_iter();
        let reader = self.reader()?;
        entries
            .map(|(index, entry)| Ok(Logged { what: what(&reader, index, &entry)?, index, entry }))
            .collect()
    }

    /// Up to `limit` entries of a stream from number `from` on.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn stream(&self, name: &StreamName, from: u64, limit: usize) -> Result<Vec<StreamEntry>, Error> {
        let (key, size) = (name.key().0, self.size());
        let indices = self.db.begin_read()?.open_table(STREAMS)?;
        let reader = self.reader()?;
        let mut entries = Vec::new();
        for row in indices.range((key, from)..=(key, u64::MAX))?.take(limit) {
            let index = row?.1.value();
            if index < size {
                entries.push(stream_entry(&reader, index)?);
            }
        }
        Ok(entries)
    }
}

fn decode(index: u64, entry: &[u8]) -> Result<Entry, Error> {
    Entry::decode(entry).map_err(|_| corrupt(format!("entry {index}")))
}

fn observation(reader: &Reader, index: u64) -> Result<Observation, Error> {
    let Entry { sequence, time, .. } = decode(index, &reader.entry(index)?)?;
    let record = Record::decode(&reader.payload(index)?).map_err(|_| corrupt(format!("record {index}")))?;
    Ok(Observation { index, sequence, time, record })
}

fn what(reader: &Reader, index: u64, entry: &Entry) -> Result<What, Error> {
    let payload = reader.payload(index)?;
    Ok(match entry.kind {
        Kind::File => What::File(observation(reader, index)?),
        Kind::Gap => What::Gap(Gap::decode(&payload).map_err(|_| corrupt(format!("gap {index}")))?),
        Kind::Stream => What::Stream(payload),
    })
}

fn stream_entry(reader: &Reader, index: u64) -> Result<StreamEntry, Error> {
    let Entry { kind, sequence, time, .. } = decode(index, &reader.entry(index)?)?;
    let payload = reader.payload(index)?;
    let payload = match kind {
        Kind::Gap => StreamPayload::Gap(Gap::decode(&payload).map_err(|_| corrupt(format!("gap {index}")))?),
        Kind::File | Kind::Stream => StreamPayload::Bytes(payload),
    };
    Ok(StreamEntry { index, sequence, time, payload })
}
