//! What an enclave says to its host's egress port, and what it hears.
//!
//! One request and one reply open each stream; then come a TCP connection's bytes, framed datagrams, or framed DNS
//! messages. Used by the forwarder inside, which writes requests, and by the one on the host, which reads them from
//! whoever connects. Spec: `docs/spec/egress.md`, with vectors in `docs/spec/vectors/egress.json`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use crate::{Destination, Name, NameError, Protocol};

/// What every request and every reply begins with.
pub const MAGIC: [u8; 4] = *b"GHEG";

/// The version that this module writes and reads.
pub const VERSION: u8 = 1;

/// Length of a request without its destination, in bytes.
pub const REQUEST_HEAD_BYTES: usize = 14;

/// Longest request, in bytes.
pub const MAX_REQUEST_BYTES: usize = REQUEST_HEAD_BYTES + 16 + crate::MAX_NAME_BYTES;

/// Length of a reply, in bytes.
pub const REPLY_BYTES: usize = 24;

/// Longest datagram in a frame, in bytes: what UDP over IPv4 can carry.
pub const MAX_DATAGRAM_BYTES: usize = 65_507;

/// Shortest DNS message, in bytes: its header (RFC 1035 section 4.1.1).
pub const MIN_MESSAGE_BYTES: usize = 12;

/// The length of a datagram's frame that says, without a datagram: nobody listens there.
const PORT_UNREACHABLE: u16 = 0xffff;

const KIND_TCP: u8 = 1;
const KIND_UDP: u8 = 2;
const KIND_RESOLVE: u8 = 3;

const FORM_NONE: u8 = 0;
const FORM_V4: u8 = 1;
const FORM_V6: u8 = 2;
const FORM_NAME: u8 = 3;
const FORM_NAME_V4: u8 = 4;
const FORM_NAME_V6: u8 = 5;

/// What an enclave asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A TCP connection, or an association for datagrams with one peer.
    Connect {
        /// Which of the two.
        protocol: Protocol,
        /// With whom.
        destination: Destination,
        /// At which port, not 0.
        port: u16,
        /// How long the host may try, in milliseconds; 0 leaves it to the host, which never takes longer than it wants to.
        timeout_ms: u32,
    },
    /// Answers to DNS questions, from the resolvers that the host itself asks.
    Resolve,
}

