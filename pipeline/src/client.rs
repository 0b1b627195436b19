//! The client of the control channel: opens it, asks, and is the other end of what runs.
//!
//! The same for the `pipeline` program and for whatever else wants to run something in an enclave. Nothing is sent before
//! the enclave's evidence is what the caller expects.

use std::{io, time::Duration};

use channel::{io::OpenError, ssh::Identity};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use transport::{Addr, ConnectError, Stream};

use crate::{
    expected::Expected,
    frame::{Frame, FrameError, FrameReader, FrameWriter, HEADER_BYTES, Kind, header},
    relay::STDIN_WINDOW_BYTES,
    reply::{Accepted, Exit, Refusal, ReplyError},
    request::{Request, RequestError, RunId, WindowSize},
};

/// How often a client that waits says that it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Input read at a time, in bytes.
const INPUT_BYTES: usize = 32 << 10;

/// An open channel to an enclave that is the one expected.
#[derive(Debug)]
pub struct Connection {
    /// The session.
    pub stream: channel::io::Session<Stream>,
    /// The head of the control chain when the enclave's document was made.
    pub control_head: Option<[u8; 32]>,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody is there.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The channel was not opened: the enclave is not the one expected, or does not let this key in.
    #[error(transparent)]
    Open(Box<OpenError>),
    /// The request cannot be made.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The enclave refuses, or has given up.
    #[error("refused")]
    Refused(#[from] Refusal),
    /// What came is not of the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A reply is not of the protocol.
    #[error(transparent)]
    Reply(#[from] ReplyError),
    /// A frame that has no place here.
    #[error("the enclave sent a frame of kind {0:?} where it has no place")]
    Unexpected(Kind),
    /// Output cannot be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
}

impl From<OpenError> for ClientError {
    fn from(error: OpenError) -> Self {
        Self::Open(Box::new(error))
    }
}

/// What a person or a program at this end does to what runs at the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Signal it.
    Signal(u8),
    /// The terminal has another size.
    Resize(WindowSize),
}

/// What a finished operation says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// The number of the run, where there was one.
    pub id: Option<RunId>,
    /// How it ended.
    pub exit: Exit,
}

/// Opens a channel to the enclave at `addr`, and sends `first`, the beginning of the session, together with the proof of
/// who is asking. Use [`first_frame`] for a request, or nothing for what sends its request itself.
///
/// # Errors
/// [`ClientError::Connect`] and [`ClientError::Open`].
pub async fn connect(
    addr: &Addr,
    expected: &Expected,
    identity: Option<&dyn Identity>,
    first: &[u8],
    timeout: Duration,
) -> Result<Connection, ClientError> {
    let stream = Stream::connect(addr, timeout).await?;
    let config = channel::io::ClientConfig { identity, first, deadline: timeout };
    let (stream, control_head) =
        channel::io::connect(stream, config, |evidence| expected.appraise(evidence)).await?;
    Ok(Connection { stream, control_head })
}

/// A request as the first bytes of a session.
///
/// # Errors
/// [`ClientError::Request`] for a request that nobody may make.
pub fn first_frame(request: &Request) -> Result<Vec<u8>, ClientError> {
    let payload = request.encode()?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend(header(Kind::Request, payload.len()));
    bytes.extend(payload);
    Ok(bytes)
}

/// Asks what has one answer, whose bytes go to `output`: services, status, logs, kill, transcript, seal.
///
/// # Errors
/// [`ClientError`]. [`ClientError::Refused`] says why the enclave does not do it.
pub async fn ask<S, W>(stream: S, output: &mut W, errors: &mut W) -> Result<Finished, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    W: AsyncWrite + Unpin,
{
    let (_acts, none) = mpsc::channel(1);
    relay(stream, None::<tokio::io::Empty>, output, errors, none).await
}

