//! One direction of a connection: from the socket that is read to the one that is written.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use rustix::pipe::{SpliceFlags, splice};
use transport::coalesce::{MAX_WRITE_BYTES, SMALL_WRITE_BYTES};

use crate::pipes::{PIPE_BYTES, Pipe, Pipes};
use crate::side::Side;

/// The most that one read takes.
pub(crate) const SCRATCH_BYTES: usize = 64 * 1024;

/// The most that one read takes for a vsock: whole writes, so that no small packet is left over.
const VSOCK_SCRATCH_BYTES: usize = SCRATCH_BYTES / MAX_WRITE_BYTES * MAX_WRITE_BYTES;

/// How much one direction may move before other connections get their turn.
const TURN_BYTES: usize = 512 * 1024;

/// What a read counts for in a turn at least, so that a shower of small ones ends too.
const MIN_STEP_BYTES: usize = 1024;

/// A read of this size is of a stream that is worth splicing.
const SPLICE_FROM_BYTES: usize = 32 * 1024;

/// A turn that has moved less is not.
const SPLICE_UNTIL_BYTES: usize = 8 * 1024;

/// What all connections of a thread use in turn.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) epoll: OwnedFd,
    pub(crate) scratch: Box<[u8]>,
    pub(crate) pipes: Pipes,
    /// When the thread last woke up.
    pub(crate) now: Instant,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing can be done until epoll or the clock says so.
    Over,
    /// There is more to do, after others.
    Again,
}

/// What broke a direction.
#[derive(Debug)]
pub(crate) enum Failure {
    Read(io::Error),
    Write(io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The sender has ended; the receiver is told when it has everything.
    Draining,
    /// The receiver takes no more. What still comes is thrown away, so that the sender gets to read its answer.
    Discarding,
    Done,
}

#[derive(Debug)]
pub(crate) struct Half {
    state: State,
    splicing: bool,
    /// The sockets cannot be spliced.
    copies: bool,
    /// Read and not yet taken by the receiver, from `taken` on.
    held: Vec<u8>,
    taken: usize,
    /// Of this, `in_pipe` bytes are on their way.
    pipe: Option<Pipe>,
    in_pipe: usize,
    /// Taken by the receiver.
    pub(crate) bytes: u64,
    /// Until when the allowance for small packets holds back `held`.
    pub(crate) paused_until: Option<Instant>,
    /// What broke it, until the connection takes note.
    pub(crate) failure: Option<Failure>,
    /// The sender broke off, so the end is not to be passed on as one.
    broke: bool,
    /// The receiver has everything and is told, or will be by closing.
    pub(crate) is_complete: bool,
}

enum Step {
    Blocked,
    Moved(usize),
}

enum Written {
    All,
    Some(usize),
}

impl Half {
    pub(crate) fn new(copies: bool) -> Self {
        Self {
            state: State::Open,
            splicing: false,
            copies,
            held: Vec::new(),
            taken: 0,
            pipe: None,
            in_pipe: 0,
            bytes: 0,
            paused_until: None,
            failure: None,
            broke: false,
            is_complete: false,
        }
    }

