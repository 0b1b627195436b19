//! The server's side of the verbs that move files.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{
    Excludes, Meter, Outcome, ReceiveOptions, RemotePath, Root, Source, Target, TransferError,
    bridge::{self, Connection, Pace},
    receive::receive,
    send::send,
    wire::{FEW_BLOCKS, MANY_BLOCKS, Wire},
};
use crate::{
    frame::Kind,
    reply::{Accepted, Exit},
    request::{RecvDir, RecvFile, Request, SendDir, SendFile},
    serve::{Done, ServeError, Serving, Session, Verbs},
};

/// How many transfers of a server have [`MANY_BLOCKS`] at a time; with all others it is [`FEW_BLOCKS`], so that a crowd
/// does not take a crowd's memory.
const ROOMY_TRANSFERS: usize = 16;

/// Serves `send-file`, `recv-file`, `send-dir` and `recv-dir`. Clones are one server.
#[derive(Clone, Debug)]
pub struct TransferVerbs {
    idle: Duration,
    roomy: Arc<Semaphore>,
}

impl TransferVerbs {
    /// Ends transfers after `idle` without a byte; zero is never.
    pub fn new(idle: Duration) -> Self {
        Self { idle, roomy: Arc::new(Semaphore::new(ROOMY_TRANSFERS)) }
    }
}

impl Verbs for TransferVerbs {
    fn knows(&self, request: &Request) -> bool {
        matches!(
            request,
            Request::SendFile(_) | Request::RecvFile(_) | Request::SendDir(_) | Request::RecvDir(_)
        )
    }

    fn serve<'a>(&'a self, session: &'a mut Session) -> Serving<'a> {
        Box::pin(self.carry_out(session))
    }
}

impl TransferVerbs {
    async fn carry_out(&self, session: &mut Session) -> Result<Done, ServeError> {
        let request = session.request.clone();
        let (root, reach) = (session.root.clone(), session.reach.clone());
        let (reader, early) = session.input.parts();
        let early = early.split();
        let connection = Connection { early: &early, reader, writer: session.output.stream() };
        let room = self.roomy.try_acquire();
        let waiting = if room.is_ok() { MANY_BLOCKS } else { FEW_BLOCKS };
        let pace = Pace { idle: self.idle, waiting };
        let done = bridge::run(connection, pace, move |wire| work(wire, &request, &root, &reach)).await;
        match done {
            Ok(outcome) => Ok(Done {
                exit: Exit::default(),
                files: outcome.total.entries,
                bytes: outcome.total.bytes,
                digest: Some(outcome.content.unwrap_or(outcome.total.digest)),
            }),
            Err(TransferError::Cut(source)) => {
                Err(ServeError::Connection(source.map_or(crate::frame::FrameError::Truncated, Into::into)))
            }
            Err(error) => Err(ServeError::Told(error.refusal())),
        }
    }
}

fn work(
    wire: &mut Wire,
    request: &Request,
    root: &Path,
    reach: &[RemotePath],
) -> Result<Outcome, TransferError> {
    let root = Root::open(root)?;
    let options = |resume| ReceiveOptions { resume, ..ReceiveOptions::default() };
    let meter = Meter::default();
    match request {
        Request::SendFile(SendFile { path, mode, size, resume }) => {
            let place = root.place(&parsed(path)?, reach)?;
            place.check_room(size.unwrap_or(0))?;
            accept(wire)?;
            receive(wire, Target::File { place, mode: *mode }, options(*resume), &meter)
        }
        Request::SendDir(SendDir { path, size, resume }) => {
            let place = root.place(&parsed(path)?, reach)?;
            place.check_room(size.unwrap_or(0))?;
            accept(wire)?;
            receive(wire, Target::Tree(place), options(*resume), &meter)
        }
        Request::RecvFile(RecvFile { path, .. }) => {
            let file = root.file(&parsed(path)?, reach)?;
            accept(wire)?;
            send(wire, Source::File { file, shown: path.clone() }, &meter)
        }
        Request::RecvDir(RecvDir { path, excludes, .. }) => {
            let excludes = Excludes::parse(excludes).map_err(TransferError::Pattern)?;
            let directory = root.directory(&parsed(path)?, reach)?;
            accept(wire)?;
            send(wire, Source::Tree { directory, shown: path.clone(), excludes }, &meter)
        }
        _ => Err(TransferError::Protocol("a request that moves no files")),
    }
}

fn accept(wire: &mut Wire) -> Result<(), TransferError> {
    wire.outgoing.frame(Kind::Accepted, &Accepted::default().encode())?;
    wire.outgoing.flush()
}

fn parsed(path: &[u8]) -> Result<RemotePath, TransferError> {
    RemotePath::parse(path).map_err(|reason| TransferError::Path { path: path.to_vec(), reason })
}
