//! Where a stream goes, as a value and as text.
//!
//! Each address has one text: whatever [`Addr::from_str`] accepts, `Display` prints again unchanged. Nothing is
//! resolved or opened here.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A vsock context identifier: which machine. 3 is an enclave's parent, from 4 on are enclaves.
/// Source: `linux/vm_sockets.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cid(pub u32);

impl Cid {
    /// The host of an enclave, as the enclave sees it.
    pub const PARENT: Self = Self(3);
    /// Any machine (`VMADDR_CID_ANY`, written `any`): good for listening only.
    pub const ANY: Self = Self(u32::MAX);
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ANY { f.write_str("any") } else { self.0.fmt(f) }
    }
}

impl FromStr for Cid {
    type Err = ParseAddrError;

    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
        match (text, decimal(text)) {
            ("any", _) => Ok(Self::ANY),
            (_, Some(cid)) if cid != Self::ANY.0 => Ok(Self(cid)),
            _ => Err(ParseAddrError::BadCid { found: text.to_owned() }),
        }
    }
}

/// A vsock port: 32 bits wide, and unlike TCP's without a privileged meaning inside an enclave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(pub u32);

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Port {
    type Err = ParseAddrError;

    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
        decimal(text).map(Self).ok_or_else(|| ParseAddrError::BadPort { found: text.to_owned() })
    }
}

/// An address to connect to or to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Addr {
    /// `vsock://CID:PORT`, CID may be `any` when listening.
    Vsock {
        /// The machine.
        cid: Cid,
        /// Its port.
        port: Port,
    },
    /// `unix:/path`, a stream socket in the file system.
    Unix(PathBuf),
    /// `hybrid:/path:PORT`, a virtual machine's vsock behind Unix sockets. See `docs/spec/hybrid-vsock.md`.
    Hybrid {
        /// The socket that takes `CONNECT`; guests' connections arrive at `<path>_<port>`.
        path: PathBuf,
        /// The vsock port.
        port: Port,
    },
    /// `tcp://host:port`; the text without the scheme. IPv6 addresses stand in brackets.
    Tcp(String),
    /// `memory:name`, inside this process only.
    Memory(String),
}

impl Addr {
    /// The Unix socket at which connections of a guest to `port` arrive: `<path>_<port>`.
    pub fn hybrid_listen_path(path: &Path, port: Port) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("_{port}"));
        name.into()
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        Self::Tcp(addr.to_string())
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Hybrid { path, port } => write!(f, "hybrid:{}:{port}", path.display()),
            Self::Tcp(host_port) => write!(f, "tcp://{host_port}"),
            Self::Memory(name) => write!(f, "memory:{name}"),
        }
    }
}

impl FromStr for Addr {
    type Err = ParseAddrError;

    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
        if let Some(rest) = text.strip_prefix("vsock://") {
            let (cid, port) = split_port(rest)?;
            Ok(Self::Vsock { cid: cid.parse()?, port: port.parse()? })
        } else if let Some(rest) = text.strip_prefix("unix:") {
            non_empty(rest).map(|path| Self::Unix(path.into()))
        } else if let Some(rest) = text.strip_prefix("hybrid:") {
            let (path, port) = split_port(rest)?;
            Ok(Self::Hybrid { path: non_empty(path)?.into(), port: port.parse()? })
        } else if let Some(rest) = text.strip_prefix("tcp://") {
            parse_host_port(rest).map(Self::Tcp)
        } else if let Some(rest) = text.strip_prefix("memory:") {
            non_empty(rest).map(|name| Self::Memory(name.into()))
        } else {
            Err(ParseAddrError::UnknownScheme { found: text.to_owned() })
        }
    }
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseAddrError {
    /// The text starts with none of the known schemes.
    #[error(
        "{found:?} is not an address: expected vsock://CID:PORT, unix:/path, hybrid:/path:PORT, tcp://host:port or memory:name"
    )]
    UnknownScheme {
        /// The whole text.
        found: String,
    },
    /// A `:PORT` is needed and absent.
    #[error("no port in {found:?}: expected it after the last colon")]
    NoPort {
        /// The text after the scheme.
        found: String,
    },
    /// Not a CID.
    #[error("{found:?} is not a CID: expected `any` or 0 to 4294967294 in decimal, without leading zeros")]
    BadCid {
        /// What stood in its place.
        found: String,
    },
    /// Not a port of the scheme's width.
    #[error(
        "{found:?} is not a port: expected a decimal number without leading zeros, up to 65535 for TCP and 4294967295 for vsock"
    )]
    BadPort {
        /// What stood in its place.
        found: String,
    },
    /// Not a host name or address.
    #[error("{found:?} is not a host: expected a name, an IPv4 address or an IPv6 address in brackets")]
    BadHost {
        /// What stood in its place.
        found: String,
    },
    /// A path or a name is empty.
    #[error("the path or name after the scheme is empty")]
    Empty,
}

