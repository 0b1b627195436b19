//! The host's end of the way out: connections that an enclave asks for, made from here.
//!
//! One stream from the enclave is one request (`docs/spec/egress.md`): a TCP connection, an association for datagrams,
//! or DNS questions. Every request is held against the [`Guard`], a name twice: before it is resolved, and with each
//! address that it resolves to. Runs in `glasshouse run`, and on its own as `pf-proxy forward-host`.

mod counts;
pub(crate) mod datagrams;
mod dial;
mod guard;
mod names;
mod questions;

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use egress::{
    Destination, Protocol,
    wire::{Reply, Request, Status, WireError},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tracing::Instrument;
use transport::{Addr, Cid, Listener, Peer, RelayOptions, Stream, relay};

pub use guard::{Guard, GuardSlot};
pub use names::{Resolve, Resolving, SystemResolver};

use self::counts::Counts;
use crate::{Error, descriptors, metrics::Registry};

/// Requests that are being read at once, beside those that are carried.
const LOBBY_PLACES: usize = 256;

/// How the host's end behaves.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// How many requests are carried at once; further ones are told that the host is busy. Default 4096.
    pub max_connections: usize,
    /// How many of them may be associations for datagrams. Default 1024.
    pub max_associations: usize,
    /// How long a request may take to arrive. Default 5 seconds.
    pub request_timeout: Duration,
    /// How long resolving and dialling may take together, unless the request wants it shorter. Default 15 seconds.
    pub dial_timeout: Duration,
    /// How long an association may be silent. Default 120 seconds: QUIC keeps alive more often.
    pub udp_idle: Duration,
    /// How long open connections may go on after the shutdown. Default 10 seconds.
    pub grace: Duration,
    /// The only enclave that is served, where every enclave of the machine reaches the listener.
    pub only: Option<Cid>,
    /// Where the DNS servers stand that questions are put to. Default `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_associations: 1024,
            request_timeout: Duration::from_secs(5),
            dial_timeout: Duration::from_secs(15),
            udp_idle: Duration::from_secs(120),
            grace: Duration::from_secs(10),
            only: None,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
        }
    }
}

/// The host's end, bound and not yet served.
pub struct Host {
    listener: Listener,
    guard: GuardSlot,
    resolver: Arc<dyn Resolve>,
    options: HostOptions,
    counts: Counts,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("listener", &self.listener)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// What became of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostSummary {
    /// Requests that were understood.
    pub requests: u64,
    /// Those of them that were connected.
    pub connected: u64,
    /// Those of them that the guard denied.
    pub denied: u64,
    /// Bytes from the enclave to the world.
    pub sent: u64,
    /// Bytes from the world to the enclave.
    pub received: u64,
}

impl Host {
    /// Listens at `addr` for what `guard` may let out.
    ///
    /// # Errors
    /// [`Error::Bind`].
    pub async fn bind(addr: &Addr, guard: Guard, options: HostOptions) -> Result<Self, Error> {
        let listener = Listener::bind(addr).await?;
        let resolver = Arc::new(SystemResolver::default());
        let counts = Counts::new(&Registry::default());
        Ok(Self { listener, guard: GuardSlot::new(guard), resolver, options, counts })
    }

    /// Counts in `registry`.
    #[must_use]
    pub fn counted_by(self, registry: &Registry) -> Self {
        Self { counts: Counts::new(registry), ..self }
    }

    /// The guard, to be exchanged while it is asked.
    pub fn guard(&self) -> GuardSlot {
        self.guard.clone()
    }

    /// Replaces the system's resolver.
    #[must_use]
    pub fn with_resolver(self, resolver: Arc<dyn Resolve>) -> Self {
        Self { resolver, ..self }
    }

    /// Serves the enclave with this CID only, where every enclave of the machine reaches the listener.
    #[must_use]
    pub fn only(self, cid: Cid) -> Self {
        Self { options: HostOptions { only: Some(cid), ..self.options }, ..self }
    }

