//! Listening, and carrying each client to where its route says.
//!
//! An [`Ingress`] is a set of routes on one [`relay::Engine`]. Routes can be exchanged while it runs ([`Ingress::reload`]):
//! listeners that stay are not closed, and connections that are open are not touched.

mod desk;
mod limits;
mod loops;
mod route;
mod source;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use relay::{Door, Engine};
use tokio::sync::mpsc;
use transport::{Addr, BindError, ListenSocket};

use crate::metrics::Registry;
use desk::RouteDesk;
use limits::Hall;

pub(crate) use limits::Sources;
pub use limits::Summary;
pub use route::{Lanes, NamePattern, NamedTarget, PatternError, ProxyHeader, RouteConfig};
pub use source::NOBODY;

/// What holds for all routes together.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many connections are carried at once over all routes. Further ones wait. Default 1024.
    pub max_connections: usize,
    /// How long open connections may go on after the shutdown. Default 10 seconds.
    pub grace: Duration,
    /// How long a target may take to accept a connection, for [`Reverse`](crate::Reverse); other routes say it themselves.
    /// Default 5 seconds.
    pub connect_timeout: Duration,
    /// How many threads carry them. Default as many as there are processors.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            grace: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            threads: Engine::default_threads(),
        }
    }
}

/// Listeners with their routes.
#[derive(Debug)]
pub struct Ingress {
    engine: Engine,
    hall: Arc<Hall>,
    registry: Registry,
    open: Vec<Open>,
    breaks: mpsc::UnboundedReceiver<Error>,
    broken: mpsc::UnboundedSender<Error>,
    grace: Duration,
}

/// A route whose listener is bound, and perhaps served.
#[derive(Debug)]
struct Open {
    /// As it was asked for: a port may be 0 there.
    listen: Addr,
    door: Door,
    desk: Arc<RouteDesk>,
}

