//! Writes an archive, entry by entry.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use thiserror::Error;

use super::header::{HEADER_BYTES, Header};
use super::{
    Device, Entry, HardLink, Kind, MAX_FILE_BYTES, MAX_PATH_BYTES, PERMISSION_BITS, TRAILER, padding,
    printable,
};

/// The pieces in which content is copied, in bytes.
const COPY_BYTES: usize = 128 * 1024;

/// An archive being written. The same entries in the same order give the same bytes.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    last_inode: u32,
    /// Files of which not all names have come yet.
    links: BTreeMap<u64, PendingLink>,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct PendingLink {
    inode: u32,
    names: u32,
    written: u32,
}

impl<W: Write> Writer<W> {
    /// Begins an archive. Content is written in pieces of up to 128 KiB and headers in small ones.
    pub fn new(output: W) -> Self {
        Self { output, last_inode: 0, links: BTreeMap::new(), buffer: Vec::new() }
    }

    /// Adds an entry without content: anything but a file with a size other than 0.
    ///
    /// # Errors
    ///
    /// As [`Writer::file`].
    pub fn entry(&mut self, entry: &Entry) -> Result<(), WriteError> {
        self.file(entry, &mut io::empty())
    }

    /// Adds an entry whose content is all that `content` has, which must be as much as the entry says.
    ///
    /// # Errors
    ///
    /// When the entry cannot be put in this format, `content` cannot be read or has another length, or the output
    /// fails. The archive is of no use after any of them.
    pub fn file(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), WriteError> {
        check(entry)?;
        let (inode, links) = self.identify(entry)?;
        let node = match entry.kind {
            Kind::CharacterDevice(Device { major, minor }) | Kind::BlockDevice(Device { major, minor }) => {
                (major, minor)
            }
            _ => (0, 0),
        };
        let header = Header {
            inode,
            mode: entry.kind.type_bits() | entry.permissions,
            uid: entry.uid,
            gid: entry.gid,
            links,
            file_size: content_size(entry)?,
            node,
            ..Header::default()
        };
        self.put_header(header, &entry.name)?;
        match &entry.kind {
            Kind::Symlink { target } => self.put_padded(target),
            _ => self.put_content(entry, content, u64::from(header.file_size)),
        }
    }

    /// Ends the archive and gives the output back. Its length is a multiple of four, so another may follow.
    ///
    /// # Errors
    ///
    /// When a file has fewer names than it said, or the output fails.
    pub fn finish(mut self) -> Result<W, WriteError> {
        if let Some((group, link)) = self.links.pop_first() {
            return Err(WriteError::MissingLinks { group, expected: link.names, found: link.written });
        }
        self.put_header(Header { links: 1, ..Header::default() }, TRAILER)?;
        self.output.flush()?;
        Ok(self.output)
    }

    /// The entry's inode number and how many names it has. Directories have 2 by custom, and nobody looks.
    fn identify(&mut self, entry: &Entry) -> Result<(u32, u32), WriteError> {
        match entry.kind {
            Kind::File { link: Some(link), size } => self.identify_link(entry, link, size),
            Kind::Directory => Ok((self.next_inode()?, 2)),
            _ => Ok((self.next_inode()?, 1)),
        }
    }

    fn identify_link(&mut self, entry: &Entry, link: HardLink, size: u64) -> Result<(u32, u32), WriteError> {
        let mut pending = match self.links.remove(&link.group) {
            Some(pending) => pending,
            None => PendingLink { inode: self.next_inode()?, names: link.names, written: 0 },
        };
        pending.written += 1;
        let is_last = pending.written == pending.names;
        if link.names < 2 || link.names != pending.names || (size != 0 && !is_last) {
            return Err(WriteError::Link { name: printable(&entry.name) });
        }
        if !is_last {
            self.links.insert(link.group, pending);
        }
        Ok((pending.inode, pending.names))
    }

    fn next_inode(&mut self) -> Result<u32, WriteError> {
        self.last_inode = self.last_inode.checked_add(1).ok_or(WriteError::TooManyEntries)?;
        Ok(self.last_inode)
    }

    fn put_header(&mut self, header: Header, name: &[u8]) -> Result<(), WriteError> {
        let name_size = u32::try_from(name.len() + 1).expect("names are short");
        let mut bytes = Header { name_size, ..header }.encode();
        bytes.extend(name);
        bytes.push(0);
        bytes.resize(bytes.len() + padding_len(HEADER_BYTES + u64::from(name_size)), 0);
        Ok(self.output.write_all(&bytes)?)
    }

    fn put_padded(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.output.write_all(bytes)?;
        self.put_padding(bytes.len() as u64)
    }