    /// Where this listens: a port that was 0 has its number here.
    pub fn local_addr(&self) -> &Addr {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is ready; then accepts no more, and waits for open connections as long as
    /// [`HostOptions::grace`] says. Dropping the future ends everything at once.
    ///
    /// # Errors
    /// [`Error::Accept`] when the listener breaks. A failed request is not an error.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<HostSummary, Error> {
        let Self { listener, guard, resolver, options, counts } = self;
        // Here and not sooner, so that what is started beside us before does not inherit it.
        descriptors::make_room(options.max_connections + LOBBY_PLACES);
        let grace = options.grace;
        let hall = Arc::new(Hall::new(guard, resolver, options, counts, listener.local_addr()));
        let (stop, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        let accepted = tokio::select! {
            () = shutdown => Ok(()),
            accepted = accept(&listener, &hall, &stopped, &mut connections) => accepted,
        };
        drop((stop, listener));
        accepted?;
        let drain = async { while connections.join_next().await.is_some() {} };
        if timeout(grace, drain).await.is_err() {
            tracing::warn!(connections = connections.len(), "closed while still open");
        }
        Ok(hall.counts.summary())
    }
}

async fn accept(
    listener: &Listener,
    hall: &Arc<Hall>,
    stopped: &watch::Receiver<()>,
    connections: &mut JoinSet<()>,
) -> Result<(), Error> {
    loop {
        let place = Arc::clone(&hall.lobby).acquire_owned().await.expect("nobody closes the semaphore");
        let (stream, peer) = listener
            .accept()
            .await
            .map_err(|source| Error::Accept { addr: listener.local_addr().clone(), source })?;
        while connections.try_join_next().is_some() {}
        if matches!(peer, Peer::Vsock { cid, .. } if hall.options.only.is_some_and(|only| only != cid)) {
            continue;
        }
        let span = tracing::debug_span!("egress", client.addr = %peer);
        let (hall, stopped) = (Arc::clone(hall), stopped.clone());
        connections.spawn(async move { hall.serve(stream, place, stopped).await }.instrument(span));
    }
}

/// What all requests share.
struct Hall {
    guard: GuardSlot,
    resolver: Arc<dyn Resolve>,
    options: HostOptions,
    /// The port of our own listener, if it is one that can be dialled from here.
    own_port: Option<u16>,
    lobby: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    associations: Arc<Semaphore>,
    counts: Counts,
}

/// A connection that was made for a request.
enum Made {
    Tcp(TcpStream),
    Udp(tokio::net::UdpSocket, OwnedSemaphorePermit),
}

impl Hall {
    fn new(
        guard: GuardSlot,
        resolver: Arc<dyn Resolve>,
        options: HostOptions,
        counts: Counts,
        own: &Addr,
    ) -> Self {
        let own_port = match own {
            Addr::Tcp(text) => text.parse().ok().map(|own: SocketAddr| own.port()),
            _ => None,
        };
        let places = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        let (connections, associations) = (places(options.max_connections), places(options.max_associations));
        let lobby = places(LOBBY_PLACES);
        Self { guard, resolver, options, own_port, lobby, connections, associations, counts }
    }

    /// One stream, from its request to its end.
    async fn serve(&self, mut stream: Stream, lobby: OwnedSemaphorePermit, stopped: watch::Receiver<()>) {
        let request = match timeout(self.options.request_timeout, read_request(&mut stream)).await {
            Ok(Ok(request)) => request,
            Ok(Err(error)) => {
                tracing::debug!(%error, "no request");
                self.counts.replied(Status::BadRequest);
                return refuse(stream, (Status::BadRequest, None)).await;
            }
            Err(_) => return tracing::debug!("the request took too long"),
        };
        self.counts.requests.increment();
        let Ok(_place) = Arc::clone(&self.connections).try_acquire_owned() else {
            self.counts.replied(Status::Busy);
            return refuse(stream, (Status::Busy, None)).await;
        };
        drop(lobby);
        match request {
            Request::Resolve => self.resolve(stream).await,
            Request::Connect { ref destination, port, protocol, .. } => {
                let limit = self.options.dial_timeout.min(request.timeout().unwrap_or(Duration::MAX));
                let start = Instant::now();
                let made = timeout(limit, self.make(destination, port, protocol));
                match made.await.unwrap_or(Err((Status::TimedOut, destination.address()))) {
                    Ok((made, peer)) => {
                        self.counts.dials.record(start.elapsed());
                        self.carry(stream, made, peer, stopped).await;
                    }
                    Err(failure) => {
                        self.counts.replied(failure.0);
                        tracing::debug!(server.addr = %destination, port, status = %failure.0, "not connected");
                        refuse(stream, failure).await;
                    }
                }
            }
        }
    }

    /// Makes what is asked for, if the guard agrees.
    async fn make(
        &self,
        destination: &Destination,
        port: u16,
        protocol: Protocol,
    ) -> Result<(Made, SocketAddr), dial::Failure> {
        let addresses = self.addresses(destination, port, protocol).await?;
        match protocol {
            Protocol::Tcp => {
                let (stream, peer) = dial::dial(&addresses, port).await?;
                if self.is_ourselves(&stream, port) {
                    tracing::debug!(server.addr = %peer, "the enclave dialled its own way out");
                    return Err((Status::Denied, Some(peer.ip())));
                }
                Ok((Made::Tcp(stream), peer))
            }
            Protocol::Udp => {
                let busy = || (Status::Busy, None);
                let place = Arc::clone(&self.associations).try_acquire_owned().map_err(|_| busy())?;
                let address = addresses.first().copied().ok_or((Status::NameNotFound, None))?;
                let peer = SocketAddr::new(address, port);
                let socket = datagrams::associate(peer).await;
                let socket = socket.map_err(|error| (dial::status_of(&error), Some(address)))?;
                Ok((Made::Udp(socket, place), peer))
            }
        }
    }

