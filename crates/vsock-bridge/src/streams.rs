//! The host's side of the bridge: the Unix sockets, and the one epoll set that tells when any of them is ready.
//!
//! It moves bytes and reports what came of it; [`crate::mux`] decides. Streams are watched edge by edge: each piece of
//! news is delivered once and holds until an attempt would block, so that a stream nobody attends to costs nothing.
//!
//! The epoll set also holds the listener, a timer, and a bell by which [`crate::device`] calls itself again. Its own
//! descriptor is readable while it has news, which is how it fits into the vhost-user worker's loop.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tracing::warn;

use crate::connection::{DialOutcome, ReadOutcome, Readiness, WriteOutcome};
use crate::mux::Id;

const LISTENER: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;
const BELL: u64 = u64::MAX - 2;

/// News fetched from the kernel at a time.
const MAX_EVENTS: usize = 256;

/// Clients accepted before anything else gets its turn.
const MAX_ACCEPTS: usize = 64;

/// Reads of 16 KiB by which a stream about to be closed is emptied, at most: more than a socket holds by default.
const MAX_DISCARDED_READS: usize = 64;

/// How long to leave clients waiting when none can be accepted, say for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Something that happened on the host's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Clients may be waiting to be accepted.
    Clients,
    Stream(Id, Readiness),
}

#[derive(Debug)]
pub(crate) struct Streams {
    epoll: OwnedFd,
    listener: UnixListener,
    timer: OwnedFd,
    bell: OwnedFd,
    armed_for: Option<Instant>,
    accept_again_at: Option<Instant>,
    uds: PathBuf,
    streams: HashMap<Id, UnixStream>,
}

