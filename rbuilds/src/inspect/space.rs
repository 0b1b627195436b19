//! What takes space in an archive.

use std::{cmp::Reverse, collections::BTreeMap};

use eif::cpio::Kind;
use serde::Serialize;

use crate::{
    listing::{Name, Record},
    path::printable,
};

/// A file or directory and what it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Space {
    /// Its name, escaped if it is not plain text.
    pub name: String,
    /// The length of the file, or of all files below the directory.
    pub bytes: u64,
}

pub(super) fn largest_files(entries: &BTreeMap<Name, Record>, top: usize) -> Vec<Space> {
    let files = entries.iter().filter(|(_, record)| matches!(record.kind, Kind::File { .. }));
    largest(files.map(|(name, record)| (name.bytes.as_slice(), record.size())), top)
}

/// Directories with what is below them at any depth, the root itself left out.
pub(super) fn largest_directories(entries: &BTreeMap<Name, Record>, top: usize) -> Vec<Space> {
    let mut totals: BTreeMap<&[u8], u64> = BTreeMap::new();
    for (name, record) in entries.iter().filter(|(_, record)| record.size() > 0) {
        let slashes = name.bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for directory in slashes.filter_map(|at| name.bytes.get(..at)) {
            if !matches!(directory, b"" | b".") {
                let total = totals.entry(directory).or_default();
                *total = total.saturating_add(record.size());
            }
        }
    }
    largest(totals.into_iter(), top)
}

/// The largest first, those of one size by name; empty ones take no space.
fn largest<'a>(sizes: impl Iterator<Item = (&'a [u8], u64)>, top: usize) -> Vec<Space> {
    let mut sizes: Vec<(Reverse<u64>, &[u8])> =
        sizes.filter(|(_, bytes)| *bytes > 0).map(|(name, bytes)| (Reverse(bytes), name)).collect();
    sizes.sort_unstable();
    sizes.truncate(top);
    sizes.into_iter().map(|(Reverse(bytes), name)| Space { name: printable(name), bytes }).collect()
}
