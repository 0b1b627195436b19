//! Holds programs that open or run a watched file until its present content is recorded, and refuses what is denied
//! (fanotify permission events).
//!
//! One thread reads events and answers at once where nothing has to be found out: above all the monitor's own openings, for
//! which nobody else could answer. The others go to threads that hash the very file that is about to be opened.

use std::{
    collections::HashMap,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use manifest::Denied;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fd::OwnedFd,
    fs::SeekFrom,
};
use sys::fanotify::{Group, Held};

use crate::{
    content::Reader,
    monitor::{Handle, MonitorError, now},
    observe::look_at,
    state::{Content, Kind, Stamp, State, Unread},
    tree::{is_within, text},
};

/// How often a file that changes while it is hashed is tried before the program is refused.
const TRIES: u32 = 50;
/// Between two tries.
const RETRY: Duration = Duration::from_millis(20);
/// Most states that are remembered as recorded.
const MAX_KNOWN: usize = 64 * 1024;

/// What nobody may open or run.
#[derive(Clone, Debug, Default)]
pub struct DenyList {
    paths: Vec<Vec<u8>>,
    digests: Vec<[u8; 32]>,
}

impl DenyList {
    /// The list of a manifest.
    pub fn new(denied: &[Denied]) -> Self {
        let mut list = Self::default();
        for entry in denied {
            match entry {
                Denied::Path(path) => list.paths.push(path.clone().into_bytes()),
                Denied::Blake3(digest) => list.digests.push(*digest),
            }
        }
        list
    }

    fn has_path(&self, path: &[u8]) -> bool {
        self.paths.iter().any(|denied| is_within(path, denied))
    }

    fn has_digest(&self, state: &State) -> bool {
        state.digests().is_some_and(|digests| self.digests.contains(&digests.blake3))
    }
}

/// Programs are held for as long as this lives.
#[derive(Debug)]
pub struct Enforcer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    group: Group,
    wake: OwnedFd,
    stop: AtomicBool,
    monitor: Handle,
    deny: DenyList,
    known: Mutex<Known>,
    started: Instant,
}

impl Enforcer {
    /// Begins to hold programs that open files which the monitor watches.
    ///
    /// # Errors
    /// When the kernel or the rights of this process lack what it takes; nobody is held then.
    pub fn start(monitor: Handle, deny: DenyList, threads: usize) -> io::Result<Self> {
        let group = Group::new()?;
        for root in monitor.tree().roots() {
            let (directory, name) = monitor.tree().open_parent(root)?;
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
            let file = rustix::fs::openat(&directory.file, name, flags, rustix::fs::Mode::empty())?;
            group.hold_file_system(file.as_fd())?;
        }
        for mount in mounts_below(&monitor)? {
            group.hold_file_system(mount.as_fd())?;
        }
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stop = AtomicBool::new(false);
        let (known, started) = (Mutex::default(), Instant::now());
        let shared = Arc::new(Shared { group, wake, stop, monitor, deny, known, started });
        let mut enforcer = Self { shared, threads: Vec::new() };
        // An error drops what was started, which lets everybody go on.
        enforcer.begin(threads.max(1))?;
        Ok(enforcer)
    }

    fn begin(&mut self, threads: usize) -> io::Result<()> {
        let (sender, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..threads {
            let (shared, receiver) = (Arc::clone(&self.shared), Arc::clone(&receiver));
            let thread = std::thread::Builder::new().name("hold".to_owned());
            self.threads.push(thread.spawn(move || shared.answer_all(&receiver))?);
        }
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("opens".to_owned());
        self.threads.push(thread.spawn(move || shared.read_all(&sender))?);
        Ok(())
    }
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // A full counter wakes as well.
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            // It has ended the monitor if it could not go on.
            let _ = thread.join();
        }
    }
}

/// How much less than before the clock may lead one that never jumps, before it counts as set back: reading both takes time.
const CLOCK_SLACK_NS: i128 = 1_000_000;

/// What was recorded lately.
#[derive(Debug, Default)]
struct Known {
    /// By path: a state that was recorded, and whether it may be opened.
    states: HashMap<Box<[u8]>, (Stamp, bool)>,
    /// By how many nanoseconds the clock led one that never jumps.
    lead: Option<i128>,
}

