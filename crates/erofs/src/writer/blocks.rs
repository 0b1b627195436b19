//! What files hold, in blocks: compressed where that saves blocks.
//!
//! Parts of files are compressed independently of each other, so by as many threads as there are processors, across the
//! borders of files; which of them did what does not show. Blocks go into runs. A run says of each part how many blocks
//! it has, and with that a later writer needs neither the files nor the time to compress them.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use super::{Data, WriteError};
use crate::format::{BLOCK, EXTENT_BLOCKS, EXTENT_BYTES};

/// How many parts are held at once, and at most as many threads.
const MAX_PARTS: usize = 16;
/// In what a run says of a part: it is compressed. The rest is the number of its blocks.
const COMPRESSED: u8 = 0x80;

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) block: u32,
    pub(super) blocks: u16,
    pub(super) compressed: bool,
}

/// What lies in a run of blocks: a byte for each part of a file, in the order in which the files came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    parts: Vec<u8>,
}

impl Run {
    /// From the bytes of [`Self::as_bytes`].
    pub fn from_bytes(parts: Vec<u8>) -> Self {
        Self { parts }
    }

    /// One byte for each part.
    pub fn as_bytes(&self) -> &[u8] {
        &self.parts
    }

    /// How many blocks of 4,096 bytes the run has.
    pub fn blocks(&self) -> u64 {
        self.parts.iter().map(|part| u64::from(part & !COMPRESSED)).sum()
    }
}

/// The data of an image.
#[derive(Debug)]
pub(super) struct Blocks<D> {
    /// What every part of every run so far has.
    parts: Vec<u8>,
    /// Where the current run begins in them.
    run_start: usize,
    run: Current<D>,
    packer: Packer,
    tails: BufWriter<File>,
}

/// Where parts come from or go.
#[derive(Debug)]
enum Current<D> {
    None,
    Written(D),
    Known(VecDeque<u8>),
}

impl<D: Write> Blocks<D> {
    pub(super) fn new(tails: File) -> io::Result<Self> {
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_PARTS);
        Self::with_threads(tails, threads)
    }

    fn with_threads(tails: File, threads: usize) -> io::Result<Self> {
        let packer = Packer::start(threads)?;
        let tails = BufWriter::new(tails);
        Ok(Self { parts: Vec::new(), run_start: 0, run: Current::None, packer, tails })
    }

    /// Begins a run that is to be written.
    pub(super) fn begin(&mut self, data: D) {
        (self.run, self.run_start) = (Current::Written(data), self.parts.len());
    }

    /// Begins a run that is written already.
    pub(super) fn begin_known(&mut self, run: &Run) {
        (self.run, self.run_start) = (Current::Known(run.parts.iter().copied().collect()), self.parts.len());
    }

    /// Ends a run, and gives back what it was written to.
    pub(super) fn end(&mut self) -> Result<(Run, Option<D>), WriteError> {
        while self.packer.is_busy() {
            self.store_next()?;
        }
        let data = match std::mem::replace(&mut self.run, Current::None) {
            Current::Known(left) if !left.is_empty() => return Err(WriteError::OtherRun),
            Current::Known(_) | Current::None => None,
            Current::Written(data) => Some(data),
        };
        let parts = self.parts.get(self.run_start..).unwrap_or_default().to_vec();
        Ok((Run { parts }, data))
    }

    /// Takes data that will stand behind its inode.
    pub(super) fn put_tail(&mut self, data: &[u8]) -> Result<(), WriteError> {
        self.tails.write_all(data).map_err(WriteError::Io)
    }

    /// Takes data as it is, which fits into one block.
    pub(super) fn put_plain(&mut self, data: &[u8]) -> Result<Data, WriteError> {
        self.put(&mut &*data, data.len() as u64, false)
    }

    /// Takes the content of a file. Of a known run nothing is read.
    pub(super) fn put_file(&mut self, content: &mut dyn Read, size: u64) -> Result<Data, WriteError> {
        self.put(content, size, true)
    }

    fn put(&mut self, content: &mut dyn Read, size: u64, pack: bool) -> Result<Data, WriteError> {
        let first = self.next_part()?;
        let mut left = size;
        while left > 0 {
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(EXTENT_BYTES);
            left -= len as u64;
            match &mut self.run {
                Current::None => return Err(WriteError::NoRun),
                Current::Known(parts) => {
                    let part = parts.pop_front().filter(|part| is_possible(*part, len, pack));
                    self.parts.push(part.ok_or(WriteError::OtherRun)?);
                }
                Current::Written(_) => {
                    let mut part = self.packer.part();
                    part.raw.resize(len, 0);
                    content.read_exact(&mut part.raw).map_err(WriteError::Content)?;
                    part.pack = pack;
                    self.packer.send(part);
                    while self.packer.is_full() {
                        self.store_next()?;
                    }
                }
            }
        }
        let count = self.next_part()?.saturating_sub(first);
        Ok(Data::Parts { first, count })
    }

    /// The number of the next part, with those under way.
    fn next_part(&self) -> Result<u32, WriteError> {
        u32::try_from(self.parts.len() + self.packer.under_way).map_err(|_| WriteError::TooLarge)
    }

    /// Writes the part whose turn it is.
    fn store_next(&mut self) -> Result<(), WriteError> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        let Current::Written(data) = &mut self.run else { return Err(WriteError::NoRun) };
        let part = self.packer.receive()?;
        let bytes = if part.saves { &part.packed } else { &part.raw };
        let blocks = bytes.len().div_ceil(BLOCK);
        let padding = &ZEROS[..blocks * BLOCK - bytes.len()];
        // Compressed data stands at the end of its blocks, other data at the beginning.
        let order = if part.saves { [padding, bytes] } else { [bytes, padding] };
        for piece in order {
            data.write_all(piece).map_err(WriteError::Io)?;
        }
        let flag = if part.saves { COMPRESSED } else { 0 };
        self.parts.push(flag | u8::try_from(blocks).map_err(|_| WriteError::TooLarge)?);
        self.packer.free.push(part);
        Ok(())
    }

    /// What there is of each part, and the tails from their beginning.
    pub(super) fn into_parts(self) -> io::Result<(Vec<u8>, BufReader<File>)> {
        let mut tails = self.tails.into_inner()?;
        tails.rewind()?;
        Ok((self.parts, BufReader::with_capacity(EXTENT_BYTES, tails)))
    }
}

