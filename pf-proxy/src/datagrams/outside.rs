//! The end with the clients: one socket for all of them, and a stream for each.
//!
//! Everything is bounded: clients, those of one address, datagrams that wait and the bytes of all that wait. What is beyond is lost, as
//! datagrams are.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, UdpSocket as StdSocket},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use egress::wire::{DatagramHead, MAX_DATAGRAM_BYTES};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::UdpSocket,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};
use transport::{Addr, Stream};

use super::{IDLE, MAX_FLOWS, UNANSWERED_IDLE};
use crate::{
    Error, descriptors,
    host::datagrams::Activity,
    ingress::Sources,
    metrics::{Number, Registry},
    sockets,
};

/// Datagrams of one client that wait to be written.
const QUEUE: usize = 256;

/// Bytes of all clients' datagrams that wait to be written.
const WAITING_BYTES: usize = 16 << 20;

/// What a datagram that waits takes beside its bytes, about.
const HELD_BYTES: usize = 128;

/// How many bytes of datagrams are written at once, but for the last that fits no more.
const BATCH_BYTES: usize = 64 * 1024;

/// How long the other end may take to accept a stream.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After an error of the socket that is about no client.
const PAUSE: Duration = Duration::from_millis(100);

/// One published UDP port.
#[derive(Clone, Debug)]
pub struct OutsideConfig {
    /// What it is called in metrics and logs.
    pub name: String,
    /// Where clients send to; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where the other end listens.
    pub target: Addr,
    /// How many clients there may be of one IPv4 address or IPv6 /64.
    pub max_per_source: Option<u32>,
}

impl OutsideConfig {
    /// Without limits for one source, called after where it listens.
    pub fn plain(listen: SocketAddr, target: Addr) -> Self {
        Self { name: format!("udp://{listen}"), listen, target, max_per_source: None }
    }
}

/// A socket that clients send to. What arrives before [`Outside::run`] waits in the kernel.
#[derive(Debug)]
pub struct Outside {
    shared: Arc<Shared>,
    local: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    config: OutsideConfig,
    socket: UdpSocket,
    flows: Mutex<HashMap<SocketAddr, mpsc::Sender<Held>>>,
    sources: Sources,
    room: Arc<Semaphore>,
    counts: Counts,
}

/// A datagram that waits, and its part of the room.
type Held = (Vec<u8>, OwnedSemaphorePermit);

#[derive(Debug)]
struct Counts {
    accepted: Number,
    refused: Number,
    open: Number,
    to_target: Number,
    to_client: Number,
}

impl Counts {
    fn of(registry: &Registry, route: &str) -> Self {
        let labels = [("route", route)];
        let refused = [("route", route), ("reason", "source_limit")];
        let bytes = |to: &str| {
            registry.counter("pf_proxy_bytes_total", "Bytes carried.", &[("route", route), ("to", to)])
        };
        Self {
            accepted: registry.counter("pf_proxy_accepted_total", "Clients let in.", &labels),
            refused: registry.counter("pf_proxy_refused_total", "Clients sent away at the door.", &refused),
            open: registry.gauge("pf_proxy_connections", "Connections that are open.", &labels),
            to_target: bytes("target"),
            to_client: bytes("client"),
        }
    }
}

impl Outside {
    /// Binds the socket. Needs a runtime around it.
    ///
    /// # Errors
    /// [`Error::BindDatagrams`].
    pub fn bind(config: OutsideConfig, registry: &Registry) -> Result<Self, Error> {
        descriptors::make_room(MAX_FLOWS);
        let wrong = |source| Error::BindDatagrams { addr: config.listen, source };
        let bind = || {
            let socket = StdSocket::bind(config.listen)?;
            socket.set_nonblocking(true)?;
            sockets::make_room(&socket);
            let local = socket.local_addr()?;
            Ok((UdpSocket::from_std(socket)?, local))
        };
        let (socket, local) = bind().map_err(wrong)?;
        let shared = Shared {
            counts: Counts::of(registry, &config.name),
            config,
            socket,
            flows: Mutex::default(),
            sources: Sources::default(),
            room: Arc::new(Semaphore::new(WAITING_BYTES)),
        };
        Ok(Self { shared: Arc::new(shared), local })
    }