    fn put_padding(&mut self, length: u64) -> Result<(), WriteError> {
        Ok(self.output.write_all(&[0; 4][..padding_len(length)])?)
    }

    fn put_content(
        &mut self,
        entry: &Entry,
        content: &mut dyn Read,
        expected: u64,
    ) -> Result<(), WriteError> {
        self.buffer.resize(COPY_BYTES, 0);
        let mut found = 0;
        loop {
            let read = match content.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(WriteError::Content { name: printable(&entry.name), source }),
            };
            found += read as u64;
            if found > expected {
                break;
            }
            self.output.write_all(&self.buffer[..read])?;
        }
        if found != expected {
            return Err(WriteError::ContentLength { name: printable(&entry.name), expected, found });
        }
        self.put_padding(expected)
    }
}

fn check(entry: &Entry) -> Result<(), WriteError> {
    check_path(&entry.name, &entry.name)?;
    if entry.name == TRAILER {
        return Err(WriteError::ReservedName);
    }
    if entry.permissions & !PERMISSION_BITS != 0 {
        return Err(WriteError::Permissions { name: printable(&entry.name), found: entry.permissions });
    }
    match &entry.kind {
        Kind::Symlink { target } => check_path(target, &entry.name),
        _ => Ok(()),
    }
}

fn check_path(path: &[u8], name: &[u8]) -> Result<(), WriteError> {
    if path.is_empty() || path.len() > MAX_PATH_BYTES {
        return Err(WriteError::PathLength { name: printable(name), found: path.len() });
    }
    if path.contains(&0) {
        return Err(WriteError::PathNul { name: printable(name) });
    }
    Ok(())
}

fn content_size(entry: &Entry) -> Result<u32, WriteError> {
    let size = match &entry.kind {
        Kind::File { size, .. } => *size,
        Kind::Symlink { target } => target.len() as u64,
        _ => 0,
    };
    u32::try_from(size).map_err(|_| WriteError::TooLarge { name: printable(&entry.name), found: size })
}

fn padding_len(length: u64) -> usize {
    usize::try_from(padding(length)).expect("padding is at most three bytes")
}

/// Why an archive could not be written. Names are shown with everything but printable ASCII escaped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A name or the target of a symbolic link is empty or too long.
    #[error("{name}: a path of {found} bytes cannot be archived; 1 to {MAX_PATH_BYTES} can")]
    PathLength {
        /// The entry.
        name: String,
        /// The length of its name or target in bytes.
        found: usize,
    },
    /// A name or the target of a symbolic link has a NUL in it.
    #[error("{name}: a path with a NUL in it cannot be archived")]
    PathNul {
        /// The entry.
        name: String,
    },
    /// An entry has the name that ends an archive.
    #[error("an entry cannot be called TRAILER!!!, which ends an archive")]
    ReservedName,
    /// There are bits beyond the permission bits.
    #[error("{name}: {found:o} is more than permissions; {PERMISSION_BITS:o} are possible")]
    Permissions {
        /// The entry.
        name: String,
        /// What it says.
        found: u32,
    },
    /// The file is too large for the format.
    #[error(
        "{name}: a file of {found} bytes cannot be archived; the format ends at {MAX_FILE_BYTES} (4 GiB)"
    )]
    TooLarge {
        /// The file.
        name: String,
        /// Its size in bytes.
        found: u64,
    },
    /// Names of one file that do not agree: on how many there are, or a name other than the last has content.
    #[error(
        "{name}: not a consistent hard link (at least two names, all saying how many; content with the last)"
    )]
    Link {
        /// The name.
        name: String,
    },
    /// A file has fewer names in the archive than it said.
    #[error(
        "the file of link group {group} should have {expected} names, but the archive ends after {found}"
    )]
    MissingLinks {
        /// The group.
        group: u64,
        /// How many names its entries say it has.
        expected: u32,
        /// How many came.
        found: u32,
    },
    /// There are no more inode numbers.
    #[error("an archive holds at most {} entries", u32::MAX)]
    TooManyEntries,
    /// The content of an entry could not be read.
    #[error("{name}: cannot read the content")]
    Content {
        /// The entry.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The content of an entry is shorter or longer than it said, perhaps because something changed it meanwhile.
    #[error("{name}: {expected} bytes of content were announced, but there {}", if .found > .expected { "are more".to_owned() } else { format!("are {found}") })]
    ContentLength {
        /// The entry.
        name: String,
        /// What the entry says, in bytes.
        expected: u64,
        /// What was read, in bytes; reading stops early when there is too much.
        found: u64,
    },
    /// The archive could not be written.
    #[error("cannot write the archive")]
    Output(#[from] io::Error),
}
