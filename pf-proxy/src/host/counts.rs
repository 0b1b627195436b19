//! What the host's end of the way out counts.

use egress::wire::Status;

use super::HostSummary;
use crate::metrics::{Durations, Number, Registry};

/// Handles of what is counted.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    registry: Registry,
    /// Requests that were understood.
    pub(super) requests: Number,
    connected: Number,
    denied: Number,
    open: Number,
    /// Bytes to the world.
    pub(super) sent: Number,
    /// Bytes to the enclave.
    pub(super) received: Number,
    /// How long resolving and dialling took where it came to a connection.
    pub(super) dials: Durations,
}

/// A request that is being carried, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Open<'a>(&'a Number);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.decrement();
    }
}

impl Counts {
    pub(super) fn new(registry: &Registry) -> Self {
        let bytes = |to| {
            let help = "Bytes of connections and datagrams that have ended.";
            registry.counter("pf_proxy_egress_bytes_total", help, &[("to", to)])
        };
        Self {
            registry: registry.clone(),
            requests: registry.counter(
                "pf_proxy_egress_requests_total",
                "Requests that were understood.",
                &[],
            ),
            connected: replies(registry, Status::Connected),
            denied: replies(registry, Status::Denied),
            open: registry.gauge("pf_proxy_egress_open", "Requests that are being carried.", &[]),
            sent: bytes("world"),
            received: bytes("enclave"),
            dials: registry.durations(
                "pf_proxy_egress_dial_seconds",
                "How long resolving and dialling took.",
                &[],
            ),
        }
    }

    /// A request was answered with a refusal or a failure.
    pub(super) fn replied(&self, status: Status) {
        replies(&self.registry, status).increment();
    }

    /// A request was answered with a connection.
    pub(super) fn opened(&self) -> Open<'_> {
        self.connected.increment();
        self.open.increment();
        Open(&self.open)
    }

    pub(super) fn summary(&self) -> HostSummary {
        HostSummary {
            requests: self.requests.value(),
            connected: self.connected.value(),
            denied: self.denied.value(),
            sent: self.sent.value(),
            received: self.received.value(),
        }
    }
}

fn replies(registry: &Registry, status: Status) -> Number {
    let status = status.to_string();
    registry.counter("pf_proxy_egress_replies_total", "Requests by what was replied.", &[("status", &status)])
}
