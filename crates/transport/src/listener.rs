//! Waiting for connections, of whichever kind.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpListener, UnixListener};
use tokio_vsock::{VsockAddr, VsockListener};

use crate::memory::MemoryListener;
use crate::unix::{SocketFile, claim};
use crate::{Addr, Cid, Port, Stream};

/// How long to leave the system alone when it has no descriptor or memory for another connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket. Its file, if it has one, is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    addr: Addr,
}

#[derive(Debug)]
enum Kind {
    Vsock(VsockListener),
    // In this order: the file goes while the socket still answers, so that nobody takes it for left over.
    Unix(#[expect(dead_code, reason = "held for its Drop")] SocketFile, UnixListener),
    Tcp(TcpListener),
    Memory(MemoryListener),
}

impl Listener {
    /// Listens at `addr`. For [`Addr::Hybrid`] that is the Unix socket `<path>_<port>`, where a guest's connections
    /// arrive. A Unix socket file is replaced if nobody answers at it.
    ///
    /// # Errors
    /// [`BindError`]; an address somebody else has is its own variant.
    pub async fn bind(addr: &Addr) -> Result<Self, BindError> {
        let (kind, bound) = match addr {
            Addr::Vsock { cid, port } => bind_vsock(*cid, *port),
            Addr::Unix(path) => bind_unix(path, addr),
            Addr::Hybrid { path, port } => bind_unix(&Addr::hybrid_listen_path(path, *port), addr),
            Addr::Tcp(host_port) => bind_tcp(host_port).await,
            Addr::Memory(name) => {
                let listener = MemoryListener::bind(name).ok_or(io::ErrorKind::AddrInUse.into());
                listener.map(|listener| (Kind::Memory(listener), addr.clone()))
            }
        }
        .map_err(|source| BindError::from_io(addr, source))?;
        Ok(Self { kind, addr: bound })
    }

    /// Where this listens: a port that was 0 has its number here.
    pub fn local_addr(&self) -> &Addr {
        &self.addr
    }

    /// The next connection, and who made it.
    ///
    /// A connection that dies while it waits is skipped. When the system has no descriptors or memory left this
    /// pauses and tries again: the connection waits in the queue meanwhile. Cancel safe.
    ///
    /// # Errors
    /// Only what makes the listener useless; a caller's loop should end.
    pub async fn accept(&self) -> io::Result<(Stream, Peer)> {
        loop {
            let error = match self.accept_once().await {
                Ok(accepted) => return Ok(accepted),
                Err(error) => error,
            };
            match AcceptFailure::of(&error) {
                AcceptFailure::OfOneConnection => {}
                AcceptFailure::Exhausted => {
                    tracing::warn!(listener = %self.addr, %error, "cannot accept now, pausing");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
                AcceptFailure::Fatal => return Err(error),
            }
        }
    }

    async fn accept_once(&self) -> io::Result<(Stream, Peer)> {
        Ok(match &self.kind {
            Kind::Vsock(listener) => {
                let (stream, peer) = listener.accept().await?;
                let peer = Peer::Vsock { cid: Cid(peer.cid()), port: Port(peer.port()) };
                (Stream::from_vsock(stream), peer)
            }
            Kind::Unix(_, listener) => (listener.accept().await?.0.into(), Peer::Unix),
            Kind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                (stream.into(), Peer::Tcp(peer))
            }
            Kind::Memory(listener) => (Stream::from_memory(listener.accept().await), Peer::Memory),
        })
    }
}

type Bound = io::Result<(Kind, Addr)>;

fn bind_vsock(cid: Cid, port: Port) -> Bound {
    let listener = VsockListener::bind(VsockAddr::new(cid.0, port.0))?;
    let port = Port(listener.local_addr()?.port());
    Ok((Kind::Vsock(listener), Addr::Vsock { cid, port }))
}

fn bind_unix(path: &Path, addr: &Addr) -> Bound {
    let (listener, file) = claim(path)?;
    listener.set_nonblocking(true)?;
    Ok((Kind::Unix(file, UnixListener::from_std(listener)?), addr.clone()))
}

async fn bind_tcp(host_port: &str) -> Bound {
    let listener = TcpListener::bind(host_port).await?;
    let addr = listener.local_addr()?.into();
    Ok((Kind::Tcp(listener), addr))
}

/// Who is at the other end of an accepted connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// Another machine's vsock.
    Vsock {
        /// The machine.
        cid: Cid,
        /// The port it connected from.
        port: Port,
    },
    /// Some process of this machine, or a guest behind a hybrid socket.
    Unix,
    /// A TCP client.
    Tcp(SocketAddr),
    /// A task of this process.
    Memory,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
            Self::Unix => f.write_str("unix"),
            Self::Tcp(addr) => write!(f, "tcp://{addr}"),
            Self::Memory => f.write_str("memory"),
        }
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody listens there.
    #[error("{addr}: somebody else listens there")]
    InUse {
        /// Where.
        addr: Addr,
    },
    /// A file is in the way that is not a socket. It was left alone.
    #[error("{path}: exists and is not a socket")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// Whatever else the system says.
    #[error("{addr}: cannot listen")]
    Io {
        /// Where.
        addr: Addr,
        /// From the system.
        #[source]
        source: io::Error,
    },
}

impl BindError {
    pub(crate) fn from_io(addr: &Addr, source: io::Error) -> Self {
        match (source.kind(), addr) {
            (io::ErrorKind::AddrInUse, _) => Self::InUse { addr: addr.clone() },
            (io::ErrorKind::AlreadyExists, Addr::Unix(path)) => Self::NotASocket { path: path.clone() },
            (io::ErrorKind::AlreadyExists, Addr::Hybrid { path, port }) => {
                Self::NotASocket { path: Addr::hybrid_listen_path(path, *port) }
            }
            _ => Self::Io { addr: addr.clone(), source },
        }
    }
}

/// What a failed `accept` means for the listener. See accept(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptFailure {
    /// The connection is gone; the next one may be fine.
    OfOneConnection,
    /// No descriptors or memory. The listener stays readable, so trying again at once would spin.
    Exhausted,
    /// The listener itself is broken.
    Fatal,
}

impl AcceptFailure {
    /// Of what `accept` said.
    pub fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC) => {
                Self::Exhausted
            }
            Some(
                Errno::CONNABORTED
                | Errno::CONNRESET
                | Errno::INTR
                | Errno::AGAIN
                | Errno::PROTO
                | Errno::PERM
                | Errno::NOTCONN
                | Errno::TIMEDOUT
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::HOSTUNREACH
                | Errno::NOPROTOOPT
                | Errno::NONET
                | Errno::OPNOTSUPP,
            ) => Self::OfOneConnection,
            _ => Self::Fatal,
        }
    }
}

#[cfg(test)]
mod tests;
