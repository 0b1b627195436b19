//! What the frames of a transfer say, as in `docs/spec/transfer.md`. Pure: bytes in, values out.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use minicbor::{Decoder, Encoder, data::Type};

use super::path::{MAX_PATH_BYTES, check_name, check_relative};
use crate::frame::MAX_CONTROL_BYTES;

/// Most files that are asked about at once.
pub const MAX_ASKED: usize = 256;
/// Largest file, in bytes: 16 TiB.
pub const MAX_FILE_BYTES: u64 = 1 << 44;

/// A BLAKE3 digest.
pub type Digest = [u8; 32];

/// Mode and time of last modification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permission, set-id and sticky bits; at most 0o7777.
    pub mode: u32,
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// Where the content of a file begins that follows its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At this offset; before it, the receiver has it.
    At(u64),
    /// The receiver has all of it, with this digest. Nothing follows.
    Whole(Digest),
}

/// One entry of the stream: what is in a directory, in the order of a walk that goes into each directory at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A regular file.
    File {
        /// Its name; empty if it is the root of the transfer.
        name: Vec<u8>,
        /// Its metadata.
        meta: Meta,
        /// Its size in bytes, unless that is known at its end only.
        size: Option<u64>,
        /// Where its content begins.
        start: Start,
    },
    /// A directory; what follows is in it, until [`Entry::Leave`].
    Directory {
        /// Its name; empty if it is the root of the transfer.
        name: Vec<u8>,
        /// Its metadata.
        meta: Meta,
    },
    /// A symbolic link.
    Symlink {
        /// Its name.
        name: Vec<u8>,
        /// Its metadata; the mode means nothing.
        meta: Meta,
        /// What it says, which is not followed by anybody here.
        target: Vec<u8>,
    },
    /// Another name of a file that came earlier.
    HardLink {
        /// Its name.
        name: Vec<u8>,
        /// Path of the first name below the root of the transfer.
        target: Vec<u8>,
    },
    /// The directory is complete.
    Leave,
    /// Something was left out: a FIFO, a socket or a device.
    Skipped {
        /// Its name.
        name: Vec<u8>,
    },
}

/// One file that the sender asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its name in the present directory.
    pub name: Vec<u8>,
    /// Its size in bytes.
    pub size: u64,
    /// Its time of last modification.
    pub seconds: i64,
    /// The nanoseconds of it.
    pub nanoseconds: u32,
}

/// What the receiver has of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Have {
    /// Nothing that helps.
    Nothing,
    /// The first bytes, with this digest.
    Part(u64, Digest),
    /// A file of that size and time, with this digest.
    Whole(Digest),
}

/// What the whole transfer was, said by both sides at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total {
    /// Entries but [`Entry::Leave`].
    pub entries: u64,
    /// Bytes of all files, holes included.
    pub bytes: u64,
    /// The digest over all of it.
    pub digest: Digest,
}

/// A payload that is not what the specification allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

impl From<minicbor::decode::Error> for Malformed {
    fn from(_: minicbor::decode::Error) -> Self {
        Self("not the CBOR that is specified")
    }
}

const KIND: u64 = 0;
const NAME: u64 = 1;
const MODE: u64 = 2;
const SECONDS: u64 = 3;
const NANOSECONDS: u64 = 4;
const SIZE: u64 = 5;
const TARGET: u64 = 6;
const OFFSET: u64 = 7;
const DIGEST: u64 = 8;

const FILE: u64 = 0;
const DIRECTORY: u64 = 1;
const SYMLINK: u64 = 2;
const HARD_LINK: u64 = 3;
const LEAVE: u64 = 4;
const SKIPPED: u64 = 5;

/// Every member an entry may have.
#[derive(Default)]
struct Members<'a> {
    kind: u64,
    name: Option<&'a [u8]>,
    meta: Option<Meta>,
    size: Option<u64>,
    target: Option<&'a [u8]>,
    offset: Option<u64>,
    digest: Option<Digest>,
}

