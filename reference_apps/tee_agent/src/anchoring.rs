//! Has the enclave's ledger remember where the log is, so that a log that was put back or told in two ways is found out, whoever has its
//! key (`docs/spec/tee-log.md#anchors`).
//!
//! Entries are not anchored one by one: what comes while the ledger is busy, or before the next anchor is due, shares one. The pauses grow with
//! their number, because a verifier reads all of them.

use std::{sync::Arc, time::Duration};

use tee_log::Anchor;
use tokio::{sync::oneshot, time::sleep};

use crate::{
    evidence::{EnclaveError, Evidence},
    log::Log,
};

/// The stream of the ledger: `app/tee-log`.
pub const STREAM: &str = "tee-log";

/// From one anchor to the next, at first.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// After so many anchors the pause is twice as long. So there are never more than fit into a proof.
const ANCHORS_PER_DOUBLING: u64 = 256;
/// From one attempt to the next, when the ledger does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long the last anchor may take.
const LAST_WITHIN: Duration = Duration::from_secs(3);

/// Anchors one log.
#[derive(Debug)]
pub struct Anchoring {
    log: Log,
    evidence: Arc<dyn Evidence>,
    written: Option<Anchor>,
    pause: Duration,
}

impl Anchoring {
    /// For this log, in the ledger of this enclave.
    pub fn new(log: Log, evidence: Arc<dyn Evidence>) -> Self {
        Self { log, evidence, written: None, pause: SHORTEST_PAUSE }
    }

    /// Anchors the log now and whenever it has grown, until `end` comes, and then for the last time. Ends at once in an image that keeps no
    /// ledger.
    pub async fn run(mut self, mut end: oneshot::Receiver<()>) {
        let mut failing = false;
        loop {
            let pause = match self.anchor().await {
                Ok(()) => {
                    failing = false;
                    self.pause
                }
                Err(error) if is_final(&error) => {
                    tracing::info!("this image keeps no ledger: nobody but its readers remembers the log");
                    return;
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(error = &error as &dyn std::error::Error, "the log is not anchored");
                    }
                    failing = true;
                    RETRY_AFTER
                }
            };
            let due = async {
                sleep(pause).await;
                if !failing {
                    self.log.changed().await;
                }
            };
            tokio::select! {
                _ = &mut end => break,
                () = due => {}
            }
        }
        match tokio::time::timeout(LAST_WITHIN, self.anchor()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => tracing::warn!("the end of the log is not anchored"),
        }
    }

    async fn anchor(&mut self) -> Result<(), EnclaveError> {
        let anchor = self.log.anchor();
        if self.written == Some(anchor) {
            return Ok(());
        }
        let place = self.evidence.append(STREAM, anchor.encode()).await?;
        self.written = Some(anchor);
        self.pause = pause_after(place.sequence);
        Ok(())
    }
}

fn pause_after(anchors: u64) -> Duration {
    let doublings = u32::try_from(anchors / ANCHORS_PER_DOUBLING).unwrap_or(u32::MAX).min(20);
    SHORTEST_PAUSE * (1 << doublings)
}

fn is_final(error: &EnclaveError) -> bool {
    matches!(error, EnclaveError::Refused { code, .. } if code == "no_ledger")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_so_that_all_anchors_fit_into_a_proof() {
        assert_eq!(pause_after(0), SHORTEST_PAUSE);
        assert_eq!(pause_after(255), SHORTEST_PAUSE);
        assert_eq!(pause_after(256), SHORTEST_PAUSE * 2);
        assert_eq!(pause_after(u64::MAX), SHORTEST_PAUSE * (1 << 20));
        // 4 MiB hold about 4,600; so many there are after four months of writing without a pause.
        let months: Duration = (0..4600).map(pause_after).sum();
        assert!(months > Duration::from_secs(120 * 86_400), "{months:?}");
    }
}
