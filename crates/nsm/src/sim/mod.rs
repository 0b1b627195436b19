//! A simulated module, and a signer for documents another simulation left unsigned.
//!
//! Everything here signs genuine documents, of the same shape and under the same kind of certificate chain as AWS's, but
//! under a [`DevelopmentRoot`] made on this machine. They prove nothing about hardware; a verifier accepts them only when
//! its caller names that root, and says `simulated` then.
//!
//! [`SimulatedNsm`] is a module for the local backend, [`serve_module`] puts it behind a socket. [`Signer`] re-issues the
//! unsigned documents of QEMU's `nitro-enclave` machine, [`serve_signer`] puts it behind a socket. The host's supervisor
//! calls all of this; nothing of it belongs into an enclave image.

mod chain;
mod document;
mod module;
mod root;
mod server;
mod signer;
mod unsigned;
mod x509;

pub use chain::IssueError;
pub use document::ModuleIdError;
pub use module::SimulatedNsm;
pub use root::{Damage, DevelopmentRoot, RootError};
pub use server::{ServerHandle, serve_module, serve_signer};
pub use signer::{ResignError, Signer};
pub use unsigned::UnsignedError;