impl Entry {
    /// The entry's canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode_members(&self.members())
    }

    /// The bytes of the entry that the digest of a tree covers: the same whether or not the receiver had something.
    pub fn encode_for_digest(&self) -> Vec<u8> {
        encode_members(&Members { offset: None, digest: None, ..self.members() })
    }

    /// Reads an entry.
    ///
    /// # Errors
    ///
    /// Anything but the canonical bytes of an entry whose name and lengths are within the limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_CONTROL_BYTES {
            return Err(Malformed("an entry longer than the limit"));
        }
        let entry = Self::from_members(decode_members(bytes)?)?;
        if entry.encode() != bytes {
            return Err(Malformed("an entry that is not in its canonical form"));
        }
        Ok(entry)
    }

    fn members(&self) -> Members<'_> {
        match self {
            Self::File { name, meta, size, start } => Members {
                kind: FILE,
                name: Some(name),
                meta: Some(*meta),
                size: *size,
                offset: match start {
                    Start::At(offset) if *offset > 0 => Some(*offset),
                    _ => None,
                },
                digest: match start {
                    Start::Whole(digest) => Some(*digest),
                    Start::At(_) => None,
                },
                ..Members::default()
            },
            Self::Directory { name, meta } => {
                Members { kind: DIRECTORY, name: Some(name), meta: Some(*meta), ..Members::default() }
            }
            Self::Symlink { name, meta, target } => Members {
                kind: SYMLINK,
                name: Some(name),
                meta: Some(*meta),
                target: Some(target),
                ..Members::default()
            },
            Self::HardLink { name, target } => {
                Members { kind: HARD_LINK, name: Some(name), target: Some(target), ..Members::default() }
            }
            Self::Leave => Members { kind: LEAVE, ..Members::default() },
            Self::Skipped { name } => Members { kind: SKIPPED, name: Some(name), ..Members::default() },
        }
    }

    fn from_members(members: Members<'_>) -> Result<Self, Malformed> {
        let name = checked_name(&members)?;
        let meta = members.meta.ok_or(Malformed("an entry without its metadata"));
        let target = members.target.map(<[u8]>::to_vec).ok_or(Malformed("a link without its target"));
        Ok(match members.kind {
            FILE => {
                let size = members.size;
                let start = match (members.offset, members.digest) {
                    (None, Some(digest)) => Start::Whole(digest),
                    (offset, None) => Start::At(offset.unwrap_or(0)),
                    _ => return Err(Malformed("a file that begins in two places")),
                };
                let begins = if let Start::At(offset) = start { offset } else { 0 };
                if size.is_some_and(|size| size > MAX_FILE_BYTES || begins > size) {
                    return Err(Malformed("a file larger than the limit, or that begins behind its end"));
                }
                Self::File { name, meta: meta?, size, start }
            }
            DIRECTORY => Self::Directory { name, meta: meta? },
            SYMLINK => Self::Symlink { name, meta: meta?, target: checked_symlink(target?)? },
            HARD_LINK => {
                let target = target?;
                check_relative(&target).map_err(|_| Malformed("a hard link to a path that is refused"))?;
                Self::HardLink { name, target }
            }
            LEAVE => Self::Leave,
            SKIPPED => Self::Skipped { name },
            _ => return Err(Malformed("an entry of unknown kind")),
        })
    }
}

fn checked_name(members: &Members<'_>) -> Result<Vec<u8>, Malformed> {
    match (members.kind, members.name) {
        (LEAVE, None) => Ok(Vec::new()),
        (FILE | DIRECTORY, Some(b"")) => Ok(Vec::new()),
        (_, Some(name)) => {
            check_name(name).map_err(|_| Malformed("an entry whose name is refused"))?;
            Ok(name.to_vec())
        }
        (_, None) => Err(Malformed("an entry without its name")),
    }
}

