//! One connection between a stream on the host and a socket in the guest: what has been said, what is owed to either
//! side, and when it is over.
//!
//! It does no IO and reads no clock. Events go in through the methods named after them; [`Connection::for_guest`] and
//! [`Connection::for_host`] then say what the connection wants to do next. [`crate::mux`] owns the connections and is
//! the only caller.
//!
//! Data for the host waits in `outbox`, which credit keeps within [`RECEIVE_BUFFER_BYTES`]. Data for the guest is not
//! held at all: it stays in the host's stream until the guest has both credit and a buffer for it.
//!
//! The two directions end one by one. The connection is over when both have ended: if the guest has said so too, a
//! reset is its receipt (Virtual I/O Device (VIRTIO) 1.3, section 5.10.6.5); if not, it is told, and its reset awaited.
//!
//! [`RECEIVE_BUFFER_BYTES`]: crate::credit::RECEIVE_BUFFER_BYTES

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::credit::{ReceiveCredit, SendCredit};
use crate::greeting;
use crate::packet::{Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};

/// A host client has this long to send its `CONNECT` line.
pub(crate) const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// The guest has this long to accept or refuse a connection.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A listener whose queue is full, on either side, is tried again after this long...
pub(crate) const BUSY_RETRY: Duration = Duration::from_millis(10);

/// ...until this much has passed, which is when a Linux guest gives up as well.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// The guest has this long to confirm the end of a connection; Linux waits as long for us.
pub(crate) const LINGER_TIMEOUT: Duration = Duration::from_secs(8);

/// Largest payload of a packet to the guest.
pub(crate) const MAX_DATA_BYTES: u32 = 64 * 1024;

/// What tells one connection from another on the guest's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The CID by which the guest knows the host.
    pub(crate) host_cid: u64,
    pub(crate) host_port: u32,
    pub(crate) guest_port: u32,
}

/// What a connection wants to send to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForGuest {
    Nothing,
    /// A packet without payload, with these flags.
    Control(Op, u32),
    /// Up to this many bytes of the host's stream.
    Data(u32),
}

/// What a connection wants done on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForHost {
    Nothing,
    /// Connect to the listener of the connection's host port.
    Dial,
    /// Write the outbox.
    Write,
    ShutdownWrite,
    ShutdownRead,
    Close,
}

/// What came of trying to read the host's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    /// This many bytes, more than none.
    Read(u32),
    WouldBlock,
    EndOfStream,
    Failed,
}

/// What came of trying to write to the host's stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    /// This many bytes of the outbox.
    Wrote(usize),
    WouldBlock,
    Failed,
}

/// What came of trying to reach a listener on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DialOutcome {
    Connected,
    /// Somebody listens, but the queue is full.
    Busy,
    Refused,
}

/// What a host stream is ready for. Each is news: it holds until an attempt would block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer has closed its stream altogether: nothing written can reach it any more.
    pub(crate) hung_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A host client has connected and not said to which port.
    Greeting,
    /// The guest is to be asked, or was asked, to accept.
    Requesting { sent: bool, give_up: Instant },
    /// The guest's listener seems to be busy and will be asked again.
    Pausing { give_up: Instant },
    /// The guest has asked for a connection; the host's listener is being tried.
    Dialling { due: bool, give_up: Instant },
    /// The connection stands.
    Open { response_due: bool },
    /// Both directions have ended; the guest is told and its reset awaited.
    Closing,
    /// The guest is owed a reset, and that is all.
    Resetting,
    /// The guest is done with the connection, but the host has yet to take what the guest had sent before.
    Draining,
    /// Over.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Connection {
    /// Absent before the guest has heard of the connection and once it has forgotten it.
    pub(crate) key: Option<Key>,
    /// When [`Connection::expire`] is to be called.
    pub(crate) deadline: Option<Instant>,
    phase: Phase,
    /// Bytes for the host's stream: first `own` bytes of ours, then the guest's.
    outbox: VecDeque<u8>,
    own: usize,
    send: SendCredit,
    receive: ReceiveCredit,
    host: HostSide,
    guest: GuestSide,
}

#[derive(Debug, Default)]
struct HostSide {
    /// A stream exists.
    attached: bool,
    readable: bool,
    writable: bool,
    /// Nothing more will be read from the stream.
    ended: bool,
    /// Nothing more can be written to it.
    refuses: bool,
    /// Its writing half was shut down by us.
    write_shut: bool,
}

#[derive(Debug, Default)]
struct GuestSide {
    /// Shutdown flags the guest has sent.
    said: u32,
    /// Shutdown flags the guest was sent.
    told: u32,
}

