//! Deterministic CBOR (RFC 8949, section 4.2.1) for what this crate hashes and sends: arrays, unsigned integers and byte
//! strings, of which everything has one encoding.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use minicbor::decode::Decoder;
use minicbor::encode::Encoder;

use crate::Hash;

/// Why bytes are not what they should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// More bytes than anything of that kind has.
    #[error("{what}: expected at most {limit} bytes, found {found}")]
    TooLong {
        /// Which value.
        what: &'static str,
        /// Its length in bytes.
        found: usize,
        /// The most that there may be.
        limit: usize,
    },
    /// The CBOR is broken, ends early or has another type than expected.
    #[error("{what}: not the CBOR expected")]
    Cbor {
        /// Which value.
        what: &'static str,
        /// What the decoder found, and where.
        #[source]
        source: minicbor::decode::Error,
    },
    /// A version that this crate cannot read.
    #[error("{what}: version {found} is not known")]
    Version {
        /// Which value.
        what: &'static str,
        /// The version found.
        found: u64,
    },
    /// An array of another length.
    #[error("{what}: {found} members are too few or too many")]
    Members {
        /// Which value.
        what: &'static str,
        /// Its members.
        found: u64,
    },
    /// Bytes of another length.
    #[error("{what}: {found} bytes are too few or too many")]
    Length {
        /// Which value.
        what: &'static str,
        /// Its length in bytes.
        found: usize,
    },
    /// A number or text that means nothing there.
    #[error("{what}: the value is out of range")]
    Range {
        /// Which value.
        what: &'static str,
    },
    /// Another encoding than the deterministic one, or bytes after the end.
    #[error("{what}: not the one encoding of what it holds")]
    NotCanonical {
        /// Which value.
        what: &'static str,
    },
}

/// Writes to a vector, which cannot fail.
pub(crate) struct Writer {
    encoder: Encoder<Vec<u8>>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self { encoder: Encoder::new(Vec::new()) }
    }

    pub(crate) fn array(&mut self, members: usize) -> &mut Self {
        self.encoder.array(members as u64).expect(INFALLIBLE);
        self
    }

    pub(crate) fn map(&mut self, entries: usize) -> &mut Self {
        self.encoder.map(entries as u64).expect(INFALLIBLE);
        self
    }

    pub(crate) fn uint(&mut self, value: u64) -> &mut Self {
        self.encoder.u64(value).expect(INFALLIBLE);
        self
    }

    pub(crate) fn int(&mut self, value: i64) -> &mut Self {
        self.encoder.i64(value).expect(INFALLIBLE);
        self
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.encoder.bytes(value).expect(INFALLIBLE);
        self
    }

    pub(crate) fn text(&mut self, value: &str) -> &mut Self {
        self.encoder.str(value).expect(INFALLIBLE);
        self
    }

    pub(crate) fn null(&mut self) -> &mut Self {
        self.encoder.null().expect(INFALLIBLE);
        self
    }

    /// Hashes, one after the other, as one byte string.
    pub(crate) fn hashes(&mut self, hashes: &[Hash]) -> &mut Self {
        self.encoder.bytes_len(hashes.len().saturating_mul(Hash::BYTES) as u64).expect(INFALLIBLE);
        let output = self.encoder.writer_mut();
        hashes.iter().for_each(|hash| output.extend_from_slice(&hash.0));
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.encoder.into_writer()
    }
}

const INFALLIBLE: &str = "writing to a Vec cannot fail";

/// Reads one value of the kind `what`, which is all that its errors say.
pub(crate) struct Reader<'b> {
    what: &'static str,
    decoder: Decoder<'b>,
}

impl<'b> Reader<'b> {
    pub(crate) fn new(what: &'static str, bytes: &'b [u8], limit: usize) -> Result<Self, DecodeError> {
        match bytes.len() {
            found if found > limit => Err(DecodeError::TooLong { what, found, limit }),
            _ => Ok(Self { what, decoder: Decoder::new(bytes) }),
        }
    }

    pub(crate) fn out_of_range(&self) -> DecodeError {
        DecodeError::Range { what: self.what }
    }

