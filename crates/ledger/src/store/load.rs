//! From the entries in the file to the trees in memory, checking that all of it is one history.

use std::collections::HashMap;

use redb::{Database, ReadableDatabase as _, ReadableTable as _};

use super::tables::{ENTRIES, HEAD, corrupt};
use super::{Published, Snapshot, TREE_BASE};
use crate::log::{Frontier, Tree, leaf_hash};
use crate::store::Error;
use crate::{Checkpoint, Entry, Hash, Key, Value, map::Map};

/// Entries that go into the map at a time, so that loading does not need the memory of all heads at once.
const CHUNK: usize = 1 << 16;

pub(super) struct Loaded {
    pub(super) published: Published,
    pub(super) frontier: Frontier,
    /// Of the last entry.
    pub(super) last_time: u64,
}

pub(super) fn load(db: &Database) -> Result<Loaded, Error> {
    let transaction = db.begin_read()?;
    let head = transaction.open_table(HEAD)?.get(())?.ok_or_else(|| corrupt("no head"))?.value();
    let expected = Checkpoint { size: head.0, log_root: Hash(head.1), map_root: Hash(head.2) };
    let mut loading = Loading::default();
    for row in transaction.open_table(ENTRIES)?.iter()? {
        let (index, entry) = row?;
        loading.take(index.value(), entry.value())?;
    }
    loading.flush();
    let Loading { frontier, tree, map, last_time, .. } = loading;
    let checkpoint = Checkpoint { size: frontier.size(), log_root: frontier.root(), map_root: map.root() };
    if checkpoint != expected {
        return Err(corrupt("entries and roots disagree"));
    }
    Ok(Loaded { published: Published { snapshot: Snapshot { checkpoint, map }, tree }, frontier, last_time })
}

struct Loading {
    frontier: Frontier,
    tree: Tree,
    map: Map,
    recent: HashMap<Key, Value>,
    last_time: u64,
}

impl Default for Loading {
    fn default() -> Self {
        Self {
            frontier: Frontier::new(),
            tree: Tree::above(TREE_BASE),
            map: Map::new(),
            recent: HashMap::new(),
            last_time: 0,
        }
    }
}

impl Loading {
    fn take(&mut self, index: u64, bytes: &[u8]) -> Result<(), Error> {
        let wrong = || corrupt(format!("entry {index}"));
        let entry = Entry::decode(bytes).map_err(|_| wrong())?;
        let head = self.recent.get(&entry.subject).copied().or_else(|| self.map.value(&entry.subject));
        let (sequence, previous) = head.map_or((0, None), |head| (head.count, Some(head.last)));
        if index != self.frontier.size() || entry.sequence != sequence || entry.previous != previous {
            return Err(wrong());
        }
        let leaf = leaf_hash(bytes);
        self.frontier.push(leaf);
        self.tree.push(leaf);
        self.last_time = entry.time;
        self.recent.insert(entry.subject, Value { count: sequence + 1, last: index, leaf });
        if self.recent.len() >= CHUNK {
            self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) {
        self.map.apply(self.recent.drain().collect());
    }
}