/// What the host answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What came of it.
    pub status: Status,
    /// The address it came of, where one was tried.
    pub address: Option<IpAddr>,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Status {
    /// It is done: the stream is the connection.
    Connected = 0,
    /// The peer refused (`ECONNREFUSED`).
    Refused = 1,
    /// No way to the host (`EHOSTUNREACH`).
    HostUnreachable = 2,
    /// No way to its network (`ENETUNREACH`).
    NetworkUnreachable = 3,
    /// Nobody answered in time (`ETIMEDOUT`).
    TimedOut = 4,
    /// The host does not want to.
    Denied = 5,
    /// The name has no address, or no such name is.
    NameNotFound = 6,
    /// Something else did not work.
    Failed = 7,
    /// The host has as many connections as it wants to have.
    Busy = 8,
    /// The request is none that the host understands.
    BadRequest = 9,
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Fewer bytes than the form has, or more.
    #[error("expected {expected} bytes, found {found}")]
    Length {
        /// By what was read so far.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// Another protocol.
    #[error("it does not begin as egress requests and replies do")]
    Magic,
    /// Another version.
    #[error("version {found}, this program speaks version {VERSION}")]
    Version {
        /// The version found.
        found: u8,
    },
    /// A kind of request that this version does not have.
    #[error("unknown kind of request {0}")]
    Kind(u8),
    /// A form of destination that this version or this kind does not have.
    #[error("a destination of form {0} does not go with this kind of request")]
    Form(u8),
    /// The length of the name does not go with the form.
    #[error("a name of {0} bytes does not go with the destination's form")]
    NameLength(u8),
    /// Port 0, or a port where none belongs.
    #[error("port {0} does not go with this kind of request")]
    Port(u16),
    /// A name that is none.
    #[error("{0}")]
    Name(#[from] NameError),
    /// An address in a form of another family.
    #[error("an IPv4 address in the form of an IPv6 address")]
    Mapped,
    /// A status that this version does not have.
    #[error("unknown status {0}")]
    Status(u8),
    /// Bytes that have to be 0 are not.
    #[error("bytes that have to be 0 are not")]
    Padding,
    /// A frame of a length that none has.
    #[error("a frame of {0} bytes")]
    Frame(u16),
}

impl Request {
    /// The request as it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAX_REQUEST_BYTES);
        let (kind, port, timeout_ms, destination) = match self {
            Self::Connect { protocol: Protocol::Tcp, destination, port, timeout_ms } => {
                (KIND_TCP, *port, *timeout_ms, Some(destination))
            }
            Self::Connect { protocol: Protocol::Udp, destination, port, timeout_ms } => {
                (KIND_UDP, *port, *timeout_ms, Some(destination))
            }
            Self::Resolve => (KIND_RESOLVE, 0, 0, None),
        };
        bytes.extend(MAGIC);
        bytes.extend([VERSION, kind]);
        bytes.extend(port.to_be_bytes());
        bytes.extend(timeout_ms.to_be_bytes());
        let name = destination.and_then(Destination::name).map_or("", Name::as_str);
        let name_length = u8::try_from(name.len()).expect("a name has at most 253 bytes");
        bytes.extend([form_of(destination), name_length]);
        match destination.and_then(Destination::address).map(|address| address.to_canonical()) {
            Some(IpAddr::V4(v4)) => bytes.extend(v4.octets()),
            Some(IpAddr::V6(v6)) => bytes.extend(v6.octets()),
            None => {}
        }
        bytes.extend(name.as_bytes());
        bytes
    }

    /// How many bytes are still missing when `bytes` have arrived: at first those of the head, then those of the
    /// destination, then none. Nothing that follows a request has to be read to know.
    ///
    /// # Errors
    /// What is there already cannot become a request.
    pub fn missing(bytes: &[u8]) -> Result<usize, WireError> {
        let Some(head) = bytes.first_chunk::<REQUEST_HEAD_BYTES>() else {
            return Ok(REQUEST_HEAD_BYTES.saturating_sub(bytes.len()));
        };
        let whole = REQUEST_HEAD_BYTES.saturating_add(Head::decode(head)?.destination_bytes());
        whole.checked_sub(bytes.len()).ok_or(WireError::Length { expected: whole, found: bytes.len() })
    }

    /// Reads one request, whole and nothing more.
    ///
    /// # Errors
    /// Whatever deviates from `docs/spec/egress.md`.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let missing = Self::missing(bytes)?;
        let (Some((head, rest)), 0) = (bytes.split_first_chunk::<REQUEST_HEAD_BYTES>(), missing) else {
            let expected = bytes.len().saturating_add(missing);
            return Err(WireError::Length { expected, found: bytes.len() });
        };
        let head = Head::decode(head)?;
        let protocol = match head.kind {
            KIND_RESOLVE => return Ok(Self::Resolve),
            KIND_UDP => Protocol::Udp,
            _ => Protocol::Tcp,
        };
        let destination = head.destination(rest)?;
        Ok(Self::Connect { protocol, destination, port: head.port, timeout_ms: head.timeout_ms })
    }

    /// How long the host may try at most, when the enclave said so.
    pub fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Connect { timeout_ms: 0, .. } | Self::Resolve => None,
            Self::Connect { timeout_ms, .. } => Some(Duration::from_millis((*timeout_ms).into())),
        }
    }
}

fn form_of(destination: Option<&Destination>) -> u8 {
    let is_v4 = |address: &IpAddr| address.to_canonical().is_ipv4();
    match destination {
        None => FORM_NONE,
        Some(Destination::Name(_)) => FORM_NAME,
        Some(Destination::Address(address)) if is_v4(address) => FORM_V4,
        Some(Destination::Address(_)) => FORM_V6,
        Some(Destination::Resolved(_, address)) if is_v4(address) => FORM_NAME_V4,
        Some(Destination::Resolved(..)) => FORM_NAME_V6,
    }
}

