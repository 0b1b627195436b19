//! The bytes of files, left on disk until a ramdisk is written.
//!
//! Files of an archive are a slice of that archive, once it is unpacked, and files of a directory stay where they are.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::OFlags;

/// Where a file's bytes are.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    place: Place,
    offset: u64,
    len: u64,
}

#[derive(Clone, Debug)]
enum Place {
    Open(Arc<File>),
    Path { path: PathBuf, identity: Identity },
}

/// Tells whether a path still leads to the file it led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    len: u64,
}

impl Identity {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), len: metadata.len() }
    }
}

impl Content {
    /// `len` bytes of `file` from `offset`.
    pub(crate) fn slice(file: Arc<File>, offset: u64, len: u64) -> Self {
        Self { place: Place::Open(file), offset, len }
    }

    /// The file at `path`, which had `metadata` when it was listed.
    pub(crate) fn path(path: PathBuf, metadata: &std::fs::Metadata) -> Self {
        let identity = Identity::of(metadata);
        Self { place: Place::Path { path, identity }, offset: 0, len: identity.len }
    }

    /// The regular file at `path`, kept open.
    ///
    /// # Errors
    /// When it cannot be opened or is something else: only regular files can be read anywhere, and again.
    pub(crate) fn open_file(path: &Path) -> io::Result<Self> {
        let file = open_at_once(path, OFlags::empty())?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(Self::slice(Arc::new(file), 0, metadata.len()))
    }

    /// `len` bytes of this from `offset`. Reading them fails if they reach beyond the end of the file.
    pub(crate) fn part(&self, offset: u64, len: u64) -> Self {
        Self { place: self.place.clone(), offset: self.offset.saturating_add(offset), len }
    }

    /// Where in `whole` this is, if it is a part of it.
    pub(crate) fn offset_in(&self, whole: &Self) -> Option<u64> {
        let (Place::Open(file), Place::Open(whole_file)) = (&self.place, &whole.place) else { return None };
        let offset = self.offset.checked_sub(whole.offset)?;
        let within = offset.checked_add(self.len).is_some_and(|end| end <= whole.len);
        (within && Arc::ptr_eq(file, whole_file)).then_some(offset)
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buf` with the bytes from `offset` on, which the caller knows to be within this.
    ///
    /// # Errors
    /// When the file cannot be opened or is no longer the one that was listed, or is too short.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut reader = self.open()?;
        reader.seek(SeekFrom::Start(offset))?;
        reader.read_exact(buf)
    }

    /// A reader of exactly [`Self::len`] bytes.
    ///
    /// # Errors
    /// When the file cannot be opened or is no longer the one that was listed.
    pub(crate) fn open(&self) -> io::Result<ContentReader> {
        let file = match &self.place {
            Place::Open(file) => Arc::clone(file),
            Place::Path { path, identity } => Arc::new(reopen(path, *identity)?),
        };
        Ok(ContentReader { file, offset: self.offset, len: self.len, position: 0 })
    }
}

/// Opens a listed file again. A symbolic link in its place, another file or another length means that somebody is
/// changing the directory, and the image would be neither the old nor the new state.
fn reopen(path: &Path, identity: Identity) -> io::Result<File> {
    let file = open_at_once(path, OFlags::NOFOLLOW)?;
    if Identity::of(&file.metadata()?) != identity {
        return Err(io::Error::other("the file changed while the image was being built"));
    }
    Ok(file)
}

/// Opens a file for reading; a named pipe in its place is opened without waiting for somebody to write into it.
fn open_at_once(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = i32::try_from((flags | OFlags::NONBLOCK).bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Reads a [`Content`].
#[derive(Debug)]
pub(crate) struct ContentReader {
    file: Arc<File>,
    offset: u64,
    len: u64,
    /// From the content's beginning; may be beyond its end.
    position: u64,
}

impl Read for ContentReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.len.saturating_sub(self.position);
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.file.read_at(&mut buf[..want], self.offset.saturating_add(self.position))?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += n as u64;
        Ok(n)
    }
}

impl Seek for ContentReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_part_is_read_from_where_it_begins_and_no_further() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before0123456789").unwrap();
        let whole = Content::slice(Arc::new(file), 6, 10);
        let read = |content: &Content, from: SeekFrom| {
            let mut reader = content.open().unwrap();
            reader.seek(from).unwrap();
            let mut back = String::new();
            reader.read_to_string(&mut back).unwrap();
            back
        };
        assert_eq!(read(&whole.part(2, 5), SeekFrom::Start(0)), "23456");
        assert_eq!(read(&whole.part(2, 5).part(1, 2), SeekFrom::Current(1)), "4");
        assert_eq!(read(&whole, SeekFrom::End(-1)), "9");
        assert_eq!(read(&whole, SeekFrom::Start(99)), "");
        assert!(whole.open().unwrap().seek(SeekFrom::Current(-1)).is_err());
        assert!(whole.part(8, 3).open().unwrap().read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn a_listed_file_that_changed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "one").unwrap();
        let content = Content::path(path.clone(), &path.symlink_metadata().unwrap());
        assert!(content.open().is_ok());
        std::fs::write(&path, "three").unwrap();
        assert!(content.open().is_err());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(content.open().is_err());
    }
}
