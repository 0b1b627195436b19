//! The vhost-user device: carries packets between the guest's two queues, [`crate::mux`] and [`crate::streams`].
//!
//! Everything happens on the one worker thread of `vhost-user-backend`, in turns: news of the streams, packets from the
//! guest, deeds on the host, packets to the guest. A turn does a limited amount of work and then rings for the next, so
//! that no side can keep the worker from the others or from being stopped.
//!
//! Guest memory is read and written through the bounds-checked chains of `virtio-queue`; each length in it is the
//! guest's word and is checked here before it sizes anything. A queue that contradicts itself is left alone until the
//! guest sets it up again.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use tracing::{debug, warn};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VringRwLock, VringState, VringT};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT, Reader, Writer};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use crate::connection::{MAX_DATA_BYTES, ReadOutcome};
use crate::credit::RECEIVE_BUFFER_BYTES;
use crate::greeting::MAX_GREETING_BYTES;
use crate::mux::{Action, Cids, Greeted, Id, Mux, Transmit};
use crate::packet::{HEADER_BYTES, Header, Op};
use crate::streams::{News, Streams};

/// Guest memory as shared by QEMU.
pub(crate) type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

type Vring = VringRwLock<Memory>;
type MappedMemory = GuestMemoryLoadGuard<GuestMemoryMmap>;

/// Receive (to the guest), transmit (from the guest), event. The last carries nothing here.
const QUEUES: usize = 3;
const QUEUE_TO_GUEST: usize = 0;
const QUEUE_FROM_GUEST: usize = 1;

/// Largest queue a driver may set up; QEMU asks for 128.
const MAX_QUEUE_SIZE: usize = 1024;

/// The worker's name for news of the streams, the first that `vhost-user-backend` leaves free.
pub(crate) const STREAMS_EVENT: u64 = QUEUES as u64 + 1;

/// Packets carried in one direction before the other gets its turn.
const BATCH: usize = 128;

/// How often both directions get their turn before the worker looks around.
const ROUNDS: usize = 4;

pub(crate) struct Device {
    guest_cid: u32,
    mux: Mux,
    streams: Streams,
    memory: Memory,
    exit: Option<(EventConsumer, EventNotifier)>,
    /// Queues found contradicting themselves.
    broken: [bool; QUEUES],
    news: Vec<News>,
    buffer: Box<[u8]>,
}

impl Device {
    pub(crate) fn new(guest_cid: u32, cids: Cids, streams: Streams, memory: Memory) -> io::Result<Self> {
        Ok(Self {
            guest_cid,
            mux: Mux::new(cids, Instant::now()),
            streams,
            memory,
            exit: Some(new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC)?),
            broken: [false; QUEUES],
            news: Vec::new(),
            buffer: vec![0; RECEIVE_BUFFER_BYTES.max(MAX_DATA_BYTES) as usize].into_boxed_slice(),
        })
    }

    /// Readable while the streams need a turn.
    pub(crate) fn streams_fd(&self) -> BorrowedFd<'_> {
        self.streams.as_fd()
    }

    fn turn(&mut self, vrings: &[Vring]) -> io::Result<()> {
        let [to_guest, from_guest, ..] = vrings else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let now = Instant::now();
        self.mux.set_online(is_serving(&to_guest.get_ref()) && is_serving(&from_guest.get_ref()));
        self.mux.advance(now);
        self.hear_news(now)?;
        let mut again = true;
        for _ in 0..ROUNDS {
            if !again {
                break;
            }
            again = self.take_packets(from_guest);
            self.act();
            again |= self.give_packets(to_guest);
            again |= self.act();
        }
        if again {
            self.streams.ring_bell();
        }
        self.streams.arm(self.mux.next_deadline(), now)
    }

    fn hear_news(&mut self, now: Instant) -> io::Result<()> {
        let mut news = std::mem::take(&mut self.news);
        self.streams.poll(now, &mut news)?;
        for item in news.drain(..) {
            match item {
                News::Clients => self.accept_clients(now),
                News::Stream(id, readiness) => {
                    self.mux.ready(id, readiness);
                    if readiness.readable && self.mux.is_greeting(id) {
                        self.greet(id);
                    }
                }
            }
        }
        self.news = news;
        Ok(())
    }

    fn accept_clients(&mut self, now: Instant) {
        for client in self.streams.accept(now) {
            let Some(id) = self.mux.accepted() else {
                warn!("client refused: too many connections");
                continue;
            };
            if let Err(error) = self.streams.add(id, client) {
                warn!(%error, "cannot watch a new stream");
                self.mux.greet(id, &[]);
            }
        }
    }

    fn greet(&mut self, id: Id) {
        let mut seen = [0; MAX_GREETING_BYTES];
        let Some(count) = self.streams.peek(id, &mut seen) else {
            return;
        };
        let seen = seen.get_mut(..count).unwrap_or_default();
        if let Greeted::Consume(length) = self.mux.greet(id, seen) {
            // These bytes were just seen waiting, so they come at once and whole.
            self.streams.read(id, seen.get_mut(..length).unwrap_or_default());
        }
    }

    /// Does what is to be done on the host. Says whether there was anything.
    fn act(&mut self) -> bool {
        let mut acted = false;
        while let Some(action) = self.mux.next_action() {
            acted = true;
            match action {
                Action::Dial(id, port) => {
                    let outcome = self.streams.dial(id, port);
                    debug!(id = id.0, port, ?outcome, "host listener tried");
                    self.mux.dialled(id, outcome);
                }
                Action::Write(id) => {
                    let outcome = self.streams.write(id, self.mux.outbox(id));
                    self.mux.wrote(id, outcome);
                }
                Action::ShutdownWrite(id) => self.streams.shutdown(id, Shutdown::Write),
                Action::ShutdownRead(id) => self.streams.shutdown(id, Shutdown::Read),
                Action::Close(id) => self.streams.close(id),
            }
        }
        acted
    }
}

