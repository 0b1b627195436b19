//! What an enclave may reach, and how it asks for it: the part of egress that is the same inside and on the host.
//!
//! A [`Policy`] is compiled from [`Rule`]s and says of every [`Destination`], port and [`Protocol`] whether it may be
//! reached, and why. [`class`] knows the addresses that are never meant by a name: instance metadata, loopback and
//! private ranges among them. [`wire`] is what the enclave says to its host's egress port and what it hears back.
//! [`Record`] is one line of the egress record, and [`Recorder`] the bounded queue before whoever writes it.
//!
//! Nothing here opens a socket, resolves a name or reads a clock. Spec: `docs/spec/egress.md`.

#![forbid(unsafe_code)]

pub mod class;
mod destination;
mod name;
mod network;
mod policy;
mod record;
mod recorder;
mod rule;
pub mod wire;

pub use destination::{Destination, Protocol};
pub use name::{MAX_NAME_BYTES, Name, NameError};
pub use network::{Network, NetworkError};
pub use policy::{MAX_RULES, Policy, PolicyError, Reason, Verdict};
pub use record::{MAX_RULE_TEXT_BYTES, Outcome, Record, RecordError};
pub use recorder::{Poll, Recorder};
pub use rule::{Pattern, Ports, Rule, RuleError};

/// The vsock port on the host where an enclave asks for connections to the world.
pub const EGRESS_PORT: u16 = 9200;
