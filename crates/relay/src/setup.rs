//! What happens between accepting a client and moving its bytes: looking at what it sends first, finding the target's
//! address, connecting, and the handshake of hybrid vsock.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use transport::hybrid;

use crate::dial::{self, Attempt};
use crate::half::{Tools, retry};
use crate::link::{Link, Owner};
use crate::outcome::{Cause, DialError};
use crate::service::{Dial, Kind, Target, Verdict};
use crate::side::{Family, Side};
use crate::slots::Token;

/// The most that a service gets to see of a client before it has to decide.
const MAX_INSPECTED_BYTES: usize = 64 * 1024;

/// How soon to try again when a Unix listener's queue is full.
const BUSY_RETRY: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(crate) struct Setup {
    stage: Stage,
    deadline: Instant,
    dial: Option<Dial>,
    dialling_since: Instant,
    /// Addresses not yet tried, the next one last.
    candidates: Vec<SocketAddr>,
}

#[derive(Debug)]
enum Stage {
    Inspecting,
    Resolving,
    /// The target's queue was full.
    Busy {
        again: Instant,
    },
    Connecting,
    /// The line of hybrid vsock is on its way, `sent` bytes of it, and this much of the answer is there.
    Greeting {
        line: Vec<u8>,
        sent: usize,
        received: Vec<u8>,
    },
}

/// What a step of the setup has come to.
#[derive(Debug)]
pub(crate) enum Stepped {
    /// Until epoll or the clock says so.
    Wait,
    /// The name of the target has to be looked up.
    Resolve(String),
    /// Bytes can be moved.
    Ready,
    Failed(Cause),
}

impl Setup {
    /// For a client to whom the service has said something other than no.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            stage: Stage::Inspecting,
            deadline: now,
            dial: None,
            dialling_since: now,
            candidates: Vec::new(),
        }
    }

    pub(crate) fn due(&self) -> Instant {
        match self.stage {
            Stage::Busy { again } => again.min(self.deadline),
            _ => self.deadline,
        }
    }

    pub(crate) fn is_overdue(&self, now: Instant) -> Option<Cause> {
        let cause = match self.stage {
            Stage::Inspecting => Cause::HeaderTimeout,
            _ => Cause::Dial(DialError::TimedOut),
        };
        (self.deadline <= now).then_some(cause)
    }
}

/// Follows the service's first word on a client.
pub(crate) fn begin(
    link: &mut Link,
    setup: &mut Setup,
    verdict: Verdict,
    token: Token,
    tools: &mut Tools,
) -> Stepped {
    if let Verdict::Inspect { within } = verdict {
        setup.deadline = tools.now + within;
    }
    follow(link, setup, verdict, token, tools)
}

/// Goes on where the setup stands.
pub(crate) fn advance(link: &mut Link, setup: &mut Setup, token: Token, tools: &mut Tools) -> Stepped {
    match &setup.stage {
        Stage::Inspecting => inspect(link, setup, token, tools),
        Stage::Resolving => Stepped::Wait,
        Stage::Busy { again } if *again > tools.now => Stepped::Wait,
        Stage::Busy { .. } => connect(link, setup, token, tools),
        Stage::Connecting => connected(link, setup, token, tools),
        Stage::Greeting { .. } => greet(link, setup, tools),
    }
}

/// The addresses of the target's name have come.
pub(crate) fn resolved(
    link: &mut Link,
    setup: &mut Setup,
    mut found: Vec<SocketAddr>,
    token: Token,
    tools: &mut Tools,
) -> Stepped {
    found.reverse();
    setup.candidates = found;
    connect(link, setup, token, tools)
}

fn follow(link: &mut Link, setup: &mut Setup, verdict: Verdict, token: Token, tools: &mut Tools) -> Stepped {
    match verdict {
        Verdict::Refuse => Stepped::Failed(Cause::Refused),
        Verdict::Inspect { .. } => Stepped::Wait,
        Verdict::Dial(dial) => {
            setup.deadline = tools.now + dial.within;
            setup.dialling_since = tools.now;
            pass_on(link, &dial);
            let target = Arc::clone(&dial.target);
            setup.dial = Some(dial);
            match &target.kind {
                Kind::Name(name) => {
                    setup.stage = Stage::Resolving;
                    return Stepped::Resolve(name.clone());
                }
                Kind::Tcp(addr) => setup.candidates = vec![*addr],
                _ => {}
            }
            connect(link, setup, token, tools)
        }
    }
}

