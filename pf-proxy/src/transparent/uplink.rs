//! Asking the host (docs/spec/egress.md).

use std::{io, net::IpAddr, time::Duration};

use egress::{
    Destination, Protocol,
    wire::{REPLY_BYTES, Reply, Request, Status, WireError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use transport::{Addr, ConnectError, Stream};

/// How long the host's port may take to accept.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the host may take to answer. It gives up by itself long before; a program whose kernel has given up meanwhile
/// is not told any more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(150);

/// The way to the host.
#[derive(Clone, Debug)]
pub(super) struct Uplink {
    host: Addr,
}

/// Why the host did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum UplinkError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the connection to the host broke")]
    Io(#[from] io::Error),
    #[error("the host did not answer in time")]
    Silent,
    #[error("the host's answer is none")]
    Wire(#[from] WireError),
    #[error("the host answered: {status}")]
    Status { status: Status, address: Option<IpAddr> },
}

impl UplinkError {
    /// The host's answer, if it gave one.
    pub(super) fn status(&self) -> Option<Status> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The address that the host's answer is about, if it names one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Status { address, .. } => *address,
            _ => None,
        }
    }
}

impl Uplink {
    pub(super) fn new(host: Addr) -> Self {
        Self { host }
    }

    /// Has the host connect, or associate, with a destination. The stream begins with what the destination sends; the
    /// address is what the host says it is.
    pub(super) async fn connect(
        &self,
        protocol: Protocol,
        destination: &Destination,
        port: u16,
    ) -> Result<(Stream, Option<IpAddr>), UplinkError> {
        let destination = destination.clone();
        self.ask(&Request::Connect { protocol, destination, port, timeout_ms: 0 }).await
    }

    /// A stream on which the host answers DNS questions.
    pub(super) async fn resolve(&self) -> Result<Stream, UplinkError> {
        self.ask(&Request::Resolve).await.map(|(stream, _)| stream)
    }

    async fn ask(&self, request: &Request) -> Result<(Stream, Option<IpAddr>), UplinkError> {
        let mut stream = Stream::connect(&self.host, ACCEPT_TIMEOUT).await?;
        let answered = timeout(ANSWER_TIMEOUT, async {
            stream.write_all(&request.encode()).await?;
            stream.flush().await?;
            let mut bytes = [0; REPLY_BYTES];
            stream.read_exact(&mut bytes).await?;
            Ok::<_, io::Error>(bytes)
        });
        let bytes = answered.await.map_err(|_| UplinkError::Silent)??;
        match Reply::decode(&bytes)? {
            Reply { status: Status::Connected, address } => Ok((stream, address)),
            Reply { status, address } => Err(UplinkError::Status { status, address }),
        }
    }
}
