//! A ledger in a file: appends that are durable when they return, and proofs at any checkpoint that was handed out lately.
//!
//! One process has a ledger open, with any number of threads. Appends that wait at the same time share one commit. Payloads
//! and entries are in the file (redb), the map and the upper part of the log's tree in memory: about 130 bytes a
//! subject and 8 an entry. Nothing is acknowledged before it is on the disk, and what is in memory is what is there: after an
//! error of the disk the ledger refuses to append until it is opened again.
//!
//! Spec of what it holds: `docs/spec/ledger.md`. Used by `fs-monitor`.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use redb::{Builder, Database, StorageBackend, backends::FileBackend};

use crate::log::{Frontier, Tree};
use crate::{Baseline, file_key, map::Map};
use crate::{
    Checkpoint, Entry, Gap, GapReason, Key, MAX_PATH_BYTES, Nonces, Observation, Record, SigningKey,
    StreamName,
};

mod append;
mod error;
mod load;
mod places;
mod prove;
mod read;
mod secrets;
mod tables;

pub use error::Error;

use append::Queue;
use places::Places;
use secrets::Secrets;

/// How long a checkpoint that was handed out can be proven against.
pub const RETENTION: Duration = Duration::from_secs(60);
/// Most checkpoints that are kept for it; of more, the oldest go first.
pub const MAX_RETAINED: usize = 4096;
/// The log's tree is in memory from this level on; what is below is hashed again.
const TREE_BASE: u8 = 3;

/// How a ledger is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Memory for pages of the file, in bytes. 16 MiB unless set.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 16 << 20 }
    }
}

/// A ledger that is open. All methods may be called by many threads.
pub struct Ledger {
    db: Database,
    signing: SigningKey,
    vrf: vrf::SecretKey,
    nonces: Nonces,
    places: Places,
    queue: Mutex<Queue>,
    writer: Mutex<Writer>,
    published: RwLock<Published>,
    retained: Mutex<VecDeque<(Instant, Snapshot)>>,
}

/// What only whoever commits needs.
struct Writer {
    frontier: Frontier,
    /// After an error it is not known what the disk holds.
    broken: bool,
}

/// What everybody sees: all of it durable.
struct Published {
    snapshot: Snapshot,
    tree: Tree,
}

/// The ledger at a checkpoint.
#[derive(Clone, Debug)]
struct Snapshot {
    checkpoint: Checkpoint,
    map: Map,
}

/// A file by its path, with its place in the map: half the work of a record, and what threads can do side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    path: Vec<u8>,
    key: Key,
}

impl File {
    /// The path's bytes.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Its place in the map.
    pub fn key(&self) -> Key {
        self.key
    }
}

/// What can be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A file was looked at.
    File {
        /// Which, by [`Ledger::file`].
        file: File,
        /// What was found.
        record: Record,
    },
    /// Bytes for a stream, at most [`crate::MAX_PAYLOAD_BYTES`].
    Stream {
        /// Any but [`StreamName::LEDGER`].
        name: StreamName,
        /// The bytes.
        payload: Vec<u8>,
    },
    /// A time when nobody looked, for the stream [`StreamName::LEDGER`].
    Gap(Gap),
}

/// An entry of the log and what it stands for, for the ledger's own side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// In the log.
    pub index: u64,
    /// The entry.
    pub entry: Entry,
    /// What is behind its commitment.
    pub what: What,
}

/// What is behind the commitment of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A record of a file.
    File(Observation),
    /// Bytes of a stream.
    Stream(Vec<u8>),
    /// A time when nobody looked.
    Gap(Gap),
}

/// Where an event is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// In the log.
    pub index: u64,
    /// Among the entries of its subject.
    pub sequence: u64,
}

impl Ledger {
    /// Opens the ledger in the file at `path`, and makes one if there is none: with keys of its own, readable by its owner
    /// alone. A ledger that holds entries gets a gap first, since nobody looked while it was closed; `time` is that of the
    /// gap, in nanoseconds since 1970.
    ///
    /// # Errors
    /// [`Error::AlreadyOpen`] while another has it open, [`Error::Corrupt`] if it does not add up, and those of the disk.
    pub fn open(path: &Path, time: u64, options: Options) -> Result<Self, Error> {
        let failed = |source| Error::File { path: path.to_owned(), source: Arc::new(source) };
        if !path.try_exists().map_err(failed)? {
            make(path, options)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
        let db = Builder::new()
            .set_cache_size(options.cache_bytes)
            .create_with_backend(FileBackend::new(file)?)?;
        Self::with_database(db, time)
    }

    /// As [`Ledger::open`], with anything that stores bytes.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open_backend(backend: impl StorageBackend, time: u64, options: Options) -> Result<Self, Error> {
        let db = Builder::new().set_cache_size(options.cache_bytes).create_with_backend(backend)?;
        Self::with_database(db, time)
    }

    fn with_database(db: Database, time: u64) -> Result<Self, Error> {
        let Secrets { signing, vrf, nonces } = secrets::load_or_make(&db)?;
        let load::Loaded { published, frontier, last_time } = load::load(&db)?;
        let ledger = Self {
            db,
            signing,
            vrf,
            nonces,
            places: Places::default(),
            queue: Mutex::default(),
            writer: Mutex::new(Writer { frontier, broken: false }),
            published: RwLock::new(published),
            retained: Mutex::default(),
        };
        if ledger.current().checkpoint.size > 0 {
            let gap = Gap { reason: GapReason::Restart, since: last_time, detail: String::new() };
            ledger.append(time, vec![Event::Gap(gap)])?;
        }
        Ok(ledger)
    }

