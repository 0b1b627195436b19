//! What the receiver has of the files that the sender asks about.

use std::os::fd::AsFd;

use rustix::fs::{FileType, Stat};

use super::{
    confine::look,
    content::{hash_prefix, size},
    entry::{Asked, Digest, Have},
    error::TransferError,
    partial::{Partial, is_same, open_regular},
    receive::{Receiver, Spot},
};

/// Most unfinished files that are held open for one question. Others start over; an interrupted transfer leaves one.
const MAX_HELD_PARTS: usize = 8;

/// What the sender was told is here, kept until its entry comes.
#[derive(Debug)]
pub(crate) enum Held {
    /// Part of the file, locked, and the digest's state after it.
    Part(Box<Partial>, Box<blake3::Hasher>),
    /// The whole file, and its digest.
    Whole(Box<Stat>, Digest),
}

/// Answers for one file.
pub(crate) fn answer(receiver: &mut Receiver<'_>, spot: Spot, asked: &Asked) -> Result<Have, TransferError> {
    let Spot { directory, name, path } = spot;
    let path = path.as_slice();
    let failed = |error| TransferError::io(path, "look at it", error);
    let beat = receiver.wire.outgoing.beat.clone();
    if let Some(found) = look(directory.as_fd(), &name).map_err(failed)?
        && is_as_asked(&found, asked)
    {
        let (file, opened) = open_regular(directory.as_fd(), &name, path)?;
        let hasher = hash_prefix(&file, size(&opened), &beat)
            .map_err(|error| TransferError::io(path, "read it", error))?;
        if let Some(hasher) = hasher.filter(|_| is_same(&found, &opened)) {
            let digest = *hasher.finalize().as_bytes();
            receiver.held.insert(name, Held::Whole(Box::new(found), digest));
            return Ok(Have::Whole(digest));
        }
    }
    let parts = receiver.held.values().filter(|held| matches!(held, Held::Part(..))).count();
    if parts >= MAX_HELD_PARTS || !Partial::is_there(directory.as_fd(), &name).map_err(failed)? {
        return Ok(Have::Nothing);
    }
    let mut partial = Partial::open(&directory, &name, path)?;
    // If this attempt is cut before the file's turn comes, what is there is as good as before.
    partial.keep();
    let hasher = partial.hash(&beat).map_err(|error| TransferError::io(path, "read it", error))?;
    let length = partial.length();
    match hasher.filter(|_| length > 0 && length <= asked.size) {
        Some(hasher) => {
            let digest = *hasher.finalize().as_bytes();
            receiver.held.insert(name, Held::Part(Box::new(partial), Box::new(hasher)));
            Ok(Have::Part(length, digest))
        }
        None => Ok(Have::Nothing),
    }
}

fn is_as_asked(found: &Stat, asked: &Asked) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
        && size(found) == asked.size
        && found.st_mtime == asked.seconds
        && u32::try_from(found.st_mtime_nsec) == Ok(asked.nanoseconds)
}
