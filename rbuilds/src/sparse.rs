//! Files with holes, as GNU tar's `--sparse` stores them (GNU tar manual, "Storing Sparse Files"): the old form with a type
//! of its own, and the PAX versions 0.0, 0.1 and 1.0.
//!
//! It knows where the pieces of such a file go, and writes it out with its holes. The archive reader calls it.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use tar::{GnuExtSparseHeader, GnuSparseHeader, Header};

use crate::{
    archive::BLOCK_BYTES,
    content::Content,
    error::{EntryError, LayerError},
};

/// Most pieces of one file. Each is at least a block of a file system in real archives.
const MAX_PIECES: usize = 1 << 20;
/// Longest line of a map, in bytes: a number and its end.
const MAX_LINE_BYTES: u64 = 24;
const BUFFER_BYTES: usize = 64 << 10;

/// What PAX records say of a sparse file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SparseRecords {
    is_sparse: bool,
    major: u64,
    pub(crate) name: Option<Vec<u8>>,
    real_bytes: Option<u64>,
    /// Offsets and lengths by turns.
    numbers: Vec<u64>,
}

impl SparseRecords {
    /// Whether there was any.
    pub(crate) fn is_sparse(&self) -> bool {
        self.is_sparse
    }

    /// Takes the record `GNU.sparse.KEY`. `None` if it is malformed.
    pub(crate) fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        self.is_sparse = true;
        match key {
            b"major" => self.major = number(value)?,
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_bytes = Some(number(value)?),
            b"offset" | b"numbytes" => self.numbers.push(number(value)?),
            b"map" => self.numbers = value.split(|b| *b == b',').map(number).collect::<Option<_>>()?,
            _ => {}
        }
        (self.numbers.len() / 2 <= MAX_PIECES).then_some(())
    }

    /// The map, and how many bytes of it stand before the pieces. `stored` is the entry's content. `None` if it is malformed.
    pub(crate) fn map(&self, stored: &Content) -> Option<(SparseMap, u64)> {
        let real_bytes = self.real_bytes?;
        let (numbers, before) = match self.major {
            0 => (self.numbers.clone(), 0),
            1 => read_map(stored)?,
            _ => return None,
        };
        Some((SparseMap { real_bytes, numbers }, before))
    }
}

/// Reads the map of version 1.0: the number of pieces, then offset and length of each, in lines, filled up to a block.
fn read_map(stored: &Content) -> Option<(Vec<u64>, u64)> {
    let mut lines = BufReader::new(stored.open().ok()?);
    let mut read = 0_u64;
    let mut next = || -> Option<u64> {
        let mut line = Vec::new();
        lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line).ok()?;
        read = read.saturating_add(line.len() as u64);
        line.strip_suffix(b"\n").and_then(number)
    };
    let pieces = usize::try_from(next()?).ok().filter(|pieces| *pieces <= MAX_PIECES)?;
    let mut numbers = Vec::new();
    for _ in 0..pieces.saturating_mul(2) {
        numbers.push(next()?);
    }
    Some((numbers, read.next_multiple_of(BLOCK_BYTES)))
}

/// Where the pieces of a file go.
#[derive(Debug)]
pub(crate) struct SparseMap {
    /// Length of the file with its holes, in bytes.
    pub(crate) real_bytes: u64,
    /// Offsets and lengths by turns.
    numbers: Vec<u64>,
}

impl SparseMap {
    /// The map of the old form, of which the header has the beginning. What does not fit stands in blocks behind the header: the
    /// second value is how many bytes those take. `behind` is the archive from there on. `None` if it is malformed.
    pub(crate) fn old(header: &Header, behind: &Content) -> Option<(Self, u64)> {
        let gnu = header.as_gnu()?;
        let mut map = Self { real_bytes: gnu.real_size().ok()?, numbers: Vec::new() };
        map.take(&gnu.sparse)?;
        let (mut extended, mut read) = (gnu.is_extended(), 0_u64);
        while extended {
            let mut block = GnuExtSparseHeader::new();
            behind.read_exact_at(block.as_mut_bytes(), read).ok()?;
            map.take(&block.sparse)?;
            extended = block.is_extended();
            read = read.saturating_add(BLOCK_BYTES);
        }
        Some((map, read))
    }

    fn take(&mut self, pieces: &[GnuSparseHeader]) -> Option<()> {
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            self.numbers.push(piece.offset().ok()?);
            self.numbers.push(piece.length().ok()?);
        }
        (self.numbers.len() / 2 <= MAX_PIECES).then_some(())
    }

    /// Offset and length of each piece, if they follow one another within the file and are `stored_bytes` in all.
    fn pieces(&self, stored_bytes: u64) -> Result<Vec<(u64, u64)>, EntryError> {
        let (mut end, mut total) = (0_u64, 0_u64);
        let mut pieces = Vec::new();
        for pair in self.numbers.chunks(2) {
            let &[offset, len] = pair else { return Err(EntryError::Sparse) };
            let next = offset.checked_add(len).filter(|next| offset >= end && *next <= self.real_bytes);
            end = next.ok_or(EntryError::Sparse)?;
            total = total.saturating_add(len);
            pieces.push((offset, len));
        }
        if total == stored_bytes { Ok(pieces) } else { Err(EntryError::Sparse) }
    }
}