/// The fixed part of a request.
struct Head {
    kind: u8,
    port: u16,
    timeout_ms: u32,
    form: u8,
    name_bytes: u8,
}

impl Head {
    fn decode(bytes: &[u8; REQUEST_HEAD_BYTES]) -> Result<Self, WireError> {
        let [m0, m1, m2, m3, version, kind, p0, p1, t0, t1, t2, t3, form, name_bytes] = *bytes;
        begins_right([m0, m1, m2, m3], version)?;
        let (port, timeout_ms) = (u16::from_be_bytes([p0, p1]), u32::from_be_bytes([t0, t1, t2, t3]));
        let head = Self { kind, port, timeout_ms, form, name_bytes };
        match kind {
            KIND_TCP | KIND_UDP if !(FORM_V4..=FORM_NAME_V6).contains(&form) => Err(WireError::Form(form)),
            KIND_TCP | KIND_UDP if port == 0 => Err(WireError::Port(port)),
            KIND_RESOLVE if form != FORM_NONE => Err(WireError::Form(form)),
            KIND_RESOLVE if port != 0 => Err(WireError::Port(port)),
            KIND_RESOLVE if timeout_ms != 0 => Err(WireError::Padding),
            KIND_TCP | KIND_UDP | KIND_RESOLVE => head.with_checked_name(),
            other => Err(WireError::Kind(other)),
        }
    }

    fn with_checked_name(self) -> Result<Self, WireError> {
        let has_name = matches!(self.form, FORM_NAME | FORM_NAME_V4 | FORM_NAME_V6);
        let right = if has_name { 1..=crate::MAX_NAME_BYTES } else { 0..=0 };
        match right.contains(&usize::from(self.name_bytes)) {
            true => Ok(self),
            false => Err(WireError::NameLength(self.name_bytes)),
        }
    }

    fn address_bytes(&self) -> usize {
        match self.form {
            FORM_V4 | FORM_NAME_V4 => 4,
            FORM_V6 | FORM_NAME_V6 => 16,
            _ => 0,
        }
    }

    fn destination_bytes(&self) -> usize {
        self.address_bytes().saturating_add(self.name_bytes.into())
    }

    fn destination(&self, bytes: &[u8]) -> Result<Destination, WireError> {
        let wrong = || WireError::Length { expected: self.destination_bytes(), found: bytes.len() };
        let (address, name) = bytes.split_at_checked(self.address_bytes()).ok_or_else(wrong)?;
        let name = match std::str::from_utf8(name) {
            Ok("") => None,
            Ok(text) => Some(Name::from_normal(text)?),
            Err(_) => return Err(NameError::Characters.into()),
        };
        let address = match address.len() {
            0 => None,
            4 => Some(decode_v4(address).ok_or_else(wrong)?),
            _ => Some(decode_v6(address).ok_or_else(wrong)??),
        };
        match (name, address) {
            (Some(name), Some(address)) => Ok(Destination::Resolved(name, address)),
            (Some(name), None) => Ok(Destination::Name(name)),
            (None, Some(address)) => Ok(Destination::Address(address)),
            (None, None) => Err(wrong()),
        }
    }
}

fn begins_right(magic: [u8; 4], version: u8) -> Result<(), WireError> {
    if magic != MAGIC {
        return Err(WireError::Magic);
    }
    if version == VERSION { Ok(()) } else { Err(WireError::Version { found: version }) }
}

fn decode_v4(bytes: &[u8]) -> Option<IpAddr> {
    bytes.first_chunk::<4>().map(|octets| Ipv4Addr::from_octets(*octets).into())
}

/// One address has one form, so an IPv4 address may not come as an IPv6 address.
fn decode_v6(bytes: &[u8]) -> Option<Result<IpAddr, WireError>> {
    let address = Ipv6Addr::from_octets(*bytes.first_chunk::<16>()?);
    Some(match address.to_ipv4_mapped() {
        Some(_) => Err(WireError::Mapped),
        None => Ok(address.into()),
    })
}

