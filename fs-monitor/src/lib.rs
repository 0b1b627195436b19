//! Records every change of the files it is told to watch, so that what they are and were can be proved.
//!
//! A walk hashes everything below the roots ([`mod@walk`]); what it finds of one file is one state of it ([`mod@observe`],
//! [`content`]), of a directory the digest of its listing ([`listing`]).
//!
//! Run by enclave-init as `fs-monitor run`, and by people as `fs-monitor scan`.

#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
mod client;
pub mod content;
pub mod enforce;
pub mod listing;
pub mod monitor;
mod nats;
pub mod observe;
pub mod patterns;
mod queue;
pub mod record;
pub mod run;
pub mod scan;
pub mod state;
pub mod tree;
pub mod walk;
pub mod watch;
