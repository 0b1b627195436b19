//! Names in a directory.

use super::{Inode, InodeKind, Number, ReadAt, ReadError, Reader, fields::Fields};
use crate::format::{BLOCK, BLOCK_BYTES, DIRENT_BYTES, MAX_NAME_BYTES};

const MALFORMED: ReadError = ReadError::Malformed { what: "a directory" };

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Neither `.` nor `..`, and without `/` and NUL.
    pub name: Vec<u8>,
    /// What it stands for.
    pub inode: Number,
}

impl<S: ReadAt> Reader<S> {
    /// Calls `found` with each name in a directory, in order of their bytes.
    ///
    /// # Errors
    /// [`ReadError`], and what `found` returns.
    pub fn directory<E: From<ReadError>>(
        &self,
        inode: &Inode,
        mut found: impl FnMut(DirectoryEntry) -> Result<(), E>,
    ) -> Result<(), E> {
        if inode.kind != InodeKind::Directory {
            return Err(MALFORMED.into());
        }
        let mut last: Option<Vec<u8>> = None;
        let mut position = 0;
        while position < inode.size {
            let left = inode.size.saturating_sub(position).min(BLOCK_BYTES);
            let mut block = vec![0; usize::try_from(left).unwrap_or(BLOCK)];
            self.read_plain(inode, &mut block, position)?;
            for entry in entries(&block)? {
                if last.as_ref().is_some_and(|last| *last >= entry.name) {
                    return Err(MALFORMED.into());
                }
                last = Some(entry.name.clone());
                if !matches!(entry.name.as_slice(), b"." | b"..") {
                    found(entry)?;
                }
            }
            position = position.saturating_add(left);
        }
        Ok(())
    }
}

/// The names in a block.
fn entries(block: &[u8]) -> Result<Vec<DirectoryEntry>, ReadError> {
    let records = usize::from(Fields(block).u16(8));
    let table = block.get(..records).filter(|table| table.len() >= DIRENT_BYTES).ok_or(MALFORMED)?;
    let (records, rest) = table.as_chunks::<DIRENT_BYTES>();
    if !rest.is_empty() {
        return Err(MALFORMED);
    }
    let starts: Vec<usize> = records.iter().map(|record| Fields(record).u16(8).into()).collect();
    let ends = starts.iter().skip(1).copied().chain([block.len()]);
    let parts = records.iter().zip(starts.iter().copied().zip(ends));
    parts.map(|(record, (start, end))| entry(record, block.get(start..end).ok_or(MALFORMED)?)).collect()
}

fn entry(record: &[u8], name: &[u8]) -> Result<DirectoryEntry, ReadError> {
    // In a block that others follow, the last name ends with a NUL or with the block.
    let name = name.split(|b| *b == 0).next().unwrap_or_default();
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(&b'/') {
        return Err(MALFORMED);
    }
    Ok(DirectoryEntry { name: name.to_vec(), inode: Number(Fields(record).u64(0)) })
}