/// Is the other end of a program that runs: `input` (none: it gets an empty one), its two outputs, and what is done to it.
///
/// # Errors
/// As [`ask`].
pub async fn relay<S, R, W>(
    stream: S,
    input: Option<R>,
    output: &mut W,
    errors: &mut W,
    acts: mpsc::Receiver<Act>,
) -> Result<Finished, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (reader, writer) = tokio::io::split(stream);
    let (credit, credits) = mpsc::unbounded_channel();
    let (accepted, waiting) = mpsc::channel(1);
    let upward = send(FrameWriter::new(writer), input, credits, acts, waiting);
    let downward = receive(FrameReader::new(reader), output, errors, &credit, accepted);
    tokio::pin!(upward, downward);
    let mut sending = true;
    loop {
        tokio::select! {
            finished = &mut downward => return finished,
            // Whatever kept this side from sending: the enclave's last word says more.
            _ = &mut upward, if sending => sending = false,
        }
    }
}

/// Writes what the enclave sends to where it belongs, until its last word.
async fn receive<R, W>(
    mut reader: FrameReader<R>,
    output: &mut W,
    errors: &mut W,
    credit: &mpsc::UnboundedSender<usize>,
    accepted: mpsc::Sender<()>,
) -> Result<Finished, ClientError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut finished = Finished::default();
    loop {
        let Frame { kind, payload } = reader.next().await?.ok_or(FrameError::Truncated)?;
        match kind {
            Kind::Accepted => {
                finished.id = Accepted::decode(&payload)?.id;
                // Nobody waits for it where there is no input.
                let _ = accepted.try_send(());
            }
            Kind::Stdout => write(output, &payload).await?,
            Kind::Stderr => write(errors, &payload).await?,
            Kind::StdinWindow => {
                let bytes: [u8; 4] = payload[..].try_into().map_err(|_| ClientError::Unexpected(kind))?;
                let _ = credit.send(usize::try_from(u32::from_be_bytes(bytes)).unwrap_or(usize::MAX));
            }
            Kind::Refused => return Err(Refusal::decode(&payload)?.into()),
            Kind::Exit => return Ok(Finished { exit: Exit::decode(&payload)?, ..finished }),
            other => return Err(ClientError::Unexpected(other)),
        }
    }
}

async fn write(output: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), ClientError> {
    let written = async {
        output.write_all(bytes).await?;
        output.flush().await
    };
    written.await.map_err(ClientError::Output)
}

/// Sends input as far as the enclave takes it, what is done, and that somebody is still here.
async fn send<W, R>(
    mut writer: FrameWriter<W>,
    mut input: Option<R>,
    mut credits: mpsc::UnboundedReceiver<usize>,
    mut acts: mpsc::Receiver<Act>,
    mut accepted: mpsc::Receiver<()>,
) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
    R: AsyncRead + Unpin,
{
    // Before a run begins nobody takes input, and before a transfer something else is meant by it.
    if accepted.recv().await.is_none() {
        return Ok(());
    }
    if input.is_none() {
        writer.send(Kind::StdinEnd, &[]).await?;
        writer.flush().await?;
    }
    let (mut window, mut acting) = (STDIN_WINDOW_BYTES, true);
    let mut alive = interval(KEEP_ALIVE);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    alive.tick().await;
    let mut buffer = Vec::new();
    loop {
        tokio::select! {
            read = read_some(&mut input, &mut buffer, window), if input.is_some() && window > 0 => match read? {
                0 => {
                    input = None;
                    writer.send(Kind::StdinEnd, &[]).await?;
                }
                count => {
                    window = window.saturating_sub(count);
                    writer.send(Kind::Stdin, &buffer).await?;
                }
            },
            Some(more) = credits.recv() => {
                window = window.saturating_add(more);
                continue;
            }
            act = acts.recv(), if acting => match act {
                Some(Act::Signal(number)) => writer.send(Kind::Signal, &[number]).await?,
                Some(Act::Resize(size)) => writer.send(Kind::WindowSize, &size.to_bytes()).await?,
                None => acting = false,
            },
            _ = alive.tick() => writer.send(Kind::Signal, &[0]).await?,
        }
        writer.flush().await?;
    }
}

/// Reads some input, as much as the window allows; 0 at its end.
async fn read_some<R: AsyncRead + Unpin>(
    input: &mut Option<R>,
    buffer: &mut Vec<u8>,
    window: usize,
) -> io::Result<usize> {
    let Some(input) = input else { return std::future::pending().await };
    buffer.clear();
    buffer.resize(window.min(INPUT_BYTES), 0);
    // Input that fails has ended: the program at the other end is told so.
    let count = input.read(buffer).await.unwrap_or(0);
    buffer.truncate(count);
    Ok(count)
}
