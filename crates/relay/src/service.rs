//! What a caller says about each client of a listener.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use rustix::net::getsockname;
use transport::{Addr, Cid, Port};

use crate::outcome::{LinkOptions, Report};

/// Decides about the clients of a listener. Its methods are called on the engine's threads: none may wait or panic.
pub trait Service: Send + Sync + 'static {
    /// Whether another client may be accepted now. If not, clients wait in the listener's queue, and this is asked again
    /// when a connection of the same thread ends, and from time to time.
    fn has_room(&self) -> bool {
        true
    }

    /// What to do with a client who has connected. [`Service::ended`] is called once for each who is not refused here.
    fn admit(&self, client: &Client<'_>) -> Verdict;

    /// What to do with a client to whom [`Verdict::Inspect`] was the answer, given all it has sent so far. `ended` when it
    /// sends no more.
    fn inspect(&self, client: &Client<'_>, first: &[u8], ended: bool) -> Verdict {
        let _ = (client, first, ended);
        Verdict::Refuse
    }

    /// So many bytes more were taken by the target, and by the client.
    fn moved(&self, a_to_b: u64, b_to_a: u64) {
        let _ = (a_to_b, b_to_a);
    }

    /// What became of a client.
    fn ended(&self, peer: Option<SocketAddr>, report: &Report);

    /// The listener failed and is closed.
    fn broken(&self, error: io::Error);
}

/// Someone who has connected.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Where from, if TCP.
    pub peer: Option<SocketAddr>,
    /// The connection, for looking at only.
    pub socket: BorrowedFd<'a>,
}

impl Client<'_> {
    /// The address that the client has connected to, if TCP.
    pub fn local(&self) -> Option<SocketAddr> {
        getsockname(self.socket).ok()?.try_into().ok()
    }
}

/// What to do with a client.
#[derive(Debug)]
pub enum Verdict {
    /// Close the connection.
    Refuse,
    /// Wait for (more of) the first bytes. The time is for all of them together, from the first such verdict on.
    Inspect {
        /// How long they may take.
        within: Duration,
    },
    /// Connect it to a target.
    Dial(Dial),
}

/// Where a client is to be connected, and how.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Where to.
    pub target: Arc<Target>,
    /// How long the target may take to accept.
    pub within: Duration,
    /// How the connection is carried then.
    pub options: Arc<LinkOptions>,
    /// Sent to the target before anything else. Not counted in [`Report::a_to_b`].
    pub preamble: Vec<u8>,
    /// How many of the inspected bytes are not passed on.
    pub consumed: usize,
    /// Where the connection comes from, for a target of TCP: any address of its family, none of this machine's perhaps. The
    /// port is another one if the target has a connection from it already.
    pub source: Option<SocketAddr>,
    /// Who the client is, where that is another one than who has connected: what [`Service::ended`] is told.
    pub client: Option<SocketAddr>,
    /// Comes back in [`Report::note`].
    pub note: u32,
}

impl Dial {
    /// Dials `target` and passes everything on.
    pub fn new(target: Arc<Target>, within: Duration, options: Arc<LinkOptions>) -> Self {
        Self {
            target,
            within,
            options,
            preamble: Vec::new(),
            consumed: 0,
            source: None,
            client: None,
            note: 0,
        }
    }
}

/// An [`Addr`] that can be dialled, taken apart once.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    addr: Addr,
    pub(crate) kind: Kind,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Unix(PathBuf),
    Hybrid {
        path: PathBuf,
        port: Port,
    },
    Vsock {
        cid: Cid,
        port: Port,
    },
    Tcp(SocketAddr),
    /// `host:port`, resolved for each connection.
    Name(String),
}

impl Target {
    /// `None` for an address to which nothing can connect from here: any CID, or memory.
    pub fn new(addr: &Addr) -> Option<Self> {
        let kind = match addr {
            Addr::Vsock { cid: Cid::ANY, .. } | Addr::Memory(_) => return None,
            Addr::Vsock { cid, port } => Kind::Vsock { cid: *cid, port: *port },
            Addr::Unix(path) => Kind::Unix(path.clone()),
            Addr::Hybrid { path, port } => Kind::Hybrid { path: path.clone(), port: *port },
            Addr::Tcp(text) => text.parse().map_or_else(|_| Kind::Name(text.clone()), Kind::Tcp),
        };
        Some(Self { addr: addr.clone(), kind })
    }

    /// As it was given.
    pub fn addr(&self) -> &Addr {
        &self.addr
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.addr, f)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.addr, f)
    }
}
