//! Large buffers that are there only while bytes move.
//!
//! A session that transfers files wants buffers of [`BUFFER_BYTES`]; hundreds of sessions that wait must not hold them.
//! So each thread keeps a few, and whoever has bytes to move borrows one.

use std::cell::RefCell;
use std::fmt;

use crate::{MAX_PLAINTEXT_BYTES, OVERHEAD_BYTES};

/// Records that fit into one buffer.
pub(super) const BUFFER_RECORDS: usize = 16;
/// Size of a buffer.
pub(super) const BUFFER_BYTES: usize = BUFFER_RECORDS * (MAX_PLAINTEXT_BYTES + OVERHEAD_BYTES);
/// How many a thread keeps for the next borrower.
const MAX_KEPT: usize = 4;

thread_local! {
    static KEPT: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes `start..end` of a buffer that is there only while there are any, or while it is [`Buffer::room`].
#[derive(Default)]
pub(super) struct Buffer {
    memory: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.as_deref().map_or(&[], |memory| &memory[self.start..self.end])
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.as_deref_mut().map_or(&mut [], |memory| &mut memory[self.start..self.end])
    }

    /// Bytes of memory that are borrowed.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.len())
    }

    /// Everything behind the bytes, which are moved to the front first. Borrows the memory if there is none.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let memory = self.memory.get_or_insert_with(borrow);
        if self.start > 0 {
            memory.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut memory[self.end..]
    }

    /// `count` bytes of the room are bytes now.
    pub(super) fn fill(&mut self, count: usize) {
        self.end += count;
        assert!(self.end <= BUFFER_BYTES, "only what is room is filled");
    }

    /// The first `count` bytes are done with.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        assert!(self.start <= self.end, "only bytes that are there are consumed");
    }

    /// Gives the memory back if there is nothing in it.
    pub(super) fn release(&mut self) {
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
            self.memory.take().into_iter().for_each(give_back);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.memory.take().into_iter().for_each(give_back);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &(self.end - self.start)).finish_non_exhaustive()
    }
}

fn borrow() -> Box<[u8]> {
    let kept = KEPT.try_with(|kept| kept.borrow_mut().pop()).ok().flatten();
    kept.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
}

fn give_back(memory: Box<[u8]>) {
    // A thread that ends keeps nothing.
    let _ = KEPT.try_with(|kept| {
        let mut kept = kept.borrow_mut();
        if kept.len() < MAX_KEPT {
            kept.push(memory);
        }
    });
}
