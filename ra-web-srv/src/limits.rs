//! What one peer may take of this server before it is turned away.
//!
//! The durations and counts a test wants to shorten are fields; the sizes are fixed by the specification.

use std::time::Duration;

/// Longest request head accepted, request line and header fields together; a longer one is answered 431.
pub(crate) const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Most header fields accepted in one request; more are answered 431.
pub(crate) const MAX_HEADER_FIELDS: usize = 64;

/// Longest request body read; a longer one is answered 413. The largest useful one, a full `POST /v1/attest`, has
/// less than 2 KiB.
pub(crate) const MAX_BODY_BYTES: usize = 8 * 1024;

/// Requests in flight on one HTTP/2 connection.
pub(crate) const MAX_HTTP2_STREAMS: u32 = 16;

/// Largest manifest served.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 1024 * 1024;

/// Most that is read of a file with certificates; what is cut is no certificate.
pub(crate) const MAX_CLIENT_ROOTS_BYTES: u64 = 1024 * 1024;

/// Counts and waits of one server. The two doors, public and application, each have their own share, so that a crowd
/// outside cannot keep the application from its own enclave.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections served at once per door. Further peers wait, one a listener accepted, the others in its backlog.
    /// Default 2,048: those who are slow are dropped in seconds, and must not keep others waiting so long.
    pub connections: usize,
    /// Requests that wait for the NSM per door, each for an answer of its own. Further ones are answered 503. Default 64.
    pub nsm_queue: usize,
    /// Nonces that wait to share a document. Further ones are answered 503. Default 4096.
    pub shared_nonces: usize,
    /// What requests other than for documents may cost at once, in units of about a tenth of a millisecond. Default 20,000.
    pub budget: u32,
    /// Units that come back in a second. Default 10,000.
    pub budget_per_second: u32,
    /// From connection to finished TLS handshake. Default 5 s.
    pub handshake: Duration,
    /// From the start of a connection, or the end of an answer, to the next complete request head. Default 10 s.
    pub header_read: Duration,
    /// From a request's place in the NSM's queue to its answer. Default 10 s.
    pub nsm_answer: Duration,
    /// From request head to answer, request body included. Default 15 s.
    pub request: Duration,
    /// From accepted to closed; a peer that still wants something connects again. Default 120 s.
    pub connection_lifetime: Duration,
    /// From the request to stop until connections are cut. Default 5 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2048,
            nsm_queue: 64,
            shared_nonces: 4096,
            budget: 20_000,
            budget_per_second: 10_000,
            handshake: Duration::from_secs(5),
            header_read: Duration::from_secs(10),
            nsm_answer: Duration::from_secs(10),
            request: Duration::from_secs(15),
            connection_lifetime: Duration::from_secs(120),
            drain: Duration::from_secs(5),
        }
    }
}
