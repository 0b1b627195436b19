//! Reads archives, entry by entry, and refuses what is malformed.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::{self, Read, Take};

use thiserror::Error;

use super::header::{HEADER_BYTES, Header, HeaderError};
use super::{Device, Entry, HardLink, Kind, MAX_PATH_BYTES, PERMISSION_BITS, TRAILER, padding, printable};

const TYPE_BITS: u32 = !PERMISSION_BITS;

/// One archive, or several that follow each other as ramdisks may (with zero bytes between and behind them).
///
/// ```
/// # fn main() -> Result<(), eif::cpio::ReadError> {
/// # let bytes = eif::cpio::Writer::new(Vec::new()).finish().unwrap();
/// use std::io::Read;
/// use eif::cpio::Reader;
///
/// let mut archive = Reader::new(bytes.as_slice(), bytes.len() as u64);
/// while let Some(entry) = archive.next_entry()? {
///     let mut content = Vec::new();
///     archive.read_to_end(&mut content)?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Reader<R> {
    input: Take<R>,
    length: u64,
    /// The size of the current entry's content and how much of it is unread, in bytes.
    content: u64,
    unread: u64,
    /// The current entry's time.
    modified: u32,
    /// How many archives have ended.
    archives: u32,
    is_within_archive: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the `length` bytes of `input`, which had better be buffered: headers are read in small pieces.
    pub fn new(input: R, length: u64) -> Self {
        Self {
            input: input.take(length),
            length,
            content: 0,
            unread: 0,
            modified: 0,
            archives: 0,
            is_within_archive: true,
        }
    }

    /// The next entry, `None` at the end. Its content, if it is a file, can then be read from this reader; what is
    /// not read is skipped.
    ///
    /// # Errors
    ///
    /// When the input cannot be read or is not a well-formed archive. Then there is nothing more to be had of it.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        self.skip_content()?;
        while let Some((at, header)) = self.header()? {
            let name = self.name(at, header.name_size)?;
            self.is_within_archive = name != TRAILER;
            if self.is_within_archive {
                return self.entry(at, &header, name).map(Some);
            }
            self.archives = self.archives.saturating_add(1);
        }
        Ok(None)
    }

    /// The content of the regular file `name`, of at most `limit` bytes, from among the entries that follow; `None` when
    /// there is none, it is longer, or something else.
    ///
    /// # Errors
    ///
    /// As [`Reader::next_entry`].
    pub fn find_file(&mut self, name: &[u8], limit: u64) -> Result<Option<Vec<u8>>, ReadError> {
        while let Some(entry) = self.next_entry()? {
            if entry.name != name {
                continue;
            }
            return match entry.kind {
                Kind::File { size, link: None } if size <= limit => {
                    let mut bytes = Vec::new();
                    self.read_to_end(&mut bytes)?;
                    Ok(Some(bytes))
                }
                _ => Ok(None),
            };
        }
        Ok(None)
    }

    /// When the current entry says it was modified, in seconds since 1970. Entries that [`Writer`](super::Writer) wrote
    /// say 0.
    pub fn modified(&self) -> u32 {
        self.modified
    }

    /// How far reading has come, in bytes: with an entry just begun, where its content starts.
    pub fn position(&self) -> u64 {
        self.length.saturating_sub(self.input.limit())
    }

    /// The next header and where it is; `None` if the last archive has ended. Between archives there may be zeros, and
    /// each starts at a multiple of four bytes: the kernel takes anything else for a compressed archive.
    fn header(&mut self) -> Result<Option<(u64, Header)>, ReadError> {
        let mut bytes = [0; 110];
        loop {
            let at = self.position();
            if self.input.limit() == 0 && !self.is_within_archive {
                return Ok(None);
            }
            let (word, rest) = bytes.split_first_chunk_mut::<4>().expect("a header is longer than that");
            self.exactly(at, word)?;
            if *word == [0; 4] && !self.is_within_archive {
                continue;
            }
            self.exactly(at, rest)?;
            let header = Header::decode(&bytes).map_err(|error| match error {
                HeaderError::Magic(found) => ReadError::Magic { at, found },
                HeaderError::Number(index) => ReadError::Number { at, index },
            })?;
            return Ok(Some((at, header)));
        }
    }

    /// Reads a name and what pads it. Some writers align content by giving a name more than one NUL.
    fn name(&mut self, at: u64, size: u32) -> Result<Vec<u8>, ReadError> {
        let longest = MAX_PATH_BYTES.saturating_add(1);
        let length = usize::try_from(size).ok().filter(|length| (2..=longest).contains(length));
        let mut name = vec![0; length.ok_or(ReadError::NameLength { at, found: size })?];
        self.exactly(at, &mut name)?;
        self.skip_padding(HEADER_BYTES.saturating_add(u64::from(size)))?;
        let end = name.iter().position(|byte| *byte == 0).ok_or(ReadError::Name { at })?;
        let nuls = name.split_off(end);
        if name.is_empty() || nuls.iter().any(|byte| *byte != 0) {
            return Err(ReadError::Name { at });
        }
        Ok(name)
    }

    fn entry(&mut self, at: u64, header: &Header, name: Vec<u8>) -> Result<Entry, ReadError> {
        let size = u64::from(header.file_size);
        let padded = size.saturating_add(padding(size));
        if padded > self.input.limit() {
            return Err(ReadError::Truncated { at, needed: padded, available: self.input.limit() });
        }
        let kind = self.kind(at, header)?;
        self.modified = header.modified;
        Ok(Entry { name, permissions: header.mode & PERMISSION_BITS, uid: header.uid, gid: header.gid, kind })
    }

    fn kind(&mut self, at: u64, header: &Header) -> Result<Kind, ReadError> {
        let size = u64::from(header.file_size);
        let node = Device { major: header.node.0, minor: header.node.1 };
        let kind = match header.mode & TYPE_BITS {
            0o100_000 => {
                (self.content, self.unread) = (size, size);
                return Ok(Kind::File { size, link: self.link(header) });
            }
            0o120_000 => return self.symlink(at, header.file_size),
            0o010_000 => Kind::Fifo,
            0o020_000 => Kind::CharacterDevice(node),
            0o040_000 => Kind::Directory,
            0o060_000 => Kind::BlockDevice(node),
            0o140_000 => Kind::Socket,
            _ => return Err(ReadError::Mode { at, found: header.mode }),
        };
        if size == 0 { Ok(kind) } else { Err(ReadError::UnexpectedContent { at, found: size }) }
    }

    /// The kernel forgets inode numbers at the end of an archive, so those of another mean other files.
    fn link(&self, header: &Header) -> Option<HardLink> {
        let group = u64::from(self.archives).wrapping_shl(32) | u64::from(header.inode);
        (header.links > 1).then_some(HardLink { group, names: header.links })
    }

    fn symlink(&mut self, at: u64, size: u32) -> Result<Kind, ReadError> {
        let length = usize::try_from(size).ok().filter(|length| (1..=MAX_PATH_BYTES).contains(length));
        let mut target = vec![0; length.ok_or(ReadError::TargetLength { at, found: size })?];
        self.exactly(at, &mut target)?;
        self.skip_padding(u64::from(size))?;
        if target.contains(&0) {
            return Err(ReadError::TargetNul { at, target: printable(&target) });
        }
        Ok(Kind::Symlink { target })
    }

    fn exactly(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let (needed, available) = (buffer.len() as u64, self.input.limit());
        if needed > available {
            return Err(ReadError::Truncated { at, needed, available });
        }
        Ok(self.input.read_exact(buffer)?)
    }

    fn skip_padding(&mut self, length: u64) -> Result<(), ReadError> {
        let at = self.position();
        let mut zeros = [0; 4];
        let (zeros, _) =
            zeros.split_at_mut(usize::try_from(padding(length)).expect("padding is at most three bytes"));
        self.exactly(at, zeros)?;
        if zeros.iter().any(|byte| *byte != 0) { Err(ReadError::Padding { at }) } else { Ok(()) }
    }

    fn skip_content(&mut self) -> Result<(), ReadError> {
        io::copy(self, &mut io::sink())?;
        let content = std::mem::take(&mut self.content);
        self.skip_padding(content)
    }
}

