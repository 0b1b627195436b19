//! What is shared while an input is taken in: the limits used up so far, the spool and the notes.

use std::{io, path::Path};

use crate::{
    Limits,
    content::Spool,
    error::LayerError,
    notes::{NoteKind, Notes},
    path::EntryPath,
};

/// One per input, through all its layers.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) spool: Spool,
    limits: Limits,
    unpacked_bytes: u64,
    entries: u64,
    name_bytes: u64,
    notes: Notes,
}

impl Intake {
    /// Unpacked files go into a nameless temporary file in the file system of `spool_dir`.
    pub(crate) fn new(limits: Limits, spool_dir: &Path) -> io::Result<Self> {
        Ok(Self {
            spool: Spool::in_dir(spool_dir)?,
            limits,
            unpacked_bytes: 0,
            entries: 0,
            name_bytes: 0,
            notes: Notes::default(),
        })
    }

    /// How many more bytes may be unpacked.
    pub(crate) fn bytes_left(&self) -> u64 {
        self.limits.unpacked_bytes - self.unpacked_bytes
    }

    /// Counts unpacked bytes.
    pub(crate) fn take_bytes(&mut self, bytes: u64) -> Result<(), LayerError> {
        if bytes > self.bytes_left() {
            return Err(self.too_large());
        }
        self.unpacked_bytes += bytes;
        Ok(())
    }

    /// The refusal of an input that unpacks to too much.
    pub(crate) fn too_large(&self) -> LayerError {
        LayerError::UnpackedTooLarge { limit: self.limits.unpacked_bytes }
    }

    /// Counts one entry with this many bytes of names.
    pub(crate) fn take_entry(&mut self, name_bytes: usize) -> Result<(), LayerError> {
        self.entries += 1;
        self.name_bytes += name_bytes as u64;
        let limits = &self.limits;
        if self.entries > limits.entries {
            return Err(LayerError::TooManyEntries { limit: limits.entries });
        }
        if self.name_bytes > limits.name_bytes {
            return Err(LayerError::NamesTooLong { limit: limits.name_bytes });
        }
        Ok(())
    }

    pub(crate) fn note(&mut self, kind: NoteKind, path: &EntryPath) {
        self.notes.add(kind, path);
    }

    pub(crate) fn into_notes(self) -> Notes {
        self.notes
    }
}
