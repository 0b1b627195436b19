//! One socket of a connection: what epoll has said about it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, getpeername, sockopt};
use transport::coalesce::{SMALL_PACKET_BURST, SMALL_PACKET_INTERVAL};

/// Told of data, of the end and, always, of failure; only when it is new.
const READING: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);
const BOTH: EventFlags = READING.union(EventFlags::OUT);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Tcp,
    Vsock,
    /// Unix sockets, and whatever else behaves.
    Other,
}

impl Family {
    pub(crate) fn of(fd: &OwnedFd) -> Self {
        match sockopt::socket_domain(fd) {
            Ok(AddressFamily::INET | AddressFamily::INET6) => Self::Tcp,
            Ok(AddressFamily::VSOCK) => Self::Vsock,
            _ => Self::Other,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) fd: OwnedFd,
    family: Family,
    /// A read may give something.
    pub(crate) readable: bool,
    /// A write may be taken.
    pub(crate) writable: bool,
    /// The peer's end has been announced: after a short read nothing more comes.
    pub(crate) ending: bool,
    /// A failure has been announced, which only reading on will tell.
    has_failed: bool,
    /// Whether epoll tells of room for writing. A Unix socket wakes its writer with each read of its peer, so this waits
    /// for the first write that was not taken.
    armed: bool,
    key: u64,
    /// For a side to which the rules for vsock apply.
    pub(crate) allowance: Option<Box<Allowance>>,
}

impl Side {
    /// Registers a socket; `connecting` when it is not connected yet.
    pub(crate) fn new(
        epoll: &OwnedFd,
        fd: OwnedFd,
        family: Family,
        key: u64,
        connecting: bool,
    ) -> io::Result<Self> {
        let armed = connecting;
        epoll::add(epoll, &fd, EventData::new_u64(key), if armed { BOTH } else { READING })?;
        let allowance = (family == Family::Vsock).then(Box::default);
        Ok(Self {
            fd,
            family,
            readable: false,
            writable: !connecting,
            ending: false,
            has_failed: false,
            armed,
            key,
            allowance,
        })
    }

    /// Applies the rules for vsock to whatever this is.
    pub(crate) fn treat_as_vsock(&mut self) {
        self.allowance.get_or_insert_default();
    }

    pub(crate) fn note(&mut self, flags: EventFlags) {
        let failed = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        self.has_failed |= failed;
        self.readable |= failed || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
        self.writable |= failed || flags.contains(EventFlags::OUT);
        self.ending |= flags.contains(EventFlags::RDHUP);
    }

    /// A read has given less than it could have. Whether that was the last there ever will be.
    ///
    /// Nothing is left then, and what comes from now on is announced; what has been announced already is not again.
    pub(crate) fn note_short_read(&mut self) -> bool {
        self.readable = self.has_failed;
        self.ending && !self.has_failed
    }

    /// A write was not taken: wait to be told of room.
    pub(crate) fn block(&mut self, epoll: &OwnedFd) {
        self.writable = false;
        if !self.armed {
            self.armed = true;
            // Cannot fail for a registered descriptor; if it did, the connection's timeouts would end it.
            let _ = epoll::modify(epoll, &self.fd, EventData::new_u64(self.key), BOTH);
        }
    }

    pub(crate) fn is_vsock(&self) -> bool {
        self.allowance.is_some()
    }

    /// Whether the peer has broken off, as far as the socket knows without being asked for its error. Once an end has been
    /// announced, what comes after it is no matter.
    pub(crate) fn was_reset(&self) -> bool {
        self.family == Family::Tcp && !self.ending && getpeername(&self.fd) == Err(Errno::NOTCONN)
    }

    /// Makes closing this a reset, so that the peer does not take what it has for everything.
    pub(crate) fn reset_at_close(&self) {
        if self.family == Family::Tcp {
            // Without it the peer sees an end; there is nothing better to do.
            let _ = sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO));
        }
    }
}

/// How many small packets may leave for a vsock now: see [`transport::coalesce`].
#[derive(Debug)]
pub(crate) struct Allowance {
    left: u32,
    counted_to: Option<Instant>,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: SMALL_PACKET_BURST, counted_to: None }
    }
}

impl Allowance {
    /// Whether a packet may leave now; if not, when to ask again.
    pub(crate) fn check(&mut self, now: Instant) -> Result<(), Instant> {
        let mut counted_to = self.counted_to.unwrap_or(now);
        while self.left < SMALL_PACKET_BURST && counted_to + SMALL_PACKET_INTERVAL <= now {
            counted_to += SMALL_PACKET_INTERVAL;
            self.left += 1;
        }
        if self.left == SMALL_PACKET_BURST {
            counted_to = now;
        }
        self.counted_to = Some(counted_to);
        if self.left > 0 { Ok(()) } else { Err(counted_to + SMALL_PACKET_INTERVAL) }
    }

    pub(crate) fn spend_one(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    pub(crate) fn grant_one(&mut self) {
        self.left = SMALL_PACKET_BURST.min(self.left + 1);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    /// A side, and its peer.
    fn side() -> (Side, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let fd = listener.accept().unwrap().0.into();
        (Side::new(&epoll, fd, Family::Tcp, 0, false).unwrap(), peer)
    }

    /// Waits until the socket knows what its peer did, without a look at its error.
    fn settle(side: &Side) {
        let mut watched = [PollFd::new(&side.fd, PollFlags::RDHUP)];
        let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
        assert_eq!(poll(&mut watched, Some(&patience)), Ok(1));
    }

    /// Bytes were missing and the receiver saw an orderly end: the error of the reset had been told to a splice, which returned
    /// the count of what it had written before.
    #[test]
    fn reset_is_known_after_its_error_was_told_to_somebody_else() {
        let (side, peer) = side();
        assert!(!side.was_reset());
        sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
        drop(peer);
        settle(&side);
        assert_eq!(sockopt::socket_error(&side.fd), Ok(Err(Errno::CONNRESET)));
        assert_eq!(rustix::io::read(&side.fd, &mut [0; 1]), Ok(0));
        assert!(side.was_reset());
    }

    #[test]
    fn orderly_end_is_no_reset() {
        let (side, peer) = side();
        drop(peer);
        settle(&side);
        assert!(!side.was_reset());
    }

    #[test]
    fn burst_is_allowed_then_one_packet_an_interval_or_an_answer() {
        let start = Instant::now();
        let mut allowance = Allowance::default();
        for _ in 0..SMALL_PACKET_BURST {
            assert_eq!(allowance.check(start), Ok(()));
            allowance.spend_one();
        }
        let next = allowance.check(start).unwrap_err();
        assert_eq!(next, start + SMALL_PACKET_INTERVAL);
        allowance.grant_one();
        assert_eq!(allowance.check(start), Ok(()));
        allowance.spend_one();
        assert!(allowance.check(start).is_err());
        assert_eq!(allowance.check(next), Ok(()));
    }
}
