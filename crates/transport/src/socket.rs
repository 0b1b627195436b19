//! A listening socket for those who accept by themselves.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::ioctl_fionbio;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::unix::{SocketFile, claim};
use crate::{Addr, BindError, Port, TCP_KEEPALIVE_IDLE};

/// How many connections may wait to be accepted.
const QUEUE: i32 = 4096;

/// A listening, non-blocking socket. Its file, if it has one, is removed when this is dropped.
///
/// What it accepts has the socket options that a [`Stream`](crate::Stream) of its kind has, except for vsock.
#[derive(Debug)]
pub struct ListenSocket {
    // In this order: the file goes while the socket still answers, so that nobody takes it for left over.
    file: Option<SocketFile>,
    socket: OwnedFd,
    addr: Addr,
}

impl ListenSocket {
    /// Listens at `addr`, as [`Listener::bind`](crate::Listener::bind) does. May wait for a name to be resolved.
    ///
    /// # Errors
    /// [`BindError`]; `Unsupported` inside it for memory, which has no sockets.
    pub fn bind(addr: &Addr) -> Result<Self, BindError> {
        let bound = match addr {
            Addr::Vsock { cid, port } => bind_vsock(cid.0, port.0).map(|(socket, port)| Self {
                file: None,
                socket,
                addr: Addr::Vsock { cid: *cid, port },
            }),
            Addr::Unix(path) => bind_unix(path, addr),
            Addr::Hybrid { path, port } => bind_unix(&Addr::hybrid_listen_path(path, *port), addr),
            Addr::Tcp(host_port) => bind_tcp(host_port),
            Addr::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        };
        bound.map_err(|source| BindError::from_io(addr, source))
    }

    /// Where this listens: a port that was 0 has its number here.
    pub fn local_addr(&self) -> &Addr {
        &self.addr
    }

    /// Whether this has a file, which goes with it.
    pub fn has_file(&self) -> bool {
        self.file.is_some()
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn bind_vsock(cid: u32, port: u32) -> io::Result<(OwnedFd, Port)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?;
    bind(&socket, &sys::vsock::Address { cid, port })?;
    listen(&socket, QUEUE)?;
    let port = sys::vsock::local_port(&socket)?;
    Ok((socket, Port(port)))
}

fn bind_unix(path: &Path, addr: &Addr) -> io::Result<ListenSocket> {
    let (listener, file) = claim(path)?;
    let socket = OwnedFd::from(listener);
    ioctl_fionbio(&socket, true)?;
    listen(&socket, QUEUE)?;
    Ok(ListenSocket { file: Some(file), socket, addr: addr.clone() })
}

fn bind_tcp(host_port: &str) -> io::Result<ListenSocket> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in host_port.to_socket_addrs()? {
        match listen_tcp(candidate) {
            Ok((socket, bound)) => return Ok(ListenSocket { file: None, socket, addr: bound.into() }),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn listen_tcp(addr: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let listener = std::net::TcpListener::bind(addr)?;
    let bound = listener.local_addr()?;
    let socket = OwnedFd::from(listener);
    ioctl_fionbio(&socket, true)?;
    // Whatever is accepted inherits these; none matters enough not to listen.
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    let _ = sockopt::set_socket_keepalive(&socket, true);
    let _ = sockopt::set_tcp_keepidle(&socket, TCP_KEEPALIVE_IDLE);
    listen(&socket, QUEUE)?;
    Ok((socket, bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_port_is_chosen_and_told() {
        let socket = ListenSocket::bind(&"tcp://127.0.0.1:0".parse().unwrap()).unwrap();
        let Addr::Tcp(text) = socket.local_addr() else { panic!("another kind") };
        let client = std::net::TcpStream::connect(text).unwrap();
        let accepted = rustix::net::accept(&socket);
        assert!(accepted.is_ok() && sockopt::tcp_nodelay(accepted.unwrap()).unwrap());
        drop(client);
    }

    #[test]
    fn unix_file_goes_with_the_socket_and_a_taken_address_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let addr = Addr::Unix(dir.path().join("s"));
        let socket = ListenSocket::bind(&addr).unwrap();
        assert!(socket.has_file());
        assert_eq!(rustix::net::accept(&socket).unwrap_err(), rustix::io::Errno::AGAIN);
        assert!(matches!(ListenSocket::bind(&addr), Err(BindError::InUse { .. })));
        drop(socket);
        assert!(!dir.path().join("s").exists());
    }

    #[test]
    fn memory_has_no_socket() {
        assert!(matches!(ListenSocket::bind(&Addr::Memory("m".into())), Err(BindError::Io { .. })));
    }
}
