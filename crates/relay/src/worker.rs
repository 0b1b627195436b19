//! The loop of one thread.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use crate::door::{Accepted, Desk, Keeper, Seat};
use crate::engine::{Handover, Mailbox, Message};
use crate::half::{SCRATCH_BYTES, Tools};
use crate::link::{Link, Owner, Progress};
use crate::outcome::{Cause, LinkOptions, Report};
use crate::pipes::Pipes;
use crate::resolver::{Question, Resolver};
use crate::service::{Client, Verdict};
use crate::setup::{self, Setup, Stepped};
use crate::side::{Family, Side};
use crate::slots::{INDEX_LIMIT, Slots, Token};
use crate::timers::Timers;

/// How many events are taken from epoll at once.
const EVENTS: usize = 256;

/// How many clients are let in before other things get their turn, and other threads get some of them.
const ACCEPT_BURST: usize = 8;

/// The key of the mailbox: an index that neither a link nor a door has.
const BELL_KEY: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Worker {
    mailbox: Arc<Mailbox>,
    resolver: Arc<Resolver>,
    tools: Tools,
    links: Slots<Link>,
    doors: BTreeMap<u32, Seat>,
    timers: Timers,
    /// Had more to do than one turn allows.
    again: VecDeque<Token>,
    /// For clients before their service has spoken.
    plain: Arc<LinkOptions>,
    has_ended: bool,
    is_stopped: bool,
}