/// Whether a part of this length can have these blocks.
fn is_possible(part: u8, len: usize, pack: bool) -> bool {
    let (blocks, whole) = (usize::from(part & !COMPRESSED), len.div_ceil(BLOCK));
    match part & COMPRESSED {
        0 => blocks == whole,
        _ => pack && (1..whole).contains(&blocks),
    }
}

/// Where each part is, if the first of them begins at the block `first`.
pub(super) fn extents(parts: &[u8], first: u32) -> Result<Vec<Extent>, WriteError> {
    debug_assert!(EXTENT_BLOCKS < usize::from(COMPRESSED), "a part's blocks are counted in seven bits");
    let mut block = first;
    let extent = |part: &u8| {
        let blocks = u16::from(part & !COMPRESSED);
        let extent = Extent { block, blocks, compressed: part & COMPRESSED != 0 };
        block = block.checked_add(blocks.into()).ok_or(WriteError::TooLarge)?;
        Ok(extent)
    };
    parts.iter().map(extent).collect()
}

/// Threads that compress parts.
#[derive(Debug)]
struct Packer {
    to_threads: Sender<Part>,
    packed: Receiver<Part>,
    /// Parts that came back before their turn.
    early: BTreeMap<u64, Part>,
    /// The number of the next part to be sent, and how many were not received.
    next: u64,
    under_way: usize,
    free: Vec<Part>,
}

/// A part of a file on its way.
#[derive(Debug, Default)]
struct Part {
    number: u64,
    raw: Vec<u8>,
    packed: Vec<u8>,
    /// Whether it may be compressed.
    pack: bool,
    /// Whether that saves blocks.
    saves: bool,
}

impl Packer {
    fn start(threads: usize) -> io::Result<Self> {
        let ((to_threads, parts), (done, packed)) = (channel(), channel());
        let parts: Arc<Mutex<Receiver<Part>>> = Arc::new(Mutex::new(parts));
        for _ in 0..threads {
            let (parts, done) = (Arc::clone(&parts), done.clone());
            thread::Builder::new().name("pack".to_owned()).spawn(move || pack(&parts, &done))?;
        }
        let (early, free) = (BTreeMap::new(), Vec::new());
        Ok(Self { to_threads, packed, early, next: 0, under_way: 0, free })
    }

    /// One that can be filled.
    fn part(&mut self) -> Part {
        self.free.pop().unwrap_or_default()
    }

    fn send(&mut self, part: Part) {
        let part = Part { number: self.next, ..part };
        // The threads live as long as this; without them, receiving fails.
        let _ = self.to_threads.send(part);
        (self.next, self.under_way) = (self.next + 1, self.under_way + 1);
    }

