//! Bytes on their way out of a compressed file: recognised, decompressed, counted.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;

use crate::{intake::Room, zstd::ZstdReader};

/// Gives the bytes that were compressed, or the source's own.
pub(crate) enum Decompressor<B> {
    None(B),
    Gzip(Box<MultiGzDecoder<B>>),
    Zstd(Box<ZstdReader<B>>),
}

impl<B: BufRead> Decompressor<B> {
    /// What the compression is shows in the first bytes, not in a name or media type: those are often wrong, and the digest
    /// binds the bytes anyway.
    pub(crate) fn detect(mut blob: B) -> io::Result<Self> {
        let start = blob.fill_buf()?;
        // RFC 1952, section 2.3.1; RFC 8878, section 3.1.1. A tar archive begins with a file name, which begins with
        // neither: a name may hold any byte, but no tool writes these.
        Ok(if start.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip(Box::new(MultiGzDecoder::new(blob)))
        } else if ZstdReader::<B>::recognises(start) {
            Self::Zstd(Box::new(ZstdReader::new(blob)))
        } else {
            Self::None(blob)
        })
    }

    /// Whether the bytes that come are the source's own.
    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::None(_))
    }

    pub(crate) fn into_blob(self) -> B {
        match self {
            Self::None(blob) => blob,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.into_inner(),
        }
    }
}

impl<B: BufRead> Read for Decompressor<B> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(blob) => blob.read(buf),
            Self::Gzip(decoder) => decoder.read(buf),
            Self::Zstd(decoder) => decoder.read(buf),
        }
    }
}

/// Fails once more comes than there is room for.
pub(crate) struct Bounded<'r, R> {
    inner: R,
    room: &'r Room,
}

impl<'r, R> Bounded<'r, R> {
    pub(crate) fn new(inner: R, room: &'r Room) -> Self {
        Self { inner, room }
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }
}

/// Inside the [`io::Error`] with which a stream fails that unpacks to more than it may.
#[derive(Debug, thiserror::Error)]
#[error("more bytes than allowed")]
pub(crate) struct LimitReached;

impl LimitReached {
    /// Whether this error is that of a stream that unpacks to too much.
    pub(crate) fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        if self.room.take(n as u64) { Ok(n) } else { Err(io::Error::other(LimitReached)) }
    }
}
