//! The byte pump between two streams. Written once, used by every proxy.
//!
//! - The two directions never wait for each other: reading one side goes on while writing to it is stuck.
//! - Half-close is passed on exactly: end of file from one side closes the writing half of the other, and nothing else.
//! - A direction that fails does not cut off the other. Bytes under way still arrive, for as long as they move.
//! - An idle connection holds no buffer: reading goes to one buffer per thread, and only what the other side does
//!   not take at once is copied aside.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// The most that one read takes.
const SCRATCH_BYTES: usize = 64 * 1024;

/// How many reads one direction may do before other tasks get their turn.
const TURNS_PER_POLL: usize = 16;

/// How a relay behaves when something goes wrong.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// After one direction has failed, how long the other may stand still before the relay gives it up.
    /// Default 5 seconds.
    pub linger: Duration,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self { linger: Duration::from_secs(5) }
    }
}

/// What a relay has carried: bytes handed to the receiving stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    /// From the first stream to the second.
    pub a_to_b: u64,
    /// From the second stream to the first.
    pub b_to_a: u64,
}

/// One of the two ways through a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first stream to the second.
    AToB,
    /// From the second stream to the first.
    BToA,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AToB => "first to second",
            Self::BToA => "second to first",
        })
    }
}

/// Why a relay ended other than by end of file both ways. When both directions failed, the first to do so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The sender broke off.
    #[error("{direction}: reading failed")]
    Read {
        /// Which way.
        direction: Direction,
        /// What was carried all the same.
        relayed: Relayed,
        /// From the stream read.
        #[source]
        source: io::Error,
    },
    /// The receiver takes no more.
    #[error("{direction}: writing failed")]
    Write {
        /// Which way.
        direction: Direction,
        /// What was carried all the same.
        relayed: Relayed,
        /// From the stream written.
        #[source]
        source: io::Error,
    },
}

impl RelayError {
    /// What was carried all the same.
    pub fn relayed(&self) -> Relayed {
        match self {
            Self::Read { relayed, .. } | Self::Write { relayed, .. } => *relayed,
        }
    }
}

/// Carries bytes both ways until both sides have ended, then closes both.
///
/// # Errors
/// [`RelayError`] when a side fails. By then everything that could still be delivered has been.
pub async fn relay<A, B>(mut a: A, mut b: B, options: RelayOptions) -> Result<Relayed, RelayError>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut pump = Pump::new(&options);
    std::future::poll_fn(|cx| pump.poll(cx, &mut a, &mut b)).await
}

struct Pump {
    a_to_b: Half,
    b_to_a: Half,
    failure: Option<(Direction, Failure)>,
    linger: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Pump {
    fn new(options: &RelayOptions) -> Self {
        Self {
            a_to_b: Half::default(),
            b_to_a: Half::default(),
            failure: None,
            linger: options.linger,
            deadline: None,
        }
    }

    fn poll<A, B>(&mut self, cx: &mut Context<'_>, a: &mut A, b: &mut B) -> Poll<Result<Relayed, RelayError>>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let before = self.relayed();
        let a_to_b = self.a_to_b.poll(cx, a, b);
        let b_to_a = self.b_to_a.poll(cx, b, a);
        self.note_failure();
        if a_to_b.is_pending() || b_to_a.is_pending() {
            ready!(self.poll_deadline(cx, before != self.relayed()));
        }
        Poll::Ready(self.outcome())
    }

    fn relayed(&self) -> Relayed {
        Relayed { a_to_b: self.a_to_b.delivered, b_to_a: self.b_to_a.delivered }
    }

    fn note_failure(&mut self) {
        let halves = [(Direction::AToB, &mut self.a_to_b), (Direction::BToA, &mut self.b_to_a)];
        for (direction, half) in halves {
            if let Some(failure) = half.failure.take() {
                self.failure.get_or_insert((direction, failure));
            }
        }
    }

    /// Never ready while all is well. After a failure, ready when nothing has moved for the time of grace.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, moved: bool) -> Poll<()> {
        if self.failure.is_none() {
            return Poll::Pending;
        }
        let linger = self.linger;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(linger)));
        if moved {
            deadline.as_mut().reset(Instant::now() + linger);
        }
        deadline.as_mut().poll(cx)
    }

    fn outcome(&mut self) -> Result<Relayed, RelayError> {
        let relayed = self.relayed();
        match self.failure.take() {
            None => Ok(relayed),
            Some((direction, Failure::Read(source))) => Err(RelayError::Read { direction, relayed, source }),
            Some((direction, Failure::Write(source))) => {
                Err(RelayError::Write { direction, relayed, source })
            }
        }
    }
}

#[derive(Debug)]
enum Failure {
    Read(io::Error),
    Write(io::Error),
}

