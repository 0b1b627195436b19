//! What a network would answer: resets, ICMP messages and datagrams, each built as a frame to be written to the device.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::{IpAddr, SocketAddr};

use crate::{
    packet::{ACK, FIN, Packet, RST, SYN, Sum, TCP, Transport, UDP, VNET_HEADER_BYTES},
    plan::Family,
};

/// Longest payload of a datagram, in bytes, that any IP packet has room for.
pub const MAX_DATAGRAM_BYTES: usize = 65_487;

/// How much of a packet an ICMP message tells: headers with options, and what tells sockets apart.
const MAX_QUOTED_BYTES: usize = 128;

const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
const HOPS: u8 = 64;

/// Why something cannot be reached, as a connecting program is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unreachable {
    /// Nobody there: `ECONNREFUSED`.
    Port,
    /// No such machine, or no answer from it: `EHOSTUNREACH`.
    Host,
    /// No way there: `ENETUNREACH`.
    Network,
    /// Forbidden: `EACCES` with IPv6, `EHOSTUNREACH` with IPv4, whose messages have no number that Linux gives another
    /// meaning to.
    Forbidden,
}

impl Unreachable {
    /// Code of ICMP's destination unreachable (RFC 792, RFC 1812) and of ICMPv6's (RFC 4443).
    fn codes(self) -> (u8, u8) {
        match self {
            Self::Port => (3, 4),
            Self::Host => (1, 3),
            Self::Network => (0, 0),
            Self::Forbidden => (13, 1),
        }
    }
}

/// A datagram as a frame; `None` when the addresses are of two versions or the payload is over [`MAX_DATAGRAM_BYTES`].
pub fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    if payload.len() > MAX_DATAGRAM_BYTES {
        return None;
    }
    let length = u16::try_from(payload.len().checked_add(8)?).ok()?;
    let mut udp = Vec::with_capacity(length.into());
    udp.extend(from.port().to_be_bytes());
    udp.extend(to.port().to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let sum = match !checksum(from.ip(), to.ip(), UDP, &udp) {
        // Zero would say that there is none.
        0 => 0xffff,
        sum => sum,
    };
    udp.get_mut(6..8)?.copy_from_slice(&sum.to_be_bytes());
    frame(from.ip(), to.ip(), UDP, &udp)
}

/// The reset that answers a TCP packet (RFC 9293, section 3.10.7.1); `None` for a reset, which nothing answers, and for what
/// is not TCP.
pub fn reset(packet: &Packet) -> Option<Vec<u8>> {
    let Transport::Tcp { sequence, acknowledged, flags } = packet.transport else { return None };
    if flags & RST != 0 {
        return None;
    }
    let (sequence, acknowledged, flags) = if flags & ACK == 0 {
        let counted = [SYN, FIN].iter().filter(|flag| flags & **flag != 0).count();
        let payload = packet.end.saturating_sub(packet.payload_at);
        let length = u32::try_from(payload.saturating_add(counted)).ok()?;
        (0, sequence.wrapping_add(length), RST | ACK)
    } else {
        (acknowledged, 0, RST)
    };
    let mut tcp = Vec::with_capacity(20);
    tcp.extend(packet.to.port().to_be_bytes());
    tcp.extend(packet.from.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(acknowledged.to_be_bytes());
    tcp.extend([5 << 4, flags, 0, 0, 0, 0, 0, 0]);
    let sum = !checksum(packet.to.ip(), packet.from.ip(), TCP, &tcp);
    tcp.get_mut(16..18)?.copy_from_slice(&sum.to_be_bytes());
    frame(packet.to.ip(), packet.from.ip(), TCP, &tcp)
}

/// The ICMP message that says why `packet`, which was parsed from `bytes`, does not arrive.
pub fn unreachable(bytes: &[u8], packet: &Packet, why: Unreachable) -> Option<Vec<u8>> {
    let (v4, v6) = why.codes();
    match Family::of(packet.from.ip()) {
        Family::V4 => icmp(bytes, packet, 3, v4),
        Family::V6 => icmp(bytes, packet, 1, v6),
    }
}

fn icmp(bytes: &[u8], packet: &Packet, kind: u8, code: u8) -> Option<Vec<u8>> {
    let to = packet.from.ip();
    let from = Family::of(to).router();
    let protocol = if to.is_ipv4() { ICMP } else { ICMP_V6 };
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(bytes.get(..packet.end.min(MAX_QUOTED_BYTES))?);
    let sum = if to.is_ipv4() {
        let mut sum = Sum::default();
        sum.add(&message);
        sum.folded()
    } else {
        checksum(from, to, protocol, &message)
    };
    message.get_mut(2..4)?.copy_from_slice(&(!sum).to_be_bytes());
    frame(from, to, protocol, &message)
}

/// The sum over a transport's bytes and its pseudo header.
fn checksum(from: IpAddr, to: IpAddr, protocol: u8, transport: &[u8]) -> u16 {
    let mut sum = Sum::default();
    for address in [from, to] {
        match address {
            IpAddr::V4(v4) => sum.add(&v4.octets()),
            IpAddr::V6(v6) => sum.add(&v6.octets()),
        }
    }
    sum.add(&[0, protocol]);
    // No transport here is longer than 64 KiB.
    sum.add(&u16::try_from(transport.len()).unwrap_or(u16::MAX).to_be_bytes());
    sum.add(transport);
    sum.folded()
}

/// Puts an IP header and an empty `virtio_net_hdr` before a transport's bytes.
fn frame(from: IpAddr, to: IpAddr, protocol: u8, transport: &[u8]) -> Option<Vec<u8>> {
    let mut frame = vec![0; VNET_HEADER_BYTES];
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(transport.len().checked_add(20)?).ok()?;
            let [high, low] = length.to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, HOPS, protocol, 0, 0];
            header.extend(from.octets());
            header.extend(to.octets());
            let mut sum = Sum::default();
            sum.add(&header);
            header.get_mut(10..12)?.copy_from_slice(&(!sum.folded()).to_be_bytes());
            frame.extend(header);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = u16::try_from(transport.len()).ok()?.to_be_bytes();
            frame.extend([0x60, 0, 0, 0, high, low, protocol, HOPS]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        _ => return None,
    }
    frame.extend(transport);
    Some(frame)
}

#[cfg(test)]
mod tests;
