//! One type for every kind of byte stream.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_vsock::VsockStream;

use crate::coalesce::Coalesced;

/// A connected byte stream.
///
/// `shutdown` closes the writing half only: the peer reads end of file and may go on sending. Dropping closes both.
/// What is written leaves without a flush on every kind; flush before the process ends.
#[derive(Debug)]
pub struct Stream(Kind);

#[derive(Debug)]
enum Kind {
    Vsock(Coalesced<VsockStream>),
    Unix(UnixStream),
    Tcp(TcpStream),
    Memory(DuplexStream),
}

impl Stream {
    pub(crate) fn from_vsock(stream: VsockStream) -> Self {
        // An older kernel may refuse; the rules for writing hold without it.
        let _ = sys::vsock::set_buffer_size(&stream, VSOCK_BUFFER_BYTES);
        Self(Kind::Vsock(Coalesced::new(stream)))
    }

    /// Gives up the stream for its socket, which is connected and non-blocking. Waits until the socket has all that was
    /// written.
    ///
    /// # Errors
    /// What flushing runs into; `Unsupported` for a stream in memory, which has no socket.
    pub async fn into_fd(mut self) -> io::Result<OwnedFd> {
        self.flush().await?;
        match self.0 {
            Kind::Vsock(stream) => stream.socket(),
            Kind::Unix(stream) => stream.into_std().map(OwnedFd::from),
            Kind::Tcp(stream) => stream.into_std().map(OwnedFd::from),
            Kind::Memory(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub(crate) fn from_memory(stream: DuplexStream) -> Self {
        Self(Kind::Memory(stream))
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self(Kind::Unix(stream))
    }
}

impl From<TcpStream> for Stream {
    /// Sends small writes at once and lets the kernel notice a peer that has vanished.
    fn from(stream: TcpStream) -> Self {
        use rustix::net::sockopt;
        // Neither matters enough to refuse a connection that works.
        let _ = stream.set_nodelay(true);
        let _ = sockopt::set_socket_keepalive(&stream, true);
        let _ = sockopt::set_tcp_keepidle(&stream, TCP_KEEPALIVE_IDLE);
        Self(Kind::Tcp(stream))
    }
}

/// What a vsock takes in before its peer has to wait; the default of Linux is 256 KiB. The more room there is, the later
/// a reader that has fallen behind loses its connection to a burst of small packets.
pub const VSOCK_BUFFER_BYTES: u64 = 1 << 20;

/// How long a TCP connection may be silent before the kernel asks whether the peer is still there.
pub const TCP_KEEPALIVE_IDLE: std::time::Duration = std::time::Duration::from_secs(60);

/// Calls the same method on whichever stream is inside.
macro_rules! delegate {
    ($self:ident.$method:ident($($argument:expr),*)) => {
        match &mut $self.get_mut().0 {
            Kind::Vsock(stream) => Pin::new(stream).$method($($argument),*),
            Kind::Unix(stream) => Pin::new(stream).$method($($argument),*),
            Kind::Tcp(stream) => Pin::new(stream).$method($($argument),*),
            Kind::Memory(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.poll_shutdown(cx))
    }
}