    /// What has been read and waits for its receiver.
    pub(crate) fn held(&mut self) -> &mut Vec<u8> {
        &mut self.held
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    pub(crate) fn only_copies(&mut self) {
        self.copies = true;
    }

    /// The sender has ended: what is held still goes out.
    pub(crate) fn drain(&mut self) {
        if self.state == State::Open {
            self.state = State::Draining;
        }
    }

    /// The sender is known to have broken off, though reading may not tell: what comes out of it still is passed on, its
    /// end is not.
    pub(crate) fn note_break(&mut self) {
        self.broke = true;
    }

    /// Neither side is to be bothered with this direction any more.
    pub(crate) fn give_up(&mut self) {
        self.state = State::Done;
        self.forget();
    }

    /// Moves what can be moved now. `last` when the other direction is done, so that closing the sockets will tell the
    /// receiver of the end.
    pub(crate) fn pump(&mut self, from: &mut Side, to: &mut Side, tools: &mut Tools, last: bool) -> Turn {
        let mut moved = 0;
        loop {
            let step = match self.state {
                State::Done => Step::Blocked,
                State::Discarding => self.discard(from, tools),
                State::Open | State::Draining if self.is_pending() => self.deliver(from, to, tools),
                State::Open => self.fetch(from, to, tools),
                State::Draining => self.close(to, last),
            };
            match step {
                Step::Blocked => {
                    if moved < SPLICE_UNTIL_BYTES && self.in_pipe == 0 {
                        self.splicing = false;
                    }
                    self.return_pipe(&mut tools.pipes);
                    return Turn::Over;
                }
                Step::Moved(count) => moved += count.max(MIN_STEP_BYTES),
            }
            if moved >= TURN_BYTES {
                return Turn::Again;
            }
        }
    }

    fn is_pending(&self) -> bool {
        self.in_pipe > 0 || self.taken < self.held.len()
    }

    /// Reads, and writes at once what the receiver takes.
    fn fetch(&mut self, from: &mut Side, to: &mut Side, tools: &mut Tools) -> Step {
        if !from.readable {
            return Step::Blocked;
        }
        if self.splicing && self.pipe.is_none() {
            self.pipe = tools.pipes.take();
        }
        if self.splicing && self.pipe.is_some() {
            return self.fill_pipe(from);
        }
        let mut scratch = mem::take(&mut tools.scratch);
        let room = if to.is_vsock() { VSOCK_SCRATCH_BYTES } else { scratch.len() };
        let step = match self.read(from, &mut scratch[..room]) {
            Some(count) => {
                if count >= SPLICE_FROM_BYTES && !self.copies {
                    self.splicing = true;
                }
                self.pass_on(&scratch[..count], to, tools);
                Step::Moved(count)
            }
            None if self.state == State::Open => Step::Blocked,
            None => Step::Moved(0),
        };
        tools.scratch = scratch;
        step
    }

    /// One read. `None` if there was nothing; then the state tells whether there ever will be.
    fn read(&mut self, from: &mut Side, buffer: &mut [u8]) -> Option<usize> {
        match retry(|| recv(&from.fd, &mut *buffer, RecvFlags::empty())) {
            Ok((0, _)) => {
                self.state = State::Draining;
                None
            }
            Ok((count, _)) => {
                if count < buffer.len() && from.note_short_read() {
                    self.state = State::Draining;
                }
                if let Some(allowance) = &mut from.allowance {
                    allowance.grant_one();
                }
                Some(count)
            }
            Err(Errno::AGAIN) => {
                from.readable = false;
                None
            }
            Err(error) => {
                self.fail_reading(error);
                None
            }
        }
    }

    fn pass_on(&mut self, bytes: &[u8], to: &mut Side, tools: &Tools) {
        match self.write(bytes, to, tools) {
            Ok(Written::All) => {}
            Ok(Written::Some(count)) => {
                self.held = bytes[count..].to_vec();
                self.taken = 0;
            }
            Err(error) => self.fail_writing(error),
        }
    }

    /// Hands what is pending to the receiver; while small packets have to wait, more is read to go with them.
    fn deliver(&mut self, from: &mut Side, to: &mut Side, tools: &mut Tools) -> Step {
        if self.in_pipe > 0 {
            return self.empty_pipe(to, tools);
        }
        let held = mem::take(&mut self.held);
        let written = self.write(&held[self.taken..], to, tools);
        match written {
            Ok(Written::All) => {
                let count = held.len() - self.taken;
                self.taken = 0;
                Step::Moved(count)
            }
            Ok(Written::Some(count)) => {
                self.held = held;
                self.taken += count;
                let gathers = self.paused_until.is_some() && self.state == State::Open && from.readable;
                if gathers { self.gather(from, tools) } else { Step::Blocked }
            }
            Err(error) => {
                self.fail_writing(error);
                Step::Moved(0)
            }
        }
    }

    /// Reads to what is held, as much as one write to a vsock may have.
    fn gather(&mut self, from: &mut Side, tools: &mut Tools) -> Step {
        self.held.drain(..self.taken);
        self.taken = 0;
        let room = MAX_WRITE_BYTES.saturating_sub(self.held.len()).min(tools.scratch.len());
        if room == 0 {
            return Step::Blocked;
        }
        let mut scratch = mem::take(&mut tools.scratch);
        let count = self.read(from, &mut scratch[..room]);
        self.held.extend_from_slice(&scratch[..count.unwrap_or(0)]);
        tools.scratch = scratch;
        count.map_or(Step::Blocked, Step::Moved)
    }

    /// Writes until all is taken or the receiver, or the rules for vsock, say to wait.
    fn write(&mut self, bytes: &[u8], to: &mut Side, tools: &Tools) -> Result<Written, Errno> {
        self.paused_until = None;
        let mut taken = 0;
        while taken < bytes.len() {
            if !to.writable {
                return Ok(Written::Some(taken));
            }
            let mut packet = &bytes[taken..];
            if let Some(allowance) = &mut to.allowance {
                packet = &packet[..packet.len().min(MAX_WRITE_BYTES)];
                if packet.len() < SMALL_WRITE_BYTES
                    && let Err(next) = allowance.check(tools.now)
                {
                    self.paused_until = Some(next);
                    return Ok(Written::Some(taken));
                }
            }
            match retry(|| send(&to.fd, packet, SendFlags::NOSIGNAL)) {
                Ok(count) => {
                    taken += count;
                    self.bytes += count as u64;
                    if let Some(allowance) = to.allowance.as_mut().filter(|_| count < SMALL_WRITE_BYTES) {
                        allowance.spend_one();
                    }
                }
                Err(Errno::AGAIN) => to.block(&tools.epoll),
                Err(error) => return Err(error),
            }
        }
        Ok(Written::All)
    }

    /// From the sender to the pipe, which is empty.
    fn fill_pipe(&mut self, from: &mut Side) -> Step {
        let pipe = self.pipe.as_ref().expect("splicing has a pipe");
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match retry(|| splice(&from.fd, None, &pipe.input, None, PIPE_BYTES, flags)) {
            Ok(0) => {
                self.state = State::Draining;
                Step::Moved(0)
            }
            Ok(count) => {
                self.in_pipe = count;
                Step::Moved(count)
            }
            Err(Errno::AGAIN) => {
                from.readable = false;
                Step::Blocked
            }
            Err(Errno::INVAL) => {
                self.splicing = false;
                self.copies = true;
                Step::Moved(0)
            }
            Err(error) => {
                self.fail_reading(error);
                Step::Moved(0)
            }
        }
    }

    fn empty_pipe(&mut self, to: &mut Side, tools: &mut Tools) -> Step {
        if !to.writable {
            return Step::Blocked;
        }
        let pipe = self.pipe.as_ref().expect("what is in a pipe has one");
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match retry(|| splice(&pipe.output, None, &to.fd, None, self.in_pipe, flags)) {
            Ok(0) => {
                self.fail_writing(Errno::PIPE);
                Step::Moved(0)
            }
            Ok(count) => {
                self.in_pipe -= count;
                self.bytes += count as u64;
                // A splice is several writes to the kernel: if a later one meets a reset, the first ones' count is returned and
                // the error told to nobody.
                if self.in_pipe > 0 && to.was_reset() {
                    self.fail_writing(Errno::CONNRESET);
                }
                Step::Moved(count)
            }
            Err(Errno::AGAIN) => {
                to.block(&tools.epoll);
                Step::Blocked
            }
            Err(error) => {
                self.fail_writing(error);
                Step::Moved(0)
            }
        }
    }

    fn discard(&mut self, from: &mut Side, tools: &mut Tools) -> Step {
        if !from.readable {
            return Step::Blocked;
        }
        match retry(|| recv(&from.fd, &mut *tools.scratch, RecvFlags::empty())) {
            Ok((count @ 1.., _)) => Step::Moved(count),
            Err(Errno::AGAIN) => {
                from.readable = false;
                Step::Blocked
            }
            _ => {
                self.state = State::Done;
                Step::Blocked
            }
        }
    }

    fn close(&mut self, to: &Side, last: bool) -> Step {
        self.state = State::Done;
        self.is_complete = !self.broke;
        if !last
            && !self.broke
            && let Err(error) = shutdown(&to.fd, Shutdown::Write)
        {
            // Already closed from the other side: there is nobody left to tell.
            if error != Errno::NOTCONN && self.failure.is_none() {
                self.failure = Some(Failure::Write(error.into()));
            }
        }
        Step::Blocked
    }

    fn fail_reading(&mut self, error: Errno) {
        self.failure = Some(Failure::Read(error.into()));
        self.broke = true;
        self.state = State::Draining;
    }

    fn fail_writing(&mut self, error: Errno) {
        self.failure = Some(Failure::Write(error.into()));
        self.state = State::Discarding;
        self.forget();
    }

    /// Drops what is pending. A pipe with something in it is of no use to anybody else.
    fn forget(&mut self) {
        self.held = Vec::new();
        self.taken = 0;
        if self.in_pipe > 0 {
            self.in_pipe = 0;
            self.pipe = None;
        }
        self.paused_until = None;
    }

    /// Gives the pipe back, if it is empty.
    pub(crate) fn return_pipe(&mut self, pipes: &mut Pipes) {
        if self.in_pipe == 0
            && let Some(pipe) = self.pipe.take()
        {
            pipes.give(pipe);
        }
    }
}

/// Calls again when a signal came in between.
pub(crate) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}
