//! A layer's bytes on their way from the blob to the archive reader: hashed, decompressed, counted, hashed again.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::{
    Digest,
    archive::BLOCK_BYTES,
    content::{Content, ContentReader},
    digest::{HashingReader, drain},
    zstd::ZstdReader,
};

const BUFFER_BYTES: usize = 128 << 10;

/// The bytes of the blob.
type Blob = BufReader<HashingReader<ContentReader>>;

/// Reads an archive that may be compressed. What the compression is shows in its first bytes, not in a name or media
/// type: those are often wrong, and the digest binds the bytes anyway.
///
/// Some writers (umoci's `insert` among them) leave out what fills the last block of the archive, which the archive reader
/// wants: it gets zeros then, which [`Self::count`] does not count and no digest covers.
pub(crate) struct LayerStream {
    unpacked: HashingReader<Bounded<Decompressor<Blob>>>,
    /// Bytes given after the archive's end.
    filled: u64,
}

impl LayerStream {
    /// `limit` is the most bytes that may come out.
    pub(crate) fn new(blob: &Content, limit: u64) -> io::Result<Self> {
        let hashing = HashingReader::new(blob.open()?);
        let blob = BufReader::with_capacity(BUFFER_BYTES, hashing);
        let unpacked = HashingReader::new(Bounded { inner: Decompressor::detect(blob)?, left: limit });
        Ok(Self { unpacked, filled: 0 })
    }

    /// Whether the archive's bytes are the blob's.
    pub(crate) fn is_uncompressed(&self) -> bool {
        self.unpacked.inner().is_uncompressed()
    }

    /// Bytes of the archive read so far.
    pub(crate) fn count(&self) -> u64 {
        self.unpacked.count()
    }

    /// Fills the last block with zeros.
    fn fill(&mut self, buf: &mut [u8]) -> usize {
        let missing = self.count().next_multiple_of(BLOCK_BYTES) - self.count() - self.filled;
        let zeros = buf.len().min(usize::try_from(missing).unwrap_or(usize::MAX));
        buf.iter_mut().take(zeros).for_each(|byte| *byte = 0);
        self.filled += zeros as u64;
        zeros
    }

    /// Reads what the archive reader left. Gives digest and length of the whole archive.
    pub(crate) fn finish_archive(&mut self) -> io::Result<(Digest, u64)> {
        io::copy(&mut self.unpacked, &mut io::sink())?;
        Ok((self.unpacked.digest(), self.unpacked.count()))
    }

    /// Reads what the decompressor left. Gives the digest of the whole blob.
    pub(crate) fn finish_blob(self) -> io::Result<Digest> {
        let mut rest = self.unpacked.into_inner().inner.into_blob();
        drain(&mut rest)?;
        Ok(rest.into_inner().digest())
    }
}

impl Read for LayerStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.unpacked.read(buf)? {
            0 => Ok(self.fill(buf)),
            n => Ok(n),
        }
    }
}

/// An archive that others are in, whose digest nobody gave.
pub(crate) type ContainerStream = Bounded<Decompressor<BufReader<ContentReader>>>;

impl ContainerStream {
    /// `limit` is the most bytes that may come out.
    pub(crate) fn new(archive: &Content, limit: u64) -> io::Result<Self> {
        let inner = Decompressor::detect(BufReader::with_capacity(BUFFER_BYTES, archive.open()?))?;
        Ok(Self { inner, left: limit })
    }
}

/// Gives the bytes that were compressed, or the source's own.
pub(crate) enum Decompressor<B> {
    None(B),
    Gzip(Box<MultiGzDecoder<B>>),
    Zstd(Box<ZstdReader<B>>),
}

impl<B: BufRead> Decompressor<B> {
    fn detect(mut blob: B) -> io::Result<Self> {
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

    fn into_blob(self) -> B {
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

/// Fails once more than `left` bytes come.
pub(crate) struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<B> Bounded<Decompressor<B>> {
    /// Whether the bytes that come are the source's own.
    pub(crate) fn is_uncompressed(&self) -> bool {
        matches!(self.inner, Decompressor::None(_))
    }

    /// How many more bytes may come.
    pub(crate) fn left(&self) -> u64 {
        self.left
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

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other(LimitReached)),
        }
        Ok(n)
    }
}