/// From the guest.
impl Device {
    /// Takes packets from the guest. Says whether there may be more.
    fn take_packets(&mut self, vring: &Vring) -> bool {
        let mut state = vring.get_mut();
        if !is_serving(&state) || self.broken[QUEUE_FROM_GUEST] {
            return false;
        }
        let memory = self.memory.memory();
        let mut left = BATCH;
        let outcome = serve(&mut state, &memory, |chain| {
            if left == 0 {
                return Served::Stop;
            }
            left -= 1;
            self.take_packet(&memory, chain);
            Served::Used(0)
        });
        self.finish(QUEUE_FROM_GUEST, &state, outcome)
    }

    fn take_packet(&mut self, memory: &MappedMemory, chain: DescriptorChain<MappedMemory>) {
        let mut header = [0; HEADER_BYTES];
        let mut reader = match Reader::<()>::new(&**memory, chain) {
            Ok(reader) => reader,
            Err(error) => return debug!(%error, "the guest's packet lies outside its memory"),
        };
        if let Err(error) = reader.read_exact(&mut header) {
            return debug!(%error, "the guest's packet is shorter than a header");
        }
        let header = Header::decode(&header);
        // Only data has a payload worth the copy; what others carry is not looked at.
        let length = if Op::from_number(header.op) == Some(Op::ReadWrite) { header.len as usize } else { 0 };
        match self.buffer.get_mut(..length).map(|payload| reader.read_exact(payload)) {
            Some(Ok(())) => self.mux.receive(&header, &self.buffer[..length]),
            Some(Err(_)) | None => {
                debug!(length, "the guest's packet has an impossible length");
                self.mux.receive_malformed(&header);
            }
        }
    }
}

/// To the guest.
impl Device {
    /// Gives packets to the guest. Says whether there may be more.
    fn give_packets(&mut self, vring: &Vring) -> bool {
        let mut state = vring.get_mut();
        if !is_serving(&state) || self.broken[QUEUE_TO_GUEST] || !self.mux.wants_transmit() {
            return false;
        }
        let memory = self.memory.memory();
        let mut left = BATCH;
        let outcome = serve(&mut state, &memory, |chain| {
            if left == 0 {
                return Served::Stop;
            }
            left -= 1;
            self.give_packet(&memory, chain)
        });
        self.finish(QUEUE_TO_GUEST, &state, outcome)
    }

    fn give_packet(&mut self, memory: &MappedMemory, chain: DescriptorChain<MappedMemory>) -> Served {
        let mut writer = match Writer::<()>::new(&**memory, chain) {
            Ok(writer) => writer,
            Err(error) => {
                debug!(%error, "the guest's buffer lies outside its memory");
                return Served::Used(0);
            }
        };
        let Some(room) = writer.available_bytes().checked_sub(HEADER_BYTES).filter(|room| *room > 0) else {
            debug!("the guest's buffer has no room for data");
            return Served::Used(0);
        };
        let Some(header) = self.next_packet(room) else {
            return Served::Unused;
        };
        let payload = &self.buffer[..header.len as usize];
        match writer.write_all(&header.encode()).and_then(|()| writer.write_all(payload)) {
            Ok(()) => Served::Used(u32::try_from(writer.bytes_written()).unwrap_or(u32::MAX)),
            Err(error) => {
                warn!(%error, "a checked buffer of the guest's could not be written");
                Served::Used(0)
            }
        }
    }