    fn malformed(&self) -> impl FnOnce(minicbor::decode::Error) -> DecodeError + use<> {
        let what = self.what;
        move |source| DecodeError::Cbor { what, source }
    }

    /// The number of members of an array, of which each takes a byte at least, so that no more are announced than follow.
    pub(crate) fn array_len(&mut self) -> Result<usize, DecodeError> {
        let found = self.decoder.array().map_err(self.malformed())?;
        let found = found.ok_or(DecodeError::NotCanonical { what: self.what })?;
        let left = self.decoder.input().len().saturating_sub(self.decoder.position());
        usize::try_from(found)
            .ok()
            .filter(|members| *members <= left)
            .ok_or(DecodeError::Members { what: self.what, found })
    }

    pub(crate) fn array(&mut self, members: usize) -> Result<(), DecodeError> {
        match self.array_len()? {
            found if found == members => Ok(()),
            found => Err(DecodeError::Members { what: self.what, found: found as u64 }),
        }
    }

    /// The number of entries of a map, at most `limit`.
    pub(crate) fn map_len(&mut self, limit: u64) -> Result<u64, DecodeError> {
        let found = self.decoder.map().map_err(self.malformed())?;
        let found = found.ok_or(DecodeError::NotCanonical { what: self.what })?;
        if found > limit { Err(DecodeError::Members { what: self.what, found }) } else { Ok(found) }
    }

    pub(crate) fn version(&mut self, known: u64) -> Result<(), DecodeError> {
        match self.uint()? {
            found if found == known => Ok(()),
            found => Err(DecodeError::Version { what: self.what, found }),
        }
    }

    pub(crate) fn uint(&mut self) -> Result<u64, DecodeError> {
        self.decoder.u64().map_err(self.malformed())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.uint()?).map_err(|_| self.out_of_range())
    }

    pub(crate) fn int(&mut self) -> Result<i64, DecodeError> {
        self.decoder.i64().map_err(self.malformed())
    }

    /// Whether null follows, which is then consumed.
    pub(crate) fn null(&mut self) -> Result<bool, DecodeError> {
        let null = self.decoder.datatype().map_err(self.malformed())? == minicbor::data::Type::Null;
        if null {
            self.decoder.null().map_err(self.malformed())?;
        }
        Ok(null)
    }

    pub(crate) fn bytes(&mut self, limit: usize) -> Result<&'b [u8], DecodeError> {
        let bytes = self.decoder.bytes().map_err(self.malformed())?;
        if bytes.len() > limit {
            return Err(DecodeError::Length { what: self.what, found: bytes.len() });
        }
        Ok(bytes)
    }

    pub(crate) fn text(&mut self, limit: usize) -> Result<&'b str, DecodeError> {
        let text = self.decoder.str().map_err(self.malformed())?;
        if text.len() > limit {
            return Err(DecodeError::Length { what: self.what, found: text.len() });
        }
        Ok(text)
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.bytes(usize::MAX)?;
        bytes.try_into().map_err(|_| DecodeError::Length { what: self.what, found: bytes.len() })
    }

    pub(crate) fn hash(&mut self) -> Result<Hash, DecodeError> {
        self.fixed().map(Hash)
    }

    /// Up to `limit` hashes in one byte string.
    pub(crate) fn hashes(&mut self, limit: usize) -> Result<Vec<Hash>, DecodeError> {
        let bytes = self.bytes(limit.saturating_mul(Hash::BYTES))?;
        let (hashes, rest) = bytes.as_chunks::<{ Hash::BYTES }>();
        match rest {
            [] => Ok(hashes.iter().map(|hash| Hash(*hash)).collect()),
            _ => Err(DecodeError::Length { what: self.what, found: bytes.len() }),
        }
    }

    /// Checks that `encoding`, made of what was read, is what was read: which leaves no room for longer integers and
    /// lengths, other orders, and bytes after the end.
    pub(crate) fn finish(self, encoding: &[u8]) -> Result<(), DecodeError> {
        match self.decoder.input() == encoding {
            true => Ok(()),
            false => Err(DecodeError::NotCanonical { what: self.what }),
        }
    }
}
