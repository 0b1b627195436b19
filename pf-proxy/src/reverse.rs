//! Carrying connections from where clients reach us to where the service is.
//!
//! One task accepts for each route, and each connection has a task of its own: there is no pool that slow connections
//! could fill. An idle connection costs its two sockets and a task, no buffer.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tracing::Instrument;
use transport::{Addr, BindError, ConnectError, Listener, RelayOptions, Stream, relay};

use crate::Route;

/// How a proxy behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many connections are carried at once over all routes. Further ones wait. Default 1024.
    pub max_connections: usize,
    /// How long a target may take to accept a connection. Default 5 seconds.
    pub connect_timeout: Duration,
    /// How long open connections may go on after the shutdown. Default 10 seconds.
    pub grace: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            connect_timeout: Duration::from_secs(5),
            grace: Duration::from_secs(10),
        }
    }
}

/// A proxy whose listeners are bound and not yet served.
#[derive(Debug)]
pub struct Reverse {
    doors: Vec<Door>,
    options: Options,
}

impl Reverse {
    /// Binds the listeners of all routes, or none.
    ///
    /// # Errors
    /// [`Error::Bind`] for the first that cannot be bound.
    pub async fn bind(routes: &[Route]) -> Result<Self, Error> {
        let mut doors = Vec::with_capacity(routes.len());
        for route in routes {
            let listener = Listener::bind(&route.listen).await?;
            doors.push(Door { listener, target: route.target.clone(), target_fails: AtomicBool::new(false) });
        }
        Ok(Self { doors, options: Options::default() })
    }

    /// Replaces the default options.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Self { options, ..self }
    }

    /// Where clients can connect, in the order of the routes. A port that was 0 has its number here.
    pub fn local_addrs(&self) -> Vec<Addr> {
        self.doors.iter().map(|door| door.listener.local_addr().clone()).collect()
    }

    /// Serves until `shutdown` is ready; then accepts no more, and waits for open connections as long as
    /// [`Options::grace`] says. Dropping the future ends everything at once.
    ///
    /// # Errors
    /// [`Error::Accept`] when a listener breaks. A failed connection is not an error.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<Summary, Error> {
        let grace = self.options.grace;
        let hall = Arc::new(Hall::new(self.options));
        let (stop, stopped) = watch::channel(());
        let mut doors = JoinSet::new();
        for door in self.doors {
            doors.spawn(Arc::new(door).serve(Arc::clone(&hall), stopped.clone()));
        }
        tokio::select! {
            () = shutdown => {}
            result = first_failure(&mut doors) => result?,
        }
        drop(stop);
        let drained = tokio::time::timeout(grace, first_failure(&mut doors)).await;
        let summary = hall.summary();
        if drained.is_err() {
            tracing::warn!(connections = summary.aborted, "closed while still open");
        }
        Ok(summary)
    }
}

/// Why a proxy does not start or cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A listener broke.
    #[error("{addr}: cannot accept connections any more")]
    Accept {
        /// Whose.
        addr: Addr,
        /// From the system.
        #[source]
        source: io::Error,
    },
}

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

/// Ready when all doors have ended well, or one has not.
async fn first_failure(doors: &mut JoinSet<Result<(), Error>>) -> Result<(), Error> {
    while let Some(ended) = doors.join_next().await {
        ended.expect("the task of a door is not aborted while its set lives, and has nothing that panics")?;
    }
    Ok(())
}

/// What all doors share.
#[derive(Debug)]
struct Hall {
    options: Options,
    places: Arc<Semaphore>,
    is_full: AtomicBool,
    admitted: AtomicU64,
    completed: AtomicU64,
    failed: AtomicU64,
}

impl Hall {
    fn new(options: Options) -> Self {
        let places = options.max_connections.min(Semaphore::MAX_PERMITS);
        Self {
            options,
            places: Arc::new(Semaphore::new(places)),
            is_full: AtomicBool::new(false),
            admitted: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Waits for a free place, and says so once each time the hall fills up.
    async fn admit(&self) -> OwnedSemaphorePermit {
        let places = Arc::clone(&self.places);
        let permit = if let Ok(permit) = Arc::clone(&places).try_acquire_owned() {
            self.is_full.store(false, Ordering::Relaxed);
            permit
        } else {
            if !self.is_full.swap(true, Ordering::Relaxed) {
                let limit = self.options.max_connections;
                tracing::warn!(limit, "connection limit reached, new connections wait");
            }
            places.acquire_owned().await.expect("nobody closes the semaphore")
        };
        self.admitted.fetch_add(1, Ordering::Relaxed);
        permit
    }

    fn summary(&self) -> Summary {
        let completed = self.completed.load(Ordering::Relaxed);
        let failed = self.failed.load(Ordering::Relaxed);
        let aborted = self.admitted.load(Ordering::Relaxed).saturating_sub(completed + failed);
        Summary { completed, failed, aborted }
    }
}

/// One route, bound.
#[derive(Debug)]
struct Door {
    listener: Listener,
    target: Addr,
    target_fails: AtomicBool,
}

impl Door {
    async fn serve(self: Arc<Self>, hall: Arc<Hall>, mut stopped: watch::Receiver<()>) -> Result<(), Error> {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                _ = stopped.changed() => break,
                accepted = self.listener.accept() => accepted,
            };
            let addr = self.listener.local_addr();
            let (client, peer) = accepted.map_err(|source| Error::Accept { addr: addr.clone(), source })?;
            let place = tokio::select! {
                _ = stopped.changed() => break,
                place = hall.admit() => place,
            };
            while connections.try_join_next().is_some() {}
            let span = tracing::debug_span!("connection", client.addr = %peer, server.addr = %self.target);
            let connection = Arc::clone(&self).carry(client, Arc::clone(&hall), place);
            connections.spawn(connection.instrument(span));
        }
        drop(self);
        while connections.join_next().await.is_some() {}
        Ok(())
    }

    async fn carry(self: Arc<Self>, client: Stream, hall: Arc<Hall>, _place: OwnedSemaphorePermit) {
        let target = Stream::connect(&self.target, hall.options.connect_timeout).await;
        self.note_target(target.as_ref().err());
        // The listener must close at the shutdown, not with the last connection.
        drop(self);
        let Ok(target) = target else {
            hall.failed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let counter = match relay(client, target, RelayOptions::default()).await {
            Ok(relayed) => {
                tracing::debug!(?relayed, "connection ended");
                &hall.completed
            }
            Err(error) => {
                let reason: &(dyn std::error::Error + 'static) = &error;
                tracing::debug!(reason, "connection broke");
                &hall.failed
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// An unreachable target is told once, not for each client, and so is its return.
    fn note_target(&self, failure: Option<&ConnectError>) {
        let failed_before = self.target_fails.swap(failure.is_some(), Ordering::Relaxed);
        match (failure, failed_before) {
            (Some(error), false) => {
                let reason: &(dyn std::error::Error + 'static) = error;
                tracing::warn!(reason, target.addr = %self.target, "target not reached");
            }
            (None, true) => tracing::info!(target.addr = %self.target, "target reached again"),
            _ => {}
        }
    }
}
