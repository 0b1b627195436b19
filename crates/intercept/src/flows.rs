//! Tracked TCP connections: what becomes of each packet of TCP that was read from the device.
//!
//! A connection has two ends in this machine's kernel. One is the program's, which believes to speak with its destination.
//! The other is that of a listener of ours, which believes to be called by a peer with an address of [`plan`](crate::plan).
//! Every packet of either is readdressed so that it comes to the other:
//!
//! ```text
//! program  own:40000 ──> 192.0.2.1:443     becomes   peer:1024 ──> own:listener
//! listener own:listener ──> peer:1024      becomes   192.0.2.1:443 ──> own:40000
//! ```
//!
//! The first packet of a connection is held until [`Flows::decide`] says what became of the connection outside. So the
//! program's `connect` ends when the destination has answered, and with the errno that the answer means.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    answer::{self, Unreachable},
    packet::{ACK, FIN, Packet, RST, SYN, Transport, VNET_HEADER_BYTES, readdress},
    plan::{Family, PEER_ADDRESSES},
};

/// The most connections that are tracked at once, unless told otherwise.
pub const DEFAULT_MAX_FLOWS: usize = 16_384;

/// A connection that nobody decides on is forgotten after this long.
const UNDECIDED: Duration = Duration::from_secs(300);

/// How long a refusal is repeated: the kernel may have been too busy with the socket to take the first one in.
const REFUSED: Duration = Duration::from_secs(4);

/// Longer than the kernel waits between two attempts of the same connection.
const SILENT: Duration = Duration::from_secs(75);

/// An open connection has something to say more often: the listener's sockets keep themselves alive every minute.
const OPEN: Duration = Duration::from_secs(600);

/// As long as the kernel remembers a connection that has ended.
const ENDED: Duration = Duration::from_secs(62);

/// A connection that was broken off leaves only stray packets.
const BROKEN: Duration = Duration::from_secs(2);

/// Ports of each peer address, from 1024.
const PEER_PORTS: u32 = 60_000;

/// What to do with a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Drop,
    /// The frame has been readdressed: write it to the device.
    Write,
    /// Write this frame instead.
    Answer(Vec<u8>),
    /// A program wants a connection: find out about it and [`Flows::decide`].
    Ask(Wanted),
}

/// A connection that a program wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The program's end.
    pub client: SocketAddr,
    /// Where it wants to.
    pub destination: SocketAddr,
    /// Whom the listener will be called by, if it comes to that; unlike any other for hours.
    pub peer: SocketAddr,
}

/// What became of a wanted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It stands: let the listener accept it.
    Connected,
    /// There is somebody who said no: `ECONNREFUSED`.
    Refused,
    /// It does not get there.
    Unreachable(Unreachable),
    /// Nobody answers: the program finds out by waiting, `ETIMEDOUT`.
    Silent,
}

/// All tracked connections.
#[derive(Debug)]
pub struct Flows {
    listeners: Listeners,
    limit: usize,
    peers: HashMap<Ends, SocketAddr>,
    flows: HashMap<SocketAddr, Flow>,
    next: u32,
}

/// The ports of our listeners on the device's own addresses.
#[derive(Clone, Copy, Debug)]
pub struct Listeners {
    /// Of IPv4.
    pub v4: u16,
    /// Of IPv6; 0 if there is none.
    pub v6: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ends {
    client: SocketAddr,
    destination: SocketAddr,
}

#[derive(Debug)]
struct Flow {
    ends: Ends,
    /// Of the program's first packet; another one is another connection.
    sequence: u32,
    state: State,
    /// When it was last heard of.
    touched: Instant,
}

#[derive(Debug)]
enum State {
    Asked { frame: Vec<u8> },
    Denied(Decision),
    Open { client_ended: bool, server_ended: bool },
    Broken,
}

impl State {
    /// How long it is remembered when nothing more is heard.
    fn lifetime(&self) -> Duration {
        match self {
            Self::Asked { .. } => UNDECIDED,
            Self::Denied(Decision::Silent) => SILENT,
            Self::Denied(_) => REFUSED,
            Self::Open { client_ended: true, server_ended: true } => ENDED,
            Self::Open { .. } => OPEN,
            Self::Broken => BROKEN,
        }
    }

