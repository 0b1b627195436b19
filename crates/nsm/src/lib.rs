//! The Nitro Security Module: a provider trait, the device, and a simulated module.
//!
//! [`Provider`] is what the rest of the workspace programs against: describe the module, extend and lock PCRs, ask for
//! attestation documents and entropy. [`open`] gives the one a path stands for: [`Device`], the real thing behind
//! `/dev/nsm`, or [`Remote`], a module somebody simulates behind a Unix socket. With the feature `simulator` the module
//! `sim` is that somebody; it signs genuine documents, but under a development root of its own.
//!
//! The crate does not read attestation documents: that is the crate `attestation`, which knows nothing of providers, so
//! that no provider can be a way around the verifier.

#![forbid(unsafe_code)]

mod device;
mod error;
mod frame;
mod open;
mod pcr;
mod provider;
mod remote;
#[cfg(feature = "simulator")]
pub mod sim;
pub mod wire;

pub use device::Device;
pub use error::Error;
pub use frame::FrameError;
pub use open::open;
pub use pcr::{PCR_BYTES, PCR_COUNT, Pcr, PcrIndex, PcrIndexOutOfRange, PcrState};
pub use provider::{Provider, Transact};
pub use remote::Remote;
pub use wire::{AttestationRequest, Description, Digest, ErrorCode};
