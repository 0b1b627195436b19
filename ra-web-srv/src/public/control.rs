//! The control channel's transcript: `docs/spec/control-trace.md`.
//!
//! Entries as they were written; whether they are all of them is for the caller to compute from the head that is attested.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use ::attestation::bundle::{Base64, MAX_TRANSCRIPT_ENTRY_BYTES};
use axum::extract::{RawQuery, State};
use axum::response::Response;
use serde::Serialize;

use super::Shared;
use super::service::uncached;
use crate::error::ApiError;
use crate::query::Parameters;

/// Most entries of one answer, and how many there are if nobody says.
const MAX_ENTRIES: u64 = 1000;
const DEFAULT_ENTRIES: u64 = 100;

/// After this many bytes an answer takes no further entry.
const ENOUGH_BYTES: usize = 1 << 20;

/// What an answer costs.
const COST: u32 = 20;

/// Where the trace is.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    transcript: PathBuf,
}

/// Some entries, in order.
#[derive(Debug, Serialize)]
pub(super) struct Entries {
    pub(super) entries: Vec<Base64>,
    /// The number to go on from; the entry of this number may not be there yet.
    pub(super) next: u64,
}

/// The transcript cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub(crate) struct TranscriptError {
    path: PathBuf,
    source: io::Error,
}

impl Trace {
    /// The trace whose head is in the file `head`.
    pub(crate) fn beside(head: &std::path::Path) -> Self {
        Self { transcript: head.with_file_name("transcript") }
    }

    /// Up to `limit` entries, and not many more than `enough` bytes, from number `from` on. Numbers begin with 1.
    pub(super) async fn entries(&self, from: u64, limit: u64, enough: usize) -> Result<Entries, ApiError> {
        let path = self.transcript.clone();
        let reading = tokio::task::spawn_blocking(move || {
            read_entries(&path, from, limit, enough).map_err(|source| TranscriptError { path, source })
        });
        Ok(reading.await.expect("reading does not panic")?)
    }
}

pub(super) async fn transcript(
    State(state): Shared,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref(), &["from", "limit"])?;
    let from = parameters.number("from", 1..=u64::MAX)?.unwrap_or(1);
    let limit = parameters.number("limit", 1..=MAX_ENTRIES)?.unwrap_or(DEFAULT_ENTRIES);
    let trace = state.control.as_ref().ok_or(ApiError::NoControl)?;
    state.budget.spend(COST)?;
    Ok(uncached(trace.entries(from, limit, ENOUGH_BYTES).await?))
}

/// Entries behind their lengths. One that is not there to its end is being written, and does not count.
fn read_entries(path: &std::path::Path, from: u64, limit: u64, enough: usize) -> io::Result<Entries> {
    let mut found = Entries { entries: Vec::new(), next: from };
    let mut file = match File::open(path) {
        // Written with the first admission.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        opened => BufReader::new(opened?),
    };
    let end = file.get_ref().metadata()?.len();
    let (mut place, mut number, mut bytes) = (0, 1_u64, 0);
    while (found.entries.len() as u64) < limit && bytes < enough && end - place >= 4 {
        let mut length = [0; 4];
        file.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        place += 4 + u64::from(length);
        if place > end {
            break;
        }
        if length as usize > MAX_TRANSCRIPT_ENTRY_BYTES {
            return Err(io::Error::other("an entry is longer than entries are"));
        }
        if number < from {
            file.seek_relative(length.into())?;
        } else {
            let mut entry = vec![0; length as usize];
            file.read_exact(&mut entry)?;
            bytes += entry.len();
            found.entries.push(Base64(entry));
            found.next = number + 1;
        }
        number += 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(entries: &[&[u8]]) -> Vec<u8> {
        let framed = entries
            .iter()
            .map(|entry| [&u32::try_from(entry.len()).unwrap().to_be_bytes()[..], entry].concat());
        framed.collect::<Vec<_>>().concat()
    }

    fn read(bytes: &[u8], from: u64, limit: u64, enough: usize) -> (Vec<Vec<u8>>, u64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("transcript");
        std::fs::write(&path, bytes).unwrap();
        let Entries { entries, next } = read_entries(&path, from, limit, enough).unwrap();
        (entries.into_iter().map(|entry| entry.0).collect(), next)
    }

    #[test]
    fn entries_are_read_from_any_number_on() {
        let bytes = transcript(&[b"one", b"two", b"", b"four"]);
        let all = [b"one".to_vec(), b"two".to_vec(), vec![], b"four".to_vec()];
        assert_eq!(read(&bytes, 1, 9, 99), (all.to_vec(), 5));
        assert_eq!(read(&bytes, 2, 2, 99), (all[1..3].to_vec(), 4));
        assert_eq!(read(&bytes, 1, 9, 4), (all[..2].to_vec(), 3), "enough after two");
        assert_eq!(read(&bytes, 5, 9, 99), (vec![], 5));
        assert_eq!(read(&bytes, u64::MAX, 9, 99), (vec![], u64::MAX));
    }

    #[test]
    fn an_entry_that_is_being_written_does_not_count() {
        let bytes = transcript(&[b"one", b"two"]);
        for cut in 8..bytes.len() {
            assert_eq!(read(&bytes[..cut], 1, 9, 99), (vec![b"one".to_vec()], 2), "{cut}");
        }
    }

    #[test]
    fn before_the_first_admission_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let Entries { entries, next } = read_entries(&folder.path().join("transcript"), 1, 9, 99).unwrap();
        assert_eq!((entries, next), (vec![], 1));
    }

    #[test]
    fn a_length_that_no_entry_has_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("transcript");
        std::fs::write(&path, transcript(&[&vec![0; MAX_TRANSCRIPT_ENTRY_BYTES + 1]])).unwrap();
        read_entries(&path, 1, 9, 99).unwrap_err();
    }
}