    fn is_full(&self) -> bool {
        self.under_way >= MAX_PARTS
    }

    fn is_busy(&self) -> bool {
        self.under_way > 0
    }

    /// The part that was sent first of those that are under way.
    fn receive(&mut self) -> Result<Part, WriteError> {
        let number = self.next - self.under_way as u64;
        let part = loop {
            if let Some(part) = self.early.remove(&number) {
                break part;
            }
            let part = self.packed.recv().map_err(|e| WriteError::Io(io::Error::other(e)))?;
            self.early.insert(part.number, part);
        };
        self.under_way -= 1;
        Ok(part)
    }
}

/// Compresses what comes, until nobody sends.
fn pack(parts: &Mutex<Receiver<Part>>, done: &Sender<Part>) {
    loop {
        let part = parts.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut part) = part else { return };
        part.compress();
        if done.send(part).is_err() {
            return;
        }
    }
}

impl Part {
    fn compress(&mut self) {
        self.saves = false;
        if !self.pack {
            return;
        }
        self.packed.resize(lz4_flex::block::get_maximum_output_size(self.raw.len()), 0);
        // There is room for the longest result.
        let Ok(len) = lz4_flex::block::compress_into(&self.raw, &mut self.packed) else { return };
        self.packed.truncate(len);
        self.saves = len.div_ceil(BLOCK) < self.raw.len().div_ceil(BLOCK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts of different kinds, the last of them short.
    fn content() -> Vec<u8> {
        let mut state = 1_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        let part = |number: usize, noise: &mut dyn FnMut() -> u8| -> Vec<u8> {
            let every = number % 3 + 1;
            (0..EXTENT_BYTES).map(|i| if i % every == 0 { noise() } else { b'-' }).collect()
        };
        let mut all: Vec<u8> = (0..MAX_PARTS + 3).flat_map(|number| part(number, &mut noise)).collect();
        all.truncate(all.len() - 1000);
        all
    }

    fn blocks(threads: usize) -> Blocks<Vec<u8>> {
        Blocks::with_threads(tempfile::tempfile().unwrap(), threads).unwrap()
    }

    /// Files of many parts, of one, and a target.
    fn put_all(blocks: &mut Blocks<Vec<u8>>, content: &[u8]) -> String {
        let mut all = Vec::new();
        for len in [content.len(), 5000, 200_000, 4096] {
            all.push(blocks.put_file(&mut &content[..len], len as u64).unwrap());
            all.push(blocks.put_plain(&content[..4090]).unwrap());
        }
        format!("{all:?}")
    }

    #[test]
    fn the_number_of_threads_does_not_show() {
        let content = content();
        let stored = |threads| {
            let mut blocks = blocks(threads);
            blocks.begin(Vec::new());
            let data = put_all(&mut blocks, &content);
            let (run, bytes) = blocks.end().unwrap();
            (data, run, bytes.unwrap())
        };
        let alone = stored(1);
        assert!(alone.1.parts.iter().any(|part| part & COMPRESSED != 0));
        assert!(alone.1.parts.iter().any(|part| part & COMPRESSED == 0));
        assert_eq!(alone.2.len() as u64, alone.1.blocks() * BLOCK as u64);
        for threads in [2, 3, MAX_PARTS, 40] {
            assert!(stored(threads) == alone, "{threads} threads");
        }
    }

    #[test]
    fn a_known_run_takes_the_place_of_what_it_was_made_of_and_of_nothing_else() {
        let content = content();
        let mut first = blocks(2);
        first.begin(Vec::new());
        let data = put_all(&mut first, &content);
        let (run, _) = first.end().unwrap();
        let mut again = blocks(2);
        again.begin_known(&Run::from_bytes(run.as_bytes().to_vec()));
        assert_eq!(put_all(&mut again, &content), data);
        assert_eq!(again.end().unwrap(), (run.clone(), None));
        assert_eq!(again.into_parts().unwrap().0, run.parts);
        let mut shorter = blocks(2);
        shorter.begin_known(&run);
        shorter.put_file(&mut io::empty(), content.len() as u64).unwrap();
        assert!(matches!(shorter.end(), Err(WriteError::OtherRun)));
        let mut other = blocks(2);
        other.begin_known(&run);
        assert!(matches!(other.put_plain(&[1; 4090]), Err(WriteError::OtherRun)));
    }

    #[test]
    fn files_need_a_run() {
        assert!(matches!(blocks(1).put_file(&mut &[0; 9000][..], 9000), Err(WriteError::NoRun)));
    }
}