/// One direction.
#[derive(Default)]
struct Half {
    stage: Stage,
    /// Read and not yet taken by the writer; the part before `taken` is. Unallocated when empty.
    held: Vec<u8>,
    taken: usize,
    needs_flush: bool,
    delivered: u64,
    failure: Option<Failure>,
}

#[derive(Clone, Copy, Default)]
enum Stage {
    #[default]
    Moving,
    /// The reader has ended and everything is delivered: pass the end on.
    Closing,
    /// The writer has failed. The reader's bytes are thrown away: closing a socket with bytes unread would reset
    /// it, and the reset could overtake what the other direction has just delivered there.
    Discarding,
    Done,
}

impl Half {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..TURNS_PER_POLL {
            match self.stage {
                Stage::Moving => ready!(self.poll_move(cx, reader, writer)),
                Stage::Closing => ready!(self.poll_close(cx, writer)),
                Stage::Discarding => ready!(self.poll_discard(cx, reader)),
                Stage::Done => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_move<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        ready!(self.poll_deliver_held(cx, writer));
        if !matches!(self.stage, Stage::Moving) {
            return Poll::Ready(());
        }
        with_scratch(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            match Pin::new(reader).poll_read(cx, &mut buf) {
                Poll::Pending => self.poll_flush(cx, writer),
                Poll::Ready(Err(error)) => {
                    self.failure = Some(Failure::Read(error));
                    self.stage = Stage::Closing;
                    Poll::Ready(())
                }
                Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                    self.stage = Stage::Closing;
                    Poll::Ready(())
                }
                Poll::Ready(Ok(())) => {
                    self.deliver(cx, writer, buf.filled());
                    Poll::Ready(())
                }
            }
        })
    }

    /// Hands `bytes` to the writer and keeps what it does not take now.
    fn deliver<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, writer: &mut W, bytes: &[u8]) {
        let mut taken = 0;
        while taken < bytes.len() {
            match Pin::new(&mut *writer).poll_write(cx, &bytes[taken..]) {
                Poll::Pending => {
                    self.held = bytes[taken..].to_vec();
                    self.taken = 0;
                    return;
                }
                Poll::Ready(outcome) => match self.count(outcome) {
                    Some(count) => taken += count,
                    None => return,
                },
            }
        }
    }

    fn poll_deliver_held<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, writer: &mut W) -> Poll<()> {
        while self.taken < self.held.len() {
            let outcome = ready!(Pin::new(&mut *writer).poll_write(cx, &self.held[self.taken..]));
            match self.count(outcome) {
                Some(count) => self.taken += count,
                None => break,
            }
        }
        self.held = Vec::new();
        self.taken = 0;
        Poll::Ready(())
    }

    /// Books the outcome of one write; nothing when it failed.
    fn count(&mut self, outcome: io::Result<usize>) -> Option<usize> {
        match outcome {
            Ok(0) => self.fail_writing(io::ErrorKind::WriteZero.into()),
            Err(error) => self.fail_writing(error),
            Ok(count) => {
                self.delivered += count as u64;
                self.needs_flush = true;
                return Some(count);
            }
        }
        None
    }

    fn fail_writing(&mut self, error: io::Error) {
        self.failure = Some(Failure::Write(error));
        self.stage = Stage::Discarding;
    }

    /// Nothing to read now, so let out what the writer may have kept. Pending, for the reader, unless flushing failed.
    fn poll_flush<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, writer: &mut W) -> Poll<()> {
        if self.needs_flush {
            match ready!(Pin::new(writer).poll_flush(cx)) {
                Ok(()) => self.needs_flush = false,
                Err(error) => {
                    self.fail_writing(error);
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    fn poll_close<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, writer: &mut W) -> Poll<()> {
        let outcome = ready!(Pin::new(writer).poll_shutdown(cx));
        self.stage = Stage::Done;
        match outcome {
            // Already closed from the other side: there is nobody left to tell.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            Err(error) if self.failure.is_none() => self.failure = Some(Failure::Write(error)),
            _ => {}
        }
        Poll::Ready(())
    }

    fn poll_discard<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, reader: &mut R) -> Poll<()> {
        with_scratch(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            let outcome = ready!(Pin::new(reader).poll_read(cx, &mut buf));
            if outcome.is_err() || buf.filled().is_empty() {
                self.stage = Stage::Done;
            }
            Poll::Ready(())
        })
    }
}

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// Lends this thread's buffer. Taken out while in use, so a stream that itself relays gets a fresh one.
fn with_scratch<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut scratch = SCRATCH.take().unwrap_or_else(|| vec![0; SCRATCH_BYTES].into_boxed_slice());
    let result = use_it(&mut scratch);
    SCRATCH.set(Some(scratch));
    result
}

#[cfg(test)]
mod tests;