impl Worker {
    pub(crate) fn new(mailbox: Arc<Mailbox>, resolver: Arc<Resolver>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, mailbox.bell(), EventData::new_u64(BELL_KEY), EventFlags::IN)?;
        let scratch = vec![0; SCRATCH_BYTES].into_boxed_slice();
        Ok(Self {
            mailbox,
            resolver,
            tools: Tools { epoll, scratch, pipes: Pipes::default(), now: Instant::now() },
            links: Slots::new(),
            doors: BTreeMap::new(),
            timers: Timers::default(),
            again: VecDeque::new(),
            plain: Arc::new(LinkOptions::default()),
            has_ended: false,
            is_stopped: false,
        })
    }

    pub(crate) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        while !self.is_stopped {
            events.clear();
            match epoll::wait(&self.tools.epoll, spare_capacity(&mut events), self.timeout().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot wait for events");
                    break;
                }
            }
            self.tools.now = Instant::now();
            for event in &events {
                self.take_event(event);
            }
            for _ in 0..self.again.len() {
                if let Some(token) = self.again.pop_front() {
                    self.take_turn(token);
                }
            }
            self.look_at_clock();
            self.resume_doors();
        }
        self.end(|_| true);
    }

    /// How long there is nothing to do unless something happens.
    fn timeout(&self) -> Option<Timespec> {
        let next = if self.again.is_empty() {
            let doors = self.doors.values().filter_map(Seat::paused_until).min();
            let next = [self.timers.next(), doors].into_iter().flatten().min()?;
            next.saturating_duration_since(Instant::now())
        } else {
            Duration::ZERO
        };
        let seconds = i64::try_from(next.as_secs()).unwrap_or(i64::MAX);
        Some(Timespec { tv_sec: seconds, tv_nsec: next.subsec_nanos().into() })
    }

    fn take_event(&mut self, event: &Event) {
        let (key, flags) = (event.data.u64(), event.flags);
        if key == BELL_KEY {
            for message in self.mailbox.take() {
                self.take_message(message);
            }
            return;
        }
        if key >> 32 == u64::from(INDEX_LIMIT) {
            self.accept(key);
            return;
        }
        let (token, is_back) = Token::from_key(key);
        let Some(link) = self.links.find(token) else { return };
        match (is_back, &mut link.back) {
            (false, _) => link.front.note(flags),
            (true, Some(back)) => back.note(flags),
            (true, None) => return,
        }
        // One that waits for its turn is not served before others because more has come.
        if !link.is_queued {
            self.take_turn(token);
        }
    }

    fn take_message(&mut self, message: Message) {
        match message {
            Message::Relay(handover) => self.take_over(handover),
            Message::Open(desk) => self.open(desk),
            Message::Close(number) => self.close(number),
            Message::Abort(number) => {
                self.close(number);
                self.end(|owner| matches!(owner, Owner::Service(keeper, _) if keeper.number == number));
            }
            Message::Resolved(token, found) => self.go_on(token, found),
            Message::Stop => self.is_stopped = true,
        }
    }

    fn take_over(&mut self, handover: Handover) {
        let Handover { a, b, options, on_end } = handover;
        let families = (Family::of(&a), Family::of(&b));
        let sides = self.links.reserve().ok_or(Errno::NOMEM.into()).and_then(|token| {
            let sides = self.register(token, a, families.0).and_then(|a| {
                let key = token.key(true);
                Ok((a, Side::new(&self.tools.epoll, b, families.1, key, false)?))
            });
            sides.map(|(a, b)| (token, a, b)).inspect_err(|_| self.links.give_back(token))
        });
        match sides {
            Ok((token, a, b)) => {
                let link = Link::new(a, Some(b), Owner::Caller(on_end), options, self.tools.now);
                self.links.fill(token, link);
                self.note_due(token);
            }
            Err(source) => {
                on_end(Report::nothing(Cause::Read { direction: transport::Direction::AToB, source }));
            }
        }
    }

    fn register(&self, token: Token, fd: OwnedFd, family: Family) -> io::Result<Side> {
        Side::new(&self.tools.epoll, fd, family, token.key(false), false)
    }

    fn open(&mut self, desk: Arc<Desk>) {
        let service = Arc::clone(&desk.keeper.service);
        match Seat::new(desk, &self.tools.epoll) {
            Ok(seat) => {
                self.doors.insert(seat.desk.keeper.number, seat);
            }
            Err(error) => service.broken(error),
        }
    }

    fn close(&mut self, number: u32) {
        if let Some(seat) = self.doors.remove(&number) {
            seat.unregister(&self.tools.epoll);
        }
    }

    fn accept(&mut self, key: u64) {
        let number = u32::try_from(key & u64::from(u32::MAX)).expect("32 bits were kept");
        for _ in 0..ACCEPT_BURST {
            let Some(seat) = self.doors.get_mut(&number) else { return };
            match seat.accept(&self.tools.epoll, self.tools.now) {
                Accepted::Client(fd, peer) => {
                    let (keeper, family) = (Arc::clone(&seat.desk.keeper), seat.family());
                    self.welcome(keeper, family, fd, peer);
                }
                Accepted::Nobody => return,
                Accepted::Broken(error) => {
                    let service = Arc::clone(&seat.desk.keeper.service);
                    self.close(number);
                    service.broken(error);
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, keeper: Arc<Keeper>, family: Family, fd: OwnedFd, peer: Option<SocketAddr>) {
        let verdict = keeper.service.admit(&Client { peer, socket: fd.as_fd() });
        if matches!(verdict, Verdict::Refuse) {
            return;
        }
        if family == Family::Vsock {
            // An older kernel may refuse; the rules for writing hold without it.
            let _ = sys::vsock::set_buffer_size(&fd, transport::VSOCK_BUFFER_BYTES);
        }
        let registered = self.links.reserve().ok_or(Errno::NOMEM.into()).and_then(|token| {
            let side = self.register(token, fd, family);
            side.map(|side| (token, side)).inspect_err(|_| self.links.give_back(token))
        });
        let (token, side) = match registered {
            Ok(registered) => registered,
            Err(source) => {
                let cause = Cause::Read { direction: transport::Direction::AToB, source };
                keeper.service.ended(peer, &Report::nothing(cause));
                return;
            }
        };
        let owner = Owner::Service(keeper, peer);
        let mut link = Link::new(side, None, owner, Arc::clone(&self.plain), self.tools.now);
        let mut setup = Box::new(Setup::new(self.tools.now));
        let stepped = setup::begin(&mut link, &mut setup, verdict, token, &mut self.tools);
        link.setup = Some(setup);
        self.links.fill(token, link);
        self.take_step(token, stepped);
    }

    /// Does what can be done for a connection now.
    fn take_turn(&mut self, token: Token) {
        let Some(link) = self.links.find(token) else { return };
        link.is_queued = false;
        let Some(mut setup) = link.setup.take() else {
            let progress = link.pump(&mut self.tools);
            return self.take_progress(token, progress);
        };
        let stepped = setup::advance(link, &mut setup, token, &mut self.tools);
        link.setup = Some(setup);
        self.take_step(token, stepped);
    }

    fn go_on(&mut self, token: Token, found: Vec<SocketAddr>) {
        let Some(link) = self.links.find(token) else { return };
        let Some(mut setup) = link.setup.take() else { return };
        let stepped = setup::resolved(link, &mut setup, found, token, &mut self.tools);
        link.setup = Some(setup);
        self.take_step(token, stepped);
    }

    fn take_step(&mut self, token: Token, stepped: Stepped) {
        match stepped {
            Stepped::Wait => self.note_due(token),
            Stepped::Resolve(name) => {
                self.note_due(token);
                self.resolver.ask(Question { name, token, mailbox: Arc::clone(&self.mailbox) });
            }
            Stepped::Ready => {
                let Some(link) = self.links.find(token) else { return };
                link.setup = None;
                let progress = link.pump(&mut self.tools);
                self.take_progress(token, progress);
            }
            Stepped::Failed(cause) => self.finish(token, cause),
        }
    }

    fn take_progress(&mut self, token: Token, progress: Progress) {
        match progress {
            Progress::Wait => self.note_due(token),
            Progress::Again => {
                if let Some(link) = self.links.find(token) {
                    link.is_queued = true;
                    self.again.push_back(token);
                }
            }
            Progress::Ended(cause) => self.finish(token, cause),
        }
    }

    /// Sees to it that the clock looks at a connection in time.
    fn note_due(&mut self, token: Token) {
        let Some(link) = self.links.find(token) else { return };
        let Some(due) = link.due() else { return };
        if link.timer.is_none_or(|timer| due < timer) {
            link.timer = Some(due);
            self.timers.enter(due, token);
            let (timers, links) = (&mut self.timers, &self.links);
            timers.sweep(links.len(), |token| links.contains(token));
        }
    }

    fn look_at_clock(&mut self) {
        while let Some((when, token)) = self.timers.pop(self.tools.now) {
            let now = self.tools.now;
            let Some(link) = self.links.find(token) else { continue };
            if link.timer != Some(when) {
                continue;
            }
            link.timer = None;
            if link.due().is_none_or(|due| due > now) {
                self.note_due(token);
                continue;
            }
            let overdue = match &link.setup {
                Some(setup) => setup.is_overdue(now),
                None => link.is_overdue(now),
            };
            match overdue {
                Some(cause) => self.finish(token, cause),
                None => self.take_turn(token),
            }
        }
    }

    fn resume_doors(&mut self) {
        for seat in self.doors.values_mut() {
            seat.resume(&self.tools.epoll, self.tools.now, self.has_ended);
        }
        self.has_ended = false;
    }

    fn finish(&mut self, token: Token, cause: Cause) {
        if let Some(link) = self.links.remove(token) {
            link.finish(cause, &mut self.tools);
            self.has_ended = true;
        }
    }

    fn end(&mut self, wanted: impl Fn(&Owner) -> bool) {
        for token in self.links.tokens(|link| wanted(&link.owner)) {
            self.finish(token, Cause::Stopped);
        }
    }
}
