//! How connections are carried, and what became of them.

use std::io;
use std::time::Duration;

pub use transport::Direction;

/// How one connection is carried.
#[derive(Clone, Debug)]
pub struct LinkOptions {
    /// How long no byte may move in either direction. Default: for ever.
    pub idle: Option<Duration>,
    /// Once one side has ended, how long the other direction may stand still. Default: for ever.
    pub half_open: Option<Duration>,
    /// After one side has failed, how long what is still under way may stand still. Default 5 seconds.
    pub linger: Duration,
    /// Treats both sides as if they were vsock. The rules for vsock hold for vsock without it; this is for sockets
    /// behind which somebody else passes writes on to a vsock as they are, and for tests.
    pub as_vsock: bool,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self { idle: None, half_open: None, linger: Duration::from_secs(5), as_vsock: false }
    }
}

/// What became of a connection.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report {
    /// Bytes that the second side's socket has taken.
    pub a_to_b: u64,
    /// Bytes that the first side's socket has taken.
    pub b_to_a: u64,
    /// From the start to the end.
    pub lasted: Duration,
    /// How long the target took to accept the connection; none if it did not or was not dialled by the engine.
    pub dialled: Option<Duration>,
    /// Why it ended.
    pub cause: Cause,
    /// [`Dial::note`](crate::Dial::note) of who was dialled last.
    pub note: u32,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// Both sides have ended, and everything has been delivered.
    #[error("complete")]
    Complete,
    /// A sender broke off.
    #[error("{direction}: reading failed")]
    Read {
        /// Which way.
        direction: Direction,
        /// From the socket read.
        #[source]
        source: io::Error,
    },
    /// A receiver takes no more.
    #[error("{direction}: writing failed")]
    Write {
        /// Which way.
        direction: Direction,
        /// From the socket written.
        #[source]
        source: io::Error,
    },
    /// Nothing has moved for [`LinkOptions::idle`].
    #[error("idle for too long")]
    Idle,
    /// One side has ended and nothing has moved the other way for [`LinkOptions::half_open`].
    #[error("half open for too long")]
    HalfOpen,
    /// The service refused the client after its first bytes.
    #[error("refused")]
    Refused,
    /// The client did not send what the service wanted to see first in time.
    #[error("no complete header in time")]
    HeaderTimeout,
    /// The target was not reached.
    #[error("target not reached")]
    Dial(#[source] DialError),
    /// The engine or the door was stopped.
    #[error("stopped")]
    Stopped,
}

impl Cause {
    /// A short name without spaces, for metrics and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Idle => "idle",
            Self::HalfOpen => "half_open",
            Self::Refused => "refused",
            Self::HeaderTimeout => "header_timeout",
            Self::Dial(error) => error.name(),
            Self::Stopped => "stopped",
        }
    }
}

/// Why a target was not reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// It did not accept in time.
    #[error("timed out")]
    TimedOut,
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// There is no such socket file.
    #[error("no such socket")]
    NotFound,
    /// The host name has no address.
    #[error("name not resolved")]
    Unresolved,
    /// It does not speak the hybrid vsock protocol.
    #[error("not a hybrid vsock socket")]
    Handshake,
    /// It was the very connection that dialled.
    #[error("connected to itself")]
    Itself,
    /// Whatever else the system says; too many open files for one.
    #[error("cannot connect")]
    Io(#[source] io::Error),
}

impl DialError {
    fn name(&self) -> &'static str {
        match self {
            Self::TimedOut => "dial_timed_out",
            Self::Refused => "dial_refused",
            Self::NotFound => "dial_not_found",
            Self::Unresolved => "dial_unresolved",
            Self::Handshake => "dial_handshake",
            Self::Itself => "dial_itself",
            Self::Io(_) => "dial_failed",
        }
    }

    pub(crate) fn from_io(error: io::Error) -> Self {
        match error.kind() {
            // A vsock peer says no by a reset.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Self::Refused,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::NotFound => Self::NotFound,
            _ => Self::Io(error),
        }
    }
}