impl Streams {
    /// Watches `listener`, the one bound at `uds`.
    pub(crate) fn new(listener: UnixListener, uds: PathBuf) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = rustix::time::timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), edge)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), edge)?;
        epoll::add(&epoll, &bell, epoll::EventData::new_u64(BELL), edge)?;
        let (armed_for, accept_again_at) = (None, None);
        Ok(Self { epoll, listener, timer, bell, armed_for, accept_again_at, uds, streams: HashMap::new() })
    }

    /// Fetches news without waiting, a limited number at a time.
    pub(crate) fn poll(&mut self, now: Instant, news: &mut Vec<News>) -> io::Result<()> {
        let mut events = [MaybeUninit::uninit(); MAX_EVENTS];
        let (events, rest) = match epoll::wait(&self.epoll, &mut events, Some(&Timespec::default())) {
            Err(Errno::INTR) => return self.poll(now, news),
            outcome => outcome?,
        };
        if rest.is_empty() {
            self.ring_bell();
        }
        for event in events {
            match event.data.u64() {
                LISTENER => news.push(News::Clients),
                TIMER | BELL => {}
                id => news.push(News::Stream(Id(id), readiness(event.flags))),
            }
        }
        if self.accept_again_at.is_some_and(|at| at <= now) {
            self.accept_again_at = None;
            news.push(News::Clients);
        }
        Ok(())
    }

    /// Makes the next [`Streams::poll`] due at once.
    pub(crate) fn ring_bell(&self) {
        // The count is never read back: each write is a new edge. It would take 2^64 of them to fail.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Makes the next [`Streams::poll`] due at `deadline`, or when clients are to be accepted again.
    pub(crate) fn arm(&mut self, deadline: Option<Instant>, now: Instant) -> io::Result<()> {
        let due = [deadline, self.accept_again_at].into_iter().flatten().min();
        if due == self.armed_for {
            return Ok(());
        }
        // Zero would disarm the timer; a deadline that has just passed must not.
        let value = due.map(|due| due.saturating_duration_since(now).max(Duration::from_micros(1)));
        let it_value = Timespec::try_from(value.unwrap_or_default()).map_err(io::Error::other)?;
        let setting = Itimerspec { it_interval: Timespec::default(), it_value };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting)?;
        self.armed_for = due;
        Ok(())
    }

    /// Accepts waiting clients, a limited number at a time.
    pub(crate) fn accept(&mut self, now: Instant) -> Vec<UnixStream> {
        let mut clients = Vec::new();
        while clients.len() < MAX_ACCEPTS {
            match self.listener.accept() {
                Ok((client, _)) => clients.push(client),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return clients,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    warn!(%error, path = %self.uds.display(), "cannot accept a client; trying again shortly");
                    self.accept_again_at = Some(now + ACCEPT_PAUSE);
                    return clients;
                }
            }
        }
        self.accept_again_at = Some(now);
        self.ring_bell();
        clients
    }

    /// Watches a stream under `id`.
    pub(crate) fn add(&mut self, id: Id, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(id.0), flags)?;
        self.streams.insert(id, stream);
        Ok(())
    }

    /// Connects to the host's listener for `port` and watches the stream under `id`.
    pub(crate) fn dial(&mut self, id: Id, port: u32) -> DialOutcome {
        let stream = match connect(&listener_path(&self.uds, port)) {
            Ok(stream) => stream,
            Err(Errno::AGAIN) => return DialOutcome::Busy,
            Err(_) => return DialOutcome::Refused,
        };
        match self.add(id, stream) {
            Ok(()) => DialOutcome::Connected,
            Err(error) => {
                warn!(%error, port, "cannot watch a new stream");
                DialOutcome::Refused
            }
        }
    }

    /// Copies the next bytes of a stream into `buffer` and leaves them in the stream; `None` if there is nothing to say.
    pub(crate) fn peek(&self, id: Id, buffer: &mut [u8]) -> Option<usize> {
        let stream = self.streams.get(&id)?;
        loop {
            match rustix::net::recv(stream, &mut *buffer, RecvFlags::PEEK) {
                Ok((count, _)) => return Some(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(_) => return Some(0),
            }
        }
    }

    pub(crate) fn read(&self, id: Id, buffer: &mut [u8]) -> ReadOutcome {
        let Some(mut stream) = self.streams.get(&id) else {
            return ReadOutcome::Failed;
        };
        loop {
            match stream.read(buffer) {
                Ok(0) => return ReadOutcome::EndOfStream,
                Ok(count) => return u32::try_from(count).map_or(ReadOutcome::Failed, ReadOutcome::Read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return ReadOutcome::WouldBlock,
                Err(_) => return ReadOutcome::Failed,
            }
        }
    }

    pub(crate) fn write(&self, id: Id, outbox: (&[u8], &[u8])) -> WriteOutcome {
        let Some(mut stream) = self.streams.get(&id) else {
            return WriteOutcome::Failed;
        };
        loop {
            match stream.write_vectored(&[IoSlice::new(outbox.0), IoSlice::new(outbox.1)]) {
                Ok(count) => return WriteOutcome::Wrote(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return WriteOutcome::WouldBlock,
                Err(_) => return WriteOutcome::Failed,
            }
        }
    }

    pub(crate) fn shutdown(&self, id: Id, how: Shutdown) {
        if let Some(stream) = self.streams.get(&id) {
            // It fails only if the peer is gone, of which there will be news.
            let _ = stream.shutdown(how);
        }
    }

    /// Closes a stream, which also ends its watch. The peer sees its end.
    pub(crate) fn close(&mut self, id: Id) {
        let Some(mut stream) = self.streams.remove(&id) else {
            return;
        };
        // A stream closed with data unread ends with an error for its peer, even if the peer was only told more than it
        // was asked. Once shut down it can grow no more, so the end of what it holds comes soon.
        let _ = stream.shutdown(Shutdown::Both);
        let mut discarded = [0; 16 * 1024];
        for _ in 0..MAX_DISCARDED_READS {
            match stream.read(&mut discarded) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }
}

impl AsFd for Streams {
    /// The epoll set, readable while there is news.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Where a service on the host listens for the guest's connections to `port`.
pub(crate) fn listener_path(uds: &Path, port: u32) -> PathBuf {
    let mut path = OsString::from(uds);
    path.push(format!("_{port}"));
    PathBuf::from(path)
}

fn readiness(flags: epoll::EventFlags) -> Readiness {
    use epoll::EventFlags as F;
    Readiness {
        readable: flags.intersects(F::IN | F::RDHUP | F::HUP | F::ERR),
        writable: flags.intersects(F::OUT | F::HUP | F::ERR),
        hung_up: flags.contains(F::HUP),
    }
}

/// Connects without ever waiting: the standard library would wait for room in the listener's queue.
fn connect(path: &Path) -> Result<UnixStream, Errno> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(UnixStream::from(socket))
}
