//! The rules for writing to a vsock, as a wrapper around any stream.
//!
//! Two faults in the field make a plain `write` to a vsock unsafe:
//!
//! - Since August 2025 Linux guests send large writes as non-linear buffers, and the Nitro hypervisor has been
//!   seen to put them together wrongly: silent corruption above about 32 KiB per write. So no single write is
//!   larger than [`MAX_WRITE_BYTES`].
//! - From 6.12.92 Linux counts the overhead of each queued packet and resets a connection whose reader has
//!   fallen behind by some hundreds of small packets (128 to 300 bytes are worst: smaller ones the receiver
//!   merges, larger ones run out of credit first). So small writes are gathered, and small packets have an
//!   allowance: [`SMALL_PACKET_BURST`].
//!
//! A small write goes to a pending buffer of at most [`MAX_WRITE_BYTES`] and a task is started to send it. The task
//! runs as soon as the writing task has nothing more to do, which makes one packet of a burst. Nobody has to
//! flush: what was written leaves by itself, also after the stream is dropped (for at most [`LINGER`]). Flushing
//! waits until the socket has everything, and is needed before the process or the runtime ends. A large write
//! goes straight to the socket. Reading never waits for any of this. The buffer is freed when it is empty.
//!
//! The receiver's side of the second rule is a larger `SO_VM_SOCKETS_BUFFER_SIZE`, which [`Stream`](crate::Stream) sets.
//!
//! Used by [`Stream`](crate::Stream) for vsock; public so that a test can put it around any stream.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

/// No single write to the stream below is larger.
pub const MAX_WRITE_BYTES: usize = 31 * 1024;

/// Writes below this size are gathered, and packets below it are counted.
pub const SMALL_WRITE_BYTES: usize = 1024;

/// How many small packets may leave at once; each one received from the peer and each
/// [`SMALL_PACKET_INTERVAL`] allows one more. Well under the some 300 unread ones that get a connection reset.
pub const SMALL_PACKET_BURST: u32 = 64;

/// When the burst is used up, small packets leave this far apart, and what is written meanwhile joins them.
pub const SMALL_PACKET_INTERVAL: Duration = Duration::from_millis(2);

/// How long pending bytes of a dropped stream may take to leave.
pub const LINGER: Duration = Duration::from_secs(10);

/// A stream that obeys the rules of this module.
pub struct Coalesced<S> {
    shared: Arc<Shared<S>>,
    runtime: Handle,
}

impl<S> Coalesced<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Wraps `inner`.
    ///
    /// # Panics
    /// Outside a tokio runtime: pending bytes are sent by a task.
    pub fn new(inner: S) -> Self {
        let state = State {
            inner,
            pending: Vec::new(),
            sender_runs: false,
            failure: None,
            writer: None,
            sender: None,
            allowance: Allowance::new(),
        };
        let shared = Shared { state: Mutex::new(state), abandoned: Notify::new() };
        Self { shared: Arc::new(shared), runtime: Handle::current() }
    }

    /// A second descriptor for the socket below, for who takes over from here.
    pub(crate) fn socket(&self) -> io::Result<OwnedFd>
    where
        S: AsFd,
    {
        self.shared.lock().inner.as_fd().try_clone_to_owned()
    }

    /// Ready once the stream below has all bytes, or with the error that kept it from taking them.
    fn poll_sent(&self, cx: &Context<'_>) -> Poll<io::Result<MutexGuard<'_, State<S>>>> {
        let mut state = self.shared.lock();
        if let Some(error) = state.failure.take() {
            return Poll::Ready(Err(error));
        }
        if state.sender_runs {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(state))
    }
}

impl<S> AsyncRead for Coalesced<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        let before = buf.filled().len();
        ready!(Pin::new(&mut state.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            state.allowance.grant_one();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S> AsyncWrite for Coalesced<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        if let Some(error) = state.failure.take() {
            return Poll::Ready(Err(error));
        }
        if !state.sender_runs && buf.len() >= SMALL_WRITE_BYTES {
            let packet = &buf[..buf.len().min(MAX_WRITE_BYTES)];
            return Pin::new(&mut state.inner).poll_write(cx, packet);
        }
        let room = MAX_WRITE_BYTES - state.pending.len();
        if room == 0 {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = &buf[..buf.len().min(room)];
        state.append(taken);
        if !state.sender_runs && !taken.is_empty() {
            state.sender_runs = true;
            self.runtime.spawn(send_pending(Arc::clone(&self.shared)));
        }
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = ready!(self.poll_sent(cx))?;
        Pin::new(&mut state.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = ready!(self.poll_sent(cx))?;
        Pin::new(&mut state.inner).poll_shutdown(cx)
    }
}

impl<S> Drop for Coalesced<S> {
    fn drop(&mut self) {
        self.shared.abandoned.notify_one();
    }
}

impl<S: fmt::Debug> fmt::Debug for Coalesced<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        f.debug_struct("Coalesced")
            .field("inner", &state.inner)
            .field("pending_bytes", &state.pending.len())
            .finish()
    }
}