fn checked_symlink(target: Vec<u8>) -> Result<Vec<u8>, Malformed> {
    if target.is_empty() || target.len() > MAX_PATH_BYTES || target.contains(&0) {
        return Err(Malformed("a symbolic link that no file system can hold"));
    }
    Ok(target)
}

fn encode_members(members: &Members<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    write_members(members, &mut Encoder::new(&mut bytes)).expect("a vector takes all that is written");
    bytes
}

type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn write_members(members: &Members<'_>, e: &mut Encoder<&mut Vec<u8>>) -> Written {
    let optional = [
        members.name.is_some(),
        members.size.is_some(),
        members.target.is_some(),
        members.offset.is_some(),
        members.digest.is_some(),
    ];
    let count = optional.into_iter().map(u64::from).sum::<u64>();
    let meta = if members.meta.is_some() { 3 } else { 0 };
    e.map(count.saturating_add(meta).saturating_add(1))?.u64(KIND)?.u64(members.kind)?;
    if let Some(name) = members.name {
        e.u64(NAME)?.bytes(name)?;
    }
    if let Some(meta) = members.meta {
        e.u64(MODE)?.u32(meta.mode)?.u64(SECONDS)?.i64(meta.seconds)?;
        e.u64(NANOSECONDS)?.u32(meta.nanoseconds)?;
    }
    if let Some(size) = members.size {
        e.u64(SIZE)?.u64(size)?;
    }
    if let Some(target) = members.target {
        e.u64(TARGET)?.bytes(target)?;
    }
    if let Some(offset) = members.offset {
        e.u64(OFFSET)?.u64(offset)?;
    }
    if let Some(digest) = members.digest {
        e.u64(DIGEST)?.bytes(&digest)?;
    }
    Ok(())
}

fn decode_members(bytes: &[u8]) -> Result<Members<'_>, Malformed> {
    let mut d = Decoder::new(bytes);
    let count = d.map()?.ok_or(Malformed("a map without its length"))?;
    let mut members = Members { kind: u64::MAX, ..Members::default() };
    let (mut mode, mut seconds, mut nanoseconds) = (None, None, None);
    for _ in 0..count.min(16) {
        match d.u64()? {
            KIND => members.kind = d.u64()?,
            NAME => members.name = Some(d.bytes()?),
            MODE => mode = Some(d.u32()?),
            SECONDS => seconds = Some(d.i64()?),
            NANOSECONDS => nanoseconds = Some(d.u32()?),
            SIZE => members.size = Some(d.u64()?),
            TARGET => members.target = Some(d.bytes()?),
            OFFSET => members.offset = Some(d.u64()?),
            DIGEST => members.digest = Some(read_digest(&mut d)?),
            _ => return Err(Malformed("an entry with an unknown member")),
        }
    }
    members.meta = match (mode, seconds, nanoseconds) {
        (None, None, None) => None,
        (Some(mode), Some(seconds), Some(nanoseconds)) if mode <= 0o7777 && nanoseconds < 1_000_000_000 => {
            Some(Meta { mode, seconds, nanoseconds })
        }
        _ => return Err(Malformed("metadata out of range, or not all of it")),
    };
    Ok(members)
}

fn read_digest(d: &mut Decoder<'_>) -> Result<Digest, Malformed> {
    d.bytes()?.try_into().map_err(|_| Malformed("a digest that has not 32 bytes"))
}

/// The bytes of a question about some files of the present directory.
pub fn encode_asked(asked: &[Asked]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut e = Encoder::new(&mut bytes);
    let mut write = || -> Written {
        e.array(asked.len() as u64)?;
        for one in asked {
            e.array(4)?.bytes(&one.name)?.u64(one.size)?.i64(one.seconds)?.u32(one.nanoseconds)?;
        }
        Ok(())
    };
    write().expect("a vector takes all that is written");
    bytes
}

