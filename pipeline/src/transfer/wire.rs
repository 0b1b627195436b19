//! The blocking side of a transfer's connection: frames out of and into blocks of bytes that a task carries.
//!
//! A transfer reads, hashes and writes files on a thread of its own, while [`super::bridge`] moves blocks between this
//! module and the connection. Blocks are used again, so a transfer holds a fixed amount of memory whatever it moves.

use std::{
    io,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc;

use super::{entry::Malformed, error::TransferError};
use crate::{
    frame::{HEADER_BYTES, Kind, MAX_CONTROL_BYTES, header, parse_header},
    reply::Refusal,
};

/// Most bytes of a file in one frame.
pub(crate) const DATA_BYTES: usize = 128 << 10;
/// Bytes of a block: one full frame of data.
pub(crate) const BLOCK_BYTES: usize = DATA_BYTES + HEADER_BYTES;
/// Blocks that wait in each direction of a transfer, beside the one that is worked on: one among many.
pub(crate) const FEW_BLOCKS: usize = 1;
/// And where there is room for it, so that neither side waits for the other's turn on the processor.
pub(crate) const MANY_BLOCKS: usize = 3;

/// Where in a page the payload of a block's first frame begins. Some processors take three times as long to copy from the
/// beginning of a page, as what a file holds does, to less than 32 bytes behind one, where large allocations begin.
const LANDING: usize = 1024;
const PAGE_BYTES: usize = 4096;

/// [`BLOCK_BYTES`] at an address to which the system copies fast.
#[derive(Debug)]
pub(crate) struct Memory {
    /// A page more, to choose from.
    bytes: Box<[u8]>,
    start: usize,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let bytes = vec![0; BLOCK_BYTES + PAGE_BYTES].into_boxed_slice();
        let payload = bytes.as_ptr().addr().wrapping_add(HEADER_BYTES) % PAGE_BYTES;
        Self { start: (LANDING + PAGE_BYTES - payload) % PAGE_BYTES, bytes }
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + BLOCK_BYTES]
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + BLOCK_BYTES]
    }
}

/// A block of bytes on its way, of which the first `used` count.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) bytes: Memory,
    pub(crate) used: usize,
}

impl Block {
    /// Adds bytes for which there is room.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.bytes[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }
}

/// Blocks that are free to be used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Memory>>>);

impl Pool {
    pub(crate) fn take(&self) -> Block {
        self.take_free().unwrap_or_else(|| Block { bytes: Memory::new(), used: 0 })
    }

    /// One that is there already.
    pub(crate) fn take_free(&self) -> Option<Block> {
        let bytes = self.0.lock().ok().and_then(|mut free| free.pop())?;
        Some(Block { bytes, used: 0 })
    }

    pub(crate) fn give(&self, block: Block) {
        if let Ok(mut free) = self.0.lock() {
            free.push(block.bytes);
        }
    }
}

/// A connection as the thread of a transfer sees it.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
}

impl Wire {
    /// Sends what was gathered; if the other side has said something meanwhile, it can only be why it gives up.
    pub(crate) fn flush(&mut self) -> Result<(), TransferError> {
        self.outgoing.flush()?;
        self.check_for_refusal()
    }

    /// Fails if the other side has spoken although it was not its turn.
    pub(crate) fn check_for_refusal(&mut self) -> Result<(), TransferError> {
        if self.incoming.is_waiting() {
            self.incoming.head()?;
            return Err(TransferError::Protocol("a frame that does not belong here"));
        }
        Ok(())
    }

    /// The other side's reason, when this side knows no better than that the connection ended.
    pub(crate) fn explain(&mut self, error: TransferError) -> TransferError {
        if !matches!(error, TransferError::Cut(_)) {
            return error;
        }
        while let Ok(head) = self.incoming.head_or_refusal() {
            match head {
                Err(refusal) => return TransferError::Peer(refusal),
                Ok(head) => {
                    if self.incoming.skip(head).is_err() {
                        break;
                    }
                }
            }
        }
        error
    }
}

/// Counts whatever shows that a transfer goes on, for whoever ends those that do not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beat(Arc<AtomicU64>);

impl Beat {
    pub(crate) fn strike(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Frames from the other side.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) blocks: mpsc::Receiver<Block>,
    pub(crate) current: Option<Block>,
    pub(crate) position: usize,
    pub(crate) pool: Pool,
    /// Why the connection ended, if not because the other side closed it.
    pub(crate) failure: Arc<Mutex<Option<io::Error>>>,
}

/// The head of a frame, whose payload comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    pub(crate) length: usize,
}

impl Incoming {
    /// The next frame's head. A refusal is the other side's last word, and an error here.
    pub(crate) fn head(&mut self) -> Result<Head, TransferError> {
        self.head_or_refusal()?.map_err(TransferError::Peer)
    }

    fn head_or_refusal(&mut self) -> Result<Result<Head, Refusal>, TransferError> {
        let mut bytes = [0; HEADER_BYTES];
        self.read_exact(&mut bytes)?;
        let (kind, length) = parse_header(&bytes)
            .map_err(|_| TransferError::Protocol("a frame of no kind, or longer than its kind may be"))?
            .expect("a whole header is there");
        let head = Head { kind, length };
        if kind != Kind::Refused {
            return Ok(Ok(head));
        }
        let payload = self.payload(head)?;
        let refusal = Refusal::decode(&payload);
        refusal.map(Err).map_err(|_| TransferError::Protocol("a refusal that cannot be read"))
    }