struct Shared<S> {
    state: Mutex<State<S>>,
    /// Told once, when the stream is dropped.
    abandoned: Notify,
}

impl<S> Shared<S> {
    /// The lock is held for the length of one non-blocking system call at most.
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct State<S> {
    inner: S,
    /// Written by the owner, not yet taken by `inner`. At most `MAX_WRITE_BYTES`.
    pending: Vec<u8>,
    /// While true only the sending task writes to `inner`: a socket wakes one writer, not two.
    sender_runs: bool,
    /// What the sending task ran into, for the owner's next call.
    failure: Option<io::Error>,
    writer: Option<Waker>,
    sender: Option<Waker>,
    allowance: Allowance,
}

impl<S> State<S> {
    fn append(&mut self, bytes: &[u8]) {
        let was_small = self.pending.len() < SMALL_WRITE_BYTES;
        self.pending.extend_from_slice(bytes);
        if was_small && self.pending.len() >= SMALL_WRITE_BYTES {
            // The sender may be waiting for its allowance, which a large packet does not need.
            wake(&mut self.sender);
        }
    }

    fn finish(&mut self, failure: Option<io::Error>) {
        self.pending = Vec::new();
        self.sender_runs = false;
        self.failure = failure;
        wake(&mut self.writer);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

async fn send_pending<S: AsyncWrite + Unpin>(shared: Arc<Shared<S>>) {
    // Behind the writing task in the queue, so that its whole burst is there.
    tokio::task::yield_now().await;
    let mut pause = None;
    let sent = std::future::poll_fn(|cx| {
        let mut state = shared.lock();
        let outcome = ready!(poll_send(&mut state, cx, &mut pause));
        state.finish(outcome.err());
        Poll::Ready(())
    });
    let given_up = async {
        shared.abandoned.notified().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        biased;
        () = sent => {}
        () = given_up => tracing::debug!("peer does not read: dropped the last bytes of a closed stream"),
    }
}

fn poll_send<S: AsyncWrite + Unpin>(
    state: &mut State<S>,
    cx: &mut Context<'_>,
    pause: &mut Option<Pin<Box<Sleep>>>,
) -> Poll<io::Result<()>> {
    while !state.pending.is_empty() {
        let small = state.pending.len() < SMALL_WRITE_BYTES;
        if small && let Err(next) = state.allowance.check(Instant::now()) {
            let timer = pause.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            if timer.deadline() != next {
                timer.as_mut().reset(next);
            }
            state.sender = Some(cx.waker().clone());
            ready!(timer.as_mut().poll(cx));
            continue;
        }
        let sent = ready!(Pin::new(&mut state.inner).poll_write(cx, &state.pending))?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        if sent < SMALL_WRITE_BYTES {
            state.allowance.spend_one();
        }
        state.pending.drain(..sent);
    }
    Poll::Ready(Ok(()))
}

/// How many small packets may leave now.
///
/// The sender cannot see how much the peer has read, only what comes back. An answer to each packet keeps a
/// request and response protocol at full speed; without answers the rate falls to one packet per interval.
#[derive(Debug)]
struct Allowance {
    left: u32,
    counted_to: Instant,
}

impl Allowance {
    fn new() -> Self {
        Self { left: SMALL_PACKET_BURST, counted_to: Instant::now() }
    }

    /// Whether a packet may leave now; if not, when to ask again.
    fn check(&mut self, now: Instant) -> Result<(), Instant> {
        while self.left < SMALL_PACKET_BURST && self.counted_to + SMALL_PACKET_INTERVAL <= now {
            self.counted_to += SMALL_PACKET_INTERVAL;
            self.left += 1;
        }
        if self.left == SMALL_PACKET_BURST {
            self.counted_to = now;
        }
        if self.left > 0 { Ok(()) } else { Err(self.counted_to + SMALL_PACKET_INTERVAL) }
    }

    fn spend_one(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    fn grant_one(&mut self) {
        self.left = SMALL_PACKET_BURST.min(self.left + 1);
    }
}

#[cfg(test)]
mod tests;
