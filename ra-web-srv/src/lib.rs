//! The attestation web server of an enclave.
//!
//! To the world it speaks HTTPS with a key made inside the enclave, and hands whoever brings a nonce an attestation
//! document that names that key (`docs/spec/attestation-api.md`). To the application beside it, it speaks plain HTTP
//! on a Unix socket and has documents made about the application's own data (`docs/spec/application-api.md`).
//!
//! It verifies nothing: an endpoint inside an enclave that calls itself genuine proves nothing to anybody. It keeps
//! no state, writes no file, and its key ends with the process.
//!
//! Run by enclave-init as `ra-web-srv`, and in one process by tests.

#![forbid(unsafe_code)]

mod acme;
mod application;
mod attester;
mod binding;
mod budget;
mod certificate;
mod certificates;
mod compat;
mod error;
mod identity;
mod kms;
mod ledger;
mod limits;
mod metrics;
mod module_description;
mod nsm_queue;
mod public;
mod query;
mod serve;
mod server;

pub mod cli;

pub use acme::AcmeConfig;
pub use identity::{IdentityError, TlsIdentity};
pub use limits::Limits;
pub use server::{Config, ListenerBroken, Server, StartError};
