//! The bytes of files, left on disk until a ramdisk is written.
//!
//! A compressed layer's files are copied into a [`Spool`], one temporary file without a name. Files of an uncompressed
//! archive are a slice of that archive, and files of a directory stay where they are.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
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
    len: u64,
}

#[derive(Clone, Debug)]
enum Place {
    Slice { file: Arc<File>, offset: u64 },
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
        Self { place: Place::Slice { file, offset }, len }
    }

    /// The file at `path`, which had `metadata` when it was listed.
    pub(crate) fn path(path: PathBuf, metadata: &std::fs::Metadata) -> Self {
        let identity = Identity::of(metadata);
        Self { place: Place::Path { path, identity }, len: identity.len }
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// A reader of exactly [`Self::len`] bytes.
    ///
    /// # Errors
    /// When the file cannot be opened or is no longer the one that was listed.
    pub(crate) fn open(&self) -> io::Result<ContentReader> {
        let (file, offset) = match &self.place {
            Place::Slice { file, offset } => (Arc::clone(file), *offset),
            Place::Path { path, identity } => (Arc::new(reopen(path, *identity)?), 0),
        };
        Ok(ContentReader { file, offset, left: self.len })
    }
}

/// Opens a listed file again. A symbolic link in its place, another file or another length means that somebody is
/// changing the directory, and the image would be neither the old nor the new state.
fn reopen(path: &Path, identity: Identity) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if Identity::of(&file.metadata()?) != identity {
        return Err(io::Error::other("the file changed while the image was being built"));
    }
    Ok(file)
}

/// Reads a [`Content`].
#[derive(Debug)]
pub(crate) struct ContentReader {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for ContentReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.file.read_at(&mut buf[..want], self.offset)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += n as u64;
        self.left -= n as u64;
        Ok(n)
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
