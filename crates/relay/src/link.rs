//! One connection: two sockets, two directions, and what is to happen when nothing happens.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io, mem};

use transport::Direction;

use crate::door::Keeper;
use crate::half::{Failure, Half, Tools, Turn};
use crate::outcome::{Cause, LinkOptions, Report};
use crate::service::Client;
use crate::setup::Setup;
use crate::side::Side;

/// Told of the end of a connection that was handed over.
pub(crate) type OnEnd = Box<dyn FnOnce(Report) + Send>;

/// Who wants to know what becomes of a connection.
pub(crate) enum Owner {
    Caller(OnEnd),
    Service(Arc<Keeper>, Option<SocketAddr>),
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caller(_) => f.write_str("Caller"),
            Self::Service(keeper, peer) => {
                f.debug_tuple("Service").field(&keeper.number).field(peer).finish()
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) front: Side,
    pub(crate) back: Option<Side>,
    pub(crate) a_to_b: Half,
    pub(crate) b_to_a: Half,
    /// Until both sockets are connected and only bytes are to be moved.
    pub(crate) setup: Option<Box<Setup>>,
    pub(crate) owner: Owner,
    pub(crate) options: Arc<LinkOptions>,
    began: Instant,
    /// When a byte was last moved, or something else happened.
    moved: Instant,
    /// The earliest time at which the clock will look here.
    pub(crate) timer: Option<Instant>,
    /// Waits for its next turn.
    pub(crate) is_queued: bool,
    /// Why it will have ended. The first failure counts.
    cause: Option<Box<Cause>>,
    pub(crate) dialled: Option<Duration>,
    pub(crate) note: u32,
    /// How many of the bytes from a to b are not the client's.
    pub(crate) preamble: u64,
}

/// What a turn has come to.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Nothing can be done until epoll or the clock says so.
    Wait,
    /// There is more to do, after others.
    Again,
    Ended(Cause),
}

impl Link {
    pub(crate) fn new(
        front: Side,
        back: Option<Side>,
        owner: Owner,
        options: Arc<LinkOptions>,
        now: Instant,
    ) -> Self {
        let mut link = Self {
            front,
            back: None,
            a_to_b: Half::new(false),
            b_to_a: Half::new(false),
            setup: None,
            owner,
            options,
            began: now,
            moved: now,
            timer: None,
            is_queued: false,
            cause: None,
            dialled: None,
            note: 0,
            preamble: 0,
        };
        if let Some(back) = back {
            link.join(back, now);
        }
        link
    }

    /// Has its second side from now on.
    pub(crate) fn join(&mut self, mut back: Side, now: Instant) {
        if self.options.as_vsock {
            self.front.treat_as_vsock();
            back.treat_as_vsock();
        }
        if self.front.is_vsock() || back.is_vsock() {
            // A vsock has nothing that could be spliced: its bytes are copied anyway.
            self.a_to_b.only_copies();
            self.b_to_a.only_copies();
        }
        self.back = Some(back);
        self.moved = now;
    }

    /// Moves bytes, once set up.
    pub(crate) fn pump(&mut self, tools: &mut Tools) -> Progress {
        let Some(back) = &mut self.back else {
            return Progress::Wait;
        };
        let before = (self.a_to_b.bytes, self.b_to_a.bytes);
        let forth = self.a_to_b.pump(&mut self.front, back, tools, self.b_to_a.is_done());
        let failure = self.a_to_b.failure.take();
        self.note_failure(failure, Direction::AToB, tools.now);
        let Some(back) = &mut self.back else {
            return Progress::Wait;
        };
        let fro = self.b_to_a.pump(back, &mut self.front, tools, self.a_to_b.is_done());
        let failure = self.b_to_a.failure.take();
        self.note_failure(failure, Direction::BToA, tools.now);
        if before != (self.a_to_b.bytes, self.b_to_a.bytes) {
            self.moved = tools.now;
            if let Owner::Service(keeper, _) = &self.owner {
                keeper.service.moved(self.a_to_b.bytes - before.0, self.b_to_a.bytes - before.1);
            }
        }
        if self.a_to_b.is_done() && self.b_to_a.is_done() {
            Progress::Ended(self.cause.take().map_or(Cause::Complete, |cause| *cause))
        } else if forth == Turn::Again || fro == Turn::Again {
            Progress::Again
        } else {
            Progress::Wait
        }
    }

