//! Simulations behind Unix sockets: framed requests in, framed answers out, one thread a connection.
//!
//! Specified in `docs/spec/nsm-socket.md`.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::module::SimulatedNsm;
use super::signer::Signer;
use super::unsigned::MAX_UNSIGNED_BYTES;
use crate::frame::{FrameError, read_frame, write_frame};
use crate::provider::Transact;
use crate::wire::{ErrorCode, MAX_REQUEST_BYTES, Request, Response};

/// Connections served at a time; further ones wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 64;

/// How long a connection may be silent, or leave an answer unread, before it is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait before accepting again when the system is out of descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How long stopping waits for answers that are being made.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves `module` on `listener` until the handle is dropped. The socket's file is the caller's to remove.
///
/// # Errors
/// When the serving thread cannot be started.
pub fn serve_module(listener: UnixListener, module: Arc<SimulatedNsm>) -> io::Result<ServerHandle> {
    ServerHandle::start(listener, module)
}

/// Serves `signer` on `listener` until the handle is dropped. The socket's file is the caller's to remove.
///
/// # Errors
/// When the serving thread cannot be started.
pub fn serve_signer(listener: UnixListener, signer: Arc<Signer>) -> io::Result<ServerHandle> {
    ServerHandle::start(listener, signer)
}

/// Something that answers frames.
trait Service: Send + Sync + 'static {
    /// For logs.
    const NAME: &'static str;

    /// Largest request in bytes.
    const MAX_REQUEST_BYTES: usize;

    /// The answer to one request, whatever that holds.
    fn answer(&self, request: &[u8]) -> Vec<u8>;

    /// The answer to a request over the limit, after which the connection ends.
    fn too_large(&self) -> Vec<u8>;
}

impl Service for SimulatedNsm {
    const NAME: &'static str = "simulated module";
    const MAX_REQUEST_BYTES: usize = MAX_REQUEST_BYTES;

    fn answer(&self, request: &[u8]) -> Vec<u8> {
        let response = match Request::decode(request) {
            Ok(request) => self.transact(&request),
            Err(error) => {
                tracing::debug!(%error, "undecodable request to the simulated module");
                Ok(Response::Error(ErrorCode::InvalidOperation))
            }
        };
        let failed = Response::Error(ErrorCode::InternalError);
        response.unwrap_or(failed).encode()
    }

    fn too_large(&self) -> Vec<u8> {
        Response::Error(ErrorCode::InputTooLarge).encode()
    }
}

impl Service for Signer {
    const NAME: &'static str = "document signer";
    const MAX_REQUEST_BYTES: usize = MAX_UNSIGNED_BYTES;

    fn answer(&self, request: &[u8]) -> Vec<u8> {
        self.resign(request).unwrap_or_else(|error| {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "refused to sign a document");
            Vec::new()
        })
    }

    fn too_large(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// A running server. Dropping it stops accepting, closes every connection and waits for the threads.
#[derive(Debug)]
#[must_use = "the server stops when its handle is dropped"]
pub struct ServerHandle {
    listener: Arc<UnixListener>,
    connections: Arc<Connections>,
    accepting: Option<JoinHandle<()>>,
}

impl ServerHandle {
    fn start<S: Service>(listener: UnixListener, service: Arc<S>) -> io::Result<Self> {
        let listener = Arc::new(listener);
        let connections = Arc::new(Connections::default());
        let accepting = Builder::new().name(S::NAME.into()).spawn({
            let (listener, connections) = (Arc::clone(&listener), Arc::clone(&connections));
            move || accept_loop(&listener, &connections, &service)
        })?;
        Ok(Self { listener, connections, accepting: Some(accepting) })
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        self.connections.stop();
        // Wakes a blocked accept, which then fails.
        let woken = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let (Ok(()), Some(accepting)) = (woken, self.accepting.take()) {
            // A panic in there was reported by its thread.
            let _ = accepting.join();
        }
        self.connections.wait_until_closed();
    }
}

fn accept_loop<S: Service>(listener: &UnixListener, connections: &Arc<Connections>, service: &Arc<S>) {
    while connections.wait_for_room() {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = start_connection(stream, connections, service) {
                    tracing::warn!(service = S::NAME, %error, "cannot serve a connection");
                }
            }
            Err(error) if connections.pause() => {
                tracing::warn!(service = S::NAME, %error, "cannot accept a connection");
            }
            Err(_) => return,
        }
    }
}

fn start_connection<S: Service>(
    stream: UnixStream,
    connections: &Arc<Connections>,
    service: &Arc<S>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE_TIMEOUT))?;
    stream.set_write_timeout(Some(IDLE_TIMEOUT))?;
    let Some(open) = Connections::enter(connections, stream.try_clone()?) else {
        return Ok(());
    };
    let service = Arc::clone(service);
    Builder::new().name(S::NAME.into()).spawn(move || {
        let _open = open;
        if let Err(error) = converse(stream, &*service) {
            let error: &dyn std::error::Error = &error;
            tracing::debug!(service = S::NAME, error, "a connection broke off");
        }
    })?;
    Ok(())
}

fn converse<S: Service>(mut stream: UnixStream, service: &S) -> Result<(), FrameError> {
    loop {
        match read_frame(&mut stream, S::MAX_REQUEST_BYTES) {
            Ok(Some(request)) => write_frame(&mut stream, &service.answer(&request))?,
            Ok(None) => return Ok(()),
            Err(error @ FrameError::TooLarge { .. }) => {
                write_frame(&mut stream, &service.too_large())?;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The open connections, and whether there may be more.
#[derive(Debug, Default)]
struct Connections {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    next: u64,
    open: HashMap<u64, UnixStream>,
}

impl Connections {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until another connection may be served; false when there will be none.
    fn wait_for_room(&self) -> bool {
        let full = |state: &mut State| !state.stopping && state.open.len() >= MAX_CONNECTIONS;
        let state = self.changed.wait_while(self.state(), full);
        !state.unwrap_or_else(PoisonError::into_inner).stopping
    }

    /// Waits a moment; false when there will be no more connections.
    fn pause(&self) -> bool {
        let running = |state: &mut State| !state.stopping;
        let waited = self.changed.wait_timeout_while(self.state(), ACCEPT_BACKOFF, running);
        !waited.unwrap_or_else(PoisonError::into_inner).0.stopping
    }

    /// Counts a connection in, unless the server is stopping.
    fn enter(connections: &Arc<Self>, stream: UnixStream) -> Option<OpenConnection> {
        let mut state = connections.state();
        if state.stopping {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.open.insert(number, stream);
        Some(OpenConnection { number, connections: Arc::clone(connections) })
    }

    /// Lets no more connections in and ends those that are open.
    fn stop(&self) {
        let mut state = self.state();
        state.stopping = true;
        for stream in state.open.values() {
            // One that is closed already needs no closing.
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    fn wait_until_closed(&self) {
        let busy = |state: &mut State| !state.open.is_empty();
        let waited = self.changed.wait_timeout_while(self.state(), STOP_TIMEOUT, busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Counts a connection out when its thread ends, however that happens.
#[derive(Debug)]
struct OpenConnection {
    number: u64,
    connections: Arc<Connections>,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.state().open.remove(&self.number);
        self.connections.changed.notify_all();
    }
}
