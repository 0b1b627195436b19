//! What a verb's server side is given, and what it gives back.
//!
//! The server reads the request, asks whether the operator may, opens the transcript, and then calls the one who serves
//! the verb. That one speaks frames and says at the end what the transcript has to know.

use std::{fmt, future::Future, path::PathBuf, pin::Pin};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    frame::{FrameReader, FrameWriter},
    reply::{Exit, Refusal},
    request::Request,
    transfer::RemotePath,
};

/// The client's frames.
pub type Input = FrameReader<Box<dyn AsyncRead + Send + Unpin>>;

/// Frames for the client.
pub type Output = FrameWriter<Box<dyn AsyncWrite + Send + Unpin>>;

/// An admitted request on its connection.
pub struct Session {
    /// What is asked for.
    pub request: Request,
    /// Where the application's files are: `/rootfs` in an enclave. Paths in the request are below it.
    pub root: PathBuf,
    /// The paths at or below which the operator may read, if the request reads files, or write, if it writes them.
    pub reach: Vec<RemotePath>,
    /// Frames that come after the request.
    pub input: Input,
    /// Frames for the client. Nothing was sent yet, [`crate::frame::Kind::Accepted`] neither; the server itself sends the
    /// last frame, [`crate::frame::Kind::Exit`] or [`crate::frame::Kind::Refused`], from what the verb returns.
    pub output: Output,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("request", &self.request).finish_non_exhaustive()
    }
}

/// What was done, for the transcript.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// For the client's last frame.
    pub exit: Exit,
    /// Files that were carried.
    pub files: u64,
    /// Bytes of these files, or of a program's input.
    pub bytes: u64,
    /// Digest of what was carried: of the one file, or of the list of files, as the verb defines it.
    pub digest: Option<[u8; 32]>,
}

/// Why a verb was not carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The client is told so.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The client was told so already, and had the time to read it. Nothing more is sent.
    #[error("{0}")]
    Told(Refusal),
    /// The client is gone, or does not speak the protocol.
    #[error(transparent)]
    Connection(#[from] crate::frame::FrameError),
}

impl From<std::io::Error> for ServeError {
    fn from(error: std::io::Error) -> Self {
        Self::Connection(error.into())
    }
}

/// The future that [`Verbs::serve`] returns.
pub type Serving<'a> = Pin<Box<dyn Future<Output = Result<Done, ServeError>> + Send + 'a>>;

/// Serves some of the verbs.
pub trait Verbs: Send + Sync {
    /// Whether it serves this request.
    fn knows(&self, request: &Request) -> bool;

    /// Carries the request out. Whether the operator may was asked before; that the request's path stays below
    /// [`Session::root`] whatever links are there is for this to see to.
    fn serve<'a>(&'a self, session: &'a mut Session) -> Serving<'a>;
}
