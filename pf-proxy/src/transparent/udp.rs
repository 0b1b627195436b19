//! Datagrams: allowed or not, associated outside, carried both ways.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use egress::{
    Destination, Outcome, Protocol, Record,
    wire::{DatagramHead, Status},
};
use intercept::{
    answer::{self, Unreachable},
    plan::{DNS_PORT, Family},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use transport::Stream;

use super::{
    device::{Commands, Datagram},
    guide::Guide,
    records::{Records, now_ms},
    resolver::Resolver,
    tcp::milliseconds,
    uplink::Uplink,
};

/// Flows at once; datagrams of further ones are lost.
const MAX_FLOWS: usize = 4096;

/// Questions to the resolver at once; further ones are lost, and asked again.
const MAX_QUESTIONS: usize = 512;

/// Datagrams of one flow that wait to be sent.
const QUEUE: usize = 256;

/// How long a flow may be silent both ways before it is forgotten (RFC 4787 asks for two minutes at least).
const IDLE: Duration = Duration::from_secs(150);

/// How many bytes of datagrams are written at once at most.
const BATCH_BYTES: usize = 64 * 1024;

/// Who sent to whom.
type Ends = (SocketAddr, SocketAddr);

/// Everything about UDP.
#[derive(Debug)]
pub(super) struct Udp {
    guide: Arc<Guide>,
    uplink: Uplink,
    records: Arc<Records>,
    resolver: Arc<Resolver>,
    commands: Commands,
    questions: Arc<Semaphore>,
    flows: Mutex<HashMap<Ends, mpsc::Sender<Vec<u8>>>>,
}

impl Udp {
    pub(super) fn new(
        guide: &Arc<Guide>,
        uplink: &Uplink,
        records: &Arc<Records>,
        resolver: &Arc<Resolver>,
        commands: Commands,
    ) -> Arc<Self> {
        Arc::new(Self {
            guide: Arc::clone(guide),
            uplink: uplink.clone(),
            records: Arc::clone(records),
            resolver: Arc::clone(resolver),
            commands,
            questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
            flows: Mutex::default(),
        })
    }

    /// Takes a datagram that a program sent. Never waits.
    pub(super) fn take(self: Arc<Self>, datagram: Datagram) {
        let (from, to) = (datagram.packet.from, datagram.packet.to);
        if from.ip() != Family::of(from.ip()).own() {
            return;
        }
        if to.port() == DNS_PORT && to.ip() == Family::of(to.ip()).resolver() {
            self.ask(datagram);
            return;
        }
        let mut flows = self.flows();
        if let Some(flow) = flows.get(&(from, to)) {
            // A queue that is full loses, as networks do.
            drop(flow.try_send(datagram.payload().to_vec()));
            return;
        }
        let (destination, verdict) = self.guide.judge(to.ip(), to.port(), Protocol::Udp);
        let record = Record::begin(now_ms(), &destination, to.port(), Protocol::Udp, &verdict);
        if !verdict.is_allowed() {
            drop(flows);
            tracing::debug!(%destination, port = to.port(), %verdict, "denied");
            self.records.push(record);
            self.tell(&datagram, Unreachable::Forbidden);
            return;
        }
        if flows.len() >= MAX_FLOWS {
            tracing::warn!("too many flows of datagrams");
            return;
        }
        let (sender, queue) = mpsc::channel(QUEUE);
        drop(sender.try_send(datagram.payload().to_vec()));
        flows.insert((from, to), sender);
        drop(flows);
        tokio::spawn(self.carry(datagram, destination, record, queue));
    }

    fn ask(self: Arc<Self>, datagram: Datagram) {
        let Ok(place) = Arc::clone(&self.questions).try_acquire_owned() else { return };
        tokio::spawn(async move {
            let _place = place;
            if let Some(answer) = self.resolver.answer(datagram.payload(), true).await {
                let frame = answer::datagram(datagram.packet.to, datagram.packet.from, &answer);
                self.write(frame);
            }
        });
    }

    /// One flow, from its first datagram to its end.
    async fn carry(
        self: Arc<Self>,
        first: Datagram,
        destination: Destination,
        mut record: Record,
        queue: mpsc::Receiver<Vec<u8>>,
    ) {
        let ends = (first.packet.from, first.packet.to);
        let begun = Instant::now();
        let asked = self.uplink.connect(Protocol::Udp, &destination, ends.1.port()).await;
        match asked {
            Ok((stream, address)) => {
                record.outcome = Outcome::Asked(Status::Connected);
                record.address = record.address.or(address);
                let flow = Flow { udp: &self, first: &first, begun, counts: Counts::default() };
                flow.run(stream, queue).await;
                record.sent = flow.counts.sent.load(Ordering::Relaxed);
                record.received = flow.counts.received.load(Ordering::Relaxed);
            }
            Err(error) => {
                let reason: &(dyn std::error::Error + 'static) = &error;
                tracing::debug!(%destination, reason, "not reached");
                record.outcome = error.status().map_or(Outcome::NoAnswer, Outcome::Asked);
                record.address = record.address.or(error.address());
                if let Some(why) = unreachable(error.status()) {
                    self.tell(&first, why);
                }
            }
        }
        self.flows().remove(&ends);
        record.duration_ms = milliseconds(begun.elapsed());
        self.records.push(record);
    }

    /// Tells the sender of a datagram that it does not arrive.
    fn tell(&self, datagram: &Datagram, why: Unreachable) {
        self.write(answer::unreachable(&datagram.bytes, &datagram.packet, why));
    }

    fn write(&self, frame: Option<Vec<u8>>) {
        if let Some(frame) = frame {
            self.commands.write(frame);
        }
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<Ends, mpsc::Sender<Vec<u8>>>> {
        // Nobody panics while holding it, and a map of queues is one whatever happened.
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has been carried.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
    /// When a datagram was last carried, in milliseconds since the flow began.
    last_ms: AtomicU64,
}

struct Flow<'a> {
    udp: &'a Udp,
    first: &'a Datagram,
    begun: Instant,
    counts: Counts,
}

impl Flow<'_> {
    async fn run(&self, stream: Stream, queue: mpsc::Receiver<Vec<u8>>) {
        self.touch();
        let (reader, writer) = tokio::io::split(stream);
        let outcome = tokio::select! {
            outcome = self.send(writer, queue) => outcome,
            outcome = self.receive(reader) => outcome,
            () = self.idle() => Ok(()),
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "datagrams no longer carried");
        }
    }

    /// Takes what waits and writes it in one piece.
    async fn send(
        &self,
        mut writer: WriteHalf<Stream>,
        mut queue: mpsc::Receiver<Vec<u8>>,
    ) -> io::Result<()> {
        let mut batch = Vec::new();
        while let Some(payload) = queue.recv().await {
            batch.clear();
            let mut next = Some(payload);
            while let Some(payload) = next {
                if let Some(head) = DatagramHead::Datagram(payload.len()).encode() {
                    batch.extend(head);
                    batch.extend(&payload);
                    self.counts.sent.fetch_add(payload.len() as u64, Ordering::Relaxed);
                }
                next = if batch.len() < BATCH_BYTES { queue.try_recv().ok() } else { None };
            }
            timeout(IDLE, writer.write_all(&batch)).await??;
            timeout(IDLE, writer.flush()).await??;
            self.touch();
        }
        Ok(())
    }

    async fn receive(&self, mut reader: ReadHalf<Stream>) -> io::Result<()> {
        let mut payload = Vec::new();
        let (program, outside) = (self.first.packet.from, self.first.packet.to);
        loop {
            let mut head = [0; 2];
            reader.read_exact(&mut head).await?;
            match DatagramHead::decode(head).map_err(io::Error::other)? {
                DatagramHead::PortUnreachable => self.udp.tell(self.first, Unreachable::Port),
                DatagramHead::Datagram(length) => {
                    payload.resize(length, 0);
                    reader.read_exact(&mut payload).await?;
                    self.counts.received.fetch_add(length as u64, Ordering::Relaxed);
                    self.udp.write(answer::datagram(outside, program, &payload));
                }
            }
            self.touch();
        }
    }

    /// Ready when nothing was carried for long enough.
    async fn idle(&self) {
        loop {
            let last = Duration::from_millis(self.counts.last_ms.load(Ordering::Relaxed));
            let silent = self.begun.elapsed().saturating_sub(last);
            if silent >= IDLE {
                return;
            }
            sleep(IDLE - silent).await;
        }
    }

    fn touch(&self) {
        self.counts.last_ms.store(milliseconds(self.begun.elapsed()), Ordering::Relaxed);
    }
}

/// What the program is told when the host answered so; nothing where networks say nothing.
fn unreachable(status: Option<Status>) -> Option<Unreachable> {
    match status {
        Some(Status::Connected | Status::TimedOut) => None,
        Some(Status::Refused) => Some(Unreachable::Port),
        Some(Status::Denied) => Some(Unreachable::Forbidden),
        Some(Status::NetworkUnreachable) | None => Some(Unreachable::Network),
        Some(_) => Some(Unreachable::Host),
    }
}
