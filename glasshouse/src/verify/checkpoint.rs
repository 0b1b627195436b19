//! Checkpoints of before: the ledger as an attested document stated it, kept by an auditor, or as the ledger's own note has
//! it, perhaps cosigned by witnesses.

use std::{fs, path::Path};

use ::ledger::{Checkpoint, MAX_NOTE_BYTES, Note, NoteKey};
use anyhow::{Context, Result};
use attestation::Sha256;
use serde::{Deserialize, Serialize};

use super::{gather::read_limited, ledger::LedgerClaims};

/// Longest file of JSON, in bytes.
const MAX_BYTES: usize = 4096;

/// The version of the form.
const VERSION: u32 = 1;

/// What was known of a ledger before.
#[derive(Debug)]
pub(crate) enum Since {
    /// By this command, from a document.
    Kept(Kept),
    /// By a note of the ledger's.
    Note(Cosigned),
}

/// A note of a ledger, which is nobody's word yet: the key that has to have signed it is in the baseline.
#[derive(Debug)]
pub(crate) struct Cosigned {
    /// As it was read.
    pub(crate) note: Note,
    /// Entries in the log, by its text.
    pub(crate) size: u64,
    /// Who has to have cosigned it.
    pub(crate) witnesses: Vec<NoteKey>,
}

impl Since {
    /// Reads either.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let bytes = read_limited(path, MAX_NOTE_BYTES)?;
            if bytes.trim_ascii_start().starts_with(b"{") {
                return Ok(Self::Kept(Kept::decode(&bytes)?));
            }
            let note = Note::decode(&bytes)?;
            let origin = note.text().split('\n').next().unwrap_or_default();
            let size = Checkpoint::from_text(note.text(), origin)?.size;
            Ok(Self::Note(Cosigned { note, size, witnesses: Vec::new() }))
        };
        read().with_context(|| {
            let file = path.display();
            format!("--since {file} is neither a checkpoint that --save-checkpoint wrote nor a ledger's note")
        })
    }

    /// Entries in the log then.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Kept(kept) => kept.size,
            Self::Note(note) => note.size,
        }
    }
}

/// The file of --save-checkpoint: JSON, `docs/spec/attestation.md`, "Kept checkpoints".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    pub(crate) version: u32,
    /// The ledger's VRF key: it is made when the enclave starts, and so names the ledger.
    pub(crate) vrf_key: Sha256,
    /// Entries in the log.
    pub(crate) size: u64,
    /// Root of the log.
    pub(crate) log_root: Sha256,
    /// Root of the map.
    pub(crate) map_root: Sha256,
}

impl Kept {
    /// What a document says of its ledger.
    pub(crate) fn of(claims: &LedgerClaims) -> Self {
        let LedgerClaims { size, log_root, map_root, vrf_key, .. } = *claims;
        Self { version: VERSION, vrf_key, size, log_root, map_root }
    }

    /// Of what [`Self::write`] wrote.
    fn decode(bytes: &[u8]) -> Result<Self> {
        anyhow::ensure!(bytes.len() <= MAX_BYTES, "it has more than {MAX_BYTES} bytes");
        let kept: Self = serde_json::from_slice(bytes)?;
        anyhow::ensure!(kept.version == VERSION, "it has version {}, not {VERSION}", kept.version);
        Ok(kept)
    }

    /// Writes a file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("--save-checkpoint {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let (vrf_key, log_root, map_root) = (Sha256([1; 32]), Sha256([2; 32]), Sha256([3; 32]));
        let kept =
            Kept::of(&LedgerClaims { size: 7, log_root, map_root, vrf_key, at_boot: None, note_key: None });
        kept.write(&path).unwrap();
        assert!(matches!(Since::read(&path).unwrap(), Since::Kept(read) if read == kept));
        let text = fs::read_to_string(&path).unwrap();
        for wrong in
            [text.replace(": 1,", ": 2,"), text.replace("size", "sizes"), "{}".to_owned(), " ".repeat(5000)]
        {
            fs::write(&path, wrong).unwrap();
            assert!(Since::read(&path).is_err());
        }
    }
}
