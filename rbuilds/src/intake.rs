//! What is shared while an input is taken in: the limits used up so far, where unpacked archives go, and the notes.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use eif::Architecture;

use crate::{
    Limits,
    error::LayerError,
    layer_cache::LayerCache,
    notes::{NoteKind, Notes},
    path::EntryPath,
};

/// One per input, through all its layers.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) room: Room,
    /// Archives are unpacked into nameless temporary files in the file system of this folder.
    pub(crate) folder: PathBuf,
    /// Unpacked layers of other builds.
    pub(crate) layer_cache: Option<LayerCache>,
    /// What images are to be for.
    pub(crate) architecture: Architecture,
    limits: Limits,
    entries: u64,
    name_bytes: u64,
    notes: Notes,
}

/// How many bytes may still be unpacked. Layers that are unpacked at the same time share it.
#[derive(Debug)]
pub(crate) struct Room {
    left: AtomicU64,
    limit: u64,
}

impl Room {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { left: AtomicU64::new(bytes), limit: bytes }
    }

    /// What there was at the beginning, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes this much. False, and nothing is taken, if there is less.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    /// Gives back what was taken for nothing.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Intake {
    pub(crate) fn new(
        limits: Limits,
        folder: &Path,
        layer_cache: Option<LayerCache>,
        architecture: Architecture,
    ) -> Self {
        Self {
            room: Room::new(limits.unpacked_bytes),
            folder: folder.to_owned(),
            layer_cache,
            architecture,
            limits,
            entries: 0,
            name_bytes: 0,
            notes: Notes::default(),
        }
    }

    /// Room for something that counts again when it is read as a layer.
    pub(crate) fn room_of_its_own(&self) -> Room {
        Room::new(self.limits.unpacked_bytes)
    }

    /// Counts unpacked bytes.
    pub(crate) fn take_bytes(&mut self, bytes: u64) -> Result<(), LayerError> {
        if self.room.take(bytes) { Ok(()) } else { Err(self.too_large()) }
    }

    /// The refusal of an input that unpacks to too much.
    pub(crate) fn too_large(&self) -> LayerError {
        LayerError::UnpackedTooLarge { limit: self.room.limit() }
    }

    /// Counts one entry with this many bytes of names.
    pub(crate) fn take_entry(&mut self, name_bytes: usize) -> Result<(), LayerError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(LayerError::TooManyEntries { limit: self.limits.entries });
        }
        self.take_names(name_bytes)
    }

    /// Counts bytes of names, or of what is held with them.
    pub(crate) fn take_names(&mut self, bytes: usize) -> Result<(), LayerError> {
        self.name_bytes += bytes as u64;
        match self.limits.name_bytes {
            limit if self.name_bytes > limit => Err(LayerError::NamesTooLong { limit }),
            _ => Ok(()),
        }
    }

    pub(crate) fn note(&mut self, kind: NoteKind, path: &EntryPath) {
        self.notes.add(kind, path);
    }

    pub(crate) fn into_notes(self) -> Notes {
        self.notes
    }
}
