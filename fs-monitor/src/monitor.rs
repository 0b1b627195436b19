//! Keeps the ledger true: a first walk, then every change that the kernel tells of, and from time to time a look at everything.
//!
//! Four kinds of threads. One reads notifications and marks paths (`queue`). Some take marked paths and find out what
//! is there. One writes what they found into the ledger, as many at a time as have come while it wrote the last. One walks
//! directories that came, and everything when it is time or notifications were lost.
//!
//! What fails here fails the whole: a monitor that goes on with less than it promised would be worse than none.

mod links;
#[cfg(test)]
mod tests;
mod trees;
mod worker;
mod writer;

use std::{
    ops::ControlFlow,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ledger::{
    Cause, Gap, GapReason, Observation as Recorded, State,
    store::{Event, File, Ledger},
};
use rustix::io::Errno;
use tokio::sync::{broadcast, watch};

use self::{
    links::Links,
    trees::{Trees, Walk},
    writer::{Observation, Request},
};
use crate::{
    content::DigestSet,
    patterns::Patterns,
    queue::{Queue, When},
    record::to_ledger,
    state::{Content, Stamp, Unread},
    tree::{Tree, TreeError, is_within, split, text},
    walk::{Found, Visitor, walk},
    watch::{Change, WatchError, Watcher},
};

/// How long a file that was made is given to be written.
const MADE_QUIET: Duration = Duration::from_millis(20);
/// How long a file that is written has to be left alone before it is looked at.
const WRITTEN_QUIET: Duration = Duration::from_millis(50);
/// Portions of findings that wait for the writer.
const WAITING_REQUESTS: usize = 64;
/// Records kept for those who want to see them as they are made.
const KEPT_RECORDS: usize = 4096;
/// Recorded paths read at a time.
const PAGE: usize = 1024;

/// What to watch, and how.
#[derive(Debug)]
pub struct Settings {
    /// Where the application's files lie.
    pub base: PathBuf,
    /// What is watched, as the application sees it.
    pub roots: Vec<Vec<u8>>,
    /// What is not.
    pub patterns: Patterns,
    /// Digests beside BLAKE3.
    pub digests: DigestSet,
    /// From one look at everything to the next; `None`: never.
    pub sweep: Option<Duration>,
    /// How many files are read at a time.
    pub threads: usize,
    /// Most directories watched, whatever the kernel allows.
    pub max_watches: usize,
    /// Nanoseconds since 1970 for the ledger: [`now`], but in tests. Nothing is decided by it.
    pub clock: fn() -> u64,
}

/// Why the monitor cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// What is to be watched cannot be.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Nor can changes be seen.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// Nor recorded.
    #[error(transparent)]
    Ledger(#[from] ledger::store::Error),
    /// Programs that open files cannot be held.
    #[error("cannot hold programs that open files")]
    Enforce(#[source] std::io::Error),
    /// A thread does not start.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// It has ended meanwhile, and said why before.
    #[error("the monitor has ended")]
    Ended,
}

/// What the monitor does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first walk.
    Scanning,
    /// Every change is recorded.
    Watching,
    /// It has ended, for this reason.
    Failed(String),
    /// It was told to end.
    Stopped,
}

/// How often what has happened.
#[derive(Debug, Default)]
pub struct Counters {
    /// Notifications read.
    pub changes: AtomicU64,
    /// Files that are there, as far as recorded.
    pub files: AtomicU64,
    /// Times when changes could have been missed.
    pub gaps: AtomicU64,
    /// Groups written.
    pub groups: AtomicU64,
    /// Paths looked at.
    pub looks: AtomicU64,
    /// Times when the kernel lost notifications.
    pub overflows: AtomicU64,
    /// Times when everything was looked at because of that.
    pub rescans: AtomicU64,
    /// Times when everything was looked at because it was time.
    pub sweeps: AtomicU64,
}

/// A running monitor.
#[derive(Debug)]
pub struct Monitor {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    tree: Tree,
    watcher: Watcher,
    ledger: Arc<Ledger>,
    digests: DigestSet,
    clock: fn() -> u64,
    queue: Mutex<Queue>,
    /// A path became due, or there is another reason to look.
    due: Condvar,
    /// A path is recorded.
    recorded: Condvar,
    requests: SyncSender<Request>,
    trees: Trees,
    phase: Mutex<Phase>,
    phase_changed: Condvar,
    stop: AtomicBool,
    counters: Counters,
    grown: watch::Sender<u64>,
    records: broadcast::Sender<Arc<(Vec<u8>, Recorded)>>,
    links: Mutex<Links>,
}

impl Monitor {
    /// Records everything that is there, and goes on to record whatever changes. `grown` is told the size of the ledger.
    ///
    /// # Errors
    /// When something cannot be watched or recorded; nothing goes on then.
    pub fn start(
        settings: Settings,
        ledger: Arc<Ledger>,
        grown: watch::Sender<u64>,
    ) -> Result<Self, MonitorError> {
        let tree = Tree::open(&settings.base, &settings.roots, settings.patterns)?;
        let (requests, received) = sync_channel(WAITING_REQUESTS);
        let shared = Arc::new(Shared {
            tree,
            watcher: Watcher::new(settings.max_watches)?,
            ledger,
            digests: settings.digests,
            clock: settings.clock,
            queue: Mutex::default(),
            due: Condvar::new(),
            recorded: Condvar::new(),
            requests,
            trees: Trees::new(settings.sweep),
            phase: Mutex::new(Phase::Scanning),
            phase_changed: Condvar::new(),
            stop: AtomicBool::new(false),
            counters: Counters::default(),
            grown,
            records: broadcast::Sender::new(KEPT_RECORDS),
            links: Mutex::default(),
        });
        let mut monitor = Self { shared, threads: Vec::new() };
        match monitor.begin(settings.threads.max(1), received) {
            Ok(()) => Ok(monitor),
            Err(error) => {
                monitor.shared.fail(&error);
                monitor.join();
                Err(error)
            }
        }
    }

    fn begin(&mut self, threads: usize, received: Receiver<Request>) -> Result<(), MonitorError> {
        self.spawn("writer", move |shared| writer::run(shared, &received))?;
        self.spawn("events", Shared::read_changes)?;
        self.shared.first_walk(threads)?;
        for _ in 0..threads {
            self.spawn("worker", worker::run)?;
        }
        self.spawn("trees", trees::run)?;
        self.shared.become_watching()
    }

    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce(&Shared) -> Result<(), MonitorError> + Send + 'static,
    ) -> Result<(), MonitorError> {
        let shared = Arc::clone(&self.shared);
        let body = move || {
            if let Err(error) = run(&shared) {
                shared.fail(&error);
            }
        };
        let thread =
            std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(MonitorError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }

    /// For those who ask it something while it runs.
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared) }
    }

    /// Ends it. What was found before is recorded.
    pub fn stop(mut self) {
        self.shared.end(Phase::Stopped);
        self.join();
    }

    fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // It has said what it had to say by ending the monitor.
            let _ = thread.join();
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.shared.end(Phase::Stopped);
        self.join();
    }
}