impl GuestSide {
    fn done_sending(&self) -> bool {
        self.said & SHUTDOWN_SEND != 0
    }

    fn done_receiving(&self) -> bool {
        self.said & SHUTDOWN_RECEIVE != 0
    }
}

impl Connection {
    /// A host client that has connected at `now`.
    pub(crate) fn accepted_from_host(now: Instant) -> Self {
        let mut connection = Self::new(Phase::Greeting, None);
        connection.host.attached = true;
        connection.deadline = Some(now + GREETING_TIMEOUT);
        connection
    }

    /// A connection the guest asked for at `now` by this packet.
    pub(crate) fn requested_by_guest(key: Key, header: &Header, now: Instant) -> Self {
        let mut connection = Self::new(Phase::Dialling { due: true, give_up: now + BUSY_TIMEOUT }, Some(key));
        connection.send.learn(header);
        connection
    }

    fn new(phase: Phase, key: Option<Key>) -> Self {
        Self {
            key,
            deadline: None,
            phase,
            outbox: VecDeque::new(),
            own: 0,
            send: SendCredit::default(),
            receive: ReceiveCredit::default(),
            host: HostSide::default(),
            guest: GuestSide::default(),
        }
    }

    pub(crate) fn is_greeting(&self) -> bool {
        self.phase == Phase::Greeting
    }

    /// Whether the connection can be forgotten.
    pub(crate) fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// Whether the guest is being asked to accept.
    pub(crate) fn is_requesting(&self) -> bool {
        matches!(self.phase, Phase::Requesting { .. })
    }

    /// Whether the connection stands, for all the guest knows.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
    }

    /// Whether the guest has forgotten the connection while the host has not.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase == Phase::Draining
    }

    /// Whether the guest has been told everything but the reset it is owed.
    pub(crate) fn is_resetting(&self) -> bool {
        self.phase == Phase::Resetting
    }

    /// Whether the host still has a stream for it.
    pub(crate) fn is_attached(&self) -> bool {
        self.host.attached
    }

    /// The bytes to write to the host's stream next.
    pub(crate) fn outbox(&self) -> (&[u8], &[u8]) {
        self.outbox.as_slices()
    }
}

/// Events from the guest.
impl Connection {
    /// Takes note of the credit fields, which every packet has.
    pub(crate) fn learn(&mut self, header: &Header) {
        self.send.learn(header);
    }

    /// The guest has accepted.
    pub(crate) fn response(&mut self) {
        let (Phase::Requesting { sent: true, .. }, Some(key)) = (self.phase, self.key) else {
            return self.reset();
        };
        let answer = greeting::accepted(key.guest_port);
        self.own = answer.len();
        self.outbox.extend(answer.as_bytes());
        self.deadline = None;
        self.phase = Phase::Open { response_due: false };
    }

    /// The guest has sent data.
    pub(crate) fn data(&mut self, payload: &[u8]) {
        if !matches!(self.phase, Phase::Open { response_due: false } | Phase::Closing)
            || self.guest.done_sending()
        {
            return self.reset();
        }
        let count = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        if self.receive.receive(count).is_err() {
            return self.reset();
        }
        if self.host.refuses || self.phase == Phase::Closing {
            self.receive.forward(count);
        } else {
            self.outbox.extend(payload);
        }
    }

    /// The guest has ended one direction or both.
    pub(crate) fn shutdown(&mut self, flags: u32) {
        if !matches!(self.phase, Phase::Open { .. } | Phase::Closing) {
            return self.reset();
        }
        self.guest.said |= flags & SHUTDOWN_BOTH;
        self.conclude();
    }

    /// The guest wants to know its credit.
    pub(crate) fn credit_request(&mut self) {
        self.receive.ask();
    }

    /// The guest has reset the connection. `is_busy` says whether that can mean a full queue.
    pub(crate) fn reset_by_guest(&mut self, is_busy: bool, now: Instant) {
        if let Phase::Requesting { sent: true, give_up } = self.phase
            && is_busy
            && now < give_up
        {
            self.deadline = Some(now + BUSY_RETRY);
            self.phase = Phase::Pausing { give_up };
            return;
        }
        // A guest that gives up waiting for our receipt sends a reset too. What it had sent before still counts.
        let owed =
            matches!(self.phase, Phase::Open { .. }) && self.guest.done_sending() && !self.outbox.is_empty();
        self.deadline = None;
        self.phase = if owed { Phase::Draining } else { Phase::Gone };
    }

