//! Parses `glasshouse.toml` into a checked manifest with one canonical form.
//!
//! Two types carry it. [`Manifest`] is what a developer wrote: it names the image, overrides what the image says of
//! itself and sets resources. [`Measured`] is what the enclave is held to: it is made from a [`Manifest`] and the
//! [`ImageConfig`] of the image, written into the image in one canonical encoding (`docs/spec/manifest.md`), hashed into
//! PCR2 with the application and into PCR16 by the enclave's init, and read back by init and by auditors.
//!
//! Nothing here reads a file: callers pass text and bytes.

#![forbid(unsafe_code)]

mod acme;
mod attestation;
mod control;
mod egress;
mod health;
mod keyed;
mod measured;
mod monitor;
mod nats;
mod publish;
mod reference;
mod secret;
mod signal;
mod source;

pub use acme::{Acme, DEFAULT_ACME_DIRECTORY};
pub use attestation::Attestation;
pub use control::{Capability, Control, DEFAULT_CONTROL_PORT, Operator, OperatorKey};
pub use egress::{Dns, Egress};
pub use health::{Healthcheck, ImageHealthcheck, OnUnhealthy};
pub use measured::{
    DEFAULT_STOP_TIMEOUT_S, MEASURED_VERSION, Measured, MeasuredError, Readiness, Restart, Service,
};
pub use monitor::{DEFAULT_SWEEP_S, Denied, DigestKind, Enforce, Monitor, NEVER_WATCHED};
pub use nats::{DEFAULT_NATS_STREAM, Nats};
pub use publish::{ClientAddress, Protocol, Publish};
pub use reference::{ImageReference, ImageVersion, ReferenceError};
pub use secret::is_secret_name;
pub use signal::StopSignal;
pub use source::{
    Dockerfile, ImageArchitecture, ImageConfig, ImageFormat, ImageSource, Manifest, ManifestError,
    ResolveError, Resources,
};

/// The vsock ports the framework itself uses; an application cannot publish them.
///
/// 9000 heartbeat, 9001 init's control, 9100 event stream, 9200 egress.
pub const RESERVED_PORTS: [u16; 4] = [9000, 9001, 9100, ::egress::EGRESS_PORT];

/// The vsock and TCP port of the attestation web server unless the manifest says otherwise.
pub const DEFAULT_ATTESTATION_PORT: u16 = 8443;

/// Longest name of an image or a service, in bytes.
pub const MAX_NAME_BYTES: usize = 63;

/// A name is lower-case letters, digits and `-`, begins with a letter or digit, and has 1 to 63 bytes, so that it can
/// serve as a host name (RFC 1123), a file name and a command-line word.
pub fn is_valid_name(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= MAX_NAME_BYTES
        && name.bytes().next().is_some_and(word)
        && name.bytes().next_back().is_some_and(word)
        && name.bytes().all(|b| word(b) || b == b'-')
}