impl Reply {
    /// The reply as it is sent.
    pub fn encode(&self) -> [u8; REPLY_BYTES] {
        let mut bytes = [0; REPLY_BYTES];
        let (form, address) = match self.address.map(|address| address.to_canonical()) {
            None => (FORM_NONE, [0; 16]),
            Some(IpAddr::V4(v4)) => {
                let [a, b, c, d] = v4.octets();
                (FORM_V4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            }
            Some(IpAddr::V6(v6)) => (FORM_V6, v6.octets()),
        };
        let head = MAGIC.into_iter().chain([VERSION, self.status as u8, form, 0]);
        for (place, byte) in bytes.iter_mut().zip(head.chain(address)) {
            *place = byte;
        }
        bytes
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// Whatever deviates from `docs/spec/egress.md`.
    pub fn decode(bytes: &[u8; REPLY_BYTES]) -> Result<Self, WireError> {
        let [m0, m1, m2, m3, version, status, form, zero, address @ ..] = *bytes;
        begins_right([m0, m1, m2, m3], version)?;
        let status = Status::from_code(status).ok_or(WireError::Status(status))?;
        let (kept, address) = match form {
            FORM_NONE => (0, None),
            FORM_V4 => (4, decode_v4(&address)),
            FORM_V6 => (16, decode_v6(&address).transpose()?),
            other => return Err(WireError::Form(other)),
        };
        match zero == 0 && address_is_padded(bytes, kept) {
            true => Ok(Self { status, address }),
            false => Err(WireError::Padding),
        }
    }
}

fn address_is_padded(reply: &[u8; REPLY_BYTES], kept: usize) -> bool {
    reply.iter().skip(8).skip(kept).all(|byte| *byte == 0)
}

impl Status {
    /// The status of this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Connected,
            1 => Self::Refused,
            2 => Self::HostUnreachable,
            3 => Self::NetworkUnreachable,
            4 => Self::TimedOut,
            5 => Self::Denied,
            6 => Self::NameNotFound,
            7 => Self::Failed,
            8 => Self::Busy,
            9 => Self::BadRequest,
            _ => return None,
        })
    }

    /// One word for it, as in the egress record.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::HostUnreachable => "host-unreachable",
            Self::NetworkUnreachable => "network-unreachable",
            Self::TimedOut => "timed-out",
            Self::Denied => "denied-by-host",
            Self::NameNotFound => "name-not-found",
            Self::Failed => "failed",
            Self::Busy => "host-busy",
            Self::BadRequest => "bad-request",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What the two bytes before a datagram say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramHead {
    /// So many bytes follow.
    Datagram(usize),
    /// Nothing follows: the peer has nobody at that port. Only the host says so.
    PortUnreachable,
}

impl DatagramHead {
    /// The bytes before a datagram of this length; nothing when no datagram can be so long.
    pub fn encode(self) -> Option<[u8; 2]> {
        match self {
            Self::Datagram(length) if length > MAX_DATAGRAM_BYTES => None,
            Self::Datagram(length) => u16::try_from(length).ok().map(u16::to_be_bytes),
            Self::PortUnreachable => Some(PORT_UNREACHABLE.to_be_bytes()),
        }
    }

    /// Reads them.
    ///
    /// # Errors
    /// More bytes than a datagram has.
    pub fn decode(bytes: [u8; 2]) -> Result<Self, WireError> {
        match u16::from_be_bytes(bytes) {
            PORT_UNREACHABLE => Ok(Self::PortUnreachable),
            length if usize::from(length) > MAX_DATAGRAM_BYTES => Err(WireError::Frame(length)),
            length => Ok(Self::Datagram(length.into())),
        }
    }
}

/// Reads the two bytes before a DNS message (RFC 1035 section 4.2.2): how many bytes it has.
///
/// # Errors
/// Fewer bytes than a message has.
pub fn message_bytes(head: [u8; 2]) -> Result<usize, WireError> {
    match u16::from_be_bytes(head) {
        length if usize::from(length) < MIN_MESSAGE_BYTES => Err(WireError::Frame(length)),
        length => Ok(length.into()),
    }
}
