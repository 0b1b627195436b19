//! Opening a stream: one deadline over all of it, and the reasons for failing kept apart.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use tokio::net::{TcpStream, UnixStream};
use tokio_vsock::{VsockAddr, VsockStream};

use crate::hybrid::{self, HandshakeError};
use crate::{Addr, Cid, Stream, memory};

/// How soon to try again when a Unix listener's queue is full.
const BUSY_RETRY: Duration = Duration::from_millis(5);

impl Stream {
    /// Connects to `addr` within `timeout`, name lookup and handshake included.
    ///
    /// Linux itself gives up on a vsock after 2 seconds, so a longer `timeout` has no effect there.
    ///
    /// # Errors
    /// [`ConnectError`]; refused, timed out and not found are different variants.
    pub async fn connect(addr: &Addr, timeout: Duration) -> Result<Self, ConnectError> {
        let outcome = tokio::time::timeout(timeout, open(addr)).await;
        outcome.unwrap_or_else(|_| Err(ConnectError::TimedOut { addr: addr.clone() }))
    }
}

/// Connects within `timeout` to the socket file `path` itself: not to where a link of that name leads.
pub(crate) async fn connect_in_place(path: &Path, timeout: Duration) -> Result<Stream, ConnectError> {
    let addr = Addr::Unix(path.to_owned());
    match tokio::time::timeout(timeout, open_in_place(path)).await {
        Ok(outcome) => outcome.map(Stream::from).map_err(|e| ConnectError::from_io(&addr, e)),
        Err(_) => Err(ConnectError::TimedOut { addr }),
    }
}

/// Why no stream could be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The other machine or program is there, and nobody listens at this address.
    #[error("{addr}: connection refused")]
    Refused {
        /// Where to.
        addr: Addr,
    },
    /// Nothing answered in time.
    #[error("{addr}: timed out")]
    TimedOut {
        /// Where to.
        addr: Addr,
    },
    /// There is no such socket file.
    #[error("{addr}: no such socket")]
    NotFound {
        /// Where to.
        addr: Addr,
    },
    /// The host name has no address.
    #[error("{addr}: name not resolved")]
    Unresolved {
        /// Where to.
        addr: Addr,
        /// From the resolver; none if it answered with an empty list.
        #[source]
        source: Option<io::Error>,
    },
    /// Something listens that does not speak the hybrid vsock protocol.
    #[error("{addr}: not a hybrid vsock socket")]
    Handshake {
        /// Where to.
        addr: Addr,
        /// What it did instead.
        #[source]
        source: HandshakeError,
    },
    /// `any` names no machine.
    #[error("{addr}: cannot connect to any CID, name one")]
    AnyCid {
        /// Where to.
        addr: Addr,
    },
    /// Whatever else the system says.
    #[error("{addr}: cannot connect")]
    Io {
        /// Where to.
        addr: Addr,
        /// From the system.
        #[source]
        source: io::Error,
    },
}

impl ConnectError {
    fn from_io(addr: &Addr, source: io::Error) -> Self {
        let addr = addr.clone();
        match (source.kind(), &addr) {
            (io::ErrorKind::ConnectionRefused, _) => Self::Refused { addr },
            // A vsock peer says no by a reset.
            (io::ErrorKind::ConnectionReset, Addr::Vsock { .. }) => Self::Refused { addr },
            (io::ErrorKind::TimedOut, _) => Self::TimedOut { addr },
            (io::ErrorKind::NotFound, Addr::Unix(_) | Addr::Hybrid { .. }) => Self::NotFound { addr },
            _ => Self::Io { addr, source },
        }
    }
}

