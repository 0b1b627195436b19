//! The handle to the threads.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, mem};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::ioctl_fionbio;
use tokio::sync::oneshot;
use transport::ListenSocket;

use crate::door::{Desk, Door};
use crate::link::OnEnd;
use crate::outcome::{Cause, LinkOptions, Report};
use crate::resolver::Resolver;
use crate::service::Service;
use crate::slots::Token;
use std::net::SocketAddr;

use crate::worker::Worker;

/// Threads that carry connections. Clones are the same engine; when the last one is gone, and the last [`Door`], all
/// connections are ended.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

impl Engine {
    /// Starts `threads` threads, at least one.
    ///
    /// # Errors
    /// When the system has no threads or descriptors to give.
    pub fn start(threads: usize) -> io::Result<Self> {
        let resolver = Arc::new(Resolver::default());
        let mut inner =
            Inner { workers: Vec::new(), next_worker: AtomicUsize::new(0), next_door: AtomicU32::new(0) };
        for number in 0..threads.max(1) {
            let mailbox = Arc::new(Mailbox::new()?);
            let worker = Worker::new(Arc::clone(&mailbox), Arc::clone(&resolver))?;
            let name = format!("relay-{number}");
            let thread = thread::Builder::new().name(name).spawn(move || worker.run())?;
            inner.workers.push(Handle { mailbox, thread: Some(thread) });
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// As many threads as the machine has processors.
    pub fn default_threads() -> usize {
        thread::available_parallelism().map_or(1, NonZeroUsize::get)
    }

    /// Carries bytes between two connected stream sockets until both have ended. They are made non-blocking.
    ///
    /// It goes on if the future is dropped.
    pub fn relay(&self, a: impl Into<OwnedFd>, b: impl Into<OwnedFd>, options: &Arc<LinkOptions>) -> Relay {
        let (sender, receiver) = oneshot::channel();
        let on_end = Box::new(|report| {
            // Nobody has to wait for it.
            let _ = sender.send(report);
        });
        self.relay_then(a.into(), b.into(), options, on_end);
        Relay { report: receiver }
    }

    /// The same for who is no future: `on_end` is called on one of the engine's threads, and must not wait or panic.
    pub fn relay_then(&self, a: OwnedFd, b: OwnedFd, options: &Arc<LinkOptions>, on_end: OnEnd) {
        for socket in [&a, &b] {
            if let Err(source) = ioctl_fionbio(socket, true) {
                let direction = transport::Direction::AToB;
                on_end(Report::nothing(Cause::Read { direction, source: source.into() }));
                return;
            }
        }
        let index = self.inner.next_worker.fetch_add(1, Ordering::Relaxed) % self.inner.workers.len();
        self.inner.workers[index].mailbox.post(Message::Relay(Handover {
            a,
            b,
            options: Arc::clone(options),
            on_end,
        }));
    }

    /// Accepts at `socket` and does with each client as `service` says.
    pub fn open(&self, socket: ListenSocket, service: Arc<dyn Service>) -> Door {
        let number = self.inner.next_door.fetch_add(1, Ordering::Relaxed);
        let addr = socket.local_addr().clone();
        let desk = Arc::new(Desk::new(number, socket, service));
        for worker in &self.inner.workers {
            worker.mailbox.post(Message::Open(Arc::clone(&desk)));
        }
        Door { number, engine: Arc::clone(&self.inner), addr }
    }
}

impl Report {
    /// Of a connection that was never carried.
    pub(crate) fn nothing(cause: Cause) -> Self {
        Self { a_to_b: 0, b_to_a: 0, lasted: Duration::ZERO, dialled: None, cause, note: 0 }
    }
}

/// What becomes of a connection that was handed over, once that is known.
#[derive(Debug)]
pub struct Relay {
    report: oneshot::Receiver<Report>,
}

impl Relay {
    /// Waits on this thread, which must not be one of an async runtime.
    pub fn wait(self) -> Report {
        self.report.blocking_recv().unwrap_or_else(|_| Report::nothing(Cause::Stopped))
    }
}

impl Future for Relay {
    type Output = Report;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        let report = Pin::new(&mut self.report).poll(cx);
        report.map(|report| report.unwrap_or_else(|_| Report::nothing(Cause::Stopped)))
    }
}

/// What the handles share. Ends the threads when dropped.
#[derive(Debug)]
pub(crate) struct Inner {
    workers: Vec<Handle>,
    next_worker: AtomicUsize,
    next_door: AtomicU32,
}

impl Inner {
    pub(crate) fn close(&self, door: u32) {
        self.post_all(|| Message::Close(door));
    }

    pub(crate) fn abort(&self, door: u32) {
        self.post_all(|| Message::Abort(door));
    }

    fn post_all(&self, message: impl Fn() -> Message) {
        for worker in &self.workers {
            worker.mailbox.post(message());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.post_all(|| Message::Stop);
        for worker in &mut self.workers {
            let Some(thread) = worker.thread.take() else { continue };
            // A service may hold the engine, and be dropped with its last connection.
            if thread.thread().id() != thread::current().id() && thread.join().is_err() {
                tracing::error!("a relay thread has panicked");
            }
        }
    }
}

#[derive(Debug)]
struct Handle {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
}

/// What a thread is told from outside.
#[derive(Debug)]
pub(crate) enum Message {
    Relay(Handover),
    Open(Arc<Desk>),
    Close(u32),
    Abort(u32),
    Resolved(Token, Vec<SocketAddr>),
    Stop,
}

/// A connection made elsewhere.
pub(crate) struct Handover {
    pub(crate) a: OwnedFd,
    pub(crate) b: OwnedFd,
    pub(crate) options: Arc<LinkOptions>,
    pub(crate) on_end: OnEnd,
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handover").field("a", &self.a).field("b", &self.b).finish_non_exhaustive()
    }
}

/// Messages for a thread, and a descriptor that wakes it.
#[derive(Debug)]
pub(crate) struct Mailbox {
    messages: Mutex<Vec<Message>>,
    bell: OwnedFd,
}

impl Mailbox {
    fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { messages: Mutex::new(Vec::new()), bell })
    }

    pub(crate) fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    pub(crate) fn post(&self, message: Message) {
        let mut messages = self.lock();
        messages.push(message);
        if messages.len() == 1 {
            // Fails only if it rings already.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    pub(crate) fn take(&self) -> Vec<Message> {
        let mut messages = self.lock();
        // Fails only if it has not rung.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        mem::take(&mut *messages)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Message>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
