//! What the log holds: that something happened to a subject, without saying what.
//!
//! Spec: `docs/spec/ledger.md`, section "Entries".

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::cbor::{DecodeError, Reader, Writer};
use crate::{Hash, log, map::Key};

/// The version that this module writes and reads.
pub(crate) const VERSION: u64 = 1;
/// Longest encoding of an entry.
pub const MAX_ENTRY_BYTES: usize = 128;

const WHAT: &str = "an entry";
const MEMBERS: usize = 7;

/// What kind of payload an entry commits to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A [`crate::Record`] of a file.
    File = 1,
    /// Bytes that an application or a part of the framework appended to a stream.
    Stream = 2,
    /// A [`crate::Gap`], in the stream [`crate::StreamName::LEDGER`]: for some time nobody looked.
    Gap = 3,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the payload is.
    pub kind: Kind,
    /// Nanoseconds since 1970 by the enclave's clock, which the host sets: it means nothing by itself.
    pub time: u64,
    /// Whom it is about.
    pub subject: Key,
    /// How many entries the subject had before.
    pub sequence: u64,
    /// Where in the log the entry before it of the same subject is; `None` for the first, and for it alone.
    pub previous: Option<u64>,
    /// [`crate::commitment`] to the payload.
    pub commitment: Hash,
}

impl Entry {
    /// The one encoding: `[version, kind, time, subject, sequence, previous or null, commitment]`.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(MEMBERS).uint(VERSION).uint(self.kind as u64).uint(self.time);
        writer.bytes(&self.subject.0).uint(self.sequence);
        match self.previous {
            Some(index) => writer.uint(index),
            None => writer.null(),
        };
        writer.bytes(&self.commitment.0);
        writer.finish()
    }

    /// Decodes what [`Entry::encode`] makes, and nothing else.
    ///
    /// # Errors
    /// Whatever deviates from the specification.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(WHAT, bytes, MAX_ENTRY_BYTES)?;
        reader.array(MEMBERS)?;
        reader.version(VERSION)?;
        let kind = match reader.uint()? {
            1 => Kind::File,
            2 => Kind::Stream,
            3 => Kind::Gap,
            _ => return Err(reader.out_of_range()),
        };
        let entry = Entry {
            kind,
            time: reader.uint()?,
            subject: Key(reader.fixed()?),
            sequence: reader.uint()?,
            previous: if reader.null()? { None } else { Some(reader.uint()?) },
            commitment: reader.hash()?,
        };
        if entry.previous.is_none() != (entry.sequence == 0) {
            return Err(reader.out_of_range());
        }
        reader.finish(&entry.encode())?;
        Ok(entry)
    }

    /// Its hash as a leaf of the log.
    pub fn leaf_hash(&self) -> Hash {
        log::leaf_hash(&self.encode())
    }
}