async fn open(addr: &Addr) -> Result<Stream, ConnectError> {
    match addr {
        Addr::Vsock { cid: Cid::ANY, .. } => Err(ConnectError::AnyCid { addr: addr.clone() }),
        Addr::Vsock { cid, port } => {
            let stream = VsockStream::connect(VsockAddr::new(cid.0, port.0)).await;
            stream.map(Stream::from_vsock).map_err(|e| ConnectError::from_io(addr, e))
        }
        Addr::Unix(path) => {
            open_unix(path).await.map(Stream::from).map_err(|e| ConnectError::from_io(addr, e))
        }
        Addr::Hybrid { path, port } => {
            let mut stream = open_in_place(path).await.map_err(|e| ConnectError::from_io(addr, e))?;
            match hybrid::request(&mut stream, *port).await {
                Ok(()) => Ok(stream.into()),
                Err(HandshakeError::Closed) => Err(ConnectError::Refused { addr: addr.clone() }),
                Err(source) => Err(ConnectError::Handshake { addr: addr.clone(), source }),
            }
        }
        Addr::Tcp(host_port) => open_tcp(addr, host_port).await,
        Addr::Memory(name) => {
            let stream = memory::connect(name).await;
            stream.map(Stream::from_memory).ok_or_else(|| ConnectError::Refused { addr: addr.clone() })
        }
    }
}

/// The folder of hybrid sockets may be one that a guest can write to, and a link there could have us speak to any socket
/// of this machine in the guest's stead. So the file is held first, then looked at, then connected to.
async fn open_in_place(path: &Path) -> io::Result<UnixStream> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::Socket {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a socket"));
    }
    open_unix(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd()))).await
}

/// A full queue is an error at once on a non-blocking Unix socket; waiting is what every other kind does.
async fn open_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(BUSY_RETRY).await,
            outcome => return outcome,
        }
    }
}

async fn open_tcp(addr: &Addr, host_port: &str) -> Result<Stream, ConnectError> {
    let found = tokio::net::lookup_host(host_port).await;
    let found =
        found.map_err(|source| ConnectError::Unresolved { addr: addr.clone(), source: Some(source) })?;
    let mut last = ConnectError::Unresolved { addr: addr.clone(), source: None };
    for candidate in found {
        match TcpStream::connect(candidate).await {
            Ok(stream) => return Ok(stream.into()),
            Err(error) => last = ConnectError::from_io(addr, error),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Port;

    const SOON: Duration = Duration::from_millis(200);

    async fn failure(addr: Addr) -> ConnectError {
        Stream::connect(&addr, SOON).await.expect_err("nobody listens")
    }

    #[tokio::test]
    async fn refused_and_not_found_are_different() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone");
        assert!(matches!(failure(Addr::Unix(path.clone())).await, ConnectError::NotFound { .. }));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(matches!(failure(Addr::Unix(path)).await, ConnectError::Refused { .. }));
        assert!(matches!(failure(Addr::Memory("nobody".into())).await, ConnectError::Refused { .. }));
        // Held and not listened at, so that nobody else gets it meanwhile.
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert!(matches!(failure(held.local_addr().unwrap().into()).await, ConnectError::Refused { .. }));
    }

    #[tokio::test]
    async fn silence_during_the_handshake_times_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mute");
        let _mute = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(failure(Addr::Hybrid { path, port: Port(5) }).await, ConnectError::TimedOut { .. }));
    }

    #[tokio::test]
    async fn any_cid_is_refused_without_opening_a_socket() {
        assert!(matches!(
            failure(Addr::Vsock { cid: Cid::ANY, port: Port(5) }).await,
            ConnectError::AnyCid { .. }
        ));
    }

    #[tokio::test]
    async fn full_queue_of_a_unix_listener_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("busy");
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None)
                .unwrap();
        rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let addr = Addr::Unix(path);
        let _first = Stream::connect(&addr, SOON).await.unwrap();
        assert!(matches!(failure(addr.clone()).await, ConnectError::TimedOut { .. }));
        let waiting = tokio::spawn(async move { Stream::connect(&addr, Duration::from_secs(60)).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        rustix::net::accept(&socket).unwrap();
        waiting.await.unwrap().unwrap();
    }
}