    fn is_over(&self) -> bool {
        !matches!(self, Self::Asked { .. } | Self::Open { client_ended: false, .. })
            && !matches!(self, Self::Open { server_ended: false, .. })
    }

    fn note(&mut self, flags: u8, from_client: bool) {
        if flags & RST != 0 {
            *self = Self::Broken;
        } else if flags & FIN != 0
            && let Self::Open { client_ended, server_ended } = self
        {
            *(if from_client { client_ended } else { server_ended }) = true;
        }
    }
}

impl Flows {
    /// None yet, and at most `limit`.
    pub fn new(listeners: Listeners, limit: usize) -> Self {
        Self { listeners, limit, peers: HashMap::new(), flows: HashMap::new(), next: 0 }
    }

    /// How many are tracked, ended ones that are still remembered included.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether none is tracked.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Says what to do with a TCP packet that was read from the device, which is `frame` after its `virtio_net_hdr`.
    pub fn take(&mut self, now: Instant, frame: &mut [u8], packet: &Packet) -> Step {
        let Transport::Tcp { sequence, flags, .. } = packet.transport else { return Step::Drop };
        if packet.from.ip() != Family::of(packet.from.ip()).own() {
            return Step::Drop;
        }
        if packet.from == self.listener(packet.from) {
            return self.of_listener(now, frame, packet, flags);
        }
        let ends = Ends { client: packet.from, destination: packet.to };
        let opens = flags & (SYN | ACK | RST) == SYN;
        match self.peers.get(&ends).copied() {
            Some(peer) if opens && self.is_other(peer, sequence) => {
                self.forget(peer);
                self.ask(now, frame, ends, sequence)
            }
            Some(peer) => self.of_client(now, frame, packet, peer, flags),
            None if opens => self.ask(now, frame, ends, sequence),
            None => answer::reset(packet).map_or(Step::Drop, Step::Answer),
        }
    }

    /// Says what became of the wanted connection with this peer. Returns what to write to the device, nothing if the program
    /// is to hear nothing or no longer waits.
    pub fn decide(&mut self, now: Instant, peer: SocketAddr, decision: Decision) -> Option<Vec<u8>> {
        let to = self.listener(peer);
        let flow = self.flows.get_mut(&peer)?;
        let State::Asked { frame } = &mut flow.state else { return None };
        let mut frame = std::mem::take(frame);
        flow.touched = now;
        if decision == Decision::Connected {
            flow.state = State::Open { client_ended: false, server_ended: false };
            let packet = Packet::parse(frame.get(VNET_HEADER_BYTES..)?).ok()?;
            readdress(&mut frame, &packet, peer, to).ok()?;
            return Some(frame);
        }
        flow.state = State::Denied(decision);
        denial(&frame, decision)
    }

    /// Whether the wanted connection with this peer still waits to be decided on.
    pub fn awaits(&self, peer: SocketAddr) -> bool {
        self.flows.get(&peer).is_some_and(|flow| matches!(flow.state, State::Asked { .. }))
    }

    /// Forgets what has been over, or silent, for long enough. To be called about once a second.
    pub fn expire(&mut self, now: Instant) {
        self.forget_all(|flow| now.saturating_duration_since(flow.touched) > flow.state.lifetime());
    }

    fn of_listener(&mut self, now: Instant, frame: &mut [u8], packet: &Packet, flags: u8) -> Step {
        let Some(flow) = self.flows.get_mut(&packet.to) else {
            return answer::reset(packet).map_or(Step::Drop, Step::Answer);
        };
        flow.touched = now;
        flow.state.note(flags, false);
        written(readdress(frame, packet, flow.ends.destination, flow.ends.client))
    }