/// Reads a number that is written in its only form: digits, no sign, no leading zero.
pub(crate) fn decimal(text: &str) -> Option<u32> {
    let canonical = text == "0" || (text.starts_with(|c: char| ('1'..='9').contains(&c)));
    if canonical && text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn split_port(text: &str) -> Result<(&str, &str), ParseAddrError> {
    text.rsplit_once(':').ok_or_else(|| ParseAddrError::NoPort { found: text.to_owned() })
}

fn non_empty(text: &str) -> Result<&str, ParseAddrError> {
    if text.is_empty() { Err(ParseAddrError::Empty) } else { Ok(text) }
}

fn parse_host_port(text: &str) -> Result<String, ParseAddrError> {
    let (host, port) = split_port(text)?;
    if decimal(port).and_then(|port| u16::try_from(port).ok()).is_none() {
        return Err(ParseAddrError::BadPort { found: port.to_owned() });
    }
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let good = match bracketed {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)),
    };
    if good { Ok(text.to_owned()) } else { Err(ParseAddrError::BadHost { found: host.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_addr() -> impl Strategy<Value = Addr> {
        let path = "/[a-z0-9/:_. =]{0,30}";
        prop_oneof![
            (any::<u32>(), any::<u32>()).prop_map(|(c, p)| Addr::Vsock { cid: Cid(c), port: Port(p) }),
            path.prop_map(|p| Addr::Unix(p.into())),
            (path, any::<u32>()).prop_map(|(path, p)| Addr::Hybrid { path: path.into(), port: Port(p) }),
            any::<SocketAddr>()
                .prop_filter("zone ids have no portable text", |a| match a {
                    SocketAddr::V6(v6) => v6.scope_id() == 0,
                    SocketAddr::V4(_) => true,
                })
                .prop_map(Addr::from),
            ("[a-z][a-z0-9.-]{0,20}", any::<u16>()).prop_map(|(h, p)| Addr::Tcp(format!("{h}:{p}"))),
            "[a-z ]{1,9}".prop_map(Addr::Memory),
        ]
    }

    proptest! {
        #[test]
        fn text_of_every_address_parses_to_it(addr in any_addr()) {
            prop_assert_eq!(addr.to_string().parse::<Addr>(), Ok(addr));
        }

        #[test]
        fn whatever_parses_prints_unchanged(text in "(vsock://|unix:|hybrid:|tcp://|memory:)?[a-z0-9+:/\\[\\]._-]{0,24}") {
            if let Ok(addr) = text.parse::<Addr>() {
                prop_assert_eq!(addr.to_string(), text);
            }
        }

        #[test]
        fn parsing_never_panics(text in ".*") {
            let _ = text.parse::<Addr>();
            let _ = text.parse::<Cid>();
            let _ = text.parse::<Port>();
        }

        #[test]
        fn cid_and_port_have_one_text(n in any::<u32>()) {
            prop_assert_eq!(Cid(n).to_string().parse(), Ok(Cid(n)));
            prop_assert_eq!(Port(n).to_string().parse(), Ok(Port(n)));
            let padded = format!("0{n}");
            prop_assert!(padded.parse::<Cid>().is_err());
            prop_assert!(padded.parse::<Port>().is_err());
        }
    }

    #[test]
    fn any_cid_is_written_as_a_word_only() {
        assert_eq!("any".parse(), Ok(Cid::ANY));
        assert!("4294967295".parse::<Cid>().is_err());
    }

    #[test]
    fn names_what_is_wrong() {
        let error = |text: &str| text.parse::<Addr>().expect_err(text);
        assert!(matches!(error("http://x"), ParseAddrError::UnknownScheme { .. }));
        assert!(matches!(error("vsock://3"), ParseAddrError::NoPort { .. }));
        assert!(matches!(error("vsock://+3:1"), ParseAddrError::BadCid { .. }));
        assert!(matches!(error("vsock://3:4294967296"), ParseAddrError::BadPort { .. }));
        assert!(matches!(error("tcp://localhost:65536"), ParseAddrError::BadPort { .. }));
        assert!(matches!(error("tcp://::1:80"), ParseAddrError::BadHost { .. }));
        assert!(matches!(error("tcp://:80"), ParseAddrError::BadHost { .. }));
        assert!(matches!(error("unix:"), ParseAddrError::Empty));
        assert!(matches!(error("hybrid::5"), ParseAddrError::Empty));
    }
}
