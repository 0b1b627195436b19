//! Entries of the transcript, and the chain over them.
//!
//! Spec: `docs/spec/control-trace.md`, with vectors in `docs/spec/vectors/control-trace.json`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;

use aws_lc_rs::digest::{self, Context, SHA256, SHA384};
use minicbor::{Decoder, Encoder};

use crate::{reply::Exit, request::MAX_REQUEST_BYTES};

/// The version that this module writes and reads.
pub const VERSION: u64 = 1;

/// Longest encoded entry, in bytes: a request, a key and some numbers.
pub const MAX_ENTRY_BYTES: usize = MAX_REQUEST_BYTES + 1024;

/// Longest name and key of an operator in an entry, in bytes.
const MAX_TEXT_BYTES: usize = 512;

/// What is hashed for the head of an empty chain, behind a byte 0x00.
const CHAIN_NAME: &[u8] = b"glasshouse control chain v1";

/// The head of a chain of entries: SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Head(pub [u8; 32]);

impl Head {
    /// The head of the chain that has no entry.
    pub fn empty() -> Self {
        Self::hash(&[&[0], CHAIN_NAME])
    }

    /// The head after one more entry: SHA-256(0x01, this head, SHA-256(entry)).
    #[must_use]
    pub fn after(&self, entry: &[u8]) -> Self {
        let entry = digest::digest(&SHA256, entry);
        Self::hash(&[&[1], &self.0, entry.as_ref()])
    }

    fn hash(parts: &[&[u8]]) -> Self {
        let mut context = Context::new(&SHA256);
        parts.iter().for_each(|part| context.update(part));
        Self(context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({self})")
    }
}

/// The value of PCR17 after the session that `entry` opens was admitted as the first:
/// SHA-384(48 zero bytes, SHA-384(entry)).
pub fn pcr17(entry: &[u8]) -> [u8; 48] {
    let mut context = Context::new(&SHA384);
    context.update(&[0; 48]);
    context.update(&extension(entry));
    context.finish().as_ref().try_into().expect("SHA-384 has 48 bytes")
}

/// What PCR17 is extended with: SHA-384(entry).
pub fn extension(entry: &[u8]) -> [u8; 48] {
    digest::digest(&SHA384, entry).as_ref().try_into().expect("SHA-384 has 48 bytes")
}

/// One entry of the transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Counts the entries from 1.
    pub number: u64,
    /// Milliseconds since 1970 by the enclave's clock, which its host sets: good for reading, not for proof.
    pub time_ms: u64,
    /// What happened.
    pub event: Event,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A session was admitted. It is known by this entry's number.
    Open {
        /// Who: the name that the measured manifest has for the key.
        operator: String,
        /// Who: the public key, as the measured manifest has it.
        key: String,
        /// What was asked: [`crate::request::Request`], as it came.
        request: Vec<u8>,
    },
    /// A session has ended.
    Close {
        /// The number of the entry that opened it.
        session: u64,
        /// How.
        ending: Ending,
        /// Files that were carried.
        files: u64,
        /// Bytes of these files, or of the program's input.
        bytes: u64,
        /// Digest of what was carried, as `docs/spec/pipeline.md` defines it for the verb.
        digest: Option<[u8; 32]>,
    },
    /// The server was started again. Sessions that are still open have ended.
    Restart,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It came to its end.
    Exit(Exit),
    /// The server refused to go on; the number is that of [`crate::reply::Code`].
    Refused(u16),
    /// The client went away.
    Lost,
}

/// Why bytes are no entry.
#[derive(Debug, thiserror::Error)]
#[error("an entry of the transcript is not of the form this version reads")]
pub struct EntryError(#[source] Option<minicbor::decode::Error>);

impl From<minicbor::decode::Error> for EntryError {
    fn from(source: minicbor::decode::Error) -> Self {
        Self(Some(source))
    }
}

/// The members of an entry's map, under their keys.
#[derive(Default)]
struct Fields {
    kind: String,
    number: u64,
    time_ms: u64,
    operator: Option<String>,
    key: Option<String>,
    request: Option<Vec<u8>>,
    session: Option<u64>,
    ending: Option<String>,
    status: Option<u8>,
    signal: Option<u8>,
    timed_out: bool,
    code: Option<u16>,
    files: u64,
    bytes: u64,
    digest: Option<[u8; 32]>,
}

impl Entry {
    /// The entry's one encoding: a deterministic CBOR map.
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = Fields { number: self.number, time_ms: self.time_ms, ..Fields::default() };
        match self.event.clone() {
            Event::Open { operator, key, request } => {
                fields.kind = "open".into();
                (fields.operator, fields.key, fields.request) = (Some(operator), Some(key), Some(request));
            }
            Event::Close { session, ending, files, bytes, digest } => {
                fields.kind = "close".into();
                fields.session = Some(session);
                (fields.files, fields.bytes, fields.digest) = (files, bytes, digest);
                fields.set_ending(ending);
            }
            Event::Restart => fields.kind = "restart".into(),
        }
        fields.encode()
    }

    /// Decodes an entry. Exactly the bytes that [`Entry::encode`] makes are accepted.
    ///
    /// # Errors
    /// Whatever deviates from `docs/spec/control-trace.md`.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(EntryError(None));
        }
        let entry = Fields::decode(bytes)?.into_entry().ok_or(EntryError(None))?;
        if entry.encode() != bytes {
            return Err(EntryError(None));
        }
        Ok(entry)
    }
}

