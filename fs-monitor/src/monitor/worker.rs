//! The threads that find out what is at a path that was marked.

use std::{
    os::fd::AsFd,
    sync::{PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use ledger::State;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::{
    MonitorError, Shared,
    links::Inode,
    writer::{Observation, Request},
};
use crate::{
    content::Reader,
    listing::Listing,
    observe::{Seen, look_at, observe},
    queue::Task,
    record::to_ledger,
    state::{Content, State as Found, Unread},
    tree::pseudo,
};

/// How often a path that moves is looked at before that is recorded.
const MAX_ATTEMPTS: u32 = 7;
/// After the first time; each further time takes twice as long.
const RETRY: Duration = Duration::from_millis(4);
/// Paths taken at a time.
const BATCH: usize = 4;

/// What a look at a path came to.
pub(super) enum Looked {
    State(State, Option<Inode>),
    /// It is none of the monitor's business.
    Ignored,
    /// It moves; this is the last that was seen.
    Moving(State),
}

pub(super) fn run(shared: &Shared) -> Result<(), MonitorError> {
    let mut reader = Reader::new(shared.digests);
    while let Some(tasks) = shared.next_tasks() {
        let mut observations = Vec::with_capacity(tasks.len());
        for task in tasks {
            shared.counters.looks.fetch_add(1, Ordering::Relaxed);
            let looked = shared.look(&mut reader, &task.path);
            observations.extend(shared.settle(task, looked)?);
        }
        if !observations.is_empty() {
            shared.request(Request::Observed(observations))?;
        }
    }
    Ok(())
}

impl Shared {
    /// Waits for paths that are due; `None` when the monitor ends.
    fn next_tasks(&self) -> Option<Vec<Task>> {
        let mut queue = self.queue();
        loop {
            if self.stopped() {
                return None;
            }
            let now = Instant::now();
            let tasks = queue.take(now, BATCH);
            if !tasks.is_empty() {
                return Some(tasks);
            }
            queue = match queue.next_due(now) {
                Some(due) => {
                    let wait = due.saturating_duration_since(now);
                    self.due.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.due.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// What to record after a look; nothing if the path is to be looked at again first.
    fn settle(&self, task: Task, looked: Looked) -> Result<Option<Observation>, MonitorError> {
        let (state, inode, moving) = match looked {
            Looked::State(state, inode) => (state, inode, false),
            Looked::Ignored => {
                self.queue().done(&task.path);
                self.recorded.notify_all();
                return Ok(None);
            }
            Looked::Moving(_) if task.attempts < MAX_ATTEMPTS => {
                let delay = RETRY.saturating_mul(1 << task.attempts.min(MAX_ATTEMPTS));
                self.queue().put_back(task, delay, Instant::now());
                self.due.notify_one();
                return Ok(None);
            }
            Looked::Moving(state) => (state, None, true),
        };
        let file = self.ledger.file(task.path.to_vec())?;
        Ok(Some(Observation { file, cause: task.cause, state, inode, moving }))
    }

    /// Finds out what is at a path.
    pub(super) fn look(&self, reader: &mut Reader, path: &[u8]) -> Looked {
        if self.tree.root_of(path).is_none() {
            return Looked::Ignored;
        }
        let seen = self.tree.open_parent(path).and_then(|(directory, name)| {
            match observe(reader, directory.file.as_fd(), name)? {
                Seen::Directory => self.look_directory(directory.file.as_fd(), name, path),
                seen => Ok(Some(seen)),
            }
        });
        let (found, stamp) = match seen {
            Ok(Some(Seen::State { state, stamp })) => (state, stamp),
            Ok(Some(Seen::Absent)) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => {
                return Looked::State(State::Removed, None);
            }
            // It changes between directory and something else, or there is no descriptor left at the moment.
            Ok(_) | Err(_) => return Looked::Moving(self.last(path)),
        };
        if !self.tree.covers(path, found.kind == crate::state::Kind::Directory) {
            return Looked::Ignored;
        }
        match found.content {
            Content::Unread(Unread::Moving) => Looked::Moving(to_ledger(&found)),
            _ => Looked::State(to_ledger(&found), stamp.shared_inode()),
        }
    }

    /// What was recorded last: nothing newer is known.
    fn last(&self, path: &[u8]) -> State {
        let file = self.ledger.file(path.to_vec()).ok();
        let recorded = file.and_then(|file| self.recorded(&file).ok().flatten());
        recorded.unwrap_or(State::Removed)
    }

    /// Lists a directory; `None` if it is none any more.
    fn look_directory(
        &self,
        above: std::os::fd::BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<Seen>, Errno> {
        let start = Instant::now();
        let stamp = crate::state::Stamp::of;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(above, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(errno) => {
                let Some(stat) = crate::observe::look(above, name)? else { return Ok(Some(Seen::Absent)) };
                let state = Found::new(&stat, Content::Unread(Unread::from_errno(errno)));
                return Ok(Some(Seen::State { stamp: stamp(&stat), state }));
            }
        };
        if let Some(why) = pseudo(&file) {
            let stat = look_at(file.as_fd())?;
            return Ok(Some(Seen::State {
                stamp: stamp(&stat),
                state: Found::new(&stat, Content::Unread(why)),
            }));
        }
        let listing = Listing::read(file.as_fd(), |name, is_dir| self.tree.ignores(path, name, is_dir))?;
        self.trees.note_cost(path, start.elapsed());
        let state = listing.state(path, self.digests);
        Ok(Some(Seen::State { stamp: stamp(&listing.stat), state }))
    }
}
