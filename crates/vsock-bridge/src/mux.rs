//! All connections between one guest and its host: takes packets and news of streams, gives packets and things to do.
//!
//! It does no IO, reads no clock and touches no guest memory. The caller, [`crate::device`], moves the bytes:
//!
//! - each packet of the guest goes to [`Mux::receive`];
//! - while the guest has a free buffer, [`Mux::transmit`] says what to put there;
//! - [`Mux::next_action`] says what to do with the host's streams, each of them named by an [`Id`];
//! - [`Mux::advance`] tells the time, before anything else is told, and [`Mux::next_deadline`] says when to do so again.
//!
//! The guest is not trusted. What it can make us hold is bounded: [`MAX_CONNECTIONS`] connections, each with the
//! announced buffer at most, and [`MAX_STRAY_RESETS`] resets for packets that belong to no connection. Its packets are
//! always taken, whether or not it takes ours, so that two full queues cannot wait for each other. Connections take
//! turns, one packet each, so that none waits for a stalled or a greedy one.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Instant;

use tracing::{debug, trace};

use crate::connection::{
    Connection, DialOutcome, ForGuest, ForHost, Key, ReadOutcome, Readiness, WriteOutcome,
};
use crate::greeting::{self, Greeting};
use crate::packet::{Header, Op, TYPE_STREAM};

/// Most connections at a time, those being set up and torn down included.
pub(crate) const MAX_CONNECTIONS: usize = 2048;

/// Most resets that wait for a guest buffer without belonging to a connection; more are dropped, which can only make a
/// guest wait that does not empty its queue.
pub(crate) const MAX_STRAY_RESETS: usize = 1024;

/// Host ports for connections towards the guest start here, clear of those that services are given.
const FIRST_EPHEMERAL_PORT: u32 = 1 << 30;

/// The CIDs on the two ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cids {
    pub(crate) guest: u64,
    /// By these the guest may call the host; connections towards the guest come from the first.
    pub(crate) host: [u64; 2],
}

/// Names a connection, and its stream, for good: no two ever share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(pub(crate) u64);

/// What to put into the guest's next free buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transmit {
    /// This packet, which has no payload.
    Control(Header),
    /// Up to this many bytes of a stream: read it and ask [`Mux::read`] for the header.
    Data(Id, u32),
}

/// What to do on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Connect to the listener for this port and tell [`Mux::dialled`].
    Dial(Id, u32),
    /// Write [`Mux::outbox`] to the stream and tell [`Mux::wrote`].
    Write(Id),
    ShutdownWrite(Id),
    ShutdownRead(Id),
    /// Close the stream.
    Close(Id),
}

/// What came of a client's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeted {
    /// Not complete; nothing is to be consumed.
    Wait,
    /// This many bytes were the greeting and are to be consumed; the rest is data.
    Consume(usize),
}

#[derive(Debug)]
pub(crate) struct Mux {
    cids: Cids,
    now: Instant,
    /// Whether a driver serves the queues.
    online: bool,
    connections: HashMap<Id, Entry>,
    by_key: HashMap<Key, Id>,
    next_id: u64,
    next_port: u32,
    stray_resets: VecDeque<Header>,
    for_guest: VecDeque<Id>,
    for_host: VecDeque<Id>,
    closes: VecDeque<Id>,
    deadlines: BTreeSet<(Instant, Id)>,
}

#[derive(Debug)]
struct Entry {
    connection: Connection,
    /// The deadline under which it is filed in `deadlines`.
    deadline: Option<Instant>,
    in_for_guest: bool,
    in_for_host: bool,
}

impl Mux {
    pub(crate) fn new(cids: Cids, now: Instant) -> Self {
        Self {
            cids,
            now,
            online: false,
            connections: HashMap::new(),
            by_key: HashMap::new(),
            next_id: 0,
            next_port: FIRST_EPHEMERAL_PORT,
            stray_resets: VecDeque::new(),
            for_guest: VecDeque::new(),
            for_host: VecDeque::new(),
            closes: VecDeque::new(),
            deadlines: BTreeSet::new(),
        }
    }

