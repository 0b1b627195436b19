//! Large buffers that are there only while bytes move.
//!
//! A session that transfers files wants buffers of [`BUFFER_BYTES`]; hundreds of sessions that wait must not hold them.
//! So each thread keeps a few, and whoever has bytes to move borrows one.

use std::cell::RefCell;
use std::fmt;

use crate::{MAX_PLAINTEXT_BYTES, OVERHEAD_BYTES};

/// Records that fit into one buffer.
pub(super) const BUFFER_RECORDS: usize = 16;
/// What such records take; a buffer has a page more, to choose where in it they are.
pub(super) const BUFFER_BYTES: usize = BUFFER_RECORDS * (MAX_PLAINTEXT_BYTES + OVERHEAD_BYTES);
/// Where in a page a read from the stream begins. Some processors take three times as long to copy from the beginning of a
/// page to less than 32 bytes behind one, and that is where large allocations begin. What a Unix socket holds begins at
/// pages, each stretch 320 bytes earlier in the reader's, so this keeps all of them clear of it.
const LANDING: usize = 160;
const PAGE_BYTES: usize = 4096;
/// How many a thread keeps for the next borrower.
const MAX_KEPT: usize = 4;

thread_local! {
    static KEPT: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes `start..end` of a buffer that is there only while there are any, or while it is [`Buffer::room`] or
/// [`Buffer::landing`].
#[derive(Default)]
pub(super) struct Buffer {
    memory: Option<Box<[u8]>>,
    /// Where the bytes were last put: nothing was consumed since if they still start there.
    origin: usize,
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
            self.place(0, self.end - self.start);
        }
        let end = self.end;
        &mut self.memory.get_or_insert_with(borrow)[end..]
    }

    /// The same for bytes from the stream, at an address to which the system copies fast.
    pub(super) fn landing(&mut self) -> &mut [u8] {
        // Who reads a few bytes at a time moves what is there once, and not every time.
        if self.is_empty() || self.start != self.origin {
            let memory = self.memory.get_or_insert_with(borrow);
            let (bytes, count) = (self.start..self.end, self.end - self.start);
            let end = landing_behind(memory, count);
            memory.copy_within(bytes, end - count);
            self.place(end - count, end);
        }
        let end = self.end;
        &mut self.memory.get_or_insert_with(borrow)[end..]
    }

    /// Puts bytes into the buffer, which is empty.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        let memory = self.memory.get_or_insert_with(borrow);
        let end = landing_behind(memory, bytes.len());
        let start = end - bytes.len();
        memory[start..end].copy_from_slice(bytes);
        self.place(start, end);
    }

    fn place(&mut self, start: usize, end: usize) {
        (self.origin, self.start, self.end) = (start, start, end);
    }

    /// `count` bytes of the room are bytes now.
    pub(super) fn fill(&mut self, count: usize) {
        self.end += count;
        let size = self.memory.as_ref().map_or(0, |memory| memory.len());
        assert!(self.end <= size, "only what is room is filled");
    }

    /// The first `count` bytes are done with.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        assert!(self.start <= self.end, "only bytes that are there are consumed");
    }

    /// Gives the memory back if there is nothing in it.
    pub(super) fn release(&mut self) {
        if self.is_empty() {
            self.place(0, 0);
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

/// The first place in `memory` behind `count` bytes where the stream's are to go.
fn landing_behind(memory: &[u8], count: usize) -> usize {
    let at = memory.as_ptr().addr().wrapping_add(count) % PAGE_BYTES;
    count + (LANDING + PAGE_BYTES - at) % PAGE_BYTES
}

fn borrow() -> Box<[u8]> {
    let kept = KEPT.try_with(|kept| kept.borrow_mut().pop()).ok().flatten();
    kept.unwrap_or_else(|| vec![0; BUFFER_BYTES + PAGE_BYTES].into_boxed_slice())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn place_in_page(room: &[u8]) -> usize {
        room.as_ptr().addr() % PAGE_BYTES
    }

    /// Reads went to 16 bytes behind a page's beginning, where they took three times as long as anywhere else.
    #[test]
    fn what_is_read_lands_in_the_same_place_of_a_page() {
        let mut buffer = Buffer::default();
        assert_eq!(place_in_page(buffer.landing()), LANDING);
        buffer.landing()[..5000].copy_from_slice(&[7; 5000]);
        buffer.fill(5000);
        // Nothing is moved while nothing is consumed, and then only what is left.
        assert_eq!(place_in_page(buffer.landing()), (LANDING + 5000) % PAGE_BYTES);
        buffer.consume(4321);
        assert_eq!(place_in_page(buffer.landing()), LANDING);
        assert_eq!(buffer.bytes(), [7; 5000 - 4321]);
        buffer.consume(5000 - 4321);
        buffer.release();
        assert_eq!(buffer.held(), 0);
        buffer.hold(b"kept");
        assert_eq!(place_in_page(buffer.landing()), LANDING);
        assert_eq!(buffer.bytes(), b"kept");
    }

    #[test]
    fn a_buffer_has_room_for_a_whole_record_behind_all_but_its_last_byte() {
        let mut buffer = Buffer::default();
        let record = MAX_PLAINTEXT_BYTES + OVERHEAD_BYTES;
        buffer.hold(&vec![1; record - 1]);
        assert!(buffer.landing().len() > BUFFER_BYTES - 2 * record);
    }
}
