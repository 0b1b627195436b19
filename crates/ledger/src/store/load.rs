//! From the entries in the file to the trees in memory, checking that all of it is one history.
//!
//! One thread reads and hashes entries; the other grows the log's tree from them and follows each subject from entry to entry.
//! The map is made at the end, from where every subject came to: its nodes are hashed once, however long the log is.

use std::sync::mpsc::{self, SyncSender};
use std::thread;

use redb::{Database, ReadOnlyTable, ReadableDatabase as _, ReadableTable as _};

use super::tables::{ENTRIES, HEAD, corrupt};
use super::{Published, Snapshot, TREE_BASE};
use crate::log::{Frontier, Tree, leaf_hash};
use crate::store::Error;
use crate::{Checkpoint, Entry, Hash, Key, Value, map::Map};

/// Entries that one thread hands to the other at a time.
const BATCH: usize = 4096;
/// Batches that wait between them at most.
const WAITING: usize = 4;
/// Entries that are sorted by subject at a time: 25 MB of memory.
const CHUNK: usize = 1 << 18;
/// Subjects that go into the map at a time, so that the memory of all is not needed a third time.
const PORTION: usize = 1 << 16;

pub(super) struct Loaded {
    pub(super) published: Published,
    pub(super) frontier: Frontier,
    /// Of the last entry.
    pub(super) last_time: u64,
}

/// What an entry says that the next one of its subject has to fit to.
struct Link {
    subject: Key,
    sequence: u64,
    previous: Option<u64>,
    index: u64,
    leaf: Hash,
}

/// Links of consecutive entries, and the time of the last.
struct Batch {
    links: Vec<Link>,
    last_time: u64,
}

pub(super) fn load(db: &Database) -> Result<Loaded, Error> {
    let transaction = db.begin_read()?;
    let head = transaction.open_table(HEAD)?.get(())?.ok_or_else(|| corrupt("no head"))?.value();
    let expected = Checkpoint { size: head.0, log_root: Hash(head.1), map_root: Hash(head.2) };
    let entries = transaction.open_table(ENTRIES)?;
    let mut loading = Loading { tree: Tree::above(TREE_BASE), heads: Heads::default(), last_time: 0 };
    let (sender, receiver) = mpsc::sync_channel(WAITING);
    thread::scope(|scope| {
        let reader = scope.spawn(move || read(&entries, &sender));
        let taken = receiver.iter().try_for_each(|batch| loading.take(batch));
        // A reader that waits for room learns that nobody takes more.
        drop(receiver);
        let read = reader.join().expect("a corrupt file is an error, not a panic");
        taken.and(read)
    })?;
    let Loading { tree, heads, last_time } = loading;
    let (frontier, map) = (tree.frontier(), heads.into_map()?);
    let checkpoint = Checkpoint { size: frontier.size(), log_root: frontier.root(), map_root: map.root() };
    if checkpoint != expected {
        return Err(corrupt("entries and roots disagree"));
    }
    Ok(Loaded { published: Published { snapshot: Snapshot { checkpoint, map }, tree }, frontier, last_time })
}

fn read(entries: &ReadOnlyTable<u64, &'static [u8]>, batches: &SyncSender<Batch>) -> Result<(), Error> {
    let mut batch = Batch { links: Vec::with_capacity(BATCH), last_time: 0 };
    for row in entries.iter()? {
        let (index, bytes) = row?;
        let (index, bytes) = (index.value(), bytes.value());
        let Entry { subject, sequence, previous, time, .. } =
            Entry::decode(bytes).map_err(|_| wrong(index))?;
        batch.links.push(Link { subject, sequence, previous, index, leaf: leaf_hash(bytes) });
        batch.last_time = time;
        if batch.links.len() == BATCH {
            let full = std::mem::replace(&mut batch.links, Vec::with_capacity(BATCH));
            if batches.send(Batch { links: full, last_time: time }).is_err() {
                // Whoever takes them has found something wrong, and says so.
                return Ok(());
            }
        }
    }
    if !batch.links.is_empty() {
        let _ = batches.send(batch);
    }
    Ok(())
}

fn wrong(index: u64) -> Error {
    corrupt(format!("entry {index}"))
}

struct Loading {
    tree: Tree,
    heads: Heads,
    last_time: u64,
}