/// A file for those of one archive that had holes, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Spool {
    file: Option<Arc<File>>,
    len: u64,
}

impl Spool {
    /// Writes a file out. The holes take no room on the disk where its file system has such.
    pub(crate) fn write(
        &mut self,
        map: &SparseMap,
        stored: &Content,
        folder: &Path,
        at: impl Fn(EntryError) -> LayerError,
    ) -> Result<Content, LayerError> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => Arc::new(tempfile::tempfile_in(folder).map_err(LayerError::Spool)?),
        };
        self.file = Some(Arc::clone(&file));
        let begin = self.len;
        let mut source = stored.open().map_err(LayerError::Damaged)?;
        let mut buffer = vec![0; BUFFER_BYTES];
        for (offset, len) in map.pieces(stored.len()).map_err(&at)? {
            let mut to = begin.saturating_add(offset);
            let mut piece = source.by_ref().take(len);
            loop {
                let chunk = match piece.read(&mut buffer) {
                    Ok(n) => buffer.get(..n).unwrap_or_default(),
                    Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(LayerError::Truncated),
                    Err(e) => return Err(LayerError::Damaged(e)),
                };
                if chunk.is_empty() {
                    break;
                }
                file.write_all_at(chunk, to).map_err(LayerError::Spool)?;
                to = to.saturating_add(chunk.len() as u64);
            }
        }
        self.len = begin.saturating_add(map.real_bytes);
        file.set_len(self.len).map_err(LayerError::Spool)?;
        Ok(Content::slice(file, begin, map.real_bytes))
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(real_bytes: u64, numbers: &[u64]) -> SparseMap {
        SparseMap { real_bytes, numbers: numbers.to_vec() }
    }

    #[test]
    fn pieces_follow_one_another_within_the_file_and_are_all_that_is_stored() {
        assert_eq!(map(10, &[2, 3, 5, 1, 10, 0]).pieces(4).unwrap(), [(2, 3), (5, 1), (10, 0)]);
        assert_eq!(map(10, &[]).pieces(0).unwrap(), []);
        for (real_bytes, numbers, stored) in [
            (10, &[2, 3, 4, 1][..], 4), // overlapping
            (10, &[5, 1, 2, 3], 4),     // backwards
            (10, &[8, 3], 3),           // beyond the end
            (10, &[u64::MAX, 2], 2),
            (10, &[2], 0), // an offset alone
            (10, &[2, 3], 4),
            (10, &[2, 3], 2),
        ] {
            let pieces = map(real_bytes, numbers).pieces(stored);
            assert!(matches!(pieces, Err(EntryError::Sparse)), "{numbers:?} {stored}");
        }
    }

    #[test]
    fn records_of_each_version_give_the_same_map() {
        let records = |all: &[(&str, &str)]| {
            let mut records = SparseRecords::default();
            all.iter().for_each(|(key, value)| records.set(key.as_bytes(), value.as_bytes()).unwrap());
            records
        };
        let stored = |bytes: &[u8]| {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(bytes, 0).unwrap();
            Content::slice(Arc::new(file), 0, bytes.len() as u64)
        };
        let first = [
            ("size", "9"),
            ("numblocks", "2"),
            ("offset", "1"),
            ("numbytes", "2"),
            ("offset", "9"),
            ("numbytes", "0"),
        ];
        let (map, before) = records(&first).map(&stored(b"ab")).unwrap();
        assert_eq!((map.numbers.as_slice(), map.real_bytes, before), (&[1, 2, 9, 0][..], 9, 0));
        let (map, before) = records(&[("size", "9"), ("map", "1,2,9,0")]).map(&stored(b"ab")).unwrap();
        assert_eq!((map.numbers.as_slice(), map.real_bytes, before), (&[1, 2, 9, 0][..], 9, 0));
        let last = records(&[("major", "1"), ("minor", "0"), ("realsize", "9")]);
        let (map, before) = last.map(&stored(b"2\n1\n2\n9\n0\n\0\0")).unwrap();
        assert_eq!((map.numbers.as_slice(), map.real_bytes, before), (&[1, 2, 9, 0][..], 9, 512));
        for bad in [&b"2\n1\n"[..], b"x\n", b"99999999999\n", b"1\n1\n111111111111111111111111111111\n", b"1"]
        {
            assert!(last.map(&stored(bad)).is_none(), "{}", bad.escape_ascii());
        }
        assert!(records(&[("major", "2"), ("realsize", "9")]).map(&stored(b"")).is_none());
        assert!(records(&[("map", "1,2")]).map(&stored(b"")).is_none(), "no length");
        assert_eq!(SparseRecords::default().set(b"map", b"1,x"), None);
    }
}