    /// The next packet with at most `room` bytes of payload, which is then in `self.buffer`.
    fn next_packet(&mut self, room: usize) -> Option<Header> {
        loop {
            match self.mux.transmit()? {
                Transmit::Control(header) => return Some(header),
                Transmit::Data(id, limit) => {
                    let room = room.min(limit as usize).min(self.buffer.len());
                    let outcome: ReadOutcome = self.streams.read(id, &mut self.buffer[..room]);
                    if let Some(header) = self.mux.read(id, outcome) {
                        return Some(header);
                    }
                }
            }
        }
    }
}

/// What became of a chain.
enum Served {
    /// The device is done with it, having written this many bytes.
    Used(u32),
    /// It was not needed and stays available, as does what follows.
    Unused,
    /// Likewise, but only for now.
    Stop,
}

/// How serving a queue ended.
enum Outcome {
    /// The queue is empty, and the guest will kick when it no longer is.
    Empty,
    /// There is nothing to do with it for now.
    Enough,
    /// There is more to do.
    More,
    /// The queue contradicts itself.
    Broken,
}

impl Device {
    fn finish(&mut self, queue: usize, state: &VringState<Memory>, outcome: (Outcome, bool)) -> bool {
        if outcome.1
            && let Err(error) = state.signal_used_queue()
        {
            warn!(%error, queue, "cannot notify the guest");
        }
        match outcome.0 {
            Outcome::Empty | Outcome::Enough => false,
            Outcome::More => true,
            Outcome::Broken => {
                warn!(queue, "the guest's queue contradicts itself; it is left alone until set up again");
                self.broken[queue] = true;
                false
            }
        }
    }
}

/// Serves the available chains of a queue, one after the other. Says how it ended and whether the guest is to be notified.
fn serve(
    state: &mut VringState<Memory>,
    memory: &MappedMemory,
    mut one: impl FnMut(DescriptorChain<MappedMemory>) -> Served,
) -> (Outcome, bool) {
    let mut used = false;
    let mut claimed = false;
    let outcome = loop {
        let Some(chain) = state.get_queue_mut().pop_descriptor_chain(memory.clone()) else {
            // The last look before waiting for a kick. A queue that says there is more but gives nothing is broken; to
            // believe it again would be a busy loop at the guest's command.
            match state.enable_notification() {
                Ok(true) if !claimed => claimed = true,
                Ok(false) => break Outcome::Empty,
                Ok(true) | Err(_) => break Outcome::Broken,
            }
            continue;
        };
        claimed = false;
        let head = chain.head_index();
        match one(chain) {
            Served::Used(length) => {
                if state.add_used(head, length).is_err() {
                    break Outcome::Broken;
                }
                used = true;
            }
            Served::Unused => {
                state.get_queue_mut().go_to_previous_position();
                break Outcome::Enough;
            }
            Served::Stop => {
                state.get_queue_mut().go_to_previous_position();
                break Outcome::More;
            }
        }
    };
    let notify = used && state.needs_notification().unwrap_or(true);
    (outcome, notify)
}

fn is_serving(state: &VringState<Memory>) -> bool {
    state.is_enabled() && state.get_queue().ready()
}

impl VhostUserBackendMut for Device {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_F_VERSION_1)
            | (1 << VIRTIO_RING_F_INDIRECT_DESC)
            | (1 << VIRTIO_RING_F_EVENT_IDX)
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::CONFIG
    }

    fn set_event_idx(&mut self, _enabled: bool) {
        // The queues were told as well, and only they need to know.
    }

    /// The configuration space is the guest's CID as a little-endian u64 (VIRTIO 1.3, section 5.10.4).
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let space = u64::from(self.guest_cid).to_le_bytes();
        let range = offset as usize..(offset as usize).saturating_add(size as usize);
        space.get(range).map(<[u8]>::to_vec).unwrap_or_default()
    }

    fn update_memory(&mut self, memory: Memory) -> io::Result<()> {
        self.memory = memory;
        Ok(())
    }

    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        let (consumer, notifier) = self.exit.as_ref()?;
        Some((consumer.try_clone().ok()?, notifier.try_clone().ok()?))
    }

    fn stop_vring(&mut self, queue_index: u32) -> io::Result<()> {
        if let Some(broken) = self.broken.get_mut(queue_index as usize) {
            *broken = false;
        }
        self.mux.set_online(false);
        self.act();
        Ok(())
    }

    fn handle_event(
        &mut self,
        _event: u16,
        _set: EventSet,
        vrings: &[Vring],
        _thread: usize,
    ) -> io::Result<()> {
        // An error here would end the worker and leave the guest without a word. There is none that a later turn might
        // not get over.
        if let Err(error) = self.turn(vrings) {
            warn!(%error, "a turn of the vsock device failed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
