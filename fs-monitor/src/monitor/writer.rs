//! The one thread that writes: what has come while it wrote the last group is the next.

use std::{
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, SyncSender},
    },
    time::Duration,
};

use ledger::{
    Cause, Observation as Recorded, Record, State,
    store::{Appended, Event, File},
};

use super::{MonitorError, Shared, links::Inode};
use crate::{
    queue::When,
    record::{changes_listing, is_directory},
    tree::split,
};

/// When to look again at what was recorded as moving.
const MOVING_RETRY: Duration = Duration::from_secs(1);

/// Most entries written at a time.
const MAX_GROUP: usize = 4096;

/// What the writer is asked for.
#[derive(Debug)]
pub(crate) enum Request {
    /// Record what a first walk found.
    Found(Vec<Observation>),
    /// Record what was found of paths that are out of the queue, and give them back.
    Observed(Vec<Observation>),
    /// Say when everything before is durable.
    Flush(SyncSender<()>),
    /// Look whether it is time to end.
    Wake,
}

/// What was found at a path.
#[derive(Debug)]
pub(crate) struct Observation {
    pub(crate) file: File,
    pub(crate) cause: Cause,
    pub(crate) state: State,
    /// Which file it is, if it has several names.
    pub(crate) inode: Option<Inode>,
    /// It changed all the time, and has to be looked at again.
    pub(crate) moving: bool,
}

pub(super) fn run(shared: &Shared, received: &Receiver<Request>) -> Result<(), MonitorError> {
    let mut group = Group::default();
    while let Ok(request) = received.recv() {
        group.add(shared, request)?;
        while group.events.len() < MAX_GROUP {
            let Ok(request) = received.try_recv() else { break };
            group.add(shared, request)?;
        }
        std::mem::take(&mut group).write(shared)?;
        if shared.stopped() {
            break;
        }
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Group {
    events: Vec<Event>,
    /// Paths to give back to the queue.
    out: Vec<Vec<u8>>,
    /// Directories whose listing has changed.
    listings: Vec<Box<[u8]>>,
    /// Directories that are none any more.
    gone: Vec<Box<[u8]>>,
    /// Other names of files that changed.
    others: Vec<Box<[u8]>>,
    /// Files found in movement.
    moving: Vec<Box<[u8]>>,
    flushes: Vec<SyncSender<()>>,
}

impl Group {
    fn add(&mut self, shared: &Shared, request: Request) -> Result<(), MonitorError> {
        match request {
            Request::Found(observations) => {
                observations.into_iter().try_for_each(|observation| self.compare(shared, observation))
            }
            Request::Observed(observations) => observations.into_iter().try_for_each(|observation| {
                self.out.push(observation.file.path().to_vec());
                self.compare(shared, observation)
            }),
            Request::Flush(reply) => {
                self.flushes.push(reply);
                Ok(())
            }
            Request::Wake => Ok(()),
        }
    }

    /// Only what differs from what was recorded last is recorded.
    fn compare(&mut self, shared: &Shared, observation: Observation) -> Result<(), MonitorError> {
        let Observation { file, cause, state, inode, moving } = observation;
        let others = inode.map(|inode| shared.links().others(inode, file.path())).unwrap_or_default();
        if moving {
            self.moving.push(file.path().into());
        }
        // In the first walk of all each path is found once, and nothing is recorded yet.
        let before = if cause == Cause::Scan { None } else { shared.recorded(&file)? };
        let was_there = before.as_ref().is_some_and(|before| *before != State::Removed);
        // Whoever lists a directory may see of a file what has passed when the file is looked at, so it is listed again after
        // every change, recorded or not. While everything is walked, each directory is listed anyway.
        let is_walk = matches!(cause, Cause::Scan | Cause::Restart);
        let has_passed = cause == Cause::Event && !is_directory(&state);
        if has_passed || !is_walk && changes_listing(before.as_ref(), &state) {
            self.listings.push(split(file.path()).0.into());
        }
        if before.as_ref() == Some(&state) || (!was_there && state == State::Removed) {
            return Ok(());
        }
        if before.as_ref().is_some_and(is_directory) && !is_directory(&state) {
            self.gone.push(file.path().into());
        }
        match (was_there, state == State::Removed) {
            (false, false) => drop(shared.counters.files.fetch_add(1, Ordering::Relaxed)),
            (true, true) => drop(shared.counters.files.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        if !is_walk {
            self.others.extend(others);
        }
        self.events.push(Event::File { file, record: Record { cause, state } });
        Ok(())
    }

    fn write(self, shared: &Shared) -> Result<(), MonitorError> {
        if !self.events.is_empty() {
            shared.counters.groups.fetch_add(1, Ordering::Relaxed);
            let (time, shown) = ((shared.clock)(), shared.shown(&self.events));
            let places = shared.ledger.append(time, self.events)?;
            // In this order: who is told that there is more finds it shown.
            shared.show(time, shown, &places);
            shared.grown();
        }
        for directory in &self.gone {
            shared.mark_below(directory)?;
        }
        for path in self.others {
            shared.mark(&path, Cause::Event, When::Now);
        }
        for path in self.moving {
            shared.mark(&path, Cause::Event, When::After(MOVING_RETRY));
        }
        for directory in self.listings {
            if shared.tree.root_of(&directory).is_some() {
                shared.mark(&directory, Cause::Event, When::Quiet(shared.listing_delay(&directory)));
            }
        }
        {
            let mut queue = shared.queue();
            self.out.iter().for_each(|path| queue.done(path));
        }
        shared.due.notify_all();
        shared.recorded.notify_all();
        for reply in self.flushes {
            // Whoever asked may have gone.
            let _ = reply.send(());
        }
        Ok(())
    }
}

impl Shared {
    /// What to show of a group, if anybody looks.
    fn shown(&self, events: &[Event]) -> Vec<Event> {
        if self.records.receiver_count() == 0 { Vec::new() } else { events.to_vec() }
    }

    fn show(&self, time: u64, events: Vec<Event>, places: &[Appended]) {
        for (event, &Appended { index, sequence }) in events.into_iter().zip(places) {
            if let Event::File { file, record } = event {
                let recorded = Recorded { index, sequence, time, record };
                // Whoever looked may have gone.
                let _ = self.records.send(Arc::new((file.path().to_vec(), recorded)));
            }
        }
    }
}
