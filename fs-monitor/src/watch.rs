//! Notifications of the kernel (inotify), as changes of paths.
//!
//! A directory is watched before its names are read, through the very descriptor that they are read from: so there is no
//! moment in which something could happen to it unseen. Opening and reading raise no notification that is asked for, so the
//! monitor never hears of itself.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem::MaybeUninit,
    ops::Bound,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::inotify::{self, CreateFlags, Event, ReadFlags, WatchFlags},
    io::Errno,
};

use crate::tree::{is_within, join, text};

/// Bytes of notifications read at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// The kernel's limit, for the message that says it is reached.
const LIMIT_FILE: &str = "/proc/sys/fs/inotify/max_user_watches";

/// Something that happened to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A file was made that may still be written.
    Made(Box<[u8]>),
    /// A file is being written.
    Written(Box<[u8]>),
    /// A file is complete, has other attributes, came or went.
    Settled(Box<[u8]>),
    /// A directory came, with whatever is in it.
    Tree(Box<[u8]>),
    /// A directory went, with whatever was in it; it is not watched any more.
    TreeGone(Box<[u8]>),
    /// A file system went away.
    Unmounted(Box<[u8]>),
    /// The kernel had more notifications than it keeps: nothing is known any more.
    Overflow,
}

/// Why a directory cannot be watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// The kernel allows no more watches.
    #[error(
        "cannot watch {path}: the limit of {limit} watched directories is reached (sysctl fs.inotify.max_user_watches); \
         raise it, or watch fewer directories"
    )]
    Limit {
        /// The directory.
        path: String,
        /// The limit.
        limit: String,
    },
    /// There can be no more users of notifications.
    #[error(
        "cannot have notifications of files (sysctl fs.inotify.max_user_instances, or the limit of open files)"
    )]
    Instances(#[source] Errno),
    /// Another failure.
    #[error("cannot watch {path}")]
    Add {
        /// The directory.
        path: String,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// Notifications cannot be read.
    #[error("cannot read notifications")]
    Read(#[source] Errno),
}

/// Watches directories. Shared by the thread that reads and those that add.
#[derive(Debug)]
pub struct Watcher {
    inotify: OwnedFd,
    wake: OwnedFd,
    table: Mutex<Table>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Table {
    by_watch: HashMap<i32, Watched>,
    by_path: BTreeMap<Box<[u8]>, i32>,
}

#[derive(Debug)]
struct Watched {
    path: Box<[u8]>,
    /// The only names of interest; `None`: all.
    names: Option<BTreeSet<Box<[u8]>>>,
}

impl Watcher {
    /// One that watches nothing yet, and never more than `limit` directories.
    ///
    /// # Errors
    /// When the kernel allows no more.
    pub fn new(limit: usize) -> Result<Self, WatchError> {
        let inotify =
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(WatchError::Instances)?;
        let wake =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(WatchError::Instances)?;
        Ok(Self { inotify, wake, table: Mutex::default(), limit })
    }

    /// Watches everything in an open directory.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn add(&self, directory: BorrowedFd<'_>, path: &[u8]) -> Result<(), WatchError> {
        self.watch(directory, path, None)
    }

    /// Watches one name in an open directory.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn add_name(&self, directory: BorrowedFd<'_>, path: &[u8], name: &[u8]) -> Result<(), WatchError> {
        self.watch(directory, path, Some(name))
    }

    fn watch(&self, directory: BorrowedFd<'_>, path: &[u8], name: Option<&[u8]>) -> Result<(), WatchError> {
        let mask = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::EXCL_UNLINK
            | WatchFlags::ONLYDIR;
        // The link in /proc leads to the directory that is open, whatever its path leads to by now.
        let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
        // Held until the table knows the watch, so that its notifications find their path.
        let mut table = self.lock();
        let limit = |limit: String| WatchError::Limit { path: text(path), limit };
        if table.by_watch.len() >= self.limit && !table.by_path.contains_key(path) {
            return Err(limit(self.limit.to_string()));
        }
        let watch = inotify::add_watch(&self.inotify, link, mask).map_err(|errno| match errno {
            Errno::NOSPC => limit(std::fs::read_to_string(LIMIT_FILE).unwrap_or_default().trim().to_owned()),
            source => WatchError::Add { path: text(path), source },
        })?;
        table.bind(watch, path, name);
        Ok(())
    }

    /// Forgets what is watched at and below a path.
    pub fn forget(&self, path: &[u8]) {
        let mut table = self.lock();
        let below = table
            .by_path
            .range::<[u8], _>((Bound::Included(path), Bound::Unbounded))
            .take_while(|(other, _)| other.starts_with(path));
        let gone: Vec<i32> =
            below.filter(|(other, _)| is_within(other, path)).map(|(_, watch)| *watch).collect();
        for watch in gone {
            self.remove(&mut table, watch);
        }
    }

    /// Forgets everything: after notifications were lost, the paths of directories may be other ones.
    pub fn forget_all(&self) {
        let mut table = self.lock();
        let all: Vec<i32> = table.by_watch.keys().copied().collect();
        for watch in all {
            self.remove(&mut table, watch);
        }
    }

    fn remove(&self, table: &mut Table, watch: i32) {
        table.unbind(watch);
        // Fails if the directory is gone, and the watch with it.
        let _ = inotify::remove_watch(&self.inotify, watch);
    }

    /// How many directories are watched.
    pub fn len(&self) -> usize {
        self.lock().by_watch.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes [`Watcher::read`] return without changes.
    pub fn wake(&self) {
        // A full counter wakes as well.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Waits for changes. Nothing is said of paths that nobody watches any more: they are gone, or will be looked at.
    ///
    /// # Errors
    /// When notifications cannot be read.
    pub fn read(&self) -> Result<Vec<Change>, WatchError> {
        let mut files = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
        match poll(&mut files, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(WatchError::Read(errno)),
        }
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        let mut changes = Vec::new();
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = inotify::Reader::new(self.inotify.as_fd(), &mut buffer);
        // One buffer at a time: what is in it is passed on before more is read.
        loop {
            match reader.next() {
                Ok(event) => self.lock().translate(&event, &mut changes),
                Err(Errno::AGAIN) => return Ok(changes),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(WatchError::Read(errno)),
            }
            if reader.is_buffer_empty() {
                return Ok(changes);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// A directory that was moved has the same watch at another path.
    fn bind(&mut self, watch: i32, path: &[u8], name: Option<&[u8]>) {
        let names = match (self.by_watch.get(&watch), name) {
            (Some(Watched { path: old, names: Some(names) }), Some(name)) if **old == *path => {
                Some(names.iter().cloned().chain([name.into()]).collect())
            }
            (_, Some(name)) => Some(BTreeSet::from([name.into()])),
            (_, None) => None,
        };
        self.unbind(watch);
        if let Some(other) = self.by_path.insert(path.into(), watch) {
            self.by_watch.remove(&other);
        }
        self.by_watch.insert(watch, Watched { path: path.into(), names });
    }

    fn unbind(&mut self, watch: i32) -> Option<Watched> {
        let watched = self.by_watch.remove(&watch)?;
        self.by_path.remove(&watched.path);
        Some(watched)
    }

    fn translate(&mut self, event: &Event<'_>, changes: &mut Vec<Change>) {
        let flags = event.events();
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            changes.push(Change::Overflow);
            return;
        }
        let Some(watched) = self.by_watch.get(&event.wd()) else { return };
        let Some(name) = event.file_name().map(|name| name.to_bytes()) else {
            let path = watched.path.clone();
            if flags.contains(ReadFlags::UNMOUNT) {
                changes.push(Change::Unmounted(path));
            } else {
                changes.push(Change::Settled(path));
            }
            if flags.contains(ReadFlags::IGNORED) {
                self.unbind(event.wd());
            }
            return;
        };
        if watched.names.as_ref().is_none_or(|names| names.contains(name)) {
            changes.push(change(flags, join(&watched.path, name)));
            // How it looks in the listing above may have been seen before it was changed back.
            if flags.contains(ReadFlags::ISDIR | ReadFlags::ATTRIB) {
                changes.push(Change::Settled(watched.path.clone()));
            }
        }
    }
}

fn change(flags: ReadFlags, path: Box<[u8]>) -> Change {
    let is_directory = flags.contains(ReadFlags::ISDIR);
    if is_directory && flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
        Change::Tree(path)
    } else if is_directory && flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
        Change::TreeGone(path)
    } else if flags.contains(ReadFlags::CREATE) {
        Change::Made(path)
    } else if flags.contains(ReadFlags::MODIFY) {
        Change::Written(path)
    } else {
        Change::Settled(path)
    }
}
