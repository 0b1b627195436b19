//! Visits every watched file, on several threads: each directory is opened relative to the one above, each file read by one
//! thread, large ones first.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    fs::{Mode, OFlags, Statx},
    io::Errno,
};

use crate::{
    content::{DigestSet, Reader},
    listing::{Listing, MAX_PATH_BYTES},
    observe::{Seen, look, look_at, observe},
    state::{Content, Kind, Stamp, State, Unread},
    tree::{Directory, Tree, join, pseudo},
};

/// Files from this size on are left to whoever is free, so that no thread is late with one at the end.
const LARGE_BYTES: u64 = 4 * 1024 * 1024;

/// How many files are handed over at a time.
const BATCH: usize = 512;

/// A file that was found, and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its path as the application sees it.
    pub path: Box<[u8]>,
    /// What it is.
    pub state: State,
    /// What identifies this state.
    pub stamp: Stamp,
}

/// Who is told what a walk finds, from several threads at once.
pub trait Visitor: Sync {
    /// Why the visitor wants no more.
    type Error: Send;

    /// A directory, before its names are read.
    ///
    /// # Errors
    /// Ends the walk.
    fn enter(&self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<(), Self::Error>;

    /// Files that were found. A directory comes after its names were read, in no order with what is below it.
    ///
    /// # Errors
    /// Ends the walk.
    fn found(&self, files: Vec<Found>) -> Result<(), Self::Error>;
}

/// Visits everything below the roots of a tree.
///
/// # Errors
/// What the visitor said.
pub fn walk<V: Visitor>(tree: &Tree, set: DigestSet, threads: usize, visitor: &V) -> Result<(), V::Error> {
    let mut queue = Queue { large: Vec::new(), next: Vec::new(), working: 0, stopped: None };
    for root in tree.roots() {
        if let Ok((directory, name)) = tree.open_parent(root) {
            queue.next.push(Job { directory, name: name.into(), path: root.clone() });
        }
    }
    let shared = Shared { tree, visitor, queue: Mutex::new(queue), changed: Condvar::new() };
    std::thread::scope(|scope| {
        for _ in 1..threads.max(1) {
            scope.spawn(|| Walker::new(&shared, set).run());
        }
        Walker::new(&shared, set).run();
    });
    let queue = shared.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    queue.stopped.map_or(Ok(()), Err)
}

/// A name that is to be looked at.
struct Job {
    directory: Arc<Directory>,
    name: Box<[u8]>,
    path: Box<[u8]>,
}

struct Queue<E> {
    large: Vec<Job>,
    next: Vec<Job>,
    working: usize,
    stopped: Option<E>,
}

struct Shared<'a, V: Visitor> {
    tree: &'a Tree,
    visitor: &'a V,
    queue: Mutex<Queue<V::Error>>,
    changed: Condvar,
}

impl<V: Visitor> Shared<'_, V> {
    fn lock(&self) -> MutexGuard<'_, Queue<V::Error>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job, once there is one; `None` when there will be none.
    fn take(&self) -> Option<Job> {
        let mut queue = self.lock();
        loop {
            if queue.stopped.is_some() {
                return None;
            }
            if let Some(job) = queue.large.pop().or_else(|| queue.next.pop()) {
                queue.working += 1;
                return Some(job);
            }
            if queue.working == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn add(&self, large: Vec<Job>, next: Vec<Job>) {
        if large.is_empty() && next.is_empty() {
            return;
        }
        let mut queue = self.lock();
        queue.large.extend(large);
        queue.next.extend(next);
        drop(queue);
        self.changed.notify_all();
    }

    fn done(&self, outcome: Result<(), V::Error>) {
        let mut queue = self.lock();
        queue.working -= 1;
        if let Err(error) = outcome {
            queue.stopped.get_or_insert(error);
        }
        let ended = queue.stopped.is_some()
            || (queue.working == 0 && queue.large.is_empty() && queue.next.is_empty());
        drop(queue);
        if ended {
            self.changed.notify_all();
        }
    }
}

struct Walker<'a, V: Visitor> {
    shared: &'a Shared<'a, V>,
    reader: Reader,
    found: Vec<Found>,
}