/// Why routes cannot be served, or not any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// An address cannot be taken for datagrams.
    #[error("udp://{addr}: cannot take datagrams there")]
    BindDatagrams {
        /// The address.
        addr: std::net::SocketAddr,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// A listener broke.
    #[error("{addr}: cannot accept connections any more")]
    Accept {
        /// Whose.
        addr: Addr,
        /// From the system.
        #[source]
        source: io::Error,
    },
    /// A target that leads back to its own listener.
    #[error("{target}: leads back to {listen}")]
    Loop {
        /// Where the round starts.
        listen: Addr,
        /// The target that closes it.
        target: Addr,
    },
    /// Two routes listen at one address.
    #[error("{addr}: two routes listen there")]
    Twice {
        /// The address.
        addr: Addr,
    },
    /// A target to which nothing can connect from here.
    #[error("{addr}: cannot be connected to from here")]
    NoTarget {
        /// The address.
        addr: Addr,
    },
    /// A target that cannot be connected to from clients' addresses.
    #[error("{addr}: only tcp://127.0.0.1:PORT can be connected to from clients' addresses")]
    NoSource {
        /// The address.
        addr: Addr,
    },
    /// Connections cannot come from clients' addresses.
    #[error(
        "cannot keep answers to clients' addresses on loopback (needs CAP_NET_ADMIN, and a kernel with policy routing)"
    )]
    KeepAnswers(#[source] io::Error),
    /// No threads.
    #[error("cannot start")]
    Start(#[source] io::Error),
}

impl Ingress {
    /// Binds the listeners of all routes, or none, and serves them.
    ///
    /// # Errors
    /// [`Error`], for the first route that cannot be served.
    pub fn start(routes: Vec<RouteConfig>, options: &Options, registry: Registry) -> Result<Self, Error> {
        Self::new(routes, options, registry, true)
    }

    /// The same, but clients wait in the queues of their listeners until [`Ingress::serve`].
    ///
    /// # Errors
    /// As [`Ingress::start`].
    pub fn bind(routes: Vec<RouteConfig>, options: &Options, registry: Registry) -> Result<Self, Error> {
        Self::new(routes, options, registry, false)
    }

    fn new(
        routes: Vec<RouteConfig>,
        options: &Options,
        registry: Registry,
        serves: bool,
    ) -> Result<Self, Error> {
        let engine = Engine::start(options.threads).map_err(Error::Start)?;
        let (broken, breaks) = mpsc::unbounded_channel();
        let hall = Arc::new(Hall::new(options.max_connections, serves));
        let mut ingress =
            Self { engine, hall, registry, open: Vec::new(), breaks, broken, grace: options.grace };
        ingress.reload(routes)?;
        Ok(ingress)
    }

    /// Lets clients in.
    pub fn serve(&self) {
        self.hall.serve();
    }

    /// Where clients can connect, in the order of the routes. A port that was 0 has its number here.
    pub fn local_addrs(&self) -> Vec<Addr> {
        self.open.iter().map(|open| open.door.local_addr().clone()).collect()
    }

    /// Serves these routes instead. On an error everything stays as it was.
    ///
    /// # Errors
    /// As [`Ingress::start`].
    pub fn reload(&mut self, routes: Vec<RouteConfig>) -> Result<(), Error> {
        check(&routes)?;
        let known = |listen: &Addr| self.open.iter().position(|open| open.listen == *listen);
        let mut sockets = Vec::new();
        for route in &routes {
            let socket =
                if known(&route.listen).is_some() { None } else { Some(ListenSocket::bind(&route.listen)?) };
            let bound = socket.as_ref().map_or(&route.listen, ListenSocket::local_addr).clone();
            sockets.push((socket, bound));
        }
        loops::check(routes.iter().zip(sockets.iter().map(|(_, bound)| bound)))?;
        let lanes = routes.iter().map(Lanes::new).collect::<Result<Vec<_>, _>>()?;
        if routes.iter().any(|route| route.proxy_header == ProxyHeader::Source) {
            source::keep_answers_here().map_err(Error::KeepAnswers)?;
        }
        let mut open = Vec::with_capacity(routes.len());
        for ((route, lanes), (socket, bound)) in routes.into_iter().zip(lanes).zip(sockets) {
            open.push(match socket {
                Some(socket) => self.open_door(route, lanes, socket, bound),
                None => self.keep(route, lanes),
            });
        }
        // What is left is not wanted any more, and closes.
        self.open = open;
        Ok(())
    }

    fn open_door(&self, route: RouteConfig, lanes: Lanes, socket: ListenSocket, bound: Addr) -> Open {
        let listen = route.listen.clone();
        let desk = RouteDesk::new(route, lanes, bound, &self.hall, &self.registry, self.broken.clone());
        let desk = Arc::new(desk);
        let door = self.engine.open(socket, Arc::clone(&desk) as Arc<dyn relay::Service>);
        Open { listen, door, desk }
    }

    fn keep(&mut self, route: RouteConfig, lanes: Lanes) -> Open {
        let index = self.open.iter().position(|open| open.listen == route.listen);
        let open = self.open.swap_remove(index.expect("only a listener that is there has no new socket"));
        open.desk.exchange(route, lanes);
        open
    }

    /// Ready when a listener breaks.
    pub async fn broken(&mut self) -> Error {
        self.breaks.recv().await.expect("this holds a sender itself")
    }

    /// Accepts no more, waits for open connections as long as [`Options::grace`] says, and ends the rest.
    pub async fn drain(self) -> Summary {
        for open in &self.open {
            open.door.close();
        }
        let drained = tokio::time::timeout(self.grace, self.hall.empty()).await;
        let summary = self.hall.summary();
        if drained.is_err() {
            tracing::warn!(connections = summary.aborted, "closed while still open");
        }
        for open in self.open {
            open.door.abort();
        }
        summary
    }

    /// Serves until `shutdown` is ready, then drains.
    ///
    /// # Errors
    /// [`Error::Accept`] when a listener breaks. A failed connection is not an error.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<Summary, Error> {
        tokio::select! {
            () = shutdown => Ok(self.drain().await),
            error = self.broken() => Err(error),
        }
    }
}

fn check(routes: &[RouteConfig]) -> Result<(), Error> {
    let is_fixed = |addr: &Addr| !matches!(addr, Addr::Tcp(text) if text.ends_with(":0"));
    for (index, route) in routes.iter().enumerate() {
        let twice = routes[..index].iter().any(|other| other.listen == route.listen);
        if twice && is_fixed(&route.listen) {
            return Err(Error::Twice { addr: route.listen.clone() });
        }
    }
    Ok(())
}