impl Known {
    /// Has to be called before anything is believed. When a clock is set back, a state can come to have the change time of another one
    /// before it, so nothing is known any more.
    fn look_at_clock(&mut self, now: u64, elapsed: Duration) {
        let lead = i128::from(now).saturating_sub(i128::try_from(elapsed.as_nanos()).unwrap_or(i128::MAX));
        if self.lead.replace(lead).is_some_and(|before| lead < before.saturating_sub(CLOCK_SLACK_NS)) {
            self.states.clear();
        }
    }
}

/// An opening that depends on the content, and the path of the file.
type Question = (Held, Box<[u8]>);

/// What to do with an opening.
enum Verdict {
    Answer(bool),
    /// It depends on the content.
    Look(Box<[u8]>),
}

impl Shared {
    fn read_all(&self, sender: &Sender<Question>) {
        while !self.stop.load(Ordering::Acquire) {
            let mut files = [PollFd::new(&self.group, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
            let events = match poll(&mut files, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => self.group.read(),
                Err(errno) => Err(errno.into()),
            };
            let events = match events {
                Ok(events) if !events.overflow => events,
                Ok(_) => {
                    return self.monitor.fail(&MonitorError::Enforce(io::Error::other("openings were lost")));
                }
                Err(error) => return self.monitor.fail(&MonitorError::Enforce(error)),
            };
            for held in events.held {
                match self.judge(&held) {
                    Verdict::Answer(allow) => self.answer(&held, allow),
                    // Fails when the threads that answer have ended; the file's end lets the program go on then.
                    Verdict::Look(path) => drop(sender.send((held, path))),
                }
            }
        }
    }

    /// Decides without reading the file.
    fn judge(&self, held: &Held) -> Verdict {
        // Nobody else could answer for what the monitor itself opens.
        if u32::try_from(held.pid).is_ok_and(|pid| pid == std::process::id()) {
            return Verdict::Answer(true);
        }
        let Some(path) = self.path(held) else { return Verdict::Answer(true) };
        if self.deny.has_path(&path) {
            tracing::info!(path = text(&path), "denied");
            return Verdict::Answer(false);
        }
        let Ok(stat) = look_at(held.file.as_fd()) else { return Verdict::Answer(false) };
        if Kind::of(&stat) != Kind::File {
            return Verdict::Answer(true);
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.look_at_clock(now(), self.started.elapsed());
        match known.states.get(&path) {
            Some((stamp, allowed)) if *stamp == Stamp::of(&stat) => Verdict::Answer(*allowed),
            _ => Verdict::Look(path),
        }
    }

    /// The path of a watched file, as the application sees it; `None` if it is not watched.
    fn path(&self, held: &Held) -> Option<Box<[u8]>> {
        let link = format!("/proc/self/fd/{}", held.file.as_raw_fd());
        let path = std::fs::read_link(link).ok()?.into_os_string().into_vec();
        let base = self.monitor.tree().base().as_os_str().as_bytes();
        let path = if base == b"/" { &path } else { path.strip_prefix(base)? };
        self.monitor.tree().covers(path, false).then(|| path.into())
    }

    fn answer(&self, held: &Held, allow: bool) {
        if let Err(error) = self.group.answer(held.file.as_fd(), allow) {
            // The program may have been killed meanwhile.
            tracing::debug!(error = &error as &dyn std::error::Error, "nobody waits any more");
        }
    }

    fn answer_all(&self, receiver: &Mutex<Receiver<Question>>) {
        let mut reader = Reader::new(self.monitor.digests());
        loop {
            let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
            // The thread that reads has ended.
            let Ok((held, path)) = next else { return };
            let allow = self.look(&mut reader, &held, &path);
            self.answer(&held, allow);
        }
    }

    /// Records the content that is about to be read; whether it may be.
    fn look(&self, reader: &mut Reader, held: &Held, path: &[u8]) -> bool {
        for _ in 0..TRIES {
            let found = self.monitor.record_access(path, || hash(reader, held));
            match found {
                Ok(Some((state, stamp))) => {
                    let denied = self.deny.has_digest(&state);
                    let readable = state.digests().is_some();
                    let allow = readable && !denied;
                    if !allow {
                        tracing::info!(path = text(path), denied, readable, "denied");
                    }
                    self.remember(path, stamp, allow);
                    return allow;
                }
                // It changes while it is hashed.
                Ok(None) => std::thread::sleep(RETRY),
                // The monitor has ended, and has said why.
                Err(_) => return false,
            }
            if self.stop.load(Ordering::Acquire) {
                return false;
            }
        }
        tracing::warn!(path = text(path), "denied: it changes without a pause");
        false
    }

    fn remember(&self, path: &[u8], stamp: Stamp, allow: bool) {
        if !stamp.is_settled(now()) {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.states.len() >= MAX_KNOWN {
            known.states.clear();
        }
        known.states.insert(path.into(), (stamp, allow));
    }
}

/// Hashes the file that is about to be opened; `None` if it changed meanwhile.
fn hash(reader: &mut Reader, held: &Held) -> Option<(State, Stamp)> {
    let file = held.file.as_fd();
    let stat = look_at(file).ok()?;
    rustix::fs::seek(file, SeekFrom::Start(0)).ok()?;
    let content = match reader.digest(file, &stat) {
        Ok(digests) => Content::Digests(digests),
        Err(Unread::Moving) => return None,
        Err(why) => Content::Unread(why),
    };
    let after = look_at(file).ok()?;
    let stamp = Stamp::of(&stat);
    (Stamp::of(&after) == stamp).then(|| (State::new(&stat, content), stamp))
}

/// File systems mounted below the roots, which have to be marked each by itself.
fn mounts_below(monitor: &Handle) -> io::Result<Vec<OwnedFd>> {
    let mut mounts = Vec::new();
    for line in std::fs::read("/proc/self/mountinfo")?.split(|byte| *byte == b'\n') {
        // The fifth field (proc_pid_mountinfo(5)).
        let Some(point) = line.split(|byte| *byte == b' ').nth(4).map(unescape) else { continue };
        let base = monitor.tree().base().as_os_str().as_bytes();
        let below = if base == b"/" { Some(point.as_slice()) } else { point.strip_prefix(base) };
        let Some(path) = below.filter(|path| monitor.tree().covers(path, true)) else { continue };
        let outside = [b"/dev".as_slice(), b"/proc", b"/sys"].iter().any(|other| is_within(path, other));
        if let Some(directory) = monitor.tree().open_directory(path).ok().filter(|_| !outside)
            && crate::tree::pseudo(&directory).is_none()
        {
            mounts.push(directory);
        }
    }
    Ok(mounts)
}

/// Spaces and the like are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_spaces_are_read() {
        assert_eq!(unescape(b"/a\\040b\\134c"), b"/a b\\c");
        assert_eq!(unescape(b"/a\\9"), b"/a\\9");
    }

    #[test]
    fn what_is_known_is_forgotten_when_the_clock_is_set_back() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let stamp = Stamp::of(&look_at(file.as_fd()).unwrap());
        let mut known = Known::default();
        let (start, second) = (1 << 60, Duration::from_secs(1));
        known.look_at_clock(start, second);
        known.states.insert((*b"/a").into(), (stamp, true));
        // It goes on, jumps forward, and comes a little late.
        for (now, elapsed) in [
            (start + 1_000_000_000, 2 * second),
            (start << 1, 3 * second),
            ((start << 1) - 500_000, 3 * second),
        ] {
            known.look_at_clock(now, elapsed);
            assert_eq!(known.states.len(), 1);
        }
        known.look_at_clock((start << 1) + 500_000_000, 4 * second);
        assert!(known.states.is_empty());
    }

    #[test]
    fn a_denied_path_takes_what_lies_below_it() {
        let list = DenyList::new(&["/app/bin".parse().unwrap()]);
        assert!(list.has_path(b"/app/bin") && list.has_path(b"/app/bin/x"));
        assert!(!list.has_path(b"/app/binary") && !list.has_path(b"/app"));
    }
}
