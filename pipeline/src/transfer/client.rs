//! The client's side of the verbs that move files: sends the request, and is the other end of the transfer.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Meter, Outcome, ReceiveOptions, Source, Target, TransferError,
    bridge::{self, Connection, Pace},
    receive::receive,
    send::send,
    wire::{MANY_BLOCKS, Wire},
};
use crate::{
    frame::Kind,
    reply::{Accepted, Exit},
    request::{Request, RequestError},
};

/// Why a transfer that this side asked for did not complete.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The request cannot be made.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The transfer failed.
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

/// Asks for a transfer to the server and carries it out. `request` is a `send-file` or `send-dir`.
///
/// # Errors
///
/// What either side says.
pub async fn upload<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &Request,
    source: Source,
    meter: Meter,
    idle: Duration,
) -> Result<Outcome, ClientError> {
    ask(stream, request, idle, move |wire| send(wire, source, &meter)).await
}

/// Asks for a transfer from the server and carries it out. `request` is a `recv-file` or `recv-dir`.
///
/// # Errors
///
/// What either side says.
pub async fn download<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &Request,
    target: Target,
    options: ReceiveOptions,
    meter: Meter,
    idle: Duration,
) -> Result<Outcome, ClientError> {
    ask(stream, request, idle, move |wire| receive(wire, target, options, &meter)).await
}

async fn ask<S, F>(stream: &mut S, request: &Request, idle: Duration, work: F) -> Result<Outcome, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnOnce(&mut Wire) -> Result<Outcome, TransferError> + Send + 'static,
{
    let request = request.encode()?;
    let (reader, writer) = tokio::io::split(stream);
    let connection = Connection { early: &[], reader, writer };
    let pace = Pace { idle, waiting: MANY_BLOCKS };
    let outcome = bridge::run(connection, pace, move |wire| {
        wire.outgoing.frame(Kind::Request, &request)?;
        wire.outgoing.flush()?;
        let accepted = wire.incoming.expect(Kind::Accepted)?;
        Accepted::decode(&accepted).map_err(|_| TransferError::Protocol("an answer that cannot be read"))?;
        let outcome = work(wire)?;
        let exit = wire.incoming.expect(Kind::Exit)?;
        match Exit::decode(&exit) {
            Ok(exit) if exit == Exit::default() => Ok(outcome),
            _ => Err(TransferError::Protocol("an end that cannot be read")),
        }
    })
    .await?;
    Ok(outcome)
}
