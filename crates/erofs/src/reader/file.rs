//! What files hold.

use std::io::{self, Read};

use super::{Inode, InodeKind, ReadAt, ReadError, Reader, fields::Fields};
use crate::format::{
    ADVISE_BIG_CLUSTER, BLOCK, BLOCK_BYTES, CLUSTER_CONTINUED, CLUSTER_HEAD, CLUSTER_PLAIN,
    COMPRESSED_BLOCKS, EXTENT_BLOCKS, EXTENT_BYTES, INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES, LAYOUT_COMPRESSED,
    LZ4,
};

const MALFORMED: ReadError = ReadError::Malformed { what: "the index of a compressed file" };

/// Reads a file from its beginning to its end.
#[derive(Debug)]
pub struct FileReader<'r, S> {
    reader: &'r Reader<S>,
    inode: Inode,
    /// What has been read of the file.
    position: u64,
    /// The part of it read ahead, and how much of that is taken.
    part: Vec<u8>,
    taken: usize,
}

impl<S: ReadAt> Reader<S> {
    /// A reader of a file's content.
    ///
    /// # Errors
    /// [`ReadError`] for what is no file, or compressed in another way.
    pub fn file(&self, inode: &Inode) -> Result<FileReader<'_, S>, ReadError> {
        if inode.kind != InodeKind::File {
            return Err(ReadError::Malformed { what: "a file" });
        }
        if inode.layout == LAYOUT_COMPRESSED {
            self.check_index(inode)?;
        }
        Ok(FileReader { reader: self, inode: inode.clone(), position: 0, part: Vec::new(), taken: 0 })
    }

    /// An index that fits into the image also bounds how long the file can be.
    fn check_index(&self, inode: &Inode) -> Result<(), ReadError> {
        let mut header = [0; INDEX_HEADER_BYTES];
        self.read(&mut header, index_at(inode, 0).saturating_sub(INDEX_HEADER_BYTES as u64), "an index")?;
        let fields = Fields(&header);
        if fields.u32(0) != 0 || fields.u16(4) != ADVISE_BIG_CLUSTER || fields.u16(6) != u16::from(LZ4) {
            return Err(ReadError::Unsupported { what: "another kind of index" });
        }
        if index_at(inode, inode.size.div_ceil(BLOCK_BYTES)) > self.len {
            return Err(ReadError::Outside { what: "an index" });
        }
        Ok(())
    }

    /// Reads the part of a compressed file that begins at `position`.
    fn part(&self, inode: &Inode, position: u64, part: &mut Vec<u8>) -> Result<(), ReadError> {
        let left = inode.size.saturating_sub(position).min(EXTENT_BYTES as u64);
        let len = usize::try_from(left).unwrap_or(EXTENT_BYTES);
        let entries = len.div_ceil(BLOCK);
        let mut index = vec![0; entries.saturating_mul(INDEX_ENTRY_BYTES)];
        self.read(&mut index, index_at(inode, position / BLOCK_BYTES), "an index")?;
        let (index, _) = index.as_chunks::<INDEX_ENTRY_BYTES>();
        let (first, rest) = index.split_first().ok_or(MALFORMED)?;
        let first = Fields(first);
        part.clear();
        match (first.u16(0), first.u16(2)) {
            (CLUSTER_PLAIN, 0) => {
                part.resize(len.min(BLOCK), 0);
                self.read(part, u64::from(first.u32(4)).saturating_mul(BLOCK_BYTES), "a block")
            }
            (CLUSTER_HEAD, 0) => {
                let continued = rest.iter().take_while(|entry| Fields(*entry).u16(0) == CLUSTER_CONTINUED);
                let blocks = continued.count().saturating_add(1);
                part.resize(len.min(blocks.saturating_mul(BLOCK)), 0);
                let packed = compressed_blocks(rest).ok_or(MALFORMED)?;
                self.unpack(first.u32(4), packed, part)
            }
            _ => Err(MALFORMED),
        }
    }

    /// Fills `part` with what is compressed in so many blocks.
    fn unpack(&self, block: u32, blocks: usize, part: &mut [u8]) -> Result<(), ReadError> {
        const DAMAGED: ReadError = ReadError::Malformed { what: "the compressed content of a file" };
        let mut packed = vec![0; blocks.saturating_mul(BLOCK)];
        self.read(&mut packed, u64::from(block).saturating_mul(BLOCK_BYTES), "a block")?;
        let start = packed.iter().take(BLOCK).position(|byte| *byte != 0).ok_or(DAMAGED)?;
        let packed = packed.get(start..).ok_or(DAMAGED)?;
        match lz4_flex::block::decompress_into(packed, part) {
            Ok(len) if len == part.len() => Ok(()),
            _ => Err(DAMAGED),
        }
    }
}

/// Where a file's index says where its block `block` is.
fn index_at(inode: &Inode, block: u64) -> u64 {
    let start =
        inode.end.next_multiple_of(INDEX_ENTRY_BYTES as u64).saturating_add(INDEX_HEADER_BYTES as u64);
    start.saturating_add(block.saturating_mul(INDEX_ENTRY_BYTES as u64))
}

/// How many blocks there are compressed, from the entries behind the first.
fn compressed_blocks(rest: &[[u8; INDEX_ENTRY_BYTES]]) -> Option<usize> {
    let second = Fields(rest.first()?);
    let blocks = second.u16(4) & !COMPRESSED_BLOCKS;
    let stated = second.u16(0) == CLUSTER_CONTINUED && second.u16(4) & COMPRESSED_BLOCKS != 0;
    (stated && (1..=EXTENT_BLOCKS).contains(&blocks.into())).then_some(blocks.into())
}

impl<S: ReadAt> FileReader<'_, S> {
    fn refill(&mut self) -> Result<(), ReadError> {
        self.taken = 0;
        if self.inode.layout == LAYOUT_COMPRESSED {
            return self.reader.part(&self.inode, self.position, &mut self.part);
        }
        let whole = self.inode.size.saturating_sub(self.inode.tail_bytes());
        let end = if self.position < whole { whole } else { self.inode.size };
        let len = end.saturating_sub(self.position).min(EXTENT_BYTES as u64);
        self.part.resize(usize::try_from(len).unwrap_or(EXTENT_BYTES), 0);
        self.reader.read_plain(&self.inode, &mut self.part, self.position)
    }
}

impl<S: ReadAt> Read for FileReader<'_, S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.part.len() {
            if self.position >= self.inode.size || buf.is_empty() {
                return Ok(0);
            }
            self.part.clear();
            if let Err(error) = self.refill() {
                self.part.clear();
                return Err(io::Error::other(error));
            }
        }
        let n = self.part.get(self.taken..).unwrap_or_default().read(buf)?;
        self.taken = self.taken.saturating_add(n);
        self.position = self.position.saturating_add(n as u64);
        Ok(n)
    }
}
