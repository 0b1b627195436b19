//! Where the bytes of a section come from.
//!
//! Names and opens inputs; the [writer](crate::Writer) reads them, once.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

/// The content of a section. Its length is known beforehand, and an input that turns out shorter or longer is an error.
pub struct Source<'a>(Kind<'a>);

enum Kind<'a> {
    Bytes(&'a [u8]),
    File(PathBuf),
    Reader { reader: Box<dyn Read + 'a>, length: u64 },
}

impl<'a> Source<'a> {
    /// These bytes.
    pub fn bytes(bytes: &'a [u8]) -> Self {
        Self(Kind::Bytes(bytes))
    }

    /// The file at `path`, opened when it is its turn; its length is what the file system says at that moment.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Kind::File(path.into()))
    }

    /// `length` bytes from `reader`, and then its end.
    pub fn reader(reader: impl Read + 'a, length: u64) -> Self {
        Self(Kind::Reader { reader: Box::new(reader), length })
    }

    /// What to call this input in an error.
    pub(crate) fn name(&self) -> String {
        match &self.0 {
            Kind::Bytes(_) => "bytes in memory".to_owned(),
            Kind::File(path) => path.display().to_string(),
            Kind::Reader { .. } => "a stream".to_owned(),
        }
    }

    pub(crate) fn open(self) -> io::Result<(Box<dyn Read + 'a>, u64)> {
        match self.0 {
            Kind::Bytes(bytes) => Ok((Box::new(bytes), bytes.len() as u64)),
            Kind::Reader { reader, length } => Ok((reader, length)),
            Kind::File(path) => {
                let file = File::open(path)?;
                let status = file.metadata()?;
                if !status.is_file() {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
                }
                Ok((Box::new(file), status.len()))
            }
        }
    }
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.name()).finish()
    }
}
