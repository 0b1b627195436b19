//! What the engine asks about the clients of one route: limits, decisions, and what is counted and logged.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use relay::{Cause, Client, Dial, Report, Service, Verdict};
use tokio::sync::mpsc;
use transport::Addr;

use crate::ingress::limits::{Hall, Sources};
use crate::ingress::{Error, Lanes, RouteConfig};
use crate::metrics::{Durations, Number, Registry};

#[derive(Debug)]
pub(super) struct RouteDesk {
    bound: Addr,
    rules: Mutex<Arc<Rules>>,
    hall: Arc<Hall>,
    open: AtomicUsize,
    sources: Sources,
    target_fails: AtomicBool,
    counts: Counts,
    broken: mpsc::UnboundedSender<Error>,
}

/// What a reload exchanges.
#[derive(Debug)]
struct Rules {
    config: RouteConfig,
    lanes: Lanes,
}

#[derive(Debug)]
struct Counts {
    registry: Registry,
    route: String,
    accepted: Number,
    refused_source: Number,
    open: Number,
    to_target: Number,
    to_client: Number,
    dials: Durations,
    /// The usual end, at hand.
    complete: Number,
}

impl Counts {
    fn new(registry: &Registry, route: &str) -> Self {
        let labels = [("route", route)];
        let bytes = |to: &str| {
            registry.counter("pf_proxy_bytes_total", "Bytes carried.", &[("route", route), ("to", to)])
        };
        let refused = [("route", route), ("reason", "source_limit")];
        Self {
            complete: ended(registry, route, &Cause::Complete),
            registry: registry.clone(),
            route: route.to_owned(),
            accepted: registry.counter("pf_proxy_accepted_total", "Clients let in.", &labels),
            refused_source: registry.counter(
                "pf_proxy_refused_total",
                "Clients sent away at the door.",
                &refused,
            ),
            open: registry.gauge("pf_proxy_connections", "Connections that are open.", &labels),
            to_target: bytes("target"),
            to_client: bytes("client"),
            dials: registry.durations("pf_proxy_dial_seconds", "How long targets took to accept.", &labels),
        }
    }

    fn ended(&self, cause: &Cause) {
        match cause {
            Cause::Complete => self.complete.increment(),
            cause => ended(&self.registry, &self.route, cause).increment(),
        }
    }
}

fn ended(registry: &Registry, route: &str, cause: &Cause) -> Number {
    let labels = [("route", route), ("cause", cause.name())];
    registry.counter("pf_proxy_ended_total", "Connections by why they ended.", &labels)
}

impl RouteDesk {
    pub(super) fn new(
        config: RouteConfig,
        lanes: Lanes,
        bound: Addr,
        hall: &Arc<Hall>,
        registry: &Registry,
        broken: mpsc::UnboundedSender<Error>,
    ) -> Self {
        Self {
            bound,
            counts: Counts::new(registry, &config.name),
            rules: Mutex::new(Arc::new(Rules { config, lanes })),
            hall: Arc::clone(hall),
            open: AtomicUsize::new(0),
            sources: Sources::default(),
            target_fails: AtomicBool::new(false),
            broken,
        }
    }

    /// What clients get from now on. The name in metrics stays.
    pub(super) fn exchange(&self, config: RouteConfig, lanes: Lanes) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Rules { config, lanes });
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether one more of this source may come in; then it counts. Counted without a limit as well: a reload may bring one.
    fn enter(&self, source: SocketAddr, limit: Option<u32>) -> bool {
        let is_within = self.sources.enter(source, limit.unwrap_or(u32::MAX));
        if !is_within {
            self.counts.refused_source.increment();
        }
        is_within
    }

    /// An unreachable target is told once, not for each client, and so is its return.
    fn note_target(&self, report: &Report) {
        let failed = matches!(report.cause, Cause::Dial(_));
        if !failed && report.dialled.is_none() {
            return;
        }
        match (failed, self.target_fails.swap(failed, Ordering::Relaxed)) {
            (true, false) => {
                let reason: &(dyn std::error::Error + 'static) = &report.cause;
                tracing::warn!(reason, route = self.counts.route, "target not reached");
            }
            (false, true) => tracing::info!(route = self.counts.route, "target reached again"),
            _ => {}
        }
    }
}

impl Service for RouteDesk {
    fn has_room(&self) -> bool {
        let limit = self.rules().config.max_connections;
        limit.is_none_or(|limit| self.open.load(Ordering::Relaxed) < limit) && self.hall.has_room()
    }

    fn admit(&self, client: &Client<'_>) -> Verdict {
        let rules = self.rules();
        // Who begins with a header is a proxy itself, and its clients are counted once it has named them.
        let limit = rules.config.max_per_source.filter(|_| !rules.config.proxy_header.is_expected());
        if client.peer.is_some_and(|peer| !self.enter(peer, limit)) {
            return Verdict::Refuse;
        }
        let verdict = rules.lanes.admit(client);
        if matches!(verdict, Verdict::Refuse) {
            client.peer.inspect(|peer| self.sources.leave(*peer));
            return verdict;
        }
        self.hall.enter();
        self.open.fetch_add(1, Ordering::Relaxed);
        self.counts.accepted.increment();
        self.counts.open.increment();
        verdict
    }

    fn inspect(&self, client: &Client<'_>, first: &[u8], _ended: bool) -> Verdict {
        let rules = self.rules();
        let verdict = rules.lanes.inspect(client, first);
        if let Verdict::Dial(Dial { client: Some(named), .. }) = verdict {
            if !self.enter(named, rules.config.max_per_source) {
                return Verdict::Refuse;
            }
            // From now on the connection is that of whom its header names.
            client.peer.inspect(|peer| self.sources.leave(*peer));
        }
        verdict
    }

    fn moved(&self, a_to_b: u64, b_to_a: u64) {
        self.counts.to_target.add(a_to_b);
        self.counts.to_client.add(b_to_a);
    }

    fn ended(&self, peer: Option<SocketAddr>, report: &Report) {
        peer.inspect(|peer| self.sources.leave(*peer));
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.counts.open.decrement();
        self.counts.ended(&report.cause);
        report.dialled.inspect(|took| self.counts.dials.record(*took));
        self.note_target(report);
        let Report { a_to_b, b_to_a, lasted, cause, .. } = report;
        let route = &self.counts.route;
        tracing::debug!(route, client.addr = ?peer, a_to_b, b_to_a, ?lasted, ?cause, "connection ended");
        self.hall.leave(matches!(cause, Cause::Complete));
    }

    fn broken(&self, source: io::Error) {
        // Nobody listens after the end.
        let _ = self.broken.send(Error::Accept { addr: self.bound.clone(), source });
    }
}
