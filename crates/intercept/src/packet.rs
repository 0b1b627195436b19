//! Reading the headers of IP packets (RFC 791, RFC 8200), TCP (RFC 9293) and UDP (RFC 768), and changing whom they are from
//! and to.
//!
//! The bytes come from this machine's own kernel, which routed them into the device; but a program with raw sockets can
//! put anything there, so everything is checked.
//!
//! No fragments and no IPv6 extension headers are read: the kernel makes neither for what its own sockets send within the
//! device's MTU.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::{IpAddr, SocketAddr};

/// What the kernel puts before each packet: `struct virtio_net_hdr`.
pub const VNET_HEADER_BYTES: usize = 10;

/// In the first byte of that: the transport's checksum has only the pseudo header in it, as nobody has to check it.
const NEEDS_CHECKSUM: u8 = 1;

/// The TCP flag that ends a direction.
pub const FIN: u8 = 0x01;
/// The TCP flag that opens a connection.
pub const SYN: u8 = 0x02;
/// The TCP flag that breaks a connection off.
pub const RST: u8 = 0x04;
/// The TCP flag of all packets but the first.
pub const ACK: u8 = 0x10;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Why bytes are no packet that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Shorter than its headers say.
    #[error("the packet is shorter than its headers say")]
    Truncated,
    /// Neither IPv4 nor IPv6.
    #[error("the packet is of IP version {0}")]
    Version(u8),
    /// A part of a packet.
    #[error("the packet is a fragment")]
    Fragment,
    /// A length that cannot be.
    #[error("a length in the packet's headers cannot be")]
    Length,
    /// The addresses to be put in are of another version.
    #[error("addresses of two versions of IP")]
    Family,
}

/// What the headers of a packet say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it. The port is 0 unless it is TCP or UDP.
    pub from: SocketAddr,
    /// To whom. The port is 0 unless it is TCP or UDP.
    pub to: SocketAddr,
    /// What is in it.
    pub transport: Transport,
    /// Where the transport's header begins.
    pub header_at: usize,
    /// Where the transport's payload begins.
    pub payload_at: usize,
    /// Where the packet ends.
    pub end: usize,
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, with what matters of its header.
    Tcp {
        /// Sequence number.
        sequence: u32,
        /// Acknowledgement number, valid if [`ACK`] is set.
        acknowledged: u32,
        /// The flags.
        flags: u8,
    },
    /// UDP.
    Udp,
    /// Anything else.
    Other(u8),
}

impl Packet {
    /// Reads the headers of an IP packet.
    ///
    /// # Errors
    /// [`Malformed`] if there is no whole packet, or one that is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let [first] = array(bytes, 0)?;
        let ip = match first >> 4 {
            4 => Ip::v4(bytes)?,
            6 => Ip::v6(bytes)?,
            version => return Err(Malformed::Version(version)),
        };
        let at = ip.header_bytes;
        let (transport, header_bytes) = match ip.protocol {
            TCP => {
                let [_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3, offset, flags] = array(bytes, at)?;
                let transport = Transport::Tcp {
                    sequence: u32::from_be_bytes([s0, s1, s2, s3]),
                    acknowledged: u32::from_be_bytes([a0, a1, a2, a3]),
                    flags,
                };
                let header_bytes = usize::from(offset >> 4).saturating_mul(4);
                if header_bytes < 20 {
                    return Err(Malformed::Length);
                }
                (transport, header_bytes)
            }
            UDP => (Transport::Udp, 8),
            other => (Transport::Other(other), 0),
        };
        let payload_at = at.saturating_add(header_bytes);
        if payload_at > ip.end {
            return Err(Malformed::Truncated);
        }
        let [from_port, to_port] = match transport {
            Transport::Other(_) => [0, 0],
            _ => {
                let [f0, f1, t0, t1] = array(bytes, at)?;
                [u16::from_be_bytes([f0, f1]), u16::from_be_bytes([t0, t1])]
            }
        };
        Ok(Self {
            from: SocketAddr::new(ip.from, from_port),
            to: SocketAddr::new(ip.to, to_port),
            transport,
            header_at: at,
            payload_at,
            end: ip.end,
        })
    }

    /// The transport's payload, of the bytes that this was parsed from.
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.payload_at..self.end).unwrap_or_default()
    }
}

struct Ip {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    header_bytes: usize,
    end: usize,
}

impl Ip {
    fn v4(bytes: &[u8]) -> Result<Self, Malformed> {
        let [first, _, l0, l1, _, _, f0, f1, _, protocol] = array(bytes, 0)?;
        let header_bytes = usize::from(first & 0x0f).saturating_mul(4);
        let end = usize::from(u16::from_be_bytes([l0, l1]));
        if header_bytes < 20 || end < header_bytes {
            return Err(Malformed::Length);
        }
        if end > bytes.len() {
            return Err(Malformed::Truncated);
        }
        // Everything but the flag that forbids fragments.
        if u16::from_be_bytes([f0, f1]) & 0x3fff != 0 {
            return Err(Malformed::Fragment);
        }
        let (from, to) = (array::<4>(bytes, 12)?, array::<4>(bytes, 16)?);
        Ok(Self { from: from.into(), to: to.into(), protocol, header_bytes, end })
    }