impl Fields {
    fn set_ending(&mut self, ending: Ending) {
        let name = match ending {
            Ending::Exit(exit) => {
                (self.status, self.signal, self.timed_out) = (Some(exit.status), exit.signal, exit.timed_out);
                "exit"
            }
            Ending::Refused(code) => {
                self.code = Some(code);
                "refused"
            }
            Ending::Lost => "lost",
        };
        self.ending = Some(name.to_owned());
    }

    fn into_entry(self) -> Option<Entry> {
        let event = match self.kind.as_str() {
            "open" => {
                let (operator, key) = (self.operator?, self.key?);
                let fits = |text: &str| text.len() <= MAX_TEXT_BYTES;
                let request = self.request.filter(|_| fits(&operator) && fits(&key))?;
                Event::Open { operator, key, request }
            }
            "close" => Event::Close {
                session: self.session?,
                ending: match self.ending?.as_str() {
                    "exit" => Ending::Exit(Exit {
                        status: self.status?,
                        signal: self.signal,
                        timed_out: self.timed_out,
                    }),
                    "refused" => Ending::Refused(self.code?),
                    "lost" => Ending::Lost,
                    _ => return None,
                },
                files: self.files,
                bytes: self.bytes,
                digest: self.digest,
            },
            "restart" => Event::Restart,
            _ => return None,
        };
        Some(Entry { number: self.number, time_ms: self.time_ms, event })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let present = [
            self.operator.is_some(),
            self.key.is_some(),
            self.request.is_some(),
            self.session.is_some(),
            self.ending.is_some(),
            self.status.is_some(),
            self.signal.is_some(),
            self.timed_out,
            self.code.is_some(),
            self.files > 0,
            self.bytes > 0,
            self.digest.is_some(),
        ];
        let optional = present.into_iter().map(u64::from).fold(4, u64::saturating_add);
        let mut e = Encoder::new(&mut bytes);
        self.write(&mut e, optional).expect("writing to a Vec cannot fail");
        bytes
    }

    fn write(&self, e: &mut Encoder<&mut Vec<u8>>, members: u64) -> Written {
        e.map(members)?.u8(0)?.u64(VERSION)?.u8(1)?.str(&self.kind)?;
        e.u8(2)?.u64(self.number)?.u8(3)?.u64(self.time_ms)?;
        for (key, text) in [(4, &self.operator), (5, &self.key)] {
            if let Some(text) = text {
                e.u8(key)?.str(text)?;
            }
        }
        if let Some(request) = &self.request {
            e.u8(6)?.bytes(request)?;
        }
        if let Some(session) = self.session {
            e.u8(7)?.u64(session)?;
        }
        if let Some(ending) = &self.ending {
            e.u8(8)?.str(ending)?;
        }
        for (key, number) in [(9, self.status), (10, self.signal)] {
            if let Some(number) = number {
                e.u8(key)?.u8(number)?;
            }
        }
        if self.timed_out {
            e.u8(11)?.bool(true)?;
        }
        if let Some(code) = self.code {
            e.u8(12)?.u16(code)?;
        }
        for (key, count) in [(13, self.files), (14, self.bytes)] {
            if count > 0 {
                e.u8(key)?.u64(count)?;
            }
        }
        if let Some(digest) = &self.digest {
            e.u8(15)?.bytes(digest)?;
        }
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let mut d = Decoder::new(bytes);
        let mut fields = Self::default();
        let members = d.map()?.ok_or(EntryError(None))?;
        for _ in 0..members {
            match d.u8()? {
                0 if d.u64()? == VERSION => {}
                1 => fields.kind = d.str()?.to_owned(),
                2 => fields.number = d.u64()?,
                3 => fields.time_ms = d.u64()?,
                4 => fields.operator = Some(d.str()?.to_owned()),
                5 => fields.key = Some(d.str()?.to_owned()),
                6 => fields.request = Some(d.bytes()?.to_vec()),
                7 => fields.session = Some(d.u64()?),
                8 => fields.ending = Some(d.str()?.to_owned()),
                9 => fields.status = Some(d.u8()?),
                10 => fields.signal = Some(d.u8()?),
                11 => fields.timed_out = d.bool()?,
                12 => fields.code = Some(d.u16()?),
                13 => fields.files = d.u64()?,
                14 => fields.bytes = d.u64()?,
                15 => fields.digest = Some(d.bytes()?.try_into().map_err(|_| EntryError(None))?),
                _ => return Err(EntryError(None)),
            }
        }
        Ok(fields)
    }
}

type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