    /// The guest has broken the rules, or the host's stream has: the guest is sent a reset, the stream is closed.
    pub(crate) fn reset(&mut self) {
        self.deadline = None;
        self.outbox = VecDeque::new();
        self.phase = match self.phase {
            Phase::Dialling { .. } | Phase::Open { .. } | Phase::Closing | Phase::Resetting => {
                Phase::Resetting
            }
            Phase::Requesting { sent: true, .. } => Phase::Resetting,
            _ => Phase::Gone,
        };
    }
}

/// Events from the host.
impl Connection {
    /// The host client has named the guest port it wants, which gave the connection its key.
    pub(crate) fn greeted(&mut self, key: Key, now: Instant) {
        self.key = Some(key);
        self.deadline = Some(now + REQUEST_TIMEOUT);
        self.phase = Phase::Requesting { sent: false, give_up: now + BUSY_TIMEOUT };
    }

    /// The listener for the connection's host port was tried at `now`.
    pub(crate) fn dialled(&mut self, outcome: DialOutcome, now: Instant) {
        self.host.attached = outcome == DialOutcome::Connected;
        let Phase::Dialling { give_up, .. } = self.phase else {
            return;
        };
        match outcome {
            DialOutcome::Connected => {
                self.deadline = None;
                self.phase = Phase::Open { response_due: true };
            }
            DialOutcome::Busy if now < give_up => {
                self.deadline = Some(now + BUSY_RETRY);
                self.phase = Phase::Dialling { due: false, give_up };
            }
            DialOutcome::Busy | DialOutcome::Refused => self.reset(),
        }
    }

    /// There is news of the host's stream.
    pub(crate) fn ready(&mut self, news: Readiness) {
        self.host.readable |= news.readable;
        self.host.writable |= news.writable;
        if news.hung_up {
            self.host_refuses();
        }
    }

    /// The outbox was tried to be written.
    pub(crate) fn wrote(&mut self, outcome: WriteOutcome) {
        match outcome {
            WriteOutcome::Wrote(count) => self.outbox_shrinks_by(count),
            WriteOutcome::WouldBlock => self.host.writable = false,
            WriteOutcome::Failed => self.host_refuses(),
        }
        self.conclude();
    }

    fn outbox_shrinks_by(&mut self, count: usize) {
        let count = count.min(self.outbox.len());
        let own = count.min(self.own);
        self.own -= own;
        self.receive.forward(u32::try_from(count - own).unwrap_or(u32::MAX));
        if count == self.outbox.len() {
            // An idle connection is not to sit on a buffer.
            self.outbox = VecDeque::new();
        } else {
            self.outbox.drain(..count);
        }
    }

    fn host_refuses(&mut self) {
        self.host.refuses = true;
        self.outbox_shrinks_by(self.outbox.len());
        self.conclude();
    }

    /// The stream was read, on account of [`ForGuest::Data`]. Returns the header of the packet that carries the bytes.
    pub(crate) fn read(&mut self, outcome: ReadOutcome) -> Option<Header> {
        match outcome {
            ReadOutcome::Read(count) => {
                self.send.spend(count);
                let mut header = self.header(Op::ReadWrite)?;
                header.len = count;
                return Some(header);
            }
            ReadOutcome::WouldBlock => self.host.readable = false,
            ReadOutcome::EndOfStream => self.host.ended = true,
            ReadOutcome::Failed => self.reset(),
        }
        self.conclude();
        None
    }

    /// The deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.deadline = None;
        match self.phase {
            Phase::Dialling { give_up, .. } if now < give_up => {
                self.phase = Phase::Dialling { due: true, give_up }
            }
            Phase::Pausing { give_up } => {
                self.deadline = Some(now + REQUEST_TIMEOUT);
                self.phase = Phase::Requesting { sent: false, give_up };
            }
            _ => self.reset(),
        }
    }

    /// Starts the wait for the guest's reset, if that is what the connection has come to.
    pub(crate) fn linger(&mut self, now: Instant) {
        if self.phase == Phase::Closing && self.guest.told == SHUTDOWN_BOTH && self.deadline.is_none() {
            self.deadline = Some(now + LINGER_TIMEOUT);
        }
    }

    /// Moves on when both directions have ended.
    fn conclude(&mut self) {
        if self.phase == Phase::Draining && self.outbox.is_empty() {
            self.phase = Phase::Gone;
            return;
        }
        let ended = match self.phase {
            Phase::Open { response_due: false } => {
                let to_host = self.host.refuses || self.host.write_shut;
                let to_guest = self.host.ended || self.guest.done_receiving();
                to_host && to_guest
            }
            Phase::Closing => true,
            _ => false,
        };
        if ended && self.guest.said == SHUTDOWN_BOTH {
            self.reset();
        } else if ended {
            self.phase = Phase::Closing;
        }
    }
}