/// Puts what the target is to get first in front of what the client has sent.
fn pass_on(link: &mut Link, dial: &Dial) {
    link.note = dial.note;
    link.options = Arc::clone(&dial.options);
    link.preamble = dial.preamble.len() as u64;
    if let Owner::Service(_, peer) = &mut link.owner
        && dial.client.is_some()
    {
        *peer = dial.client;
    }
    let held = link.a_to_b.held();
    let consumed = dial.consumed.min(held.len());
    if consumed > 0 || !dial.preamble.is_empty() {
        held.splice(..consumed, dial.preamble.iter().copied());
    }
}

fn inspect(link: &mut Link, setup: &mut Setup, token: Token, tools: &mut Tools) -> Stepped {
    if !link.front.readable {
        return Stepped::Wait;
    }
    let room = MAX_INSPECTED_BYTES.saturating_sub(link.a_to_b.held().len()).min(tools.scratch.len());
    if room == 0 {
        return Stepped::Failed(Cause::Refused);
    }
    let read = retry(|| recv(&link.front.fd, &mut tools.scratch[..room], RecvFlags::empty()));
    let ended = match read {
        Ok((count, _)) => {
            link.a_to_b.held().extend_from_slice(&tools.scratch[..count]);
            count == 0 || count < room && link.front.note_short_read()
        }
        Err(Errno::AGAIN) => {
            link.front.readable = false;
            return Stepped::Wait;
        }
        Err(error) => {
            return Stepped::Failed(Cause::Read {
                direction: transport::Direction::AToB,
                source: error.into(),
            });
        }
    };
    if ended {
        link.a_to_b.drain();
    }
    let Owner::Service(keeper, _) = &link.owner else {
        return Stepped::Failed(Cause::Refused);
    };
    let keeper = Arc::clone(keeper);
    let first = std::mem::take(link.a_to_b.held());
    let verdict = keeper.service.inspect(&link.client(), &first, ended);
    *link.a_to_b.held() = first;
    match verdict {
        Verdict::Inspect { .. } if ended => Stepped::Failed(Cause::Refused),
        Verdict::Inspect { .. } if link.front.readable => inspect(link, setup, token, tools),
        verdict => follow(link, setup, verdict, token, tools),
    }
}

/// Tries the target, and its further addresses if need be.
fn connect(link: &mut Link, setup: &mut Setup, token: Token, tools: &mut Tools) -> Stepped {
    let Some(dial) = &setup.dial else {
        return Stepped::Failed(Cause::Refused);
    };
    let (target, source) = (Arc::clone(&dial.target), dial.source);
    let mut last = DialError::Unresolved;
    loop {
        let attempt = match &target.kind {
            Kind::Unix(path) => dial::unix(path),
            Kind::Hybrid { path, .. } => dial::unix_in_place(path),
            Kind::Vsock { cid, port } => dial::vsock(*cid, *port),
            Kind::Tcp(_) | Kind::Name(_) => match setup.candidates.pop() {
                Some(addr) => dial::tcp(addr, source),
                None => return Stepped::Failed(Cause::Dial(last)),
            },
        };
        let outcome = attempt.and_then(|attempt| take_up(link, setup, attempt, token, tools));
        match outcome {
            Ok(Begun::Connected) => return established(link, setup, &target, tools),
            Ok(Begun::Waits) => return Stepped::Wait,
            Err(error) => {
                note_exhaustion(&error, tools);
                last = DialError::from_io(error);
            }
        }
        if setup.candidates.is_empty() {
            return Stepped::Failed(Cause::Dial(last));
        }
    }
}

enum Begun {
    Connected,
    Waits,
}

