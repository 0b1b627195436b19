//! The state of the enclave's ledger, which every document of this server states: `docs/spec/ledger-api.md`.

use std::{io, path::PathBuf, time::Duration};

use attestation::{Sha256, binding};
use enclave_init::ledger;
use serde::Deserialize;

/// How long the ledger may take to say how far it is. While it is started again it does not answer at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The ledger behind a socket, which need not be there yet.
#[derive(Debug)]
pub(crate) struct Ledger {
    socket: PathBuf,
}

/// What is stated of the ledger's answer.
#[derive(Deserialize)]
struct Checkpoint {
    size: u64,
    log_root: Sha256,
    map_root: Sha256,
    vrf_key: Sha256,
}

/// Why there is no state to be stated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    #[error("the ledger at {} does not answer", path.display())]
    Ask {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the ledger's answer is no checkpoint")]
    Answer(#[source] serde_json::Error),
}

impl Ledger {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The ledger as it is now.
    pub(crate) async fn state(&self) -> Result<binding::Ledger, LedgerError> {
        let answer = ledger::get(&self.socket, "/v1/checkpoint", ANSWER_WITHIN).await;
        let answer = answer.map_err(|source| LedgerError::Ask { path: self.socket.clone(), source })?;
        let Checkpoint { size, log_root, map_root, vrf_key } =
            serde_json::from_slice(&answer).map_err(LedgerError::Answer)?;
        Ok(binding::Ledger { vrf_key: vrf_key.0, size, log_root, map_root })
    }
}