    fn v6(bytes: &[u8]) -> Result<Self, Malformed> {
        const FRAGMENT: u8 = 44;
        let [l0, l1, protocol] = array(bytes, 4)?;
        let end = usize::from(u16::from_be_bytes([l0, l1])).saturating_add(40);
        if end > bytes.len() {
            return Err(Malformed::Truncated);
        }
        if protocol == FRAGMENT {
            return Err(Malformed::Fragment);
        }
        let (from, to) = (array::<16>(bytes, 8)?, array::<16>(bytes, 24)?);
        Ok(Self { from: from.into(), to: to.into(), protocol, header_bytes: 40, end })
    }
}

/// Has a TCP packet go from and to somebody else. `frame` is the packet with its `virtio_net_hdr` before it; `packet` is
/// what was parsed after that header. Checksums stay as right, or as unfinished, as they were.
///
/// # Errors
/// [`Malformed::Family`] when the addresses are of different versions; the others only if `packet` was not parsed from
/// these bytes.
pub fn readdress(
    frame: &mut [u8],
    packet: &Packet,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<(), Malformed> {
    let unfinished = frame.first().is_some_and(|flags| flags & NEEDS_CHECKSUM != 0);
    let bytes = frame.get_mut(VNET_HEADER_BYTES..).ok_or(Malformed::Truncated)?;
    let mut change = Change::default();
    match (from.ip(), to.ip(), packet.from.ip(), packet.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to), IpAddr::V4(old_from), IpAddr::V4(old_to)) => {
            change.words(&old_from.octets(), &from.octets());
            change.words(&old_to.octets(), &to.octets());
            put(bytes, 12, &from.octets())?;
            put(bytes, 16, &to.octets())?;
            let sum = change.applied(!u16::from_be_bytes(array(bytes, 10)?));
            put(bytes, 10, &(!sum).to_be_bytes())?;
        }
        (IpAddr::V6(from), IpAddr::V6(to), IpAddr::V6(old_from), IpAddr::V6(old_to)) => {
            change.words(&old_from.octets(), &from.octets());
            change.words(&old_to.octets(), &to.octets());
            put(bytes, 8, &from.octets())?;
            put(bytes, 24, &to.octets())?;
        }
        _ => return Err(Malformed::Family),
    }
    let at = packet.header_at;
    let checksum_at = at.saturating_add(16);
    let checksum = u16::from_be_bytes(array(bytes, checksum_at)?);
    let sum = if unfinished {
        // The ports come in with the rest, when somebody finishes it.
        change.applied(checksum)
    } else {
        change.words(&packet.from.port().to_be_bytes(), &from.port().to_be_bytes());
        change.words(&packet.to.port().to_be_bytes(), &to.port().to_be_bytes());
        !change.applied(!checksum)
    };
    put(bytes, checksum_at, &sum.to_be_bytes())?;
    put(bytes, at, &from.port().to_be_bytes())?;
    put(bytes, at.saturating_add(2), &to.port().to_be_bytes())
}

/// A difference of ones' complement sums (RFC 1624).
#[derive(Default)]
struct Change(Sum);

impl Change {
    /// Puts `new` in the place of `old`, both of the same even length and beginning at an even place.
    fn words(&mut self, old: &[u8], new: &[u8]) {
        let mut negated = [0; 16];
        for (to, from) in negated.iter_mut().zip(old) {
            *to = !from;
        }
        self.0.add(negated.get(..old.len()).unwrap_or_default());
        self.0.add(new);
    }

    fn applied(&self, sum: u16) -> u16 {
        let mut whole = self.0;
        whole.add(&sum.to_be_bytes());
        whole.folded()
    }
}

/// The ones' complement sum of RFC 1071.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds bytes that begin at an even place; an odd last one is filled up with a zero.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            let word = match pair {
                [high, low] => u16::from_be_bytes([*high, *low]),
                [high] => u16::from_be_bytes([*high, 0]),
                _ => 0,
            };
            // 48 bits of room: no packet has that many words.
            self.0 = self.0.wrapping_add(word.into());
        }
    }

    pub(crate) fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff).wrapping_add(sum >> 16);
        }
        u16::try_from(sum).unwrap_or_default()
    }
}

pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    let end = at.checked_add(N).ok_or(Malformed::Truncated)?;
    bytes.get(at..end).and_then(|part| part.try_into().ok()).ok_or(Malformed::Truncated)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<(), Malformed> {
    let end = at.checked_add(value.len()).ok_or(Malformed::Truncated)?;
    bytes.get_mut(at..end).ok_or(Malformed::Truncated)?.copy_from_slice(value);
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
