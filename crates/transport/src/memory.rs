//! Streams inside one process: for tests, and for parts that are joined in one binary.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use crate::Stream;

/// What one direction holds before its writer waits.
const BUFFER_BYTES: usize = 64 * 1024;

/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

/// Two ends of one stream. Half-close works as on a socket.
pub fn pair() -> (Stream, Stream) {
    let (a, b) = tokio::io::duplex(BUFFER_BYTES);
    (Stream::from_memory(a), Stream::from_memory(b))
}

type Names = HashMap<String, mpsc::Sender<DuplexStream>>;

/// Who listens under which name in this process.
static NAMES: LazyLock<Mutex<Names>> = LazyLock::new(Mutex::default);

fn names() -> MutexGuard<'static, Names> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The listening end of a name. The name is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct MemoryListener {
    name: String,
    incoming: tokio::sync::Mutex<mpsc::Receiver<DuplexStream>>,
}

impl MemoryListener {
    /// Takes `name`, or nothing if somebody has it.
    pub(crate) fn bind(name: &str) -> Option<Self> {
        let mut names = names();
        if names.contains_key(name) {
            return None;
        }
        let (sender, incoming) = mpsc::channel(BACKLOG);
        names.insert(name.to_owned(), sender);
        Some(Self { name: name.to_owned(), incoming: incoming.into() })
    }

    pub(crate) async fn accept(&self) -> DuplexStream {
        let stream = self.incoming.lock().await.recv().await;
        stream.expect("the sender stays in the table of names until the listener is dropped")
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        names().remove(&self.name);
    }
}

/// Connects to whoever listens under `name`, or to nobody.
pub(crate) async fn connect(name: &str) -> Option<DuplexStream> {
    let listener = names().get(name).cloned()?;
    let (ours, theirs) = tokio::io::duplex(BUFFER_BYTES);
    listener.send(theirs).await.ok()?;
    Some(ours)
}
