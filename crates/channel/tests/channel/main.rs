//! Channels between a client and a simulated enclave, whole and damaged.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod enclave;
mod opening;
