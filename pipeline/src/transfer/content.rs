//! The content of one file on its way out: data, holes and the digest over both.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::{
    fs::{self, SeekFrom, Stat},
    io::{self, Errno},
};

use super::{
    entry::{Digest, Have, Meta, Start},
    error::TransferError,
    meter::Meter,
    wire::{Beat, DATA_BYTES, Memory, Wire},
};
use crate::frame::{HEADER_BYTES, Kind};

/// What holes read as.
pub(crate) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Bytes of one block of `st_blocks`.
pub(crate) const STAT_BLOCK_BYTES: u64 = 512;

/// A file that is held open, and how it was then.
#[derive(Debug)]
pub(crate) struct Content<'a> {
    pub(crate) file: BorrowedFd<'a>,
    pub(crate) stat: &'a Stat,
    /// For messages.
    pub(crate) path: &'a [u8],
}

/// The metadata of a transfer's entry.
pub(crate) fn meta(stat: &Stat) -> Meta {
    Meta {
        mode: stat.st_mode & 0o7777,
        seconds: stat.st_mtime,
        nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
    }
}

pub(crate) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

impl Content<'_> {
    /// Where to begin, given what the receiver has, and the state of the digest there.
    pub(crate) fn start(&self, have: Have, beat: &Beat) -> Result<(Start, blake3::Hasher), TransferError> {
        let (length, theirs) = match have {
            Have::Nothing => return Ok((Start::At(0), blake3::Hasher::new())),
            Have::Part(length, digest) => (length, digest),
            Have::Whole(digest) => (size(self.stat), digest),
        };
        if length > size(self.stat) {
            return Ok((Start::At(0), blake3::Hasher::new()));
        }
        let Some(hasher) = hash_prefix(self.file, length, beat)
            .map_err(|error| TransferError::io(self.path, "read it", error))?
        else {
            return Err(self.changed());
        };
        let agrees = hasher.finalize() == blake3::Hash::from(theirs);
        Ok(match have {
            Have::Whole(_) if agrees => (Start::Whole(theirs), hasher),
            Have::Part(..) if agrees => (Start::At(length), hasher),
            _ => (Start::At(0), blake3::Hasher::new()),
        })
    }

    /// Sends everything from `position` on, and the digest.
    pub(crate) fn send(
        &self,
        wire: &mut Wire,
        mut position: u64,
        mut hasher: blake3::Hasher,
        meter: &Meter,
    ) -> Result<Digest, TransferError> {
        let size = size(self.stat);
        let is_sparse = u64::try_from(self.stat.st_blocks).unwrap_or(0) * STAT_BLOCK_BYTES < size;
        while position < size {
            let data = if is_sparse { self.data_after(position, size)? } else { Some((position, size)) };
            let (begin, end) = data.unwrap_or((size, size));
            if begin > position {
                wire.outgoing.frame(Kind::Hole, &(begin - position).to_be_bytes())?;
                hash_zeros(&mut hasher, begin - position, &wire.outgoing.beat);
                meter.add_bytes(begin - position);
            }
            self.send_data(wire, begin, end, &mut hasher, meter)?;
            position = end;
        }
        self.check_unchanged()?;
        let digest = *hasher.finalize().as_bytes();
        wire.outgoing.frame(Kind::Digest, &digest)?;
        Ok(digest)
    }

    fn send_data(
        &self,
        wire: &mut Wire,
        mut position: u64,
        end: u64,
        hasher: &mut blake3::Hasher,
        meter: &Meter,
    ) -> Result<(), TransferError> {
        while position < end {
            wire.check_for_refusal()?;
            let sent = wire.outgoing.data(end - position, |into| {
                io::retry_on_intr(|| io::pread(self.file, &mut *into, position))
                    .map_err(|error| TransferError::io(self.path, "read it", error))
            })?;
            if sent.is_empty() {
                return Err(self.changed());
            }
            hasher.update(sent);
            position += sent.len() as u64;
            meter.add_bytes(sent.len() as u64);
        }
        Ok(())
    }

    /// The next stretch of data at or behind `position`, none if only a hole remains.
    fn data_after(&self, position: u64, size: u64) -> Result<Option<(u64, u64)>, TransferError> {
        let failed = |error| TransferError::io(self.path, "find its holes", error);
        let begin = match fs::seek(self.file, SeekFrom::Data(position)) {
            Ok(begin) => begin.min(size),
            Err(Errno::NXIO) => return Ok(None),
            // A file system that does not know holes has none.
            Err(Errno::INVAL) => return Ok(Some((position, size))),
            Err(error) => return Err(failed(error)),
        };
        let end = fs::seek(self.file, SeekFrom::Hole(begin)).map_err(failed)?.min(size);
        Ok(Some((begin, end.max(begin))))
    }

    fn check_unchanged(&self) -> Result<(), TransferError> {
        let now = fs::fstat(self.file).map_err(|error| TransferError::io(self.path, "look at it", error))?;
        let seen = |stat: &Stat| {
            (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
        };
        if seen(&now) == seen(self.stat) { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> TransferError {
        TransferError::Changed { path: self.path.to_vec() }
    }
}

/// Sends what `source` gives until it ends; returns how many bytes and their digest.
pub(crate) fn send_stream(
    source: &mut dyn std::io::Read,
    wire: &mut Wire,
    meter: &Meter,
    path: &[u8],
) -> Result<(u64, Digest), TransferError> {
    let mut hasher = blake3::Hasher::new();
    let mut total = 0;
    loop {
        let sent = wire.outgoing.data(DATA_BYTES as u64, |into| {
            loop {
                match source.read(into) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    other => break other.map_err(|error| TransferError::io(path, "read it", error)),
                }
            }
        })?;
        let count = sent.len() as u64;
        hasher.update(sent);
        if count == 0 {
            break;
        }
        // What is typed or computed slowly is to arrive when it is there.
        wire.flush()?;
        total += count;
        meter.add_bytes(count);
    }
    let digest = *hasher.finalize().as_bytes();
    wire.outgoing.frame(Kind::Digest, &digest)?;
    Ok((total, digest))
}

/// The digest's state after the first `length` bytes, none if the file is shorter.
pub(crate) fn hash_prefix(
    file: impl AsFd,
    length: u64,
    beat: &Beat,
) -> Result<Option<blake3::Hasher>, Errno> {
    let mut hasher = blake3::Hasher::new();
    let mut memory = Memory::new();
    let buffer = &mut memory[HEADER_BYTES..];
    let mut position = 0;
    while position < length {
        let most = usize::try_from(length - position).unwrap_or(usize::MAX).min(buffer.len());
        let count = io::retry_on_intr(|| io::pread(&file, &mut buffer[..most], position))?;
        if count == 0 {
            return Ok(None);
        }
        hasher.update(&buffer[..count]);
        position += count as u64;
        beat.strike();
    }
    Ok(Some(hasher))
}

/// Hashes `count` zeros, as readers of a hole see them.
pub(crate) fn hash_zeros(hasher: &mut blake3::Hasher, mut count: u64, beat: &Beat) {
    while count > 0 {
        let now = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
        hasher.update(&ZEROS[..now]);
        count -= now as u64;
        beat.strike();
    }
}