    /// The addresses that may be dialled for a destination, at least one.
    async fn addresses(
        &self,
        destination: &Destination,
        port: u16,
        protocol: Protocol,
    ) -> Result<Vec<IpAddr>, dial::Failure> {
        let guard = self.guard.current();
        let allows = |destination: &Destination| {
            let verdict = guard.evaluate(destination, port, protocol);
            if !verdict.is_allowed() {
                tracing::debug!(server.addr = %destination, port, %protocol, %verdict, "refused");
            }
            verdict.is_allowed()
        };
        if !allows(destination) {
            return Err((Status::Denied, destination.address()));
        }
        let Destination::Name(name) = destination else {
            return Ok(destination.address().into_iter().collect());
        };
        let mut found = self.resolver.resolve(name).await.map_err(|status| (status, None))?;
        let first = found.first().copied();
        found.retain(|address| allows(&Destination::Resolved(name.clone(), *address)));
        match found.is_empty() {
            true => Err((Status::Denied, first)),
            false => Ok(found),
        }
    }

    /// Whether a connection leads to our own listener. Known by its ends, whatever address of this machine was dialled.
    fn is_ourselves(&self, stream: &TcpStream, port: u16) -> bool {
        let (own, peer) = (stream.local_addr(), stream.peer_addr());
        self.own_port == Some(port) && matches!((own, peer), (Ok(own), Ok(peer)) if own.ip() == peer.ip())
    }

    async fn carry(
        &self,
        mut stream: Stream,
        made: Made,
        peer: SocketAddr,
        mut stopped: watch::Receiver<()>,
    ) {
        let _open = self.counts.opened();
        let reply = Reply { status: Status::Connected, address: Some(peer.ip()) };
        if stream.write_all(&reply.encode()).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        let relayed = match made {
            Made::Tcp(server) => match relay(stream, Stream::from(server), RelayOptions::default()).await {
                Ok(relayed) => relayed,
                Err(error) => {
                    tracing::debug!(%error, server.addr = %peer, "connection broke");
                    error.relayed()
                }
            },
            // An association ends when nobody talks, so one that is open at the end would only take up the time of grace.
            Made::Udp(socket, _place) => tokio::select! {
                relayed = datagrams::carry(stream, &socket, self.options.udp_idle) => relayed,
                _ = stopped.changed() => return,
            },
        };
        self.counts.sent.add(relayed.a_to_b);
        self.counts.received.add(relayed.b_to_a);
        tracing::debug!(?relayed, server.addr = %peer, "connection ended");
    }

    async fn resolve(&self, mut stream: Stream) {
        let servers = match std::fs::read_to_string(&self.options.resolv_conf) {
            Ok(text) => questions::servers_in(&text),
            Err(error) => {
                tracing::warn!(%error, path = %self.options.resolv_conf.display(), "no DNS servers");
                Vec::new()
            }
        };
        let _open = self.counts.opened();
        let reply = Reply { status: Status::Connected, address: None };
        if stream.write_all(&reply.encode()).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        questions::answer(stream, self.guard.clone(), servers, self.options.udp_idle).await;
    }
}

/// Reads one request, and not a byte of what comes behind it.
async fn read_request<R: AsyncRead + Unpin>(stream: &mut R) -> Result<Request, RequestError> {
    let mut bytes = Vec::new();
    loop {
        let (missing, have) = (Request::missing(&bytes)?, bytes.len());
        if missing == 0 {
            return Ok(Request::decode(&bytes)?);
        }
        // At most the longest request, by what `missing` says.
        bytes.resize(have.saturating_add(missing), 0);
        stream.read_exact(bytes.get_mut(have..).unwrap_or_default()).await?;
    }
}

#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("it cannot be understood: {0}")]
    Wire(#[from] WireError),
    #[error("it did not arrive: {0}")]
    Read(#[from] io::Error),
}

/// Says no, and closes when the enclave has heard it or does not care to.
async fn refuse(mut stream: Stream, (status, address): dial::Failure) {
    let end = async {
        stream.write_all(&Reply { status, address }.encode()).await?;
        stream.shutdown().await?;
        // Closing with bytes unread would take the reply away from who has not read it yet.
        let mut rest = [0; 512];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(Duration::from_secs(1), end).await;
}
