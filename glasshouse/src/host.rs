//! The host's half of what an enclave's init speaks: heartbeat, events, control.
//!
//! Everything that arrives here comes from the enclave and is shown to people and kept in files, never believed: what an
//! enclave is, only its attestation says. Lengths and files are bounded, since an enclave may be hostile to its host too.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use enclave_init::{
    CONTROL_PORT, HEARTBEAT_BYTE,
    event::{MAX_EVENT_BYTES, Record},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    sync::mpsc,
    time::timeout,
};
use transport::{Addr, Cid, Listener, Peer, Port, Stream};

/// A log file that reaches this size becomes `NAME.old`, and a new one is begun.
const MAX_LOG_BYTES: u64 = 64 << 20;
/// How long the enclave may take to answer a request to its init.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

/// How host and enclave reach each other.
#[derive(Clone, Debug)]
pub(crate) enum Fabric {
    /// Through Unix sockets: the path that `CONNECT` goes to. QEMU and local.
    Hybrid(PathBuf),
    /// Through AF_VSOCK, with the enclave's CID. Nitro.
    Vsock(Cid),
}

impl Fabric {
    /// Where to connect for the enclave's `port`.
    pub(crate) fn enclave_addr(&self, port: impl Into<u32>) -> Addr {
        let port = Port(port.into());
        match self {
            Self::Hybrid(path) => Addr::Hybrid { path: path.clone(), port },
            Self::Vsock(cid) => Addr::Vsock { cid: *cid, port },
        }
    }

    /// Where to listen for the enclave's connections to the host's `port`.
    pub(crate) fn host_addr(&self, port: impl Into<u32>) -> Addr {
        let port = Port(port.into());
        match self {
            Self::Hybrid(path) => Addr::Hybrid { path: path.clone(), port },
            Self::Vsock(_) => Addr::Vsock { cid: Cid::ANY, port },
        }
    }
}

/// Answers the heartbeat of a starting enclave until dropped.
pub(crate) async fn answer_heartbeats(listener: Listener) {
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return tracing::error!(%error, "heartbeats are no longer answered"),
        };
        let exchange = async {
            let mut byte = [0];
            stream.read_exact(&mut byte).await?;
            if byte == [HEARTBEAT_BYTE] {
                stream.write_all(&byte).await?;
                stream.shutdown().await?;
            }
            io::Result::Ok(())
        };
        // An enclave that hangs in its heartbeat hangs itself; the next connection gets a chance.
        if let Ok(Err(error)) = timeout(CONTROL_TIMEOUT, exchange).await {
            tracing::debug!(%error, "heartbeat");
        }
    }
}

/// Takes the enclave's events from `listener`, keeps them in `log` and passes them on, until dropped. Where every
/// enclave of the machine reaches the listener, `only` names the one that is meant.
pub(crate) async fn receive_events(
    listener: Listener,
    only: Option<Cid>,
    mut log: LogFile,
    events: mpsc::Sender<Record>,
) {
    let mut last = 0;
    loop {
        let stream = match listener.accept().await {
            Ok((_, Peer::Vsock { cid, .. })) if only.is_some_and(|only| only != cid) => continue,
            Ok((stream, _)) => stream,
            Err(error) => return tracing::error!(%error, "events are no longer received"),
        };
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            let limit = MAX_EVENT_BYTES as u64;
            let read = (&mut reader).take(limit).read_until(b'\n', &mut line).await;
            if !matches!(read, Ok(1..)) || line.last() != Some(&b'\n') {
                break;
            }
            match Record::from_line(&line) {
                // After a lost connection the enclave sends again what may not have arrived.
                Ok(record) if record.seq <= last => {}
                Ok(record) => {
                    last = record.seq;
                    log.write(&line);
                    if events.send(record).await.is_err() {
                        return;
                    }
                }
                Err(error) => tracing::warn!(%error, "the enclave sent a line that is no event"),
            }
        }
    }
}

/// Asks the enclave's init to shut down.
pub(crate) async fn request_shutdown(fabric: &Fabric) -> Result<()> {
    let exchange = async {
        let mut stream = Stream::connect(&fabric.enclave_addr(CONTROL_PORT), CONTROL_TIMEOUT).await?;
        stream.write_all(b"shutdown\n").await?;
        stream.flush().await?;
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).await?;
        if &answer != b"ok\n" {
            bail!("it answered {:?}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    };
    timeout(CONTROL_TIMEOUT, exchange)
        .await
        .context("the enclave's init does not answer")?
        .context("asking the enclave's init to shut down")
}

/// A file that an enclave's output goes to: bounded, and a full disk is said once and then endured.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    length: u64,
    failed: bool,
}

impl LogFile {
    /// A new, empty file.
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        let file = Self::open(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { path, file, length: 0, failed: false })
    }

    /// Appends `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        match self.try_write(bytes) {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(%error, path = %self.path.display(), "output of the enclave is lost");
            }
            Err(_) => {}
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let bytes_len = bytes.len() as u64;
        if self.length + bytes_len > MAX_LOG_BYTES {
            fs::rename(&self.path, self.path.with_added_extension("old"))?;
            self.file = Self::open(&self.path)?;
            self.length = 0;
        }
        self.file.write_all(bytes)?;
        self.length += bytes_len;
        Ok(())
    }

    fn open(path: &PathBuf) -> io::Result<File> {
        OpenOptions::new().create(true).write(true).truncate(true).open(path)
    }
}