/// What the connection wants.
impl Connection {
    /// The next packet for the guest.
    pub(crate) fn for_guest(&self) -> ForGuest {
        match self.phase {
            Phase::Requesting { sent: false, .. } => ForGuest::Control(Op::Request, 0),
            Phase::Resetting => ForGuest::Control(Op::Reset, 0),
            Phase::Open { response_due: true } => ForGuest::Control(Op::Response, 0),
            Phase::Open { response_due: false } | Phase::Closing => self.next_of_open(),
            _ => ForGuest::Nothing,
        }
    }

    fn next_of_open(&self) -> ForGuest {
        let wanted = self.shutdown_wanted();
        if wanted & !self.guest.told != 0 {
            return ForGuest::Control(Op::Shutdown, wanted);
        }
        let open = !matches!(self.phase, Phase::Closing);
        let sendable = open && self.host.readable && !self.host.ended && !self.guest.done_receiving();
        let credit = self.send.available();
        if sendable && credit > 0 {
            ForGuest::Data(credit.min(MAX_DATA_BYTES))
        } else if open && self.receive.update_due() {
            ForGuest::Control(Op::CreditUpdate, 0)
        } else if sendable && self.send.request_due() {
            ForGuest::Control(Op::CreditRequest, 0)
        } else {
            ForGuest::Nothing
        }
    }

    fn shutdown_wanted(&self) -> u32 {
        if self.phase == Phase::Closing {
            return SHUTDOWN_BOTH;
        }
        let no_more_data = if self.host.ended { SHUTDOWN_SEND } else { 0 };
        let no_more_room = if self.host.refuses { SHUTDOWN_RECEIVE } else { 0 };
        no_more_data | no_more_room
    }

    /// Makes the packet that [`Connection::for_guest`] announced, and counts it as sent.
    pub(crate) fn control(&mut self, op: Op, flags: u32) -> Option<Header> {
        let mut header = self.header(op)?;
        header.flags = flags;
        match op {
            Op::Request => {
                if let Phase::Requesting { give_up, .. } = self.phase {
                    self.phase = Phase::Requesting { sent: true, give_up };
                }
            }
            Op::Response => {
                self.phase = Phase::Open { response_due: false };
                self.conclude();
            }
            Op::Reset => self.phase = Phase::Gone,
            Op::Shutdown => self.guest.told |= flags,
            Op::CreditRequest => self.send.requested(),
            Op::CreditUpdate | Op::ReadWrite => {}
        }
        Some(header)
    }

    fn header(&mut self, op: Op) -> Option<Header> {
        let key = self.key?;
        let mut header = Header {
            src_cid: key.host_cid,
            src_port: key.host_port,
            dst_port: key.guest_port,
            socket_type: TYPE_STREAM,
            op: op.number(),
            ..Header::default()
        };
        self.receive.stamp(&mut header);
        Some(header)
    }

    /// The next thing to do on the host.
    pub(crate) fn for_host(&self) -> ForHost {
        if let Phase::Dialling { due: true, .. } = self.phase {
            return ForHost::Dial;
        }
        if !self.host.attached {
            return ForHost::Nothing;
        }
        match self.phase {
            Phase::Closing | Phase::Resetting => ForHost::Close,
            Phase::Open { .. } | Phase::Draining => self.next_of_stream(),
            _ => ForHost::Nothing,
        }
    }

    fn next_of_stream(&self) -> ForHost {
        if !self.outbox.is_empty() {
            return if self.host.writable { ForHost::Write } else { ForHost::Nothing };
        }
        if self.guest.done_sending() && !self.host.write_shut && !self.host.refuses {
            ForHost::ShutdownWrite
        } else if self.guest.done_receiving() && !self.host.ended {
            ForHost::ShutdownRead
        } else {
            ForHost::Nothing
        }
    }

    /// Counts what [`Connection::for_host`] announced as done. [`ForHost::Write`] is done by [`Connection::wrote`].
    pub(crate) fn done_on_host(&mut self, deed: ForHost) {
        match (deed, self.phase) {
            (ForHost::Dial, Phase::Dialling { give_up, .. }) => {
                self.phase = Phase::Dialling { due: false, give_up }
            }
            (ForHost::ShutdownWrite, _) => self.host.write_shut = true,
            (ForHost::ShutdownRead, _) => self.host.ended = true,
            (ForHost::Close, _) => self.host.attached = false,
            _ => {}
        }
        self.conclude();
    }
}