    fn of_client(
        &mut self,
        now: Instant,
        frame: &mut [u8],
        packet: &Packet,
        peer: SocketAddr,
        flags: u8,
    ) -> Step {
        let to = self.listener(peer);
        let Some(flow) = self.flows.get_mut(&peer) else { return Step::Drop };
        match &flow.state {
            State::Asked { .. } if flags & RST != 0 => {
                self.forget(peer);
                return Step::Drop;
            }
            // The same attempt again, of a program that waits.
            State::Asked { .. } => return Step::Drop,
            State::Denied(decision) => {
                flow.touched = now;
                return denial(frame, *decision).map_or(Step::Drop, Step::Answer);
            }
            State::Open { .. } | State::Broken => {}
        }
        flow.touched = now;
        flow.state.note(flags, true);
        written(readdress(frame, packet, peer, to))
    }

    fn ask(&mut self, now: Instant, frame: &[u8], ends: Ends, sequence: u32) -> Step {
        if self.listener(ends.client).port() == 0 || !self.has_room() {
            return Step::Drop;
        }
        let Some(peer) = self.free_peer(Family::of(ends.client.ip())) else { return Step::Drop };
        let state = State::Asked { frame: frame.to_vec() };
        self.peers.insert(ends, peer);
        self.flows.insert(peer, Flow { ends, sequence, state, touched: now });
        Step::Ask(Wanted { client: ends.client, destination: ends.destination, peer })
    }

    /// Whether one more can be tracked; makes room from those that are over if that is what it takes.
    fn has_room(&mut self) -> bool {
        if self.flows.len() >= self.limit {
            self.forget_all(|flow| flow.state.is_over());
        }
        self.flows.len() < self.limit
    }

    /// Peers are used in turn, so that the kernel has long forgotten the last connection with the same one.
    fn free_peer(&mut self, family: Family) -> Option<SocketAddr> {
        let all = PEER_ADDRESSES.saturating_mul(PEER_PORTS);
        for _ in 0..=self.flows.len() {
            let number = self.next;
            self.next = number.wrapping_add(1).checked_rem(all).unwrap_or_default();
            let port = number
                .checked_rem(PEER_PORTS)
                .and_then(|port| u16::try_from(port.saturating_add(1024)).ok())?;
            let address = family.peer(number.checked_div(PEER_PORTS)?);
            let peer = SocketAddr::new(address, port);
            if !self.flows.contains_key(&peer) {
                return Some(peer);
            }
        }
        None
    }

    fn is_other(&self, peer: SocketAddr, sequence: u32) -> bool {
        self.flows.get(&peer).is_none_or(|flow| flow.sequence != sequence)
    }

    fn listener(&self, of: SocketAddr) -> SocketAddr {
        let family = Family::of(of.ip());
        let port = match family {
            Family::V4 => self.listeners.v4,
            Family::V6 => self.listeners.v6,
        };
        SocketAddr::new(family.own(), port)
    }

    fn forget(&mut self, peer: SocketAddr) {
        if let Some(flow) = self.flows.remove(&peer) {
            self.peers.remove(&flow.ends);
        }
    }

    fn forget_all(&mut self, mut over: impl FnMut(&Flow) -> bool) {
        let peers = &mut self.peers;
        self.flows.retain(|_, flow| {
            let keep = !over(flow);
            if !keep {
                peers.remove(&flow.ends);
            }
            keep
        });
    }
}

/// What tells the sender of the first packet in `frame` that there will be no connection.
fn denial(frame: &[u8], decision: Decision) -> Option<Vec<u8>> {
    let bytes = frame.get(VNET_HEADER_BYTES..)?;
    let packet = Packet::parse(bytes).ok()?;
    match decision {
        Decision::Refused => answer::reset(&packet),
        Decision::Unreachable(why) => answer::unreachable(bytes, &packet, why),
        Decision::Connected | Decision::Silent => None,
    }
}

fn written<E>(outcome: Result<(), E>) -> Step {
    if outcome.is_ok() { Step::Write } else { Step::Drop }
}

#[cfg(test)]
mod tests;
