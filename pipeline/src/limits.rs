//! What one server holds at most, and for how long.

use std::time::Duration;

/// Limits of a server. Each has a default that fits an enclave of some hundred MiB.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Sessions at a time; further ones are refused. Each holds at most some 400 KiB: its input window (256 KiB), one
    /// request (64 KiB) and the channel's own buffers.
    pub sessions: usize,
    /// Connections at a time that have not said yet who they are; further ones wait to be accepted.
    pub handshakes: usize,
    /// From a connection to its authenticated session.
    pub handshake: Duration,
    /// From there to its request.
    pub request: Duration,
    /// How long the client of a run or shell may say nothing. Clients that are there say so every minute; one that was
    /// stopped, or whose machine sleeps, finds its program again when it goes on. Who holds a place is an operator.
    pub idle: Duration,
    /// How long any other client may say nothing: one of a transfer keeps others from the same file.
    pub stall: Duration,
    /// Runs without a waiting client that are kept, those that have ended among them.
    pub background_runs: usize,
    /// Output that is kept of each, in bytes.
    pub background_output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 512,
            handshakes: 64,
            handshake: Duration::from_secs(10),
            request: Duration::from_secs(10),
            idle: Duration::from_secs(12 * 3600),
            stall: Duration::from_secs(600),
            background_runs: 64,
            background_output_bytes: 256 << 10,
        }
    }
}
