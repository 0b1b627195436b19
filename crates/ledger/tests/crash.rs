//! The machine stops at every single write, and the disk fills up: nothing that was acknowledged is lost, nothing is
//! there in parts, and there is never a second history.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::io;
use std::sync::{Arc, Mutex};

use ledger::store::{Error, Event, Ledger, Options};
use ledger::{Checkpoint, Hash, StreamName, StreamPayload, log::verify_consistency};
use redb::StorageBackend;

/// What happens to writes that were not synced when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsynced {
    /// They are there: only the process was killed.
    Kept,
    /// None is there.
    Lost,
    /// Every second one is there, as disks reorder.
    Mixed,
}

/// A disk in memory that stops after a number of operations, or is full at some size.
#[derive(Clone, Debug)]
struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    synced: Vec<u8>,
    /// Since the last sync, in order.
    unsynced: Vec<Change>,
    now: Vec<u8>,
    /// Operations that change something until the machine stops.
    left: u64,
    capacity: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Length(usize),
    Write(usize, Vec<u8>),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Length(length) => bytes.resize(*length, 0),
            Change::Write(offset, data) => {
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
        }
    }
}

impl Disk {
    fn new(image: Vec<u8>, left: u64, capacity: u64) -> Self {
        let state = State { synced: image.clone(), unsynced: Vec::new(), now: image, left, capacity };
        Self(Arc::new(Mutex::new(state)))
    }

    /// What is on it after a crash.
    fn after_crash(&self, unsynced: Unsynced) -> Vec<u8> {
        let state = self.0.lock().unwrap();
        let mut image = state.synced.clone();
        for (number, change) in state.unsynced.iter().enumerate() {
            let there = match unsynced {
                Unsynced::Kept => true,
                Unsynced::Lost => false,
                Unsynced::Mixed => number % 2 == 1,
            };
            // Lengths are of the file system's own journal.
            if there || matches!(change, Change::Length(_)) && unsynced == Unsynced::Mixed {
                change.apply(&mut image);
            }
        }
        image
    }

    fn operations(&self, started_with: u64) -> u64 {
        started_with - self.0.lock().unwrap().left
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.spend()?;
        if let Change::Length(length) = &change
            && *length as u64 > state.capacity
        {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        change.apply(&mut state.now);
        state.unsynced.push(change);
        Ok(())
    }
}

impl State {
    fn spend(&mut self) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::other("the machine has stopped"))?;
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let bytes = state.now.get(offset..offset + out.len());
        out.copy_from_slice(bytes.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Change::Length(usize::try_from(length).unwrap()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.spend()?;
        state.synced = state.now.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(usize::try_from(offset).unwrap(), data.to_vec()))
    }
}

fn open(disk: &Disk) -> Result<Ledger, Error> {
    Ledger::open_backend(disk.clone(), 0, Options { cache_bytes: 1 << 20 })
}

fn name() -> StreamName {
    "app/a".parse().unwrap()
}

/// Batches of different sizes, the events numbered through.
fn batches() -> Vec<Vec<Vec<u8>>> {
    let sizes = [1, 3, 1, 40, 2];
    let mut number = 0_u32;
    let mut payload = || {
        number += 1;
        number.to_be_bytes().repeat(50)
    };
    sizes.map(|size| (0..size).map(|_| payload()).collect()).to_vec()
}

/// Appends until the disk fails; says which checkpoint was acknowledged with each batch.
fn fill(ledger: &Ledger) -> Vec<Checkpoint> {
    let mut acknowledged = Vec::new();
    for batch in batches() {
        let events = batch.into_iter().map(|payload| Event::Stream { name: name(), payload });
        if ledger.append(1, events.collect()).is_err() {
            break;
        }
        acknowledged.push(ledger.checkpoint());
    }
    acknowledged
}