fn take_up(
    link: &mut Link,
    setup: &mut Setup,
    attempt: Attempt,
    token: Token,
    tools: &Tools,
) -> io::Result<Begun> {
    let mut join = |fd: OwnedFd, family: Family, pending: bool| {
        // The one before goes first: they would have the same key.
        link.back = None;
        let side = Side::new(&tools.epoll, fd, family, token.key(true), pending)?;
        link.join(side, tools.now);
        Ok(())
    };
    match attempt {
        Attempt::Connected(fd, family) => join(fd, family, false).map(|()| Begun::Connected),
        Attempt::Pending(fd, family) => {
            setup.stage = Stage::Connecting;
            join(fd, family, true).map(|()| Begun::Waits)
        }
        Attempt::Busy => {
            setup.stage = Stage::Busy { again: tools.now + BUSY_RETRY };
            Ok(Begun::Waits)
        }
    }
}

/// Epoll has spoken of the socket that is being connected.
fn connected(link: &mut Link, setup: &mut Setup, token: Token, tools: &mut Tools) -> Stepped {
    let Some(back) = link.back.as_mut().filter(|back| back.writable) else {
        return Stepped::Wait;
    };
    let Some(target) = setup.dial.as_ref().map(|dial| Arc::clone(&dial.target)) else {
        return Stepped::Wait;
    };
    match dial::outcome(&back.fd) {
        Ok(()) if dial::is_own_peer(&back.fd) => Stepped::Failed(Cause::Dial(DialError::Itself)),
        Ok(()) => established(link, setup, &target, tools),
        // An event of a socket that has been given up.
        Err(Errno::NOTCONN) => {
            back.writable = false;
            Stepped::Wait
        }
        Err(_) if !setup.candidates.is_empty() => {
            link.back = None;
            connect(link, setup, token, tools)
        }
        Err(error) => Stepped::Failed(Cause::Dial(DialError::from_io(error.into()))),
    }
}

fn established(link: &mut Link, setup: &mut Setup, target: &Target, tools: &mut Tools) -> Stepped {
    if let Kind::Hybrid { port, .. } = target.kind {
        setup.stage = Stage::Greeting { line: hybrid::request_line(port), sent: 0, received: Vec::new() };
        return greet(link, setup, tools);
    }
    link.dialled = Some(Instant::now().saturating_duration_since(setup.dialling_since));
    Stepped::Ready
}

/// Sends the line of hybrid vsock and waits for its answer. What comes behind it is the target's first bytes.
fn greet(link: &mut Link, setup: &mut Setup, tools: &mut Tools) -> Stepped {
    let Some(back) = &mut link.back else {
        return Stepped::Wait;
    };
    let Stage::Greeting { line, sent, received } = &mut setup.stage else {
        return Stepped::Wait;
    };
    while *sent < line.len() && back.writable {
        match retry(|| send(&back.fd, &line[*sent..], SendFlags::NOSIGNAL)) {
            Ok(count) => *sent += count,
            Err(Errno::AGAIN) => back.block(&tools.epoll),
            // A monitor that refuses may close before it has read all of the line.
            Err(Errno::PIPE) => return Stepped::Failed(Cause::Dial(DialError::Refused)),
            Err(error) => return Stepped::Failed(Cause::Dial(DialError::from_io(error.into()))),
        }
    }
    while back.readable {
        match retry(|| recv(&back.fd, &mut *tools.scratch, RecvFlags::empty())) {
            Ok((0, _)) => return Stepped::Failed(Cause::Dial(DialError::Refused)),
            Ok((count, _)) => {
                received.extend_from_slice(&tools.scratch[..count]);
                if count < tools.scratch.len() && back.note_short_read() {
                    // Found out by the next read, if the answer is not whole.
                    back.readable = true;
                }
            }
            Err(Errno::AGAIN) => {
                back.readable = false;
                break;
            }
            Err(error) => return Stepped::Failed(Cause::Dial(DialError::from_io(error.into()))),
        }
        match hybrid::find_answer(received) {
            Ok(None) => {}
            Ok(Some(length)) => {
                *link.b_to_a.held() = received.split_off(length);
                link.dialled = Some(Instant::now().saturating_duration_since(setup.dialling_since));
                return Stepped::Ready;
            }
            Err(_) => return Stepped::Failed(Cause::Dial(DialError::Handshake)),
        }
    }
    Stepped::Wait
}

/// Spare pipes are descriptors too.
fn note_exhaustion(error: &io::Error, tools: &mut Tools) {
    if matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE)) {
        tools.pipes.clear();
    }
}