    fn skip(&mut self, head: Head) -> Result<(), TransferError> {
        let mut rest = head.length;
        while rest > 0 {
            rest -= self.piece(rest)?.len();
        }
        Ok(())
    }

    /// The next frame's payload, which must be of this kind.
    pub(crate) fn expect(&mut self, kind: Kind) -> Result<Vec<u8>, TransferError> {
        let head = self.head()?;
        if head.kind != kind {
            return Err(TransferError::Protocol("a frame that does not belong here"));
        }
        self.payload(head)
    }

    /// The payload of a frame that is not data.
    pub(crate) fn payload(&mut self, head: Head) -> Result<Vec<u8>, TransferError> {
        if head.length > MAX_CONTROL_BYTES {
            return Err(TransferError::Protocol("a frame longer than its kind may be"));
        }
        let mut payload = vec![0; head.length];
        self.read_exact(&mut payload)?;
        Ok(payload)
    }

    /// A payload of exactly `N` bytes.
    pub(crate) fn fixed<const N: usize>(&mut self, head: Head) -> Result<[u8; N], TransferError> {
        if head.length != N {
            return Err(TransferError::Protocol("a frame that has not the length of its kind"));
        }
        let mut payload = [0; N];
        self.read_exact(&mut payload)?;
        Ok(payload)
    }

    /// The next bytes of a payload, at least one and at most `most`, wherever they lie.
    pub(crate) fn piece(&mut self, most: usize) -> Result<&[u8], TransferError> {
        let available = self.available()?;
        let length = available.min(most);
        let from = self.position;
        self.position += length;
        let block = self.current.as_ref().expect("bytes are available in it");
        Ok(&block.bytes[from..from + length])
    }

    /// Whether the other side said something that waits to be read.
    pub(crate) fn is_waiting(&mut self) -> bool {
        self.current.as_ref().is_some_and(|block| self.position < block.used) || !self.blocks.is_empty()
    }

    fn read_exact(&mut self, mut into: &mut [u8]) -> Result<(), TransferError> {
        while !into.is_empty() {
            let piece = self.piece(into.len())?;
            let (filled, rest) = into.split_at_mut(piece.len());
            filled.copy_from_slice(piece);
            into = rest;
        }
        Ok(())
    }

    /// How many bytes the present block still has; takes the next one when it has none.
    fn available(&mut self) -> Result<usize, TransferError> {
        loop {
            if let Some(block) = &self.current
                && self.position < block.used
            {
                return Ok(block.used - self.position);
            }
            if let Some(done) = self.current.take() {
                self.pool.give(done);
            }
            self.position = 0;
            let Some(block) = self.blocks.blocking_recv() else { return Err(self.cut()) };
            self.current = Some(block);
        }
    }

    fn cut(&self) -> TransferError {
        TransferError::Cut(self.failure.lock().ok().and_then(|mut failure| failure.take()))
    }
}

/// Frames to the other side, gathered into blocks.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) blocks: mpsc::Sender<Block>,
    /// What is being gathered; nothing while there is nothing, so that who listens or waits holds no memory for it.
    pub(crate) current: Option<Block>,
    pub(crate) pool: Pool,
    pub(crate) beat: Beat,
}

impl Outgoing {
    /// Adds a frame whose payload is short.
    pub(crate) fn frame(&mut self, kind: Kind, payload: &[u8]) -> Result<(), TransferError> {
        let block = self.with_room(payload.len())?;
        block.extend(&header(kind, payload.len()));
        block.extend(payload);
        Ok(())
    }

    /// Adds a frame of data with what `fill` puts into it, at most `most` bytes, and returns these bytes.
    ///
    /// No frame is added if `fill` has nothing.
    pub(crate) fn data<E: From<TransferError>>(
        &mut self,
        most: u64,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<&[u8], E> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(DATA_BYTES);
        let block = self.with_room(most)?;
        let from = block.used + HEADER_BYTES;
        let length = fill(&mut block.bytes[from..from + most])?;
        if length > 0 {
            block.extend(&header(Kind::Data, length));
            block.used += length;
        }
        Ok(&block.bytes[from..from + length])
    }

    /// Sends what was gathered.
    pub(crate) fn flush(&mut self) -> Result<(), TransferError> {
        match self.current.take() {
            Some(full) if full.used > 0 => {
                self.blocks.blocking_send(full).map_err(|_| TransferError::Cut(None))
            }
            unused => {
                self.current = unused;
                Ok(())
            }
        }
    }

    /// The block that a frame with a payload of `length` bytes goes into.
    fn with_room(&mut self, length: usize) -> Result<&mut Block, TransferError> {
        if self.current.as_ref().is_some_and(|block| BLOCK_BYTES - block.used < HEADER_BYTES + length) {
            self.flush()?;
        }
        let Self { current, pool, .. } = self;
        Ok(current.get_or_insert_with(|| pool.take()))
    }
}

impl From<Malformed> for TransferError {
    fn from(error: Malformed) -> Self {
        Self::Protocol(error.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_begin_where_a_frames_payload_is_copied_to_fast() {
        let pool = Pool::default();
        for block in [pool.take(), pool.take()] {
            assert_eq!(block.bytes[HEADER_BYTES..].as_ptr().addr() % PAGE_BYTES, LANDING);
            assert_eq!(block.bytes.len(), BLOCK_BYTES);
        }
    }
}
