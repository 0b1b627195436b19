//! What files hold, in blocks: compressed where that saves blocks.
//!
//! Parts of a file are compressed independently of each other, so by as many threads as there are processors; which of
//! them did what does not show.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    num::NonZeroUsize,
    thread,
};

use super::{Data, WriteError};
use crate::format::{BLOCK, BLOCK_BYTES, EXTENT_BYTES};

/// How many parts are held at once, and at most as many threads.
const MAX_PARTS: usize = 16;

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) block: u32,
    pub(super) blocks: u16,
    pub(super) compressed: bool,
}

/// The data of an image, of which the first block is the superblock's.
#[derive(Debug)]
pub(super) struct Blocks {
    blocks: BufWriter<File>,
    /// The address of the next one.
    next: u32,
    tails: BufWriter<File>,
    threads: usize,
}

impl Blocks {
    pub(super) fn new(mut image: File, tails: File) -> io::Result<Self> {
        image.seek(SeekFrom::Start(BLOCK_BYTES))?;
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_PARTS);
        let (blocks, tails) = (BufWriter::with_capacity(EXTENT_BYTES, image), BufWriter::new(tails));
        Ok(Self { blocks, next: 1, tails, threads })
    }

    /// Takes data that will stand behind its inode.
    pub(super) fn put_tail(&mut self, data: &[u8]) -> Result<(), WriteError> {
        self.tails.write_all(data).map_err(WriteError::Io)
    }

    /// Takes data as it is.
    pub(super) fn put_plain(&mut self, data: &[u8]) -> Result<u32, WriteError> {
        Ok(self.put_part(data, None)?.block)
    }

    /// Takes the content of a file.
    pub(super) fn put_file(&mut self, content: &mut dyn Read, size: u64) -> Result<Data, WriteError> {
        let first = self.next;
        let mut extents = Vec::new();
        let mut left = size;
        let mut parts: Vec<Part> = Vec::new();
        while left > 0 {
            let batch = left.div_ceil(EXTENT_BYTES as u64).min(MAX_PARTS as u64);
            parts.resize_with(usize::try_from(batch).unwrap_or(MAX_PARTS), Part::default);
            for part in &mut parts {
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(EXTENT_BYTES);
                part.raw.resize(len, 0);
                content.read_exact(&mut part.raw).map_err(WriteError::Content)?;
                left -= len as u64;
            }
            compress_all(&mut parts, self.threads);
            for part in &parts {
                extents.push(self.put_part(&part.raw, part.saves.then_some(&part.packed))?);
            }
        }
        // Nothing was saved: then the blocks are the file.
        if extents.iter().all(|extent| !extent.compressed) {
            return Ok(Data::Plain(first));
        }
        Ok(Data::Compressed(extents.into()))
    }

    fn put_part(&mut self, raw: &[u8], packed: Option<&Vec<u8>>) -> Result<Extent, WriteError> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        let bytes = packed.map_or(raw, Vec::as_slice);
        let blocks = u16::try_from(bytes.len().div_ceil(BLOCK)).map_err(|_| WriteError::TooLarge)?;
        let padding = &ZEROS[..usize::from(blocks) * BLOCK - bytes.len()];
        // Compressed data stands at the end of its blocks, other data at the beginning.
        let order = if packed.is_some() { [padding, bytes] } else { [bytes, padding] };
        for piece in order {
            self.blocks.write_all(piece).map_err(WriteError::Io)?;
        }
        let block = self.next;
        self.next = block.checked_add(blocks.into()).ok_or(WriteError::TooLarge)?;
        Ok(Extent { block, blocks, compressed: packed.is_some() })
    }

    /// How many blocks there are, with the superblock's.
    pub(super) fn count(&self) -> u32 {
        self.next
    }

    /// The image, to be gone on with, and the tails from their beginning.
    pub(super) fn into_parts(self) -> io::Result<(BufWriter<File>, BufReader<File>)> {
        let mut tails = self.tails.into_inner()?;
        tails.rewind()?;
        Ok((self.blocks, BufReader::with_capacity(EXTENT_BYTES, tails)))
    }
}

/// A part of a file on its way.
#[derive(Debug, Default)]
struct Part {
    raw: Vec<u8>,
    packed: Vec<u8>,
    saves: bool,
}

fn compress_all(parts: &mut [Part], threads: usize) {
    let each = parts.len().div_ceil(threads).max(1);
    if each == parts.len() {
        return parts.iter_mut().for_each(Part::compress);
    }
    thread::scope(|scope| {
        for share in parts.chunks_mut(each) {
            scope.spawn(|| share.iter_mut().for_each(Part::compress));
        }
    });
}

impl Part {
    fn compress(&mut self) {
        self.packed.resize(lz4_flex::block::get_maximum_output_size(self.raw.len()), 0);
        let len = lz4_flex::block::compress_into(&self.raw, &mut self.packed)
            .expect("there is room for the longest result");
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

    #[test]
    fn the_number_of_threads_does_not_show() {
        let content = content();
        let stored = |threads| {
            let mut blocks =
                Blocks::new(tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()).unwrap();
            blocks.threads = threads;
            let data = blocks.put_file(&mut content.as_slice(), content.len() as u64).unwrap();
            let (image, _) = blocks.into_parts().unwrap();
            let (mut file, mut bytes) = (image.into_inner().unwrap(), Vec::new());
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            (format!("{data:?}"), bytes)
        };
        let alone = stored(1);
        assert!(alone.0.contains("compressed: true") && alone.0.contains("compressed: false"));
        for threads in [2, 3, MAX_PARTS, 40] {
            assert!(stored(threads) == alone, "{threads} threads");
        }
    }
}
