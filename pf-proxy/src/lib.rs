//! TCP proxies between an enclave and the world.
//!
//! [`Reverse`] publishes ports: it listens at one address and carries each connection to another. Inside an enclave it
//! goes from vsock to loopback TCP, on the host from TCP to vsock; it does not care which. [`ingress`] is the same with
//! more to say: limits, timeouts, PROXY headers, several applications by TLS server name on one port, reloading.
//!
//! [`datagrams`] does it for UDP.
//!
//! [`host::Host`] is the host's end of an enclave's way out: it makes the connections that the enclave asks for.
//!
//! It carries bytes and rewrites none. TLS is never ended here: of a client's first message at most the server name is
//! looked at, to choose among the targets that its route lists.
//!
//! Runs as its own program, as an applet of the enclave's multi-call binary ([`cli`]), and inside the `glasshouse`
//! command (the library).
#![forbid(unsafe_code)]

mod check;
pub mod cli;
pub mod client_hello;
pub mod config;
pub mod datagrams;
mod descriptors;
mod forward_host;
pub mod host;
mod image_policy;
pub mod ingress;
pub mod metrics;
pub mod proxy_header;
mod reverse;
mod route;
mod serve;
mod sockets;
pub mod transparent;

pub use ingress::{Error, Options, Summary};
pub use reverse::Reverse;
pub use route::{ParseRouteError, Route};
