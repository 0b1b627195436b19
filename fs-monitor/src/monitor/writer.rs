//! The one thread that writes: what has come while it wrote the last group is the next.

use std::sync::{
    Arc,
    atomic::Ordering,
    mpsc::{Receiver, SyncSender},
};

use ledger::{Cause, Record, State};

use super::{MonitorError, PAGE, Shared};
use crate::{
    journal::{Happening, Place},
    queue::When,
    record::{changes_listing, is_directory, to_ledger},
    state::{Content, Unread},
    tree::split,
    walk::Found,
};

/// Most entries written at a time.
const MAX_GROUP: usize = 4096;

/// What the writer is asked for.
#[derive(Debug)]
pub(crate) enum Request {
    /// Record what a first walk found.
    Found {
        /// The files.
        files: Vec<Found>,
        /// Why it was made.
        cause: Cause,
    },
    /// Record what was found of paths that are out of the queue, and give them back.
    Observed(Vec<Observation>),
    /// Append something, and say where it is once it is durable.
    Append {
        /// What.
        happening: Happening,
        /// Where to say it.
        reply: SyncSender<Place>,
    },
    /// Say when everything before is durable.
    Flush(SyncSender<()>),
    /// Look whether it is time to end.
    Wake,
}

/// What was found at a path.
#[derive(Debug)]
pub(crate) struct Observation {
    pub(crate) path: Arc<[u8]>,
    pub(crate) cause: Cause,
    pub(crate) state: State,
}

pub(super) fn run(shared: &Shared, received: &Receiver<Request>) -> Result<(), MonitorError> {
    let mut group = Group::default();
    while let Ok(request) = received.recv() {
        group.add(shared, request)?;
        while group.happenings.len() < MAX_GROUP {
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
    happenings: Vec<Happening>,
    /// Paths to give back to the queue.
    out: Vec<Arc<[u8]>>,
    /// Directories whose listing has changed.
    listings: Vec<Box<[u8]>>,
    /// Directories that are none any more.
    gone: Vec<Box<[u8]>>,
    /// Files found in movement.
    moving: Vec<Box<[u8]>>,
    replies: Vec<(usize, SyncSender<Place>)>,
    flushes: Vec<SyncSender<()>>,
}

impl Group {
    fn add(&mut self, shared: &Shared, request: Request) -> Result<(), MonitorError> {
        match request {
            Request::Found { files, cause } => {
                for Found { path, state, .. } in files {
                    if state.content == Content::Unread(Unread::Moving) {
                        self.moving.push(path.clone());
                    }
                    self.compare(shared, &path, cause, to_ledger(&state))?;
                }
            }
            Request::Observed(observations) => {
                for Observation { path, cause, state } in observations {
                    self.compare(shared, &path, cause, state)?;
                    self.out.push(path);
                }
            }
            Request::Append { happening, reply } => {
                self.replies.push((self.happenings.len(), reply));
                self.happenings.push(happening);
            }
            Request::Flush(reply) => self.flushes.push(reply),
            Request::Wake => {}
        }
        Ok(())
    }

    /// Only what differs from what was recorded last is recorded.
    fn compare(
        &mut self,
        shared: &Shared,
        path: &[u8],
        cause: Cause,
        state: State,
    ) -> Result<(), MonitorError> {
        let before = shared.journal.current(path)?.map(|record| record.state);
        let was_there = before.as_ref().is_some_and(|before| *before != State::Removed);
        if before.as_ref() == Some(&state) || (!was_there && state == State::Removed) {
            return Ok(());
        }
        if before.as_ref().is_some_and(is_directory) && !is_directory(&state) {
            self.gone.push(path.into());
        }
        // While everything is walked, each directory is listed anyway.
        if !matches!(cause, Cause::Scan | Cause::Restart) && changes_listing(before.as_ref(), &state) {
            self.listings.push(split(path).0.into());
        }
        match (was_there, state == State::Removed) {
            (false, false) => drop(shared.counters.files.fetch_add(1, Ordering::Relaxed)),
            (true, true) => drop(shared.counters.files.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        self.happenings.push(Happening::File { path: path.into(), record: Record { cause, state } });
        Ok(())
    }

    fn write(self, shared: &Shared) -> Result<(), MonitorError> {
        let places = if self.happenings.is_empty() {
            Vec::new()
        } else {
            shared.counters.groups.fetch_add(1, Ordering::Relaxed);
            shared.journal.append(self.happenings)?
        };
        for (at, reply) in self.replies {
            if let Some(place) = places.get(at) {
                // Whoever asked may have gone.
                let _ = reply.send(*place);
            }
        }
        for directory in &self.gone {
            mark_below(shared, directory)?;
        }
        for path in self.moving {
            shared.mark(&path, Cause::Event, When::Now);
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
            let _ = reply.send(());
        }
        Ok(())
    }
}

/// Everything that is recorded below a directory that is gone has to be looked at: some of it may be there again.
fn mark_below(shared: &Shared, directory: &[u8]) -> Result<(), MonitorError> {
    let prefix = if directory == b"/" { b"/".to_vec() } else { [directory, b"/"].concat() };
    let mut after: Box<[u8]> = prefix.clone().into();
    loop {
        let page = shared.journal.present(&after, PAGE)?;
        for path in &page {
            if !path.starts_with(&prefix) {
                return Ok(());
            }
            shared.mark(path, Cause::Event, When::Now);
        }
        match page.into_iter().next_back() {
            Some(last) => after = last,
            None => return Ok(()),
        }
    }
}
