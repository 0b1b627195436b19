//! Carries bytes between pairs of sockets, many thousands at once, on few threads.
//!
//! An [`Engine`] has one or more threads, each with an epoll of its own; both directions of a connection live on one
//! thread, so nothing is shared on the way of the bytes. There are two ways in:
//!
//! - [`Engine::relay`] takes two connected sockets and is a future of what became of them. Whoever accepts and dials by
//!   other means (an async runtime, say) hands its connections over here.
//! - [`Engine::open`] takes a listening socket and a [`Service`], which says for each client where it goes. Accepting,
//!   looking at the first bytes and dialling happen on the engine's threads, without a hand-over.
//!
//! How bytes move:
//!
//! - An idle connection has no buffer. Small messages go through one buffer per thread; what a receiver does not take
//!   is kept aside. A stream that fills the buffer is spliced through a pipe of a pool, without entering this process.
//! - The directions never wait for each other, and half-close is passed on exactly. A side that is reset has its reset
//!   passed on where the other side is TCP, so that a cut stream does not look like a whole one.
//! - What [`transport::coalesce`] says of vsock holds here: no write over 31 KiB, an allowance for small packets.
//!
//! It knows nothing of what it carries: names, policy and headers are the caller's, through [`Service`].
#![forbid(unsafe_code)]

mod dial;
mod door;
mod engine;
mod half;
mod link;
mod outcome;
mod pipes;
mod resolver;
mod service;
mod setup;
mod side;
mod slots;
mod timers;
mod worker;

pub use door::Door;
pub use engine::{Engine, Relay};
pub use outcome::{Cause, DialError, Direction, LinkOptions, Report};
pub use service::{Client, Dial, Service, Target, Verdict};