    /// When to look again if nothing happens until then.
    pub(crate) fn due(&self) -> Option<Instant> {
        if let Some(setup) = &self.setup {
            return Some(setup.due());
        }
        let quiet = self.patience().map(|(patience, _)| self.moved + patience);
        [quiet, self.a_to_b.paused_until, self.b_to_a.paused_until].into_iter().flatten().min()
    }

    /// Nothing has moved for as long as it may.
    pub(crate) fn is_overdue(&mut self, now: Instant) -> Option<Cause> {
        let (patience, is_half_open) = self.patience()?;
        if self.moved + patience > now {
            return None;
        }
        Some(match self.cause.take() {
            Some(cause) => *cause,
            None if is_half_open => Cause::HalfOpen,
            None => Cause::Idle,
        })
    }

    /// How long it may stand still, and whether that is because one side has ended.
    fn patience(&self) -> Option<(Duration, bool)> {
        let LinkOptions { idle, half_open, linger, .. } = *self.options;
        if self.cause.is_some() {
            return Some((linger, false));
        }
        let half_open = half_open.filter(|_| self.a_to_b.is_done() || self.b_to_a.is_done());
        let either = [half_open.map(|time| (time, true)), idle.map(|time| (time, false))];
        either.into_iter().flatten().min()
    }

    /// A side that cannot be read is gone, so there is nobody to write to either. One that cannot be written may still
    /// have something to say.
    fn note_failure(&mut self, failure: Option<Failure>, direction: Direction, now: Instant) {
        let Some(failure) = failure else { return };
        self.moved = now;
        let cause = match failure {
            Failure::Read(source) => {
                match direction {
                    Direction::AToB => self.b_to_a.give_up(),
                    Direction::BToA => self.a_to_b.give_up(),
                }
                Cause::Read { direction, source }
            }
            Failure::Write(source) => {
                // Any other error than that of a closed socket is told once, be it to a write: reading would then see an
                // end where there was none.
                if source.kind() != io::ErrorKind::BrokenPipe {
                    match direction {
                        Direction::AToB => self.b_to_a.note_break(),
                        Direction::BToA => self.a_to_b.note_break(),
                    }
                }
                Cause::Write { direction, source }
            }
        };
        self.cause.get_or_insert_with(|| Box::new(cause));
    }

    /// What the service gets to see.
    pub(crate) fn client(&self) -> Client<'_> {
        let peer = match &self.owner {
            Owner::Service(_, peer) => *peer,
            Owner::Caller(_) => None,
        };
        Client { peer, socket: self.front.fd.as_fd() }
    }

    /// Closes both sides and tells the owner. A side that has not got everything is reset.
    pub(crate) fn finish(mut self, cause: Cause, tools: &mut Tools) {
        let (forth, fro) = (&mut self.a_to_b, &mut self.b_to_a);
        forth.return_pipe(&mut tools.pipes);
        fro.return_pipe(&mut tools.pipes);
        if let Some(back) = self.back.take() {
            if !forth.is_complete {
                back.reset_at_close();
            }
            if self.setup.is_none() && !fro.is_complete {
                self.front.reset_at_close();
            }
        }
        let report = Report {
            a_to_b: forth.bytes.saturating_sub(self.preamble),
            b_to_a: fro.bytes,
            lasted: tools.now.saturating_duration_since(self.began),
            dialled: self.dialled,
            cause,
            note: self.note,
        };
        let owner = mem::replace(&mut self.owner, Owner::Caller(Box::new(|_| {})));
        // The descriptors are free before anybody is told.
        drop(self);
        match owner {
            Owner::Caller(on_end) => on_end(report),
            Owner::Service(keeper, peer) => keeper.service.ended(peer, &report),
        }
    }
}
