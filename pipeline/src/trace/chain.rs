//! The chain over a transcript, entry by entry: what the server keeps and an auditor checks.

use std::io::{self, Read};

use super::entry::{Entry, EntryError, Head, MAX_ENTRY_BYTES};

/// A chain, as far as its entries were given to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    head: Head,
    before: Head,
    count: u64,
}

/// Why an entry does not go on where a chain stands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// It is no entry.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// One before it is missing, or it stands in another's place.
    #[error("entry {found} of the transcript stands where entry {expected} should be")]
    Number {
        /// The number that comes next.
        expected: u64,
        /// The number the entry has.
        found: u64,
    },
}

impl Default for Chain {
    fn default() -> Self {
        Self { head: Head::empty(), before: Head::empty(), count: 0 }
    }
}

impl Chain {
    /// Takes the next entry.
    ///
    /// # Errors
    /// When it is none, or not the next.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Entry, ChainError> {
        let entry = Entry::decode(bytes)?;
        let expected = self.count.saturating_add(1);
        if entry.number != expected {
            return Err(ChainError::Number { expected, found: entry.number });
        }
        self.before = self.head;
        self.head = self.head.after(bytes);
        self.count = expected;
        Ok(entry)
    }

    /// The head after the entries so far.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The head before the last entry.
    pub fn before(&self) -> Head {
        self.before
    }

    /// How many entries there were.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// Hands the entries of a transcript to `each`, and returns how many bytes they take. A last entry that is not there as a
/// whole is left out.
///
/// # Errors
/// Those of reading and of `each`; [`io::ErrorKind::InvalidData`] for a length that no entry has.
pub fn read_entries(mut from: impl Read, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
    let (mut bytes, mut entry) = (0, Vec::new());
    loop {
        let mut length = [0; 4];
        if !fill(&mut from, &mut length)? {
            return Ok(bytes);
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_ENTRY_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        entry.resize(length, 0);
        if !fill(&mut from, &mut entry)? {
            return Ok(bytes);
        }
        each(&entry)?;
        bytes += 4 + entry.len() as u64;
    }
}

/// Fills the whole buffer; false if the stream ends before.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
