//! Carries blocks between a connection and the thread on which a transfer works.
//!
//! It decides nothing: it reads whatever the other side sends as long as there is room, writes whatever the thread has,
//! neither waiting for the other, and ends a transfer on which nothing moves.

use std::{
    future::{Future, pending, poll_fn},
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    sync::mpsc,
    time,
};

use super::{
    error::TransferError,
    wire::{BLOCK_BYTES, Beat, Block, Incoming, Outgoing, Pool, Wire},
};
use crate::frame::Kind;

/// How long the other side may take to read why a transfer ended and to close.
const PARTING: Duration = Duration::from_secs(5);

/// Bytes that are read to see whether there are any, where a whole block would have to be made for it.
const PROBE_BYTES: usize = 64;

type Failure = Arc<Mutex<Option<io::Error>>>;

/// The two halves of a connection, and what was read of it already.
#[derive(Debug)]
pub(crate) struct Connection<'a, R, W> {
    pub(crate) early: &'a [u8],
    pub(crate) reader: R,
    pub(crate) writer: W,
}

/// How far the two sides of a bridge may be apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// After how long without a byte the transfer ends; zero is never.
    pub(crate) idle: Duration,
    /// Blocks that wait in each direction.
    pub(crate) waiting: usize,
}

/// Runs `work` on a thread of its own, with `connection` as its connection.
///
/// If `work` fails for a reason of this side, the other side is told, and given the time to read it.
pub(crate) async fn run<R, W, T, F>(
    connection: Connection<'_, R, W>,
    pace: Pace,
    work: F,
) -> Result<T, TransferError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    T: Send + 'static,
    F: FnOnce(&mut Wire) -> Result<T, TransferError> + Send + 'static,
{
    let (from_peer, incoming) = mpsc::channel(pace.waiting);
    let (outgoing, to_peer) = mpsc::channel(pace.waiting);
    let (pool, beat, failure) = (Pool::default(), Beat::default(), Failure::default());
    let mut wire = Wire {
        incoming: Incoming {
            blocks: incoming,
            current: None,
            position: 0,
            pool: pool.clone(),
            failure: Arc::clone(&failure),
        },
        outgoing: Outgoing { blocks: outgoing, current: None, pool: pool.clone(), beat: beat.clone() },
    };
    let thread = tokio::task::spawn_blocking(move || {
        let result = work(&mut wire).map_err(|error| wire.explain(error));
        if let Err(error) = &result {
            report(&mut wire.outgoing, error);
        }
        result
    });
    let reading = read(connection.reader, connection.early, from_peer, &pool, &beat, &failure);
    let finishing = async {
        write(connection.writer, to_peer, &pool, &beat).await;
        thread.await.unwrap_or_else(|_| Err(TransferError::Protocol("this side failed")))
    };
    tokio::select! {
        biased;
        result = until_parted(finishing, reading) => result,
        error = stalled(&beat, pace.idle) => Err(error),
    }
}

/// Tells the other side why this side ended the transfer, unless it was the other side that did.
fn report(outgoing: &mut Outgoing, error: &TransferError) {
    if matches!(error, TransferError::Cut(_) | TransferError::Peer(_)) {
        return;
    }
    // If it cannot be told, the connection is gone, and it knows that much.
    let _ = outgoing.frame(Kind::Refused, &error.refusal().encode()).and_then(|()| outgoing.flush());
}

/// Lets `reading` go on while `finishing` does, and for a while after it failed: a connection closed with something
/// unread in it may lose what was written last.
async fn until_parted<T>(
    finishing: impl Future<Output = Result<T, TransferError>>,
    reading: impl Future<Output = ()>,
) -> Result<T, TransferError> {
    let mut reading = std::pin::pin!(reading);
    let mut closed = false;
    let result = {
        let mut finishing = std::pin::pin!(finishing);
        loop {
            tokio::select! {
                biased;
                result = &mut finishing => break result,
                () = &mut reading, if !closed => closed = true,
            }
        }
    };
    let told =
        matches!(&result, Err(error) if !matches!(error, TransferError::Cut(_) | TransferError::Peer(_)));
    if told && !closed {
        // Whether it closes in time changes nothing for this side.
        let _ = time::timeout(PARTING, reading).await;
    }
    result
}

