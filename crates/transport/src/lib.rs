//! Byte streams between an enclave and its host: vsock, Unix, hybrid Unix, TCP and in-memory.
//!
//! Every daemon takes an [`Addr`] and gets a [`Stream`], so that the same code runs in an enclave, behind a
//! virtual machine monitor's Unix sockets and in one process of a test. The known hazards of vsock are dealt
//! with here and nowhere else:
//!
//! - no write over 31 KiB reaches a vsock, and small writes are gathered ([`coalesce`]);
//! - reading never waits for writing ([`relay`]).
//!
//! What it deliberately does not do: encrypt, authenticate, frame, or keep connections for reuse.
//!
//! Called by every daemon and by the `glasshouse` command.
#![forbid(unsafe_code)]

mod addr;
pub mod coalesce;
mod connect;
#[cfg(any(test, feature = "fault"))]
pub mod fault;
pub mod hybrid;
mod listener;
mod memory;
pub mod notify;
mod relay;
mod socket;
mod stream;
mod unix;

pub use addr::{Addr, Cid, ParseAddrError, Port};
pub use connect::ConnectError;
pub use listener::{AcceptFailure, BindError, Listener, Peer};
pub use memory::pair;
pub use relay::{Direction, RelayError, RelayOptions, Relayed, relay};
pub use socket::ListenSocket;
pub use stream::{Stream, TCP_KEEPALIVE_IDLE, VSOCK_BUFFER_BYTES};
