//! The server as its peers see it: over TLS on TCP and Unix sockets, with a simulated NSM or a broken one.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod enclave;

mod api;
mod application;
mod attestation;
mod auditor;
mod batch;
mod broken_ledger;
mod compat;
mod connection;
mod description;
mod faults;
mod floods;
mod kms;
mod ledger;
mod monitor;
mod program;
