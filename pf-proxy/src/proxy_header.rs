//! The header of PROXY protocol version 2, by which a proxy tells a server who the client was.
//!
//! Layout and commands are those of HAProxy's `proxy-protocol.txt`, section 2.2. Version 1 (a line of text) is neither read nor
//! written. Extensions (TLVs) are skipped, and none is written. What a header says is the word of whoever sent it.
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The first bytes of every header.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The signature, version and command, family and protocol, and the length of the rest.
const FIXED_BYTES: usize = 16;

/// The most that may follow the fixed part. Addresses take at most 216 bytes; the rest is for extensions.
pub const MAX_REST_BYTES: usize = 4096;

const VERSION_LOCAL: u8 = 0x20;
const VERSION_PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Who the client is and whom it has connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// What it has connected to. Of the same family as the source.
    pub destination: SocketAddr,
}

/// A header that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// None if the proxy speaks for itself or says nothing of TCP.
    pub ends: Option<Ends>,
    /// How long the header is. What follows is the connection's own.
    pub length: usize,
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// They start with something else.
    #[error("no PROXY protocol v2 header")]
    NoSignature,
    /// A version other than 2, or an unknown command.
    #[error("PROXY header: version and command {found:#04x} are unknown")]
    UnknownCommand {
        /// The byte.
        found: u8,
    },
    /// An unknown family or protocol.
    #[error("PROXY header: family and protocol {found:#04x} are unknown")]
    UnknownFamily {
        /// The byte.
        found: u8,
    },
    /// Longer than [`MAX_REST_BYTES`].
    #[error("PROXY header: {found} bytes are too many")]
    TooLong {
        /// The length that it announces.
        found: usize,
    },
    /// Too short for the addresses of its family.
    #[error("PROXY header: {found} bytes are too few for its addresses")]
    TooShort {
        /// The length that it announces.
        found: usize,
    },
}

/// Reads the header at the start of `bytes`. `None` while it is not all there.
///
/// # Errors
/// [`HeaderError`] as soon as it is clear that this is none.
pub fn parse(bytes: &[u8]) -> Result<Option<Parsed>, HeaderError> {
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes.get(..seen) != SIGNATURE.get(..seen) {
        return Err(HeaderError::NoSignature);
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_BYTES>() else {
        return Ok(None);
    };
    let [.., command, family, high, low] = *fixed;
    let announced = usize::from(u16::from_be_bytes([high, low]));
    if announced > MAX_REST_BYTES {
        return Err(HeaderError::TooLong { found: announced });
    }
    if !matches!(command, VERSION_LOCAL | VERSION_PROXY) {
        return Err(HeaderError::UnknownCommand { found: command });
    }
    let needed = match family {
        0x00 => 0,
        TCP4 | 0x12 => 12,
        TCP6 | 0x22 => 36,
        0x31 | 0x32 => 216,
        found => return Err(HeaderError::UnknownFamily { found }),
    };
    if command == VERSION_PROXY && announced < needed {
        return Err(HeaderError::TooShort { found: announced });
    }
    let Some(addresses) = rest.get(..announced) else {
        return Ok(None);
    };
    let ends = if command == VERSION_PROXY { ends(family, addresses) } else { None };
    Ok(Some(Parsed { ends, length: FIXED_BYTES.saturating_add(announced) }))
}

/// Writes a header. Addresses of different families become IPv6; without addresses the proxy speaks for itself.
pub fn encode(ends: Option<Ends>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(52);
    bytes.extend(SIGNATURE);
    let Some(Ends { source, destination }) = ends else {
        bytes.extend([VERSION_LOCAL, 0, 0, 0]);
        return bytes;
    };
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes.extend([VERSION_PROXY, TCP4, 0, 12]);
            bytes.extend(from.octets());
            bytes.extend(to.octets());
        }
        (from, to) => {
            bytes.extend([VERSION_PROXY, TCP6, 0, 36]);
            bytes.extend(as_v6(from).octets());
            bytes.extend(as_v6(to).octets());
        }
    }
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes
}