/// Reads the content of the current entry.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.by_ref().take(self.unread).read(buffer)?;
        if read == 0 && self.unread > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unread = self.unread.saturating_sub(read as u64);
        Ok(read)
    }
}

/// Why an archive was refused. `at` is where the entry's header (or the padding) starts, in bytes from the start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The archive could not be read.
    #[error("cannot read the archive")]
    Io(#[from] io::Error),
    /// The archive ends early.
    #[error("the entry at byte {at} needs {needed} bytes more, but {available} are left")]
    Truncated {
        /// Where.
        at: u64,
        /// How many bytes should follow.
        needed: u64,
        /// How many do.
        available: u64,
    },
    /// No entry starts here. A compressed archive has to be decompressed first.
    #[error("no newc entry starts at byte {at}: found \"{}\", expected \"070701\"", printable(.found))]
    Magic {
        /// Where.
        at: u64,
        /// What is there.
        found: [u8; 6],
    },
    /// A header's number is not eight hexadecimal digits.
    #[error(
        "the header at byte {at} has something else than eight hexadecimal digits as number {index} of 13 (from 0)"
    )]
    Number {
        /// Where.
        at: u64,
        /// Which.
        index: usize,
    },
    /// A name is empty or too long.
    #[error("the entry at byte {at} has a name of {found} bytes with its NUL; 2 to {} are accepted", MAX_PATH_BYTES + 1)]
    NameLength {
        /// Where.
        at: u64,
        /// What the header says, in bytes.
        found: u32,
    },
    /// A name is empty, not ended by a NUL or has one in the middle.
    #[error("the entry at byte {at} has a name that is empty or in which the NUL is not at the end")]
    Name {
        /// Where.
        at: u64,
    },
    /// A mode with an unknown file type or unknown bits.
    #[error("the entry at byte {at} has mode {found:o}, which is no kind of file")]
    Mode {
        /// Where.
        at: u64,
        /// The mode.
        found: u32,
    },
    /// A directory, device, pipe or socket with content.
    #[error("the entry at byte {at} is not a file and has {found} bytes of content")]
    UnexpectedContent {
        /// Where.
        at: u64,
        /// What the header says, in bytes.
        found: u64,
    },
    /// The target of a symbolic link is empty or too long.
    #[error(
        "the symbolic link at byte {at} has a target of {found} bytes; 1 to {MAX_PATH_BYTES} are accepted"
    )]
    TargetLength {
        /// Where.
        at: u64,
        /// What the header says, in bytes.
        found: u32,
    },
    /// The target of a symbolic link has a NUL in it.
    #[error("the symbolic link at byte {at} has a NUL in its target, {target}")]
    TargetNul {
        /// Where.
        at: u64,
        /// The target, with everything but printable ASCII escaped.
        target: String,
    },
    /// What pads a name or content is not zero.
    #[error("the padding at byte {at} is not zero")]
    Padding {
        /// Where.
        at: u64,
    },
}