    /// Where clients send to, with the number that the system chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves for ever: a socket of UDP has nothing that breaks. Dropping the future takes no more datagrams; clients that are known go
    /// on until they are silent.
    pub async fn run(self) -> Error {
        let mut arrival = vec![0; MAX_DATAGRAM_BYTES];
        loop {
            match self.shared.socket.recv_from(&mut arrival).await {
                Ok((length, client)) => {
                    Shared::take(&self.shared, client, arrival.get(..length).unwrap_or_default());
                }
                Err(error) => {
                    tracing::debug!(%error, route = self.shared.config.name, "no datagram");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

impl Shared {
    /// Takes a datagram. Never waits.
    fn take(self: &Arc<Self>, client: SocketAddr, datagram: &[u8]) {
        let size = u32::try_from(datagram.len() + HELD_BYTES).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(size) else { return };
        let mut flows = self.flows();
        if let Some(flow) = flows.get(&client) {
            // A queue that is full loses, as networks do.
            drop(flow.try_send((datagram.to_vec(), room)));
            return;
        }
        if flows.len() >= MAX_FLOWS {
            tracing::debug!(route = self.config.name, "too many clients");
            return;
        }
        if self.config.max_per_source.is_some_and(|limit| !self.sources.enter(client, limit)) {
            self.counts.refused.increment();
            return;
        }
        let (sender, queue) = mpsc::channel(QUEUE);
        drop(sender.try_send((datagram.to_vec(), room)));
        flows.insert(client, sender);
        drop(flows);
        self.counts.accepted.increment();
        self.counts.open.increment();
        tokio::spawn(Arc::clone(self).carry(client, queue));
    }

    /// One client, from its first datagram to its end.
    async fn carry(self: Arc<Self>, client: SocketAddr, queue: mpsc::Receiver<Held>) {
        let activity = Activity::default();
        let outcome = match Stream::connect(&self.config.target, CONNECT_TIMEOUT).await {
            Ok(stream) => self.exchange(client, stream, queue, &activity).await,
            Err(error) => Err(io::Error::other(error)),
        };
        self.flows().remove(&client);
        if self.config.max_per_source.is_some() {
            self.sources.leave(client);
        }
        let (sent, received) = activity.carried();
        self.counts.open.decrement();
        self.counts.to_target.add(sent);
        self.counts.to_client.add(received);
        let error = outcome.err().map(tracing::field::display);
        tracing::debug!(route = self.config.name, %client, sent, received, error, "no more datagrams");
    }

    async fn exchange(
        &self,
        client: SocketAddr,
        stream: Stream,
        queue: mpsc::Receiver<Held>,
        activity: &Activity,
    ) -> io::Result<()> {
        let (reader, writer) = tokio::io::split(stream);
        let idle = |activity: &Activity| if activity.carried().1 > 0 { IDLE } else { UNANSWERED_IDLE };
        tokio::select! {
            outcome = send(writer, queue, activity) => outcome,
            outcome = self.receive(reader, client, activity) => outcome,
            () = activity.silence(idle) => Ok(()),
        }
    }

    async fn receive(
        &self,
        mut reader: ReadHalf<Stream>,
        client: SocketAddr,
        activity: &Activity,
    ) -> io::Result<()> {
        let mut datagram = Vec::new();
        loop {
            let mut head = [0; 2];
            reader.read_exact(&mut head).await?;
            let length = match DatagramHead::decode(head).map_err(io::Error::other)? {
                DatagramHead::Datagram(length) => length,
                // Nobody listens in the enclave. To say so to the client would take a raw socket.
                DatagramHead::PortUnreachable => continue,
            };
            datagram.resize(length, 0);
            reader.read_exact(&mut datagram).await?;
            // A client may be gone, or behind a route that came and went: the next one may arrive.
            if self.socket.send_to(&datagram, client).await.is_ok() {
                activity.received(length);
            }
        }
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<SocketAddr, mpsc::Sender<Held>>> {
        // Nobody panics while holding it, and a map of queues is one whatever happened.
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what waits and writes it in one piece.
async fn send(
    mut writer: WriteHalf<Stream>,
    mut queue: mpsc::Receiver<Held>,
    activity: &Activity,
) -> io::Result<()> {
    while let Some(first) = queue.recv().await {
        let (mut batch, mut next) = (Vec::new(), Some(first));
        while let Some((datagram, _room)) = next {
            if let Some(head) = DatagramHead::Datagram(datagram.len()).encode() {
                batch.extend(head);
                batch.extend(&datagram);
                activity.sent(datagram.len());
            }
            next = if batch.len() < BATCH_BYTES { queue.try_recv().ok() } else { None };
        }
        timeout(IDLE, writer.write_all(&batch)).await??;
        timeout(IDLE, writer.flush()).await??;
    }
    Ok(())
}
