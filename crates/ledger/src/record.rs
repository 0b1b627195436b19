//! Payloads: what is recorded of a file, and of a time when nobody looked.
//!
//! Spec: `docs/spec/ledger.md`, sections "Records" and "Gaps".

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::collections::BTreeMap;

use crate::cbor::{DecodeError, Reader, Writer};

mod gap;

pub use gap::{Gap, GapReason, MAX_GAP_DETAIL_BYTES};

/// The version that this module writes and reads.
pub(crate) const VERSION: u64 = 1;
/// Longest target of a symbolic link.
pub const MAX_TARGET_BYTES: usize = 4096;
/// Longest encoding of a record.
pub const MAX_RECORD_BYTES: usize = 4608;

const WHAT: &str = "a record";

/// What was found at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Why somebody looked.
    pub cause: Cause,
    /// What was there.
    pub state: State,
}

/// Why a path was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// The first scan, before the application started.
    Scan = 1,
    /// A notification of the kernel.
    Event = 2,
    /// A program was about to read or run it, and was held.
    Access = 3,
    /// A sweep over all files, which finds what raises no notification.
    Sweep = 4,
    /// A scan after notifications were lost.
    Overflow = 5,
    /// A scan after the monitor was started again.
    Restart = 6,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing any more.
    Removed,
    /// Something, with attributes and content.
    Present(Attributes, Content),
}

/// Attributes that everything has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits with set-user-ID, set-group-ID and sticky: at most 0o7777.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When the content last changed, in nanoseconds since 1970, as its owner sets it.
    pub mtime: i64,
}

/// What something holds, by its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
        /// Of its bytes; one at least.
        digests: Digests,
    },
    /// A directory.
    Directory {
        /// Names in it.
        entries: u64,
        /// Of what is in it, where that is made.
        digests: Digests,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, as it is written: 1 to [`MAX_TARGET_BYTES`] bytes.
        target: Vec<u8>,
    },
    /// A character device.
    CharacterDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A regular file that could not be read.
    Unreadable {
        /// Its length in bytes.
        size: u64,
    },
}

/// The numbers of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// The driver's.
    pub major: u32,
    /// The driver's own.
    pub minor: u32,
}

/// How a digest is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// BLAKE3, 32 bytes.
    Blake3 = 1,
    /// SHA-256 (FIPS 180-4), 32 bytes.
    Sha256 = 2,
    /// SHA3-512 (FIPS 202), 64 bytes.
    Sha3_512 = 3,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Blake3, Self::Sha256, Self::Sha3_512];

    /// Bytes of a digest.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Blake3 | Self::Sha256 => 32,
            Self::Sha3_512 => 64,
        }
    }

    /// Its name in texts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
            Self::Sha3_512 => "sha3-512",
        }
    }
}

/// Digests of one content, at most one of each algorithm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests(BTreeMap<Algorithm, Vec<u8>>);

impl Digests {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// These and one more, in place of one of the same algorithm.
    ///
    /// # Panics
    /// If the digest has not the length of its algorithm's.
    #[must_use]
    pub fn with(mut self, algorithm: Algorithm, digest: &[u8]) -> Self {
        assert_eq!(digest.len(), algorithm.bytes(), "a digest of {}", algorithm.name());
        self.0.insert(algorithm, digest.to_vec());
        self
    }

    /// The one of an algorithm.
    pub fn of(&self, algorithm: Algorithm) -> Option<&[u8]> {
        self.0.get(&algorithm).map(Vec::as_slice)
    }

    /// All, in order of algorithms.
    pub fn iter(&self) -> impl Iterator<Item = (Algorithm, &[u8])> {
        self.0.iter().map(|(algorithm, digest)| (*algorithm, digest.as_slice()))
    }

