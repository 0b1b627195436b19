//! Names, and directories made of them.

use super::{InodeId, WriteError, escaped};
use crate::format::{BLOCK, DIRENT_BYTES};

/// All names of an image. They stand in one piece of memory: there are millions of them.
#[derive(Debug, Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    parent: InodeId,
    inode: InodeId,
    at: u32,
    len: u8,
}

impl Names {
    pub(super) fn push(&mut self, parent: InodeId, name: &[u8], inode: InodeId) -> Result<(), WriteError> {
        let at = u32::try_from(self.bytes.len()).map_err(|_| WriteError::TooLarge)?;
        let len = u8::try_from(name.len()).map_err(|_| WriteError::TooLarge)?;
        self.bytes.extend(name);
        self.entries.push(Entry { parent, inode, at, len });
        Ok(())
    }

    fn name(&self, entry: &Entry) -> &[u8] {
        let at = entry.at as usize;
        &self.bytes[at..at + usize::from(entry.len)]
    }

    /// Sorts them by directory and name.
    pub(super) fn sort(&mut self) -> Result<(), WriteError> {
        let bytes = &self.bytes;
        let key = |e: &Entry| (e.parent, &bytes[e.at as usize..e.at as usize + usize::from(e.len)]);
        self.entries.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
        match self.entries.windows(2).find(|pair| key(&pair[0]) == key(&pair[1])) {
            Some(pair) => Err(WriteError::Twice { name: escaped(self.name(&pair[0])) }),
            None => Ok(()),
        }
    }

    /// All of them: directory and what the name stands for.
    pub(super) fn iter(&self) -> impl Iterator<Item = (InodeId, InodeId)> {
        self.entries.iter().map(|entry| (entry.parent, entry.inode))
    }

    /// A directory's names in the order in which they stand in it, once all are sorted; `.` and `..` are among them.
    pub(super) fn of(&self, directory: InodeId, parent: InodeId) -> Vec<(&[u8], InodeId)> {
        let start = self.entries.partition_point(|entry| entry.parent < directory);
        let end = self.entries.partition_point(|entry| entry.parent <= directory);
        let mut names: Vec<(&[u8], InodeId)> = vec![(b".", directory), (b"..", parent)];
        names.extend(self.entries[start..end].iter().map(|entry| (self.name(entry), entry.inode)));
        // Other names may come before these two.
        names.sort_unstable();
        names
    }
}

/// Parts the names of a directory into blocks.
pub(super) fn blocks<'n, 'a>(
    names: &'n [(&'a [u8], InodeId)],
) -> impl Iterator<Item = &'n [(&'a [u8], InodeId)]> {
    let mut left = names;
    std::iter::from_fn(move || {
        let mut filled = 0;
        let fits = left.iter().take_while(|(name, _)| {
            filled += DIRENT_BYTES + name.len();
            filled <= BLOCK
        });
        let (block, rest) = left.split_at(fits.count());
        left = rest;
        (!block.is_empty()).then_some(block)
    })
}

/// How many bytes of a block such names take.
pub(super) fn filled(block: &[(&[u8], InodeId)]) -> usize {
    block.iter().map(|(name, _)| DIRENT_BYTES + name.len()).sum()
}