fn as_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn ends(family: u8, addresses: &[u8]) -> Option<Ends> {
    let (from, rest, to) = match family {
        TCP4 => {
            let (from, rest) = addresses.split_first_chunk::<4>()?;
            let (to, rest) = rest.split_first_chunk::<4>()?;
            (IpAddr::from(Ipv4Addr::from(*from)), rest, IpAddr::from(Ipv4Addr::from(*to)))
        }
        TCP6 => {
            let (from, rest) = addresses.split_first_chunk::<16>()?;
            let (to, rest) = rest.split_first_chunk::<16>()?;
            (IpAddr::from(Ipv6Addr::from(*from)), rest, IpAddr::from(Ipv6Addr::from(*to)))
        }
        _ => return None,
    };
    let (source, rest) = rest.split_first_chunk::<2>()?;
    let (destination, _) = rest.split_first_chunk::<2>()?;
    Some(Ends {
        source: SocketAddr::new(from, u16::from_be_bytes(*source)),
        destination: SocketAddr::new(to, u16::from_be_bytes(*destination)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_ends() -> impl Strategy<Value = Ends> {
        let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
        let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>()).prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
        (prop_oneof![v4, v6], any::<u16>(), any::<u16>()).prop_map(|((from, to), source, destination)| Ends {
            source: SocketAddr::new(from, source),
            destination: SocketAddr::new(to, destination),
        })
    }

    #[test]
    fn header_is_laid_out_as_published() {
        let ends = Ends {
            source: "192.0.2.1:258".parse().unwrap(),
            destination: "198.51.100.2:443".parse().unwrap(),
        };
        let expected =
            [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 1, 198, 51, 100, 2, 1, 2, 1, 187]]
                .concat();
        assert_eq!(encode(Some(ends)), expected);
    }

    #[test]
    fn what_is_no_header_is_told_at_the_first_wrong_byte() {
        assert_eq!(parse(b"\r\n\r\n\0\r\nQ"), Ok(None));
        assert_eq!(parse(b"GET / HTTP"), Err(HeaderError::NoSignature));
        let with = |tail: [u8; 4]| parse(&[&SIGNATURE[..], &tail].concat());
        assert_eq!(with([0x11, 0x11, 0, 12]), Err(HeaderError::UnknownCommand { found: 0x11 }));
        assert_eq!(with([0x21, 0x41, 0, 12]), Err(HeaderError::UnknownFamily { found: 0x41 }));
        assert_eq!(with([0x21, 0x11, 0, 11]), Err(HeaderError::TooShort { found: 11 }));
        assert_eq!(with([0x21, 0x11, 0xff, 0xff]), Err(HeaderError::TooLong { found: 65535 }));
        assert_eq!(with([0x20, 0, 0, 0]), Ok(Some(Parsed { ends: None, length: 16 })));
    }

    proptest! {
        #[test]
        fn header_gives_its_ends_back_and_leaves_what_follows(ends in any_ends(), rest in any::<Vec<u8>>()) {
            let header = encode(Some(ends));
            let length = header.len();
            let parsed = parse(&[header, rest].concat());
            prop_assert_eq!(parsed, Ok(Some(Parsed { ends: Some(ends), length })));
        }

        #[test]
        fn cut_header_is_waited_for(ends in any_ends(), cut in any::<prop::sample::Index>()) {
            let header = encode(Some(ends));
            prop_assert_eq!(parse(&header[..cut.index(header.len())]), Ok(None));
        }

        #[test]
        fn parsing_never_panics_and_never_takes_more_than_there_is(tail in any::<Vec<u8>>()) {
            let bytes = [&SIGNATURE[..], &tail].concat();
            if let Ok(Some(parsed)) = parse(&bytes) {
                prop_assert!(parsed.length <= bytes.len());
            }
            let _ = parse(&tail);
        }
    }
}