    /// The name in checkpoints.
    pub fn origin(&self) -> &str {
        self.signing.name()
    }

    /// The public key that checkpoints are signed by.
    pub fn ledger_key(&self) -> &[u8; 32] {
        self.signing.public_bytes()
    }

    /// The public key of ECVRF-EDWARDS25519-SHA512-TAI by which files are in the map.
    pub fn vrf_key(&self) -> [u8; 32] {
        self.vrf.public_key().as_bytes().try_into().expect("a public key of Ed25519 has 32 bytes")
    }

    /// What the ledger is now, for PCR16 once the first scan is done.
    pub fn baseline(&self) -> Baseline {
        let checkpoint = self.current().checkpoint;
        Baseline { vrf_key: self.vrf_key(), ledger_key: *self.ledger_key(), checkpoint }
    }

    /// Where the file at `path` is in the map: about 50 microseconds of computing, without a lock.
    ///
    /// # Errors
    /// [`Error::PathTooLong`]
    pub fn file(&self, path: Vec<u8>) -> Result<File, Error> {
        Ok(self.place(vec![path])?.pop().expect("one file for each path"))
    }

    /// As [`Ledger::file`] for several paths, in their order, and for less than one at a time.
    ///
    /// # Errors
    /// [`Error::PathTooLong`] for one of them.
    pub fn place(&self, paths: Vec<Vec<u8>>) -> Result<Vec<File>, Error> {
        if let Some(path) = paths.iter().find(|path| path.len() > MAX_PATH_BYTES) {
            return Err(Error::PathTooLong { found: path.len() });
        }
        let outputs = self.vrf.outputs(paths.iter().map(Vec::as_slice));
        Ok(paths
            .into_iter()
            .zip(outputs)
            .map(|(path, output)| File { path, key: file_key(&output) })
            .collect())
    }

    /// The checkpoint of now, which can be proven against for [`RETENTION`].
    pub fn checkpoint(&self) -> Checkpoint {
        let snapshot = self.current();
        let (now, checkpoint) = (Instant::now(), snapshot.checkpoint);
        let mut retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        if retained.back().is_some_and(|(_, last)| last.checkpoint.size >= checkpoint.size) {
            // Another thread may have handed out a later one meanwhile, so this is not always the last.
            if let Some((since, _)) = retained.iter_mut().rev().find(|(_, s)| s.checkpoint == checkpoint) {
                *since = now;
                return checkpoint;
            }
        }
        let kept = retained.iter().rposition(|(_, s)| s.checkpoint.size < checkpoint.size);
        retained.insert(kept.map_or(0, |at| at + 1), (now, snapshot));
        retained.retain(|(since, _)| now.duration_since(*since) <= RETENTION);
        if retained.len() > MAX_RETAINED {
            retained.pop_front();
        }
        checkpoint
    }

    /// The checkpoint of now as a signed note (C2SP `tlog-checkpoint`), which can be proven against for [`RETENTION`].
    pub fn signed_checkpoint(&self) -> (Checkpoint, String) {
        let checkpoint = self.checkpoint();
        let note = checkpoint.sign(&self.signing);
        (checkpoint, note)
    }

    fn published(&self) -> RwLockReadGuard<'_, Published> {
        // Nothing panics while it is being changed.
        self.published.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Snapshot {
        self.published().snapshot.clone()
    }

    /// The ledger at a checkpoint that was handed out, or now.
    fn snapshot(&self, at: Option<u64>) -> Result<Snapshot, Error> {
        let current = self.current();
        let Some(size) = at.filter(|size| *size != current.checkpoint.size) else { return Ok(current) };
        let retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        let found = retained.iter().find(|(_, snapshot)| snapshot.checkpoint.size == size);
        found.map(|(_, snapshot)| snapshot.clone()).ok_or(Error::NotRetained { size })
    }
}

/// Makes a ledger under another name first: whoever is stopped halfway leaves no file that is neither a ledger nor none.
fn make(path: &Path, options: Options) -> Result<(), Error> {
    let failed = |source| Error::File { path: path.to_owned(), source: Arc::new(source) };
    let mut number = [0; 8];
    aws_lc_rs::rand::fill(&mut number).map_err(|_| failed(io::Error::other("no random numbers")))?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", hex::encode(number)));
    let new = Path::new(&name);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(new);
    let backend = FileBackend::new(file.map_err(failed)?)?;
    let made = (|| {
        let db = Builder::new().set_cache_size(options.cache_bytes).create_with_backend(backend)?;
        secrets::load_or_make(&db)?;
        drop(db);
        match fs::hard_link(new, path) {
            // Another made one meanwhile, which is then opened.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked.map_err(failed),
        }
    })();
    let removed = fs::remove_file(new).map_err(failed);
    // So that the name is there after a power cut as much as what it names.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed);
    made.and(removed).and(synced)
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("origin", &self.origin()).finish_non_exhaustive()
    }
}

impl From<redb::DatabaseError> for Error {
    fn from(error: redb::DatabaseError) -> Self {
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Error::AlreadyOpen,
            other => Error::Storage(Arc::new(other.into())),
        }
    }
}
