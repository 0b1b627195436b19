//! The bytes of files, left on disk until a ramdisk is written.
//!
//! A compressed layer's files are copied into a [`Spool`], one temporary file without a name. Files of an uncompressed
//! archive are a slice of that archive, and files of a directory stay where they are.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::OFlags;

const COPY_BYTES: usize = 128 << 10;

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

/// A temporary file that takes up what compressed layers hold. It has no name, so it is gone with the process.
#[derive(Debug)]
pub(crate) struct Spool {
    file: Arc<File>,
    end: u64,
}

impl Spool {
    /// Makes the file in the file system of `dir`.
    pub(crate) fn in_dir(dir: &Path) -> io::Result<Self> {
        Ok(Self { file: Arc::new(tempfile::tempfile_in(dir)?), end: 0 })
    }

    /// Takes exactly `len` bytes from `reader`.
    ///
    /// # Errors
    /// [`StoreError`] says which side failed.
    pub(crate) fn store(&mut self, reader: &mut impl Read, len: u64) -> Result<Content, StoreError> {
        let content = Content::slice(Arc::clone(&self.file), self.end, len);
        let mut buf = vec![0; COPY_BYTES.min(usize::try_from(len).unwrap_or(COPY_BYTES))];
        let mut left = len;
        while left > 0 {
            let want = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = match reader.read(&mut buf[..want]) {
                Ok(0) => return Err(StoreError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(StoreError::Read(e)),
            };
            (&*self.file).write_all(&buf[..n]).map_err(StoreError::Write)?;
            left -= n as u64;
        }
        self.end += len;
        Ok(content)
    }
}

/// Why bytes could not be spooled.
#[derive(Debug)]
pub(crate) enum StoreError {
    /// The archive gave out or is broken.
    Read(io::Error),
    /// The temporary file could not take them.
    Write(io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_gives_back_each_file() {
        let mut spool = Spool::in_dir(&std::env::temp_dir()).unwrap();
        let files: Vec<Vec<u8>> = [0, 1, COPY_BYTES + 1].map(|len| vec![7; len]).to_vec();
        let stored: Vec<_> =
            files.iter().map(|f| spool.store(&mut f.as_slice(), f.len() as u64).unwrap()).collect();
        for (file, content) in files.iter().zip(stored) {
            let mut back = Vec::new();
            content.open().unwrap().read_to_end(&mut back).unwrap();
            assert_eq!(&back, file);
        }
    }

    #[test]
    fn a_part_is_read_from_where_it_begins_and_no_further() {
        let mut spool = Spool::in_dir(&std::env::temp_dir()).unwrap();
        spool.store(&mut &b"before"[..], 6).unwrap();
        let whole = spool.store(&mut &b"0123456789"[..], 10).unwrap();
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
    fn a_short_source_is_an_error() {
        let mut spool = Spool::in_dir(&std::env::temp_dir()).unwrap();
        let result = spool.store(&mut &b"abc"[..], 4);
        assert!(matches!(result, Err(StoreError::Read(e)) if e.kind() == io::ErrorKind::UnexpectedEof));
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
