//! An agent with a key of its own: operator variables, signed answers of a model, and transactions within measured
//! limits.
//!
//! Its key is made at start, is never written and never leaves the process; the enclave attests it to whoever brings a nonce. What
//! its operator may change, whom it may pay and how much is in its [configuration](config), which is measured. The
//! modules below `eth`, [`json`], [`variables`] and [`spending`] know no IO; [`server`] joins them.

#![forbid(unsafe_code)]

pub mod anchoring;
pub mod config;
pub mod eth;
pub mod evidence;
pub mod json;
pub mod log;
pub mod outside;
pub mod rpc;
pub mod sealed;
pub mod serve;
pub mod server;
pub mod spending;
pub mod variables;
