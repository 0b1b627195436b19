//! How many connections there may be: over all routes, on one, and from one source.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What became of the connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Ended by both sides.
    pub completed: u64,
    /// Broken off by a side, or the target was not reached.
    pub failed: u64,
    /// Still open when the time of grace was over.
    pub aborted: u64,
}

/// What all routes share.
#[derive(Debug)]
pub(super) struct Hall {
    places: usize,
    /// Clients wait in the queues of their listeners until then.
    serves: AtomicBool,
    open: AtomicUsize,
    is_full: AtomicBool,
    completed: AtomicU64,
    failed: AtomicU64,
    ended: Notify,
}

impl Hall {
    pub(super) fn new(places: usize, serves: bool) -> Self {
        Self {
            places,
            serves: AtomicBool::new(serves),
            open: AtomicUsize::new(0),
            is_full: AtomicBool::new(false),
            completed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            ended: Notify::new(),
        }
    }

    pub(super) fn serve(&self) {
        self.serves.store(true, Ordering::Relaxed);
    }

    /// Says so once each time the hall fills up.
    pub(super) fn has_room(&self) -> bool {
        if !self.serves.load(Ordering::Relaxed) {
            return false;
        }
        let has_room = self.open.load(Ordering::Relaxed) < self.places;
        if has_room == self.is_full.load(Ordering::Relaxed) {
            self.is_full.store(!has_room, Ordering::Relaxed);
            if !has_room {
                tracing::warn!(limit = self.places, "connection limit reached, new connections wait");
            }
        }
        has_room
    }

    pub(super) fn enter(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self, is_complete: bool) {
        let counter = if is_complete { &self.completed } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.ended.notify_waiters();
        }
    }

    /// Ready when nobody is left.
    pub(super) async fn empty(&self) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // From here on an end is not missed.
            ended.as_mut().enable();
            if self.open.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    }

    pub(super) fn summary(&self) -> Summary {
        Summary {
            completed: self.completed.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            aborted: self.open.load(Ordering::Relaxed) as u64,
        }
    }
}

/// Who has how many connections of a route.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    open: Mutex<HashMap<IpAddr, u32>>,
}

impl Sources {
    /// Whether one more is within the limit; then it counts.
    pub(crate) fn enter(&self, peer: SocketAddr, limit: u32) -> bool {
        let mut open = self.lock();
        let count = open.entry(source(peer)).or_default();
        let is_within = *count < limit;
        *count += u32::from(is_within);
        is_within
    }

    pub(crate) fn leave(&self, peer: SocketAddr) {
        let mut open = self.lock();
        let source = source(peer);
        if let Some(count) = open.get_mut(&source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&source);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An IPv4 address, or the /64 that one customer of IPv6 has at the least.
fn source(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_counted_apart_and_forgotten_when_they_have_left() {
        let sources = Sources::default();
        let peer = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(sources.enter(peer("192.0.2.1:1"), 2) && sources.enter(peer("192.0.2.1:2"), 2));
        assert!(!sources.enter(peer("192.0.2.1:3"), 2));
        assert!(!sources.enter(peer("[::ffff:192.0.2.1]:3"), 2), "the same address");
        assert!(sources.enter(peer("192.0.2.2:1"), 2));
        sources.leave(peer("192.0.2.1:1"));
        assert!(sources.enter(peer("192.0.2.1:3"), 2));
        assert!(sources.enter(peer("[2001:db8::1]:1"), 1));
        assert!(!sources.enter(peer("[2001:db8::2]:1"), 1), "one /64");
        assert!(sources.enter(peer("[2001:db8:0:1::1]:1"), 1));
        for left in ["192.0.2.1:2", "192.0.2.1:3", "192.0.2.2:1", "[2001:db8::1]:1", "[2001:db8:0:1::1]:1"] {
            sources.leave(peer(left));
        }
        assert!(sources.lock().is_empty());
    }
}
