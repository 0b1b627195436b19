//! Checkpoints that an auditor keeps: the ledger as an attested document stated it, to be compared with later.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use attestation::Sha256;
use serde::{Deserialize, Serialize};

use super::{gather::read_limited, ledger::LedgerClaims};

/// Longest file, in bytes.
const MAX_BYTES: usize = 4096;

/// The version of the form.
const VERSION: u32 = 1;

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

    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let kept: Self = serde_json::from_slice(&read_limited(path, MAX_BYTES)?)?;
            anyhow::ensure!(kept.version == VERSION, "it has version {}, not {VERSION}", kept.version);
            Ok(kept)
        };
        read().with_context(|| {
            format!("--since {} is no checkpoint that --save-checkpoint wrote", path.display())
        })
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
        let kept = Kept::of(&LedgerClaims { size: 7, log_root, map_root, vrf_key, at_boot: None });
        kept.write(&path).unwrap();
        assert_eq!(Kept::read(&path).unwrap(), kept);
        let text = fs::read_to_string(&path).unwrap();
        for wrong in
            [text.replace(": 1,", ": 2,"), text.replace("size", "sizes"), "{}".to_owned(), " ".repeat(5000)]
        {
            fs::write(&path, wrong).unwrap();
            assert!(Kept::read(&path).is_err());
        }
    }
}
