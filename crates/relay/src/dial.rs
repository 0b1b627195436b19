//! Opening a connection without waiting for it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getpeername, getsockname,
    socket_with, sockopt,
};
use transport::{Cid, Port};

use crate::side::Family;

/// How a first try went.
#[derive(Debug)]
pub(crate) enum Attempt {
    Connected(OwnedFd, Family),
    /// Told by epoll: room for writing, or failure.
    Pending(OwnedFd, Family),
    /// The listener's queue is full: try again soon.
    Busy,
}

pub(crate) fn unix(path: &Path) -> io::Result<Attempt> {
    let fd = stream(AddressFamily::UNIX)?;
    match connect(&fd, &SocketAddrUnix::new(path)?) {
        Ok(()) => Ok(Attempt::Connected(fd, Family::Other)),
        Err(Errno::AGAIN) => Ok(Attempt::Busy),
        Err(error) => Err(error.into()),
    }
}

/// A socket file in a folder that a guest may be able to write to, where a link could lead to any socket of this machine.
/// So the file is held first, then looked at, then connected to.
pub(crate) fn unix_in_place(path: &Path) -> io::Result<Attempt> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::Socket {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a socket"));
    }
    unix(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))
}

pub(crate) fn tcp(addr: SocketAddr, source: Option<SocketAddr>) -> io::Result<Attempt> {
    match tcp_from(addr, source) {
        Err(error) if source.is_some_and(|source| source.port() != 0) && is_taken(&error) => {
            tcp_from(addr, source.map(|source| SocketAddr::new(source.ip(), 0)))
        }
        outcome => outcome,
    }
}

/// Whether another connection, or a listener, has the port.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

fn tcp_from(addr: SocketAddr, source: Option<SocketAddr>) -> io::Result<Attempt> {
    let fd = stream(if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 })?;
    // None of these matters enough to do without a connection.
    let _ = sockopt::set_tcp_nodelay(&fd, true);
    if !addr.ip().is_loopback() {
        let _ = sockopt::set_socket_keepalive(&fd, true);
        let _ = sockopt::set_tcp_keepidle(&fd, transport::TCP_KEEPALIVE_IDLE);
    }
    if let Some(source) = source {
        sys::transparent::allow_any_source(&fd)?;
        // A connection of the same client that has just ended does not keep its port.
        sockopt::set_socket_reuseaddr(&fd, true)?;
        bind(&fd, &source)?;
    }
    match connect(&fd, &addr) {
        Ok(()) => Ok(Attempt::Connected(fd, Family::Tcp)),
        Err(Errno::INPROGRESS) => Ok(Attempt::Pending(fd, Family::Tcp)),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn vsock(cid: Cid, port: Port) -> io::Result<Attempt> {
    let fd = stream(AddressFamily::VSOCK)?;
    // An older kernel may refuse; the rules for writing hold without it.
    let _ = sys::vsock::set_buffer_size(&fd, transport::VSOCK_BUFFER_BYTES);
    match connect(&fd, &sys::vsock::Address { cid: cid.0, port: port.0 }) {
        Ok(()) => Ok(Attempt::Connected(fd, Family::Vsock)),
        Err(Errno::INPROGRESS) => Ok(Attempt::Pending(fd, Family::Vsock)),
        Err(error) => Err(error.into()),
    }
}

/// What became of a pending connection that epoll has spoken of.
pub(crate) fn outcome(fd: &OwnedFd) -> Result<(), Errno> {
    sockopt::socket_error(fd)??;
    getpeername(fd).map(|_| ())
}

/// A TCP connection to a port of this machine where nobody listens can by chance be given that very port as its own, and
/// is then connected to itself.
pub(crate) fn is_own_peer(fd: &OwnedFd) -> bool {
    let ends = (getsockname(fd), getpeername(fd));
    let (Ok(local), Ok(Some(peer))) = ends else { return false };
    match (SocketAddr::try_from(local), SocketAddr::try_from(peer)) {
        (Ok(local), Ok(peer)) => local == peer,
        _ => false,
    }
}

fn stream(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?)
}