impl Loading {
    fn take(&mut self, batch: Batch) -> Result<(), Error> {
        for link in &batch.links {
            if link.index != self.tree.size() {
                return Err(wrong(link.index));
            }
            self.tree.push(link.leaf);
        }
        self.last_time = batch.last_time;
        self.heads.take(batch.links)
    }
}

/// Where every subject has come to.
#[derive(Default)]
struct Heads {
    /// By subject.
    all: Vec<(Key, Value)>,
    /// In order of the log, not yet among `all`.
    recent: Vec<Link>,
}

impl Heads {
    fn take(&mut self, links: Vec<Link>) -> Result<(), Error> {
        self.recent.extend(links);
        if self.recent.len() < CHUNK { Ok(()) } else { self.merge() }
    }

    /// Every link has to follow the one before it of the same subject, and the first of all has to say that it is.
    fn merge(&mut self) -> Result<(), Error> {
        self.recent.sort_unstable_by(|a, b| a.subject.cmp(&b.subject).then(a.index.cmp(&b.index)));
        let mut merged = Vec::with_capacity(self.all.len() + self.recent.len());
        let mut old = std::mem::take(&mut self.all).into_iter().peekable();
        for Link { subject, sequence, previous, index, leaf } in self.recent.drain(..) {
            while let Some(head) = old.next_if(|(key, _)| *key <= subject) {
                merged.push(head);
            }
            let head = merged.last_mut().filter(|(key, _)| *key == subject);
            let expected = head.as_ref().map_or((0, None), |(_, value)| (value.count, Some(value.last)));
            if (sequence, previous) != expected {
                return Err(wrong(index));
            }
            let value = Value { count: sequence + 1, last: index, leaf };
            match head {
                Some(head) => head.1 = value,
                None => merged.push((subject, value)),
            }
        }
        merged.extend(old);
        self.all = merged;
        Ok(())
    }

    fn into_map(mut self) -> Result<Map, Error> {
        self.merge()?;
        self.recent = Vec::new();
        let mut map = Map::new();
        self.all.chunks(PORTION).for_each(|portion| map.apply(portion.to_vec()));
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(subject: u8, sequence: u64, previous: Option<u64>, index: u64) -> Link {
        Link { subject: Key([subject; 32]), sequence, previous, index, leaf: leaf_hash(&index.to_be_bytes()) }
    }

    /// As if each of `chunks` were as many as are merged at a time.
    fn heads(chunks: Vec<Vec<Link>>) -> Result<Vec<(u8, u64, u64)>, Error> {
        let mut heads = Heads::default();
        for chunk in chunks {
            heads.take(chunk)?;
            heads.merge()?;
        }
        Ok(heads.all.iter().map(|(key, value)| (key.0[0], value.count, value.last)).collect())
    }

    #[test]
    fn subjects_are_followed_within_what_is_merged_and_across() {
        let chunks = vec![
            vec![link(5, 0, None, 0), link(3, 0, None, 1), link(5, 1, Some(0), 2)],
            vec![link(9, 0, None, 3), link(5, 2, Some(2), 4), link(1, 0, None, 5)],
            vec![link(3, 1, Some(1), 6)],
        ];
        assert_eq!(heads(chunks).unwrap(), [(1, 1, 5), (3, 2, 6), (5, 3, 4), (9, 1, 3)]);
    }

    /// A log whose every entry is well-formed and whose root is right can still tell two histories of one subject.
    #[test]
    fn a_subject_that_begins_twice_or_leaves_something_out_is_refused() {
        for (last, why) in [
            (link(5, 0, None, 1), "begins twice"),
            (link(5, 2, Some(0), 1), "leaves one out"),
            (link(5, 1, None, 1), "forgets the one before"),
            (link(5, 1, Some(1), 1), "names another"),
            (link(6, 1, Some(0), 1), "goes on without a beginning"),
        ] {
            let (again, first) = (
                || link(last.subject.0[0], last.sequence, last.previous, last.index),
                || link(5, 0, None, 0),
            );
            for chunks in [vec![vec![first(), again()]], vec![vec![first()], vec![again()]]] {
                assert!(matches!(heads(chunks), Err(Error::Corrupt { what }) if what == "entry 1"), "{why}");
            }
        }
    }
}
