//! Listeners: accepting, and leaving the system alone when it has nothing to give.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use transport::{AcceptFailure, Addr, ListenSocket};

use crate::engine::Inner;
use crate::half::retry;
use crate::service::Service;
use crate::side::Family;
use crate::slots::INDEX_LIMIT;

/// How long to leave the system alone when it has no descriptor or memory for another connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// How soon to ask a service again that has no room: connections of other threads may have ended.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// Who decides about the clients of a listener. Connections keep it, and do not keep the listener open by that.
pub(crate) struct Keeper {
    pub(crate) number: u32,
    pub(crate) service: Arc<dyn Service>,
}

/// A listener as all threads have it.
pub(crate) struct Desk {
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) socket: ListenSocket,
    family: Family,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk")
            .field("number", &self.keeper.number)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Desk {
    pub(crate) fn new(number: u32, socket: ListenSocket, service: Arc<dyn Service>) -> Self {
        let family = match socket.local_addr() {
            Addr::Tcp(_) => Family::Tcp,
            Addr::Vsock { .. } => Family::Vsock,
            _ => Family::Other,
        };
        Self { keeper: Arc::new(Keeper { number, service }), socket, family }
    }
}

/// An open listener. Closed when this is dropped; connections that have been accepted go on.
#[derive(Debug)]
pub struct Door {
    pub(crate) number: u32,
    pub(crate) engine: Arc<Inner>,
    pub(crate) addr: Addr,
}

impl Door {
    /// Where clients can connect.
    pub fn local_addr(&self) -> &Addr {
        &self.addr
    }

    /// Closes the listener; connections that have been accepted go on.
    pub fn close(&self) {
        self.engine.close(self.number);
    }

    /// Closes the listener and ends all connections that came in by it.
    pub fn abort(self) {
        self.engine.abort(self.number);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.engine.close(self.number);
    }
}

/// A listener as one thread has it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) desk: Arc<Desk>,
    /// Not in epoll before this time.
    paused_until: Option<Instant>,
    /// Paused because the service has no room, not the system.
    is_full: bool,
}

/// The key of a door in epoll: an index that no link has, and the door's number.
pub(crate) fn key(number: u32) -> u64 {
    u64::from(INDEX_LIMIT) << 32 | u64::from(number)
}

/// What came out of trying to accept.
pub(crate) enum Accepted {
    Client(OwnedFd, Option<SocketAddr>),
    /// Nobody is waiting, or nobody can be let in now.
    Nobody,
    /// The listener is of no use any more.
    Broken(io::Error),
}

impl Seat {
    pub(crate) fn new(desk: Arc<Desk>, epoll: &OwnedFd) -> io::Result<Self> {
        let seat = Self { desk, paused_until: None, is_full: false };
        seat.register(epoll)?;
        Ok(seat)
    }

    pub(crate) fn family(&self) -> Family {
        self.desk.family
    }

    pub(crate) fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    pub(crate) fn accept(&mut self, epoll: &OwnedFd, now: Instant) -> Accepted {
        if self.paused_until.is_some() {
            return Accepted::Nobody;
        }
        loop {
            if !self.desk.keeper.service.has_room() {
                self.is_full = true;
                self.pause(epoll, now + FULL_PAUSE);
                return Accepted::Nobody;
            }
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match retry(|| acceptfrom_with(&self.desk.socket, flags)) {
                Ok((fd, peer)) => return Accepted::Client(fd, peer.and_then(|peer| peer.try_into().ok())),
                Err(Errno::AGAIN) => return Accepted::Nobody,
                Err(errno) => {
                    let error = io::Error::from(errno);
                    match AcceptFailure::of(&error) {
                        AcceptFailure::OfOneConnection => {}
                        AcceptFailure::Exhausted => {
                            tracing::warn!(listener = %self.desk.socket.local_addr(), %error, "cannot accept now, pausing");
                            self.pause(epoll, now + EXHAUSTED_PAUSE);
                            return Accepted::Nobody;
                        }
                        AcceptFailure::Fatal => return Accepted::Broken(error),
                    }
                }
            }
        }
    }

    fn pause(&mut self, epoll: &OwnedFd, until: Instant) {
        // A listener shared among threads cannot be modified in epoll, only taken out.
        if epoll::delete(epoll, &self.desk.socket).is_ok() {
            self.paused_until = Some(until);
        }
    }

    /// Listens again if the time has come, or there may be room again.
    pub(crate) fn resume(&mut self, epoll: &OwnedFd, now: Instant, has_ended: bool) {
        let Some(until) = self.paused_until else { return };
        if until > now && !(has_ended && self.is_full) {
            return;
        }
        self.is_full = false;
        self.paused_until = if self.register(epoll).is_ok() { None } else { Some(now + EXHAUSTED_PAUSE) };
    }

    fn register(&self, epoll: &OwnedFd) -> io::Result<()> {
        let key = EventData::new_u64(key(self.desk.keeper.number));
        Ok(epoll::add(epoll, &self.desk.socket, key, EventFlags::IN | EventFlags::EXCLUSIVE)?)
    }

    pub(crate) fn unregister(&self, epoll: &OwnedFd) {
        // Not there while paused.
        let _ = epoll::delete(epoll, &self.desk.socket);
    }
}
