//! The thread that walks directories: those that came, and all of them when it is time or notifications were lost.
//!
//! It watches and marks; what is in files is for the workers to find out.

use std::{
    collections::{HashMap, VecDeque},
    os::fd::AsFd,
    sync::mpsc::{SyncSender, sync_channel},
    sync::{Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use ledger::{Cause, GapReason};
use rustix::io::Errno;

use super::{MonitorError, Shared};
use crate::{
    listing::Listing,
    queue::When,
    state::Kind,
    tree::{join, pseudo},
};

/// Most paths marked by a walk over everything that may wait.
const MAX_MARKED: usize = 16 * 1024;

/// How long names of a directory are left to settle before it is listed again.
const LISTING_QUIET: Duration = Duration::from_millis(20);
/// Listing one directory again and again takes at most this part of the time.
const LISTING_SHARE: u32 = 10;
/// Listings faster than this need no memory.
const CHEAP_LISTING: Duration = Duration::from_millis(2);
/// Most directories whose listing is known to be slow.
const MAX_COSTS: usize = 4096;

/// What to walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// A directory that came.
    Tree(Box<[u8]>),
    /// One that went, with what is below it.
    Gone(Box<[u8]>),
    /// Everything, since something may have been missed.
    All(GapReason, String),
}

/// What waits to be walked.
#[derive(Debug)]
pub(super) struct Trees {
    state: Mutex<State>,
    changed: Condvar,
    sweep: Option<Duration>,
    costs: Mutex<HashMap<Box<[u8]>, Duration>>,
}

#[derive(Debug)]
struct State {
    walks: VecDeque<Walk>,
    sweeps: Vec<SyncSender<()>>,
    next_sweep: Option<Instant>,
    working: bool,
}

enum Next {
    Walk(Walk),
    Sweep(Vec<SyncSender<()>>),
}

impl Trees {
    pub(super) fn new(sweep: Option<Duration>) -> Self {
        let next_sweep = sweep.and_then(|period| Instant::now().checked_add(period));
        let state = State { walks: VecDeque::new(), sweeps: Vec::new(), next_sweep, working: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), sweep, costs: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, walk: Walk) {
        let mut state = self.lock();
        if !state.walks.contains(&walk) {
            state.walks.push_back(walk);
        }
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// How many walks are not done.
    pub(super) fn waiting(&self) -> usize {
        let state = self.lock();
        state.walks.len() + state.sweeps.len() + usize::from(state.working)
    }

    pub(super) fn sweep(&self, shared: &Shared) -> Result<(), MonitorError> {
        let (reply, answer) = sync_channel(1);
        self.lock().sweeps.push(reply);
        self.changed.notify_all();
        if shared.stopped() {
            return Err(MonitorError::Ended);
        }
        answer.recv().map_err(|_| MonitorError::Ended)
    }

    /// Remembers what listing a directory costs, if that is much.
    pub(super) fn note_cost(&self, path: &[u8], cost: Duration) {
        let mut costs = self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        if cost > CHEAP_LISTING && costs.len() < MAX_COSTS {
            costs.insert(path.into(), cost);
        } else {
            costs.remove(path);
        }
    }

    fn next(&self, shared: &Shared) -> Option<Next> {
        let mut state = self.lock();
        state.working = false;
        loop {
            if shared.stopped() {
                // Whoever waits for a sweep is told by the channel's end.
                state.sweeps.clear();
                return None;
            }
            if let Some(walk) = state.walks.pop_front() {
                state.working = true;
                return Some(Next::Walk(walk));
            }
            let now = Instant::now();
            let is_time = state.next_sweep.is_some_and(|next| next <= now);
            if is_time || !state.sweeps.is_empty() {
                state.next_sweep = self.sweep.and_then(|period| now.checked_add(period));
                state.working = true;
                return Some(Next::Sweep(std::mem::take(&mut state.sweeps)));
            }
            state = match state.next_sweep {
                Some(next) => {
                    let wait = next.saturating_duration_since(now);
                    self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

pub(super) fn run(shared: &Shared) -> Result<(), MonitorError> {
    while let Some(next) = shared.trees.next(shared) {
        match next {
            Next::Walk(Walk::Tree(path)) => shared.walk_tree(path, Cause::Event, When::Now)?,
            Next::Walk(Walk::Gone(path)) => shared.mark_below(&path)?,
            Next::Walk(Walk::All(reason, detail)) => shared.walk_all(reason, &detail)?,
            Next::Sweep(replies) => {
                shared.sweep()?;
                for reply in replies {
                    // Whoever asked may have gone.
                    let _ = reply.send(());
                }
            }
        }
    }
    Ok(())
}

impl Shared {
    /// How long the names of a directory are left to settle.
    pub(super) fn listing_delay(&self, path: &[u8]) -> Duration {
        let costs = self.trees.costs.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = costs.get(path).copied().unwrap_or_default();
        LISTING_QUIET.max(cost.saturating_mul(LISTING_SHARE))
    }

    /// The paths of watched directories may be other ones by now, so all of it begins anew.
    fn walk_all(&self, reason: GapReason, detail: &str) -> Result<(), MonitorError> {
        tracing::warn!(reason = reason.name(), detail, "everything is looked at again");
        self.append_gap(reason, detail)?;
        self.watcher.forget_all();
        self.watch_roots()?;
        self.look_everywhere(Cause::Overflow, When::Now)?;
        self.counters.rescans.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn sweep(&self) -> Result<(), MonitorError> {
        self.look_everywhere(Cause::Sweep, When::Idle)?;
        let mut queue = self.queue();
        // Files that change without end do not hold up the sweep: only what it marked has to be done.
        while queue.has_swept() {
            if self.stopped() {
                return Err(MonitorError::Ended);
            }
            queue = self.recorded.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        drop(queue);
        self.counters.sweeps.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn look_everywhere(&self, cause: Cause, when: When) -> Result<(), MonitorError> {
        for root in self.tree.roots() {
            self.walk_tree(root.clone(), cause, when)?;
        }
        self.find_removed(cause, when)
    }

    /// Watches and marks a directory and everything below it.
    fn walk_tree(&self, top: Box<[u8]>, cause: Cause, when: When) -> Result<(), MonitorError> {
        let mut directories = vec![top];
        while let Some(path) = directories.pop() {
            self.wait_for_room()?;
            self.mark(&path, cause, when);
            if !self.tree.covers(&path, true) {
                continue;
            }
            let listing = self.tree.open_directory(&path).map_err(Some).and_then(|file| {
                if pseudo(&file).is_some() {
                    return Err(None);
                }
                Ok(file)
            });
            // What is no directory, is gone or cannot be read is found so by the worker that looks at it.
            let Ok(file) = listing else { continue };
            self.watcher.add(file.as_fd(), &path)?;
            let ignored = |name: &[u8], is_dir| self.tree.ignores(&path, name, is_dir);
            let Ok::<_, Errno>(listing) = Listing::read(file.as_fd(), ignored) else { continue };
            for (name, stat) in listing.children {
                let child = join(&path, &name);
                match Kind::of(&stat) {
                    Kind::Directory => directories.push(child),
                    _ => self.mark(&child, cause, when),
                }
            }
        }
        Ok(())
    }

    /// A walk over everything goes no faster than what it finds is recorded.
    fn wait_for_room(&self) -> Result<(), MonitorError> {
        let mut queue = self.queue();
        while queue.pending() > MAX_MARKED {
            if self.stopped() {
                return Err(MonitorError::Ended);
            }
            queue = self.recorded.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}
