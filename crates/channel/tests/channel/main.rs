//! Channels between a client and a simulated enclave: whole, damaged, and attacked.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attacks;
mod cuts;
mod enclave;
mod opening;
mod sessions;
mod ssh;
mod stock;
mod vectors;
