//! TCP proxies between an enclave and the world.
//!
//! [`Reverse`] publishes ports: it listens at one address and carries each connection to another. Inside an enclave it
//! goes from vsock to loopback TCP, on the host from TCP to vsock; it does not care which.
//!
//! [`host::Host`] is the host's end of an enclave's way out: it makes the connections that the enclave asks for.
//!
//! It carries bytes and decides nothing about them: no TLS, no names, no rewriting. Where a connection goes is fixed by
//! its route; nothing a peer sends can choose a target.
//!
//! Runs as its own program, as an applet of the enclave's multi-call binary ([`cli`]), and inside the `glasshouse`
//! command (the library).
#![forbid(unsafe_code)]

mod check;
pub mod cli;
mod descriptors;
mod forward_host;
pub mod host;
mod image_policy;
mod reverse;
mod route;
pub mod transparent;

pub use reverse::{Error, Options, Reverse, Summary};
pub use route::{ParseRouteError, Route};