impl<'a, V: Visitor> Walker<'a, V> {
    fn new(shared: &'a Shared<'a, V>, set: DigestSet) -> Self {
        Self { shared, reader: Reader::new(set), found: Vec::with_capacity(BATCH) }
    }

    fn run(mut self) {
        while let Some(job) = self.shared.take() {
            let outcome = self.visit(&job);
            // Handed over before the job counts as done: whoever waits for the walk has everything then.
            let outcome = outcome.and_then(|()| self.flush());
            self.shared.done(outcome);
        }
    }

    fn visit(&mut self, job: &Job) -> Result<(), V::Error> {
        let Ok(Some(stat)) = look(job.directory.file.as_fd(), &job.name) else { return Ok(()) };
        if Kind::of(&stat) == Kind::Directory { self.enter(job, &stat) } else { self.file(job) }
    }

    fn file(&mut self, job: &Job) -> Result<(), V::Error> {
        match observe(&mut self.reader, job.directory.file.as_fd(), &job.name) {
            Ok(Seen::State { state, stamp }) => self.push(Found { path: job.path.clone(), state, stamp }),
            // It became a directory meanwhile.
            Ok(Seen::Directory) => {
                self.shared.add(Vec::new(), vec![job.again()]);
                Ok(())
            }
            // What cannot be looked at any more, although its name was just read, is gone as far as can be known.
            Ok(Seen::Absent) | Err(_) => Ok(()),
        }
    }

    fn enter(&mut self, job: &Job, stat: &Statx) -> Result<(), V::Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&job.directory.file, &*job.name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.shared.add(Vec::new(), vec![job.again()]);
                return Ok(());
            }
            Err(errno) => return self.unread(&job.path, stat, Unread::from_errno(errno)),
        };
        let opened = look_at(file.as_fd()).unwrap_or(*stat);
        if let Some(why) = pseudo(&file) {
            return self.unread(&job.path, &opened, why);
        }
        self.shared.visitor.enter(file.as_fd(), &job.path)?;
        let ignored = |name: &[u8], is_directory| self.shared.tree.ignores(&job.path, name, is_directory);
        let listing = match Listing::read(file.as_fd(), ignored) {
            Ok(listing) => listing,
            Err(errno) => return self.unread(&job.path, &opened, Unread::from_errno(errno)),
        };
        let state = listing.state(&job.path, self.reader.digest_set());
        self.push(Found { path: job.path.clone(), state, stamp: Stamp::of(&listing.stat) })?;
        self.children(Arc::new(Directory { file, path: job.path.clone() }), listing)
    }

    fn children(&mut self, directory: Arc<Directory>, listing: Listing) -> Result<(), V::Error> {
        let (mut large, mut next, mut small) = (Vec::new(), Vec::new(), Vec::new());
        for (name, stat) in listing.children {
            let path = join(&directory.path, &name);
            if path.len() > MAX_PATH_BYTES {
                continue;
            }
            let job = Job { directory: Arc::clone(&directory), name, path };
            match Kind::of(&stat) {
                Kind::Directory => next.push(job),
                Kind::File if stat.stx_size >= LARGE_BYTES => large.push(job),
                _ => small.push(job),
            }
        }
        self.shared.add(large, next);
        // In portions, so that other threads have some of a directory with very many files.
        if let Some(rest) = small.len().checked_sub(2 * BATCH) {
            let rest = small.split_off(small.len() - rest);
            self.shared.add(Vec::new(), rest);
        }
        small.into_iter().try_for_each(|job| self.file(&job))
    }

    fn unread(&mut self, path: &[u8], stat: &Statx, why: Unread) -> Result<(), V::Error> {
        let state = State::new(stat, Content::Unread(why));
        self.push(Found { path: path.into(), state, stamp: Stamp::of(stat) })
    }

    fn push(&mut self, found: Found) -> Result<(), V::Error> {
        self.found.push(found);
        if self.found.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), V::Error> {
        if self.found.is_empty() {
            return Ok(());
        }
        let batch = std::mem::replace(&mut self.found, Vec::with_capacity(BATCH));
        self.shared.visitor.found(batch)
    }
}

impl Job {
    fn again(&self) -> Self {
        Self { directory: Arc::clone(&self.directory), name: self.name.clone(), path: self.path.clone() }
    }
}