/// What is on the disk now: every acknowledged batch, perhaps the one after, whole, and nothing else but the gap.
fn check(image: Vec<u8>, acknowledged: &[Checkpoint], what: &str) {
    let disk = Disk::new(image, u64::MAX, u64::MAX);
    let ledger = open(&disk).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let found: Vec<_> =
        ledger.stream(&name(), 0, 1000).unwrap().into_iter().map(|entry| entry.payload).collect();
    let all: Vec<_> =
        batches().into_iter().map(|batch| batch.into_iter().map(StreamPayload::Bytes)).collect();
    let whole = |batches: usize| all.iter().take(batches).cloned().flatten().collect::<Vec<_>>();
    let (least, most) = (whole(acknowledged.len()), whole(acknowledged.len() + 1));
    assert!(found == least || found == most, "{what}: {} events of {}", found.len(), least.len());
    // The same history: the log begins with every log that was seen.
    let now = ledger.checkpoint();
    for old in acknowledged {
        let proof = ledger.prove_consistency(old.size, now.size).unwrap();
        verify_consistency(old.size, &old.log_root, now.size, &now.log_root, &proof).unwrap();
    }
    let gaps = ledger.stream(&StreamName::ledger(), 0, 10).unwrap().len();
    assert_eq!(gaps, usize::from(!found.is_empty()), "{what}");
    // And it goes on.
    ledger.append(2, vec![Event::Stream { name: name(), payload: vec![1] }]).unwrap();
}

/// How many operations the whole takes, from a ledger that was made.
fn undisturbed() -> (Vec<u8>, u64) {
    let disk = Disk::new(Vec::new(), u64::MAX, u64::MAX);
    drop(open(&disk).unwrap());
    let image = disk.after_crash(Unsynced::Kept);
    let disk = Disk::new(image.clone(), u64::MAX, u64::MAX);
    let ledger = open(&disk).unwrap();
    assert_eq!(fill(&ledger).len(), batches().len());
    (image, disk.operations(u64::MAX))
}

#[test]
fn a_crash_at_any_write_loses_nothing_that_was_acknowledged() {
    let (image, operations) = undisturbed();
    assert!(operations > 20, "{operations}");
    for left in 0..=operations {
        let disk = Disk::new(image.clone(), left, u64::MAX);
        let opened = open(&disk);
        let acknowledged = opened.as_ref().map(fill).unwrap_or_default();
        // Not closed in order: redb would write.
        let images =
            [Unsynced::Kept, Unsynced::Lost, Unsynced::Mixed].map(|how| (how, disk.after_crash(how)));
        drop(opened);
        for (how, image) in images {
            check(
                image,
                &acknowledged,
                &format!("after {left} of {operations} operations, unsynced {how:?}"),
            );
        }
    }
}

/// Of files, such a one never gets the ledger's name.
#[test]
fn a_ledger_that_is_half_made_is_refused_or_whole() {
    let disk = Disk::new(Vec::new(), u64::MAX, u64::MAX);
    drop(open(&disk).unwrap());
    for left in 0..disk.operations(u64::MAX) {
        let disk = Disk::new(Vec::new(), left, u64::MAX);
        let opened = open(&disk);
        let image = disk.after_crash(Unsynced::Kept);
        drop(opened);
        let again = Disk::new(image, u64::MAX, u64::MAX);
        match open(&again) {
            Ok(ledger) => assert_eq!(ledger.checkpoint(), Checkpoint::empty(), "after {left} operations"),
            Err(error) => assert!(matches!(error, Error::Storage(_)), "after {left} operations: {error:?}"),
        }
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_what_was_acknowledged() {
    let (image, _) = undisturbed();
    let disk = Disk::new(image.clone(), u64::MAX, image.len() as u64);
    let ledger = open(&disk).unwrap();
    let before = ledger.checkpoint();
    let large = || vec![Event::Stream { name: name(), payload: vec![7; 60_000] }; 200];
    let mut refused = None;
    let mut acknowledged = vec![before];
    for _ in 0..20 {
        match ledger.append(1, large()) {
            Ok(_) => acknowledged.push(ledger.checkpoint()),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let Some(Error::Storage(cause)) = refused else { panic!("{refused:?}") };
    assert!(cause.to_string().contains("no storage space"), "{cause}");
    // Nobody sees what was not written, and nobody goes on as if it were.
    assert_eq!(ledger.checkpoint(), *acknowledged.last().unwrap());
    assert!(matches!(ledger.append(1, large()), Err(Error::Broken)));
    drop(ledger);
    let disk = Disk::new(disk.after_crash(Unsynced::Kept), u64::MAX, u64::MAX);
    let ledger = open(&disk).unwrap();
    let expected = acknowledged.last().unwrap().size;
    assert_eq!(ledger.stream(&name(), 0, 10_000).unwrap().len() as u64, expected);
    for old in acknowledged {
        let proof = ledger.prove_consistency(old.size, ledger.size()).unwrap();
        let now = ledger.checkpoint();
        verify_consistency(old.size, &old.log_root, now.size, &now.log_root, &proof).unwrap();
    }
    assert_ne!(ledger.checkpoint().log_root, Hash([0; 32]));
}