    /// Tells the time and lets what is due by then expire.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = now;
        while let Some((due, id)) = self.deadlines.first().copied().filter(|(due, _)| *due <= now) {
            self.deadlines.remove(&(due, id));
            self.with(id, |connection| connection.expire(now));
        }
    }

    /// When [`Mux::advance`] is needed next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// Says whether a driver serves the queues. All connections end with the driver they were made with.
    pub(crate) fn set_online(&mut self, online: bool) {
        if self.online && !online {
            debug!(connections = self.connections.len(), "the guest's driver is gone");
            let ids: Vec<Id> = self.connections.keys().copied().collect();
            for id in ids {
                self.remove(id);
            }
            self.stray_resets.clear();
        }
        self.online = online;
    }

    #[cfg(test)]
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Applies `event` to a connection, if it still exists, and attends to what follows from it.
    fn with<T>(&mut self, id: Id, event: impl FnOnce(&mut Connection) -> T) -> Option<T> {
        let outcome = event(&mut self.connections.get_mut(&id)?.connection);
        self.settle(id);
        Some(outcome)
    }

    /// Files a connection where it now belongs.
    fn settle(&mut self, id: Id) {
        let Some(entry) = self.connections.get_mut(&id) else {
            return;
        };
        if entry.connection.is_gone() {
            return self.remove(id);
        }
        entry.connection.linger(self.now);
        if entry.deadline != entry.connection.deadline {
            if let Some(due) = entry.deadline.take() {
                self.deadlines.remove(&(due, id));
            }
            if let Some(due) = entry.connection.deadline {
                self.deadlines.insert((due, id));
                entry.deadline = Some(due);
            }
        }
        if !entry.in_for_guest && entry.connection.for_guest() != ForGuest::Nothing {
            entry.in_for_guest = true;
            self.for_guest.push_back(id);
        }
        if !entry.in_for_host && entry.connection.for_host() != ForHost::Nothing {
            entry.in_for_host = true;
            self.for_host.push_back(id);
        }
    }

    fn insert(&mut self, connection: Connection) -> Id {
        let id = Id(self.next_id);
        self.next_id += 1;
        if let Some(key) = connection.key {
            self.by_key.insert(key, id);
        }
        self.connections
            .insert(id, Entry { connection, deadline: None, in_for_guest: false, in_for_host: false });
        self.settle(id);
        id
    }

    fn remove(&mut self, id: Id) {
        let Some(entry) = self.connections.remove(&id) else {
            return;
        };
        if let Some(key) = entry.connection.key {
            self.by_key.remove(&key);
        }
        if let Some(due) = entry.deadline {
            self.deadlines.remove(&(due, id));
        }
        if entry.connection.is_attached() {
            self.closes.push_back(id);
        }
        trace!(id = id.0, "connection over");
    }
}

/// The guest's side.
impl Mux {
    /// Takes a packet of the guest; `payload` is `header.len` bytes long.
    pub(crate) fn receive(&mut self, header: &Header, payload: &[u8]) {
        let Some(key) = self.key(header) else {
            return self.refuse(header);
        };
        let op = Op::from_number(header.op);
        let Some(id) = self.known(key, op) else {
            return match op {
                Some(Op::Request) => self.requested(key, header),
                Some(Op::Reset) => {}
                _ => self.refuse(header),
            };
        };
        if op == Some(Op::Reset) {
            return self.reset_by_guest(id, key);
        }
        self.with(id, |connection| {
            connection.learn(header);
            match op {
                Some(Op::Response) => connection.response(),
                Some(Op::Shutdown) => connection.shutdown(header.flags),
                Some(Op::ReadWrite) => connection.data(payload),
                Some(Op::CreditUpdate) => {}
                Some(Op::CreditRequest) => connection.credit_request(),
                Some(Op::Request | Op::Reset) | None => connection.reset(),
            }
        });
    }

    /// Takes a packet whose payload is not what its header says.
    pub(crate) fn receive_malformed(&mut self, header: &Header) {
        match self.key(header).and_then(|key| self.by_key.get(&key).copied()) {
            Some(id) => {
                self.with(id, Connection::reset);
            }
            None => self.refuse(header),
        }
    }

