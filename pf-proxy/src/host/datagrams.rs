//! Datagrams over a stream, each behind its length, to and from one peer.
//!
//! UDP loses what does not fit, and so does this: while the stream is full, the kernel drops what the socket gets.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use egress::wire::{DatagramHead, MAX_DATAGRAM_BYTES};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest},
    net::UdpSocket,
    time::{Instant, sleep_until},
};
use transport::Relayed;

use crate::sockets;

thread_local! {
    /// Where the socket's datagrams arrive, so that an association that is silent holds no buffer.
    static ARRIVAL: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_DATAGRAM_BYTES]);
}

/// A socket that talks with `peer` only.
///
/// # Errors
/// The system has no socket, or no way to the peer.
pub(crate) async fn associate(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if peer.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(peer).await?;
    sockets::make_room(&socket);
    Ok(socket)
}

/// Carries datagrams both ways until the stream ends, breaks or says nonsense, or nothing came either way for `idle`.
/// Counts the datagrams' own bytes: from the stream, and to it.
pub(crate) async fn carry<S: AsyncRead + AsyncWrite>(
    stream: S,
    socket: &UdpSocket,
    idle: Duration,
) -> Relayed {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let activity = Activity::default();
    let out = async {
        let mut datagram = Vec::new();
        while let Ok(true) = read(&mut reader, &mut datagram).await {
            // What the peer's system has to say to it, the other direction hears.
            let _ = socket.send(&datagram).await;
            activity.sent(datagram.len());
        }
    };
    let back = async {
        while let Ok(frame) = next_frame(socket).await {
            if writer.write_all(&frame).await.is_err() || writer.flush().await.is_err() {
                break;
            }
            activity.received(frame.len().saturating_sub(2));
        }
    };
    tokio::select! { () = out => {}, () = back => {}, () = activity.silence(|_| idle) => {} }
    let (a_to_b, b_to_a) = activity.carried();
    Relayed { a_to_b, b_to_a }
}

/// What has been carried, and when something was last.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    last_ms: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { began: Instant::now(), last_ms: zero(), sent: zero(), received: zero() }
    }
}

impl Activity {
    /// A datagram of so many bytes went one way.
    pub(crate) fn sent(&self, bytes: usize) {
        self.note(&self.sent, bytes);
    }

    /// And the other.
    pub(crate) fn received(&self, bytes: usize) {
        self.note(&self.received, bytes);
    }

    /// Bytes both ways: sent, received.
    pub(crate) fn carried(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    fn note(&self, count: &AtomicU64, bytes: usize) {
        count.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    /// Ready when nothing was noted for as long as `idle` says by then.
    pub(crate) async fn silence(&self, idle: impl Fn(&Self) -> Duration) {
        loop {
            let until = self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + idle(self);
            if until <= Instant::now() {
                break;
            }
            sleep_until(until).await;
        }
    }
}

/// Reads one datagram into `datagram`; `false` at the end of the stream.
async fn read<R: AsyncRead + Unpin>(reader: &mut R, datagram: &mut Vec<u8>) -> io::Result<bool> {
    let mut head = [0; 2];
    match reader.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    match DatagramHead::decode(head) {
        Ok(DatagramHead::Datagram(length)) => {
            datagram.resize(length, 0);
            reader.read_exact(datagram).await?;
            Ok(true)
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// What is to be written for the next thing that the socket has to tell.
async fn next_frame(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    loop {
        // An error alone does not make a socket readable.
        let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
        if ready.is_error() {
            // Says that the error is taken, so that the next wait is for another one.
            let taken = || Err(io::Error::from(io::ErrorKind::WouldBlock));
            let _: io::Result<()> = socket.try_io(Interest::ERROR, taken);
            if socket.take_error()?.as_ref().is_some_and(is_refusal) {
                return Ok(port_unreachable());
            }
        }
        let frame: io::Result<Vec<u8>> = ARRIVAL.with_borrow_mut(|buffer| {
            let length = socket.try_recv(buffer)?;
            let head = DatagramHead::Datagram(length).encode().ok_or(io::ErrorKind::InvalidData)?;
            Ok([&head, buffer.get(..length).unwrap_or_default()].concat())
        });
        match frame {
            Ok(frame) => return Ok(frame),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if is_refusal(&error) => return Ok(port_unreachable()),
            // Routes come and go; the next datagram may find one. What does not pass ends with the silence.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

fn port_unreachable() -> Vec<u8> {
    DatagramHead::PortUnreachable.encode().unwrap_or_default().to_vec()
}