    fn write(&self, writer: &mut Writer) {
        writer.map(self.0.len());
        for (algorithm, digest) in &self.0 {
            writer.uint(*algorithm as u64).bytes(digest);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut digests = Digests::new();
        for _ in 0..reader.map_len(Algorithm::ALL.len() as u64)? {
            let number = reader.uint()?;
            let algorithm = Algorithm::ALL.into_iter().find(|algorithm| *algorithm as u64 == number);
            let algorithm = algorithm.ok_or(reader.out_of_range())?;
            let digest = reader.bytes(algorithm.bytes())?;
            if digest.len() != algorithm.bytes() {
                return Err(reader.out_of_range());
            }
            digests.0.insert(algorithm, digest.to_vec());
        }
        Ok(digests)
    }
}

const REMOVED: u64 = 0;
const FILE: u64 = 1;
const DIRECTORY: u64 = 2;
const SYMLINK: u64 = 3;
const CHARACTER_DEVICE: u64 = 4;
const BLOCK_DEVICE: u64 = 5;
const FIFO: u64 = 6;
const SOCKET: u64 = 7;
const UNREADABLE: u64 = 8;

impl Record {
    /// The one encoding: `[version, cause, 0]`, or `[version, cause, type, mode, uid, gid, mtime, content]`.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        match &self.state {
            State::Removed => {
                writer.array(3).uint(VERSION).uint(self.cause as u64).uint(REMOVED);
            }
            State::Present(attributes, content) => {
                writer.array(8).uint(VERSION).uint(self.cause as u64).uint(content.number());
                writer.uint(u64::from(attributes.mode));
                writer.uint(u64::from(attributes.uid)).uint(u64::from(attributes.gid)).int(attributes.mtime);
                content.write(&mut writer);
            }
        }
        writer.finish()
    }

    /// Decodes what [`Record::encode`] makes, and nothing else.
    ///
    /// # Errors
    /// Whatever deviates from the specification.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(WHAT, bytes, MAX_RECORD_BYTES)?;
        let members = reader.array_len()?;
        reader.version(VERSION)?;
        let cause = Cause::read(&mut reader)?;
        let state = match (reader.uint()?, members) {
            (REMOVED, 3) => State::Removed,
            (REMOVED, _) | (_, ..8 | 9..) => {
                return Err(DecodeError::Members { what: WHAT, found: members as u64 });
            }
            (number, 8) => {
                let attributes = Attributes::read(&mut reader)?;
                State::Present(attributes, Content::read(number, &mut reader)?)
            }
        };
        let record = Record { cause, state };
        reader.finish(&record.encode())?;
        Ok(record)
    }
}

impl Cause {
    const ALL: [Self; 6] =
        [Self::Scan, Self::Event, Self::Access, Self::Sweep, Self::Overflow, Self::Restart];

    /// Its name in texts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Event => "event",
            Self::Access => "access",
            Self::Sweep => "sweep",
            Self::Overflow => "overflow",
            Self::Restart => "restart",
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let number = reader.uint()?;
        Self::ALL.into_iter().find(|cause| *cause as u64 == number).ok_or(reader.out_of_range())
    }
}

impl Attributes {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mode = reader.uint()?;
        let mode = u16::try_from(mode).ok().filter(|mode| *mode <= 0o7777).ok_or(reader.out_of_range())?;
        Ok(Self { mode, uid: reader.u32()?, gid: reader.u32()?, mtime: reader.int()? })
    }
}

impl Content {
    /// Its type's name in texts.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Directory { .. } => "directory",
            Self::Symlink { .. } => "symlink",
            Self::CharacterDevice(_) => "character-device",
            Self::BlockDevice(_) => "block-device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::Unreadable { .. } => "unreadable",
        }
    }

    const fn number(&self) -> u64 {
        match self {
            Self::File { .. } => FILE,
            Self::Directory { .. } => DIRECTORY,
            Self::Symlink { .. } => SYMLINK,
            Self::CharacterDevice(_) => CHARACTER_DEVICE,
            Self::BlockDevice(_) => BLOCK_DEVICE,
            Self::Fifo => FIFO,
            Self::Socket => SOCKET,
            Self::Unreadable { .. } => UNREADABLE,
        }
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::File { size: count, digests } | Self::Directory { entries: count, digests } => {
                writer.array(2).uint(*count);
                digests.write(writer);
            }
            Self::Symlink { target } => {
                writer.array(1).bytes(target);
            }
            Self::CharacterDevice(Device { major, minor }) | Self::BlockDevice(Device { major, minor }) => {
                writer.array(2).uint(u64::from(*major)).uint(u64::from(*minor));
            }
            Self::Fifo | Self::Socket => {
                writer.array(0);
            }
            Self::Unreadable { size } => {
                writer.array(1).uint(*size);
            }
        }
    }

    fn read(number: u64, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let members = match number {
            FILE | DIRECTORY | CHARACTER_DEVICE | BLOCK_DEVICE => 2,
            SYMLINK | UNREADABLE => 1,
            FIFO | SOCKET => 0,
            _ => return Err(reader.out_of_range()),
        };
        reader.array(members)?;
        Ok(match number {
            FILE => {
                let (size, digests) = (reader.uint()?, Digests::read(reader)?);
                if digests == Digests::new() {
                    return Err(reader.out_of_range());
                }
                Self::File { size, digests }
            }
            DIRECTORY => Self::Directory { entries: reader.uint()?, digests: Digests::read(reader)? },
            SYMLINK => {
                let target = reader.bytes(MAX_TARGET_BYTES)?.to_vec();
                if target.is_empty() {
                    return Err(reader.out_of_range());
                }
                Self::Symlink { target }
            }
            CHARACTER_DEVICE => Self::CharacterDevice(Device::read(reader)?),
            BLOCK_DEVICE => Self::BlockDevice(Device::read(reader)?),
            FIFO => Self::Fifo,
            SOCKET => Self::Socket,
            _ => Self::Unreadable { size: reader.uint()? },
        })
    }
}

impl Device {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { major: reader.u32()?, minor: reader.u32()? })
    }
}