    /// The key of a packet's connection, if the packet is from the guest to the host and of a stream.
    fn key(&self, header: &Header) -> Option<Key> {
        let ours = header.src_cid == self.cids.guest
            && self.cids.host.contains(&header.dst_cid)
            && header.socket_type == TYPE_STREAM;
        ours.then_some(Key {
            host_cid: header.dst_cid,
            host_port: header.dst_port,
            guest_port: header.src_port,
        })
    }

    /// The connection of a packet. A new request replaces one that only waits for its reset to be sent.
    fn known(&mut self, key: Key, op: Option<Op>) -> Option<Id> {
        let id = self.by_key.get(&key).copied()?;
        let superseded = op == Some(Op::Request) && self.connections.get(&id)?.connection.is_resetting();
        if superseded {
            self.remove(id);
            return None;
        }
        Some(id)
    }

    fn requested(&mut self, key: Key, header: &Header) {
        if self.connections.len() >= MAX_CONNECTIONS {
            debug!(port = key.host_port, "refused: too many connections");
            return self.refuse(header);
        }
        let id = self.insert(Connection::requested_by_guest(key, header, self.now));
        debug!(
            id = id.0,
            port = key.host_port,
            guest_port = key.guest_port,
            "the guest asks for a connection"
        );
    }

    fn reset_by_guest(&mut self, id: Id, key: Key) {
        // A guest whose listener has too many connections waiting to be accepted answers as if nobody listened. Where
        // others got through, that is what happened.
        let is_listening = || {
            self.connections.values().map(|entry| &entry.connection).any(|other| {
                other.is_open() && other.key.is_some_and(|other| other.guest_port == key.guest_port)
            })
        };
        let is_busy =
            self.connections.get(&id).is_some_and(|entry| entry.connection.is_requesting()) && is_listening();
        let now = self.now;
        self.with(id, |connection| connection.reset_by_guest(is_busy, now));
        // What is left to drain is no business of the guest's any more: it may use the ports again.
        if let Some(entry) = self.connections.get_mut(&id)
            && entry.connection.is_draining()
        {
            entry.connection.key = None;
            self.by_key.remove(&key);
        }
    }

    /// Answers a packet that belongs to no connection.
    fn refuse(&mut self, header: &Header) {
        trace!(?header, "packet refused");
        let answerable = header.src_cid == self.cids.guest && header.op != Op::Reset.number();
        if !answerable || self.stray_resets.len() >= MAX_STRAY_RESETS {
            return;
        }
        self.stray_resets.push_back(Header {
            src_cid: header.dst_cid,
            dst_cid: header.src_cid,
            src_port: header.dst_port,
            dst_port: header.src_port,
            socket_type: header.socket_type,
            op: Op::Reset.number(),
            ..Header::default()
        });
    }

    /// Whether [`Mux::transmit`] may have something for the guest.
    pub(crate) fn wants_transmit(&self) -> bool {
        !self.stray_resets.is_empty() || !self.for_guest.is_empty()
    }

    /// What to put into the guest's next free buffer, if anything.
    pub(crate) fn transmit(&mut self) -> Option<Transmit> {
        if let Some(reset) = self.stray_resets.pop_front() {
            return Some(Transmit::Control(reset));
        }
        while let Some(id) = self.for_guest.pop_front() {
            let Some(entry) = self.connections.get_mut(&id) else {
                continue;
            };
            entry.in_for_guest = false;
            match entry.connection.for_guest() {
                ForGuest::Nothing => {}
                ForGuest::Data(limit) => return Some(Transmit::Data(id, limit)),
                ForGuest::Control(op, flags) => {
                    let header = self.with(id, |connection| connection.control(op, flags)).flatten();
                    if let Some(header) = header {
                        return Some(Transmit::Control(self.addressed(header)));
                    }
                }
            }
        }
        None
    }