/// Asks a running monitor.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    /// What it does now.
    pub fn phase(&self) -> Phase {
        self.shared.phase().clone()
    }

    /// Waits until it has ended, and says how.
    pub fn wait_end(&self) -> Phase {
        let mut phase = self.shared.phase();
        while matches!(*phase, Phase::Scanning | Phase::Watching) {
            phase = self.shared.phase_changed.wait(phase).unwrap_or_else(PoisonError::into_inner);
        }
        phase.clone()
    }

    /// How often what has happened.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// How many paths are not as recorded, as far as is known.
    pub fn pending(&self) -> usize {
        self.shared.queue().pending() + self.shared.trees.waiting()
    }

    /// How many directories are watched.
    pub fn watches(&self) -> usize {
        self.shared.watcher.len()
    }

    /// What is watched.
    pub fn roots(&self) -> impl Iterator<Item = String> {
        self.shared.tree.roots().iter().map(|root| text(root))
    }

    /// Whether files at this path are recorded.
    pub fn covers(&self, path: &[u8]) -> bool {
        self.shared.tree.covers(path, false)
    }

    /// Records as they are made from now on, each with its path.
    pub fn records(&self) -> broadcast::Receiver<Arc<(Vec<u8>, Recorded)>> {
        self.shared.records.subscribe()
    }

    /// The files that are watched.
    pub(crate) fn tree(&self) -> &Tree {
        &self.shared.tree
    }

    /// Digests in records.
    pub(crate) fn digests(&self) -> DigestSet {
        self.shared.digests
    }

    /// Has `find` look at a path while nobody else does, and records what it found; returns that once it is durable.
    pub(crate) fn record_access(
        &self,
        path: &[u8],
        find: impl FnOnce() -> Option<(crate::state::State, Stamp)>,
    ) -> Result<Option<(crate::state::State, Stamp)>, MonitorError> {
        self.shared.claim(path)?;
        let Some(found) = find() else {
            self.shared.queue().done(path);
            self.shared.recorded.notify_all();
            return Ok(None);
        };
        let file = self.shared.ledger.file(path.to_vec())?;
        let (state, inode) = (to_ledger(&found.0), found.1.shared_inode());
        self.shared.record(Observation { file, cause: Cause::Access, state, inode, moving: false })?;
        Ok(Some(found))
    }

    /// Ends the monitor, since something that it promises cannot be kept.
    pub(crate) fn fail(&self, error: &MonitorError) {
        self.shared.fail(error);
    }

    /// Looks at everything again; returns once all of it is recorded that did not change meanwhile.
    ///
    /// # Errors
    /// When the monitor has ended.
    pub fn sweep(&self) -> Result<(), MonitorError> {
        self.shared.trees.sweep(&self.shared)
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn fail(&self, error: &MonitorError) {
        let mut why = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            why.push_str(&format!(": {error}"));
            cause = error.source();
        }
        tracing::error!(why, "the monitor ends");
        self.end(Phase::Failed(why));
    }

    /// The first end counts.
    fn end(&self, how: Phase) {
        {
            let mut phase = self.phase();
            if matches!(*phase, Phase::Scanning | Phase::Watching) {
                *phase = how;
            }
            self.stop.store(true, Ordering::Release);
        }
        self.phase_changed.notify_all();
        self.watcher.wake();
        // Under their locks, so that nobody is between looking at the flag and beginning to wait.
        drop(self.queue());
        self.due.notify_all();
        self.recorded.notify_all();
        self.trees.wake();
        // A writer with a full channel has something to wake it.
        let _ = self.requests.try_send(Request::Wake);
    }

    fn become_watching(&self) -> Result<(), MonitorError> {
        let mut phase = self.phase();
        if *phase != Phase::Scanning {
            return Err(MonitorError::Ended);
        }
        *phase = Phase::Watching;
        Ok(())
    }

    /// Makes a path due.
    fn mark(&self, path: &[u8], cause: Cause, when: When) {
        self.queue().mark(path, cause, when, Instant::now());
        self.due.notify_one();
    }

    fn request(&self, request: Request) -> Result<(), MonitorError> {
        self.requests.send(request).map_err(|_| MonitorError::Ended)
    }

    /// Records that nobody looked for some time.
    fn append_gap(&self, reason: GapReason, detail: &str) -> Result<(), MonitorError> {
        self.counters.gaps.fetch_add(1, Ordering::Relaxed);
        let last = self.ledger.entries(self.ledger.size().saturating_sub(1), 1)?;
        let since = last.first().map_or(0, |(_, entry)| entry.time);
        let gap = Gap { reason, since, detail: detail.to_owned() };
        self.ledger.append((self.clock)(), vec![Event::Gap(gap)])?;
        Ok(())
    }

    /// What was recorded last of a file.
    fn recorded(&self, file: &File) -> Result<Option<State>, MonitorError> {
        Ok(self.ledger.last(file)?.map(|observation| observation.record.state))
    }

    /// Tells whoever waits for entries that there are some.
    fn grown(&self) {
        self.grown.send_replace(self.ledger.size());
    }

    /// Records what was found of a path that is out of the queue, and waits until that is durable.
    fn record(&self, observation: Observation) -> Result<(), MonitorError> {
        self.request(Request::Observed(vec![observation]))?;
        self.flush()
    }

    /// Takes a path out of the queue, once nobody else has it.
    fn claim(&self, path: &[u8]) -> Result<(), MonitorError> {
        let mut queue = self.queue();
        while !queue.claim(path) {
            if self.stopped() {
                return Err(MonitorError::Ended);
            }
            queue = self.recorded.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Waits until everything is recorded that was found before.
    fn flush(&self) -> Result<(), MonitorError> {
        let (reply, answer) = sync_channel(1);
        self.request(Request::Flush(reply))?;
        answer.recv().map_err(|_| MonitorError::Ended)
    }

    fn first_walk(&self, threads: usize) -> Result<(), MonitorError> {
        // A ledger that is opened again says by itself that nobody looked meanwhile.
        let cause = if self.ledger.size() == 0 { Cause::Scan } else { Cause::Restart };
        if cause == Cause::Restart {
            self.counters.gaps.fetch_add(1, Ordering::Relaxed);
            self.count_files()?;
        }
        self.watch_roots()?;
        walk(&self.tree, self.digests, threads, &FirstWalk { shared: self, cause })?;
        self.flush()?;
        self.find_removed(cause, When::Now)
    }

    /// Every file that was ever recorded, in portions.
    fn for_each_file(
        &self,
        after: Option<Vec<u8>>,
        mut each: impl FnMut(&File) -> Result<ControlFlow<()>, MonitorError>,
    ) -> Result<(), MonitorError> {
        let mut after = after;
        loop {
            let page = self.ledger.files(after.as_deref(), PAGE)?;
            for file in &page {
                if each(file)?.is_break() {
                    return Ok(());
                }
            }
            match page.last() {
                _ if self.stopped() => return Err(MonitorError::Ended),
                Some(last) => after = Some(last.path().to_vec()),
                None => return Ok(()),
            }
        }
    }

    /// Marks what is below a directory that is gone: some of it may be there again, and what was found there a moment ago is not
    /// there any more, whether that is recorded already or is about to be.
    fn mark_below(&self, directory: &[u8]) -> Result<(), MonitorError> {
        let prefix = if directory == b"/" { b"/".to_vec() } else { [directory, b"/"].concat() };
        // First, since what is out now may be recorded after its turn below.
        self.queue().mark_out(Cause::Event, Instant::now(), |path| path.starts_with(&prefix));
        self.for_each_file(Some(prefix.clone()), |file| {
            if !file.path().starts_with(&prefix) {
                return Ok(ControlFlow::Break(()));
            }
            self.mark(file.path(), Cause::Event, When::Now);
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Counts what is recorded already.
    fn count_files(&self) -> Result<(), MonitorError> {
        self.for_each_file(None, |file| {
            if self.recorded(file)?.is_some_and(|state| state != State::Removed) {
                self.counters.files.fetch_add(1, Ordering::Relaxed);
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Watches the names of the roots in the directories above them, so that one that is replaced is seen again.
    fn watch_roots(&self) -> Result<(), MonitorError> {
        for root in self.tree.roots().iter().filter(|root| ***root != *b"/") {
            let add = |source| WatchError::Add { path: text(root), source };
            let (path, name) = split(root);
            match self.tree.open_directory(path) {
                Ok(parent) => self.watcher.add_name(parent.as_fd(), path, name)?,
                // Gone since the start; its root is found to be gone, too.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(source) => return Err(add(source).into()),
            }
        }
        Ok(())
    }

    /// Marks what is recorded and not there any more.
    fn find_removed(&self, cause: Cause, when: When) -> Result<(), MonitorError> {
        // First, since what is out now may be recorded after its turn below.
        self.queue().mark_out(cause, Instant::now(), |_| true);
        self.for_each_file(None, |file| {
            let looked = self
                .tree
                .open_parent(file.path())
                .and_then(|(directory, name)| crate::observe::look(directory.file.as_fd(), name));
            // What cannot be looked at is not known to be there.
            if !matches!(looked, Ok(Some(_))) {
                self.mark(file.path(), cause, when);
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn read_changes(&self) -> Result<(), MonitorError> {
        while !self.stopped() {
            for change in self.watcher.read()? {
                self.counters.changes.fetch_add(1, Ordering::Relaxed);
                self.apply(change);
            }
        }
        Ok(())
    }

    fn apply(&self, change: Change) {
        match change {
            Change::Made(path) => self.mark(&path, Cause::Event, When::Quiet(MADE_QUIET)),
            Change::Written(path) => self.mark(&path, Cause::Event, When::Quiet(WRITTEN_QUIET)),
            Change::Settled(path) => {
                self.mark(&path, Cause::Event, When::Now);
                self.look_below(&path);
            }
            Change::Tree(path) => self.trees.add(Walk::Tree(path)),
            Change::TreeGone(path) => {
                self.watcher.forget(&path);
                self.mark(&path, Cause::Event, When::Now);
                self.trees.add(Walk::Gone(path));
            }
            Change::Unmounted(path) => {
                self.trees.add(Walk::All(GapReason::Mount, format!("at {}", text(&path))));
            }
            Change::Overflow => {
                self.counters.overflows.fetch_add(1, Ordering::Relaxed);
                self.trees.add(Walk::All(GapReason::Overflow, "the kernel lost notifications".to_owned()));
            }
        }
    }

    /// What happens to a directory above a root happens to the root.
    fn look_below(&self, path: &[u8]) {
        for root in self.tree.roots().iter().filter(|root| ***root != *path && is_within(root, path)) {
            self.trees.add(Walk::Tree(root.clone()));
        }
    }
}

/// Nanoseconds since 1970 by the enclave's clock, for the ledger.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Watches and records what the first walk finds.
struct FirstWalk<'a> {
    shared: &'a Shared,
    cause: Cause,
}

impl Visitor for FirstWalk<'_> {
    type Error = MonitorError;

    fn enter(&self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<(), MonitorError> {
        Ok(self.shared.watcher.add(directory, path)?)
    }

    fn found(&self, files: Vec<Found>) -> Result<(), MonitorError> {
        if self.shared.stopped() {
            return Err(MonitorError::Ended);
        }
        // Computed here, where every thread does some of it.
        let (paths, states): (Vec<_>, Vec<_>) =
            files.into_iter().map(|Found { path, state, stamp }| (path.into(), (state, stamp))).unzip();
        let placed = self.shared.ledger.place(paths)?.into_iter().zip(states);
        let observations = placed.map(|(file, (state, stamp))| {
            let moving = state.content == Content::Unread(Unread::Moving);
            let inode = stamp.shared_inode();
            Observation { file, cause: self.cause, state: to_ledger(&state), inode, moving }
        });
        self.shared.request(Request::Found(observations.collect()))
    }
}
