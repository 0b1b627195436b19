//! The control channel of an enclave: commands, terminals and files for the operators its image names.
//!
//! One operation per connection. On a session, which is any stream of bytes that is already encrypted, attested and
//! authenticated, both sides speak [`frame`]s; the first frame is a [`request`], and what follows depends on its verb.
//!
//! Spec: `docs/spec/pipeline.md`.

#![forbid(unsafe_code)]

pub mod access;
mod application;
mod background;
pub mod cli;
pub mod client;
mod descriptor;
pub mod expected;
pub mod frame;
mod ledger;
mod limits;
mod process;
mod relay;
pub mod reply;
pub mod request;
mod running;
mod secrets;
pub mod serve;
pub mod server;
mod session;
pub mod trace;
pub mod transfer;

pub use application::Application;
pub use limits::Limits;
pub use relay::STDIN_WINDOW_BYTES;
pub use session::Sessions;