    /// Tells what came of reading a stream for [`Transmit::Data`]. Returns the header that goes before the bytes read.
    pub(crate) fn read(&mut self, id: Id, outcome: ReadOutcome) -> Option<Header> {
        let header = self.with(id, |connection| connection.read(outcome)).flatten()?;
        Some(self.addressed(header))
    }

    fn addressed(&self, header: Header) -> Header {
        Header { dst_cid: self.cids.guest, ..header }
    }
}

/// The host's side.
impl Mux {
    /// Takes a client that has connected to the host's socket, unless there are too many.
    pub(crate) fn accepted(&mut self) -> Option<Id> {
        (self.connections.len() < MAX_CONNECTIONS)
            .then(|| self.insert(Connection::accepted_from_host(self.now)))
    }

    /// Whether the client has yet to name a port, so that its first bytes are for [`Mux::greet`].
    pub(crate) fn is_greeting(&self, id: Id) -> bool {
        self.connections.get(&id).is_some_and(|entry| entry.connection.is_greeting())
    }

    /// Looks at the first bytes of a client; none at all means that it has ended its stream.
    pub(crate) fn greet(&mut self, id: Id, seen: &[u8]) -> Greeted {
        match greeting::parse(seen) {
            Greeting::Incomplete if !seen.is_empty() => Greeted::Wait,
            Greeting::Connect { port, length } => {
                self.connect(id, port);
                Greeted::Consume(length)
            }
            Greeting::Incomplete | Greeting::Invalid => {
                debug!(id = id.0, "client refused: no greeting");
                self.with(id, Connection::reset);
                Greeted::Wait
            }
        }
    }

    fn connect(&mut self, id: Id, port: u32) {
        debug!(id = id.0, port, online = self.online, "the host asks for a connection");
        if !self.online {
            self.with(id, Connection::reset);
            return;
        }
        let key = self.ephemeral_key(port);
        self.by_key.insert(key, id);
        let now = self.now;
        self.with(id, |connection| connection.greeted(key, now));
    }

    fn ephemeral_key(&mut self, guest_port: u32) -> Key {
        loop {
            let key = Key { host_cid: self.cids.host[0], host_port: self.next_port, guest_port };
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_EPHEMERAL_PORT);
            if !self.by_key.contains_key(&key) {
                return key;
            }
        }
    }

    /// Tells what came of [`Action::Dial`].
    pub(crate) fn dialled(&mut self, id: Id, outcome: DialOutcome) {
        let now = self.now;
        self.with(id, |connection| connection.dialled(outcome, now));
    }

    /// Tells what a stream has become ready for.
    pub(crate) fn ready(&mut self, id: Id, news: Readiness) {
        self.with(id, |connection| connection.ready(news));
    }

    /// The bytes to write for [`Action::Write`].
    pub(crate) fn outbox(&self, id: Id) -> (&[u8], &[u8]) {
        self.connections.get(&id).map(|entry| entry.connection.outbox()).unwrap_or_default()
    }

    /// Tells what came of [`Action::Write`].
    pub(crate) fn wrote(&mut self, id: Id, outcome: WriteOutcome) {
        self.with(id, |connection| connection.wrote(outcome));
    }

    /// The next thing to do on the host, if anything.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        if let Some(id) = self.closes.pop_front() {
            return Some(Action::Close(id));
        }
        while let Some(id) = self.for_host.pop_front() {
            let Some(entry) = self.connections.get_mut(&id) else {
                continue;
            };
            entry.in_for_host = false;
            let deed = entry.connection.for_host();
            let port = entry.connection.key.map(|key| key.host_port);
            if deed != ForHost::Write {
                self.with(id, |connection| connection.done_on_host(deed));
            }
            return Some(match (deed, port) {
                (ForHost::Dial, Some(port)) => Action::Dial(id, port),
                (ForHost::Write, _) => Action::Write(id),
                (ForHost::ShutdownWrite, _) => Action::ShutdownWrite(id),
                (ForHost::ShutdownRead, _) => Action::ShutdownRead(id),
                (ForHost::Close, _) => Action::Close(id),
                (ForHost::Nothing | ForHost::Dial, _) => continue,
            });
        }
        None
    }
}

#[cfg(test)]
mod tests;
