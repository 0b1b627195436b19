//! What a program wants to reach.

use std::{fmt, net::IpAddr};

use crate::Name;

/// How it wants to talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Whom it wants to reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// A name that is still to be resolved.
    Name(Name),
    /// An address that no name stands for.
    Address(IpAddr),
    /// A name, and the address that it was resolved to.
    Resolved(Name, IpAddr),
}

impl Destination {
    /// The name, where there is one.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Name(name) | Self::Resolved(name, _) => Some(name),
            Self::Address(_) => None,
        }
    }

    /// The address, where it is known.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Name(_) => None,
            Self::Address(address) | Self::Resolved(_, address) => Some(*address),
        }
    }
}

impl fmt::Display for Destination {
    /// `example.org`, `192.0.2.1`, `[2001:db8::1]`, `example.org (192.0.2.1)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Address(IpAddr::V4(v4)) => write!(f, "{v4}"),
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
            Self::Resolved(name, address) => write!(f, "{name} ({address})"),
        }
    }
}