/// Reads until the other side closes. When the thread wants no more, what comes is thrown away.
async fn read<R: AsyncRead + Unpin>(
    mut reader: R,
    early: &[u8],
    to_thread: mpsc::Sender<Block>,
    pool: &Pool,
    beat: &Beat,
    failure: &Failure,
) {
    let mut wanted = true;
    for chunk in early.chunks(BLOCK_BYTES) {
        let mut block = pool.take();
        block.extend(chunk);
        wanted &= to_thread.send(block).await.is_ok();
    }
    loop {
        // Nothing is read before there is a place for it: what waits, waits where it costs this side nothing.
        let place = match wanted {
            true => to_thread.reserve().await.ok(),
            false => None,
        };
        wanted = place.is_some();
        let block = match fill(&mut reader, pool).await {
            Ok(Some(block)) => block,
            Ok(None) => return,
            Err(error) => {
                if let Ok(mut failure) = failure.lock() {
                    *failure = Some(error);
                }
                return;
            }
        };
        beat.strike();
        match place {
            Some(place) => place.send(block),
            None => pool.give(block),
        }
    }
}

/// Reads what is there, at least one byte, at most a block; nothing if the other side has closed.
///
/// A block is made only for bytes that are there: for most of its time a transfer has one direction that is silent.
async fn fill<R: AsyncRead + Unpin>(reader: &mut R, pool: &Pool) -> io::Result<Option<Block>> {
    poll_fn(|context| {
        let mut first = [0; PROBE_BYTES];
        let mut block = match pool.take_free() {
            Some(block) => block,
            None => {
                let mut probe = ReadBuf::new(&mut first);
                ready!(Pin::new(&mut *reader).poll_read(context, &mut probe))?;
                if probe.filled().is_empty() {
                    return Poll::Ready(Ok(None));
                }
                let mut block = pool.take();
                block.extend(probe.filled());
                block
            }
        };
        let ended = loop {
            let mut rest = ReadBuf::new(&mut block.bytes[block.used..]);
            match Pin::new(&mut *reader).poll_read(context, &mut rest) {
                Poll::Ready(Ok(())) => {
                    let count = rest.filled().len();
                    block.used += count;
                    if count == 0 || block.used == block.bytes.len() {
                        break Poll::Ready(Ok(None));
                    }
                }
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        // What was read before an end or a failure is delivered first; those come again.
        if block.used > 0 {
            return Poll::Ready(Ok(Some(block)));
        }
        pool.give(block);
        ended
    })
    .await
}

/// Writes what the thread sends until it has ended or the connection fails.
async fn write<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut from_thread: mpsc::Receiver<Block>,
    pool: &Pool,
    beat: &Beat,
) {
    while let Some(block) = from_thread.recv().await {
        let written = write_block(&mut writer, &block, beat).await;
        pool.give(block);
        // The next block is not taken before this one has left: it would only wait here, and another one behind it.
        if written.is_err() || writer.flush().await.is_err() {
            // The thread notices that nobody takes its blocks. What the other side said last may still be read.
            return;
        }
    }
}

async fn write_block<W: AsyncWrite + Unpin>(writer: &mut W, block: &Block, beat: &Beat) -> io::Result<()> {
    let mut rest = &block.bytes[..block.used];
    while !rest.is_empty() {
        let count = writer.write(rest).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        beat.strike();
        rest = &rest[count..];
    }
    Ok(())
}

/// Ends when nothing has moved for `idle`.
async fn stalled(beat: &Beat, idle: Duration) -> TransferError {
    if idle.is_zero() {
        return pending().await;
    }
    let mut before = beat.count();
    loop {
        time::sleep(idle).await;
        let now = beat.count();
        if now == before {
            return TransferError::Stalled { seconds: idle.as_secs() };
        }
        before = now;
    }
}