/// Reads a question.
///
/// # Errors
///
/// More than [`MAX_ASKED`] files, a name that is refused, or bytes that are not canonical.
pub fn decode_asked(bytes: &[u8]) -> Result<Vec<Asked>, Malformed> {
    let mut d = Decoder::new(bytes);
    let count = bounded_array(&mut d)?;
    let mut asked = Vec::with_capacity(count);
    for _ in 0..count {
        if d.array()? != Some(4) {
            return Err(Malformed("a question of another shape"));
        }
        let name = d.bytes()?.to_vec();
        if !name.is_empty() {
            check_name(&name).map_err(|_| Malformed("a question about a name that is refused"))?;
        }
        asked.push(Asked { name, size: d.u64()?, seconds: d.i64()?, nanoseconds: d.u32()? });
    }
    canonical(encode_asked(&asked), bytes)?;
    Ok(asked)
}

/// The bytes of the answers to one question, in its order.
pub fn encode_have(have: &[Have]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut e = Encoder::new(&mut bytes);
    let mut write = || -> Written {
        e.array(have.len() as u64)?;
        for one in have {
            match one {
                Have::Nothing => e.null()?,
                Have::Part(length, digest) => e.array(2)?.u64(*length)?.bytes(digest)?,
                Have::Whole(digest) => e.bytes(digest)?,
            };
        }
        Ok(())
    };
    write().expect("a vector takes all that is written");
    bytes
}

/// Reads the answers to one question.
///
/// # Errors
///
/// More than [`MAX_ASKED`] answers, or bytes that are not canonical.
pub fn decode_have(bytes: &[u8]) -> Result<Vec<Have>, Malformed> {
    let mut d = Decoder::new(bytes);
    let count = bounded_array(&mut d)?;
    let mut have = Vec::with_capacity(count);
    for _ in 0..count {
        have.push(match d.datatype()? {
            Type::Null => {
                d.null()?;
                Have::Nothing
            }
            Type::Bytes => Have::Whole(read_digest(&mut d)?),
            Type::Array if d.array()? == Some(2) => Have::Part(d.u64()?, read_digest(&mut d)?),
            _ => return Err(Malformed("an answer of another shape")),
        });
    }
    canonical(encode_have(&have), bytes)?;
    Ok(have)
}

fn bounded_array(d: &mut Decoder<'_>) -> Result<usize, Malformed> {
    let count = d.array()?.ok_or(Malformed("an array without its length"))?;
    usize::try_from(count)
        .ok()
        .filter(|count| *count <= MAX_ASKED)
        .ok_or(Malformed("more files than one question has"))
}

fn canonical(written: Vec<u8>, bytes: &[u8]) -> Result<(), Malformed> {
    if written == bytes { Ok(()) } else { Err(Malformed("bytes that are not in their canonical form")) }
}

impl Total {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut e = Encoder::new(&mut bytes);
        let mut write = || -> Written {
            e.map(3)?.u64(0)?.u64(self.entries)?.u64(1)?.u64(self.bytes)?.u64(2)?.bytes(&self.digest)?;
            Ok(())
        };
        write().expect("a vector takes all that is written");
        bytes
    }

    /// Reads what a transfer was.
    ///
    /// # Errors
    ///
    /// Anything but the canonical bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut d = Decoder::new(bytes);
        let key = |d: &mut Decoder<'_>, key| match d.u64()? {
            found if found == key => Ok(()),
            _ => Err(Malformed("a total with an unknown member")),
        };
        if d.map()? != Some(3) {
            return Err(Malformed("a total of another shape"));
        }
        key(&mut d, 0)?;
        let entries = d.u64()?;
        key(&mut d, 1)?;
        let total_bytes = d.u64()?;
        key(&mut d, 2)?;
        let total = Self { entries, bytes: total_bytes, digest: read_digest(&mut d)? };
        canonical(total.encode(), bytes)?;
        Ok(total)
    }
}

#[cfg(test)]
mod tests;
