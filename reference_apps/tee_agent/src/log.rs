//! What the agent writes down of itself, for everybody to check: a TEE log (`docs/spec/tee-log.md`), in memory, which ends with the agent's key.

use std::{sync::Arc, time::SystemTime};

use tee_log::{
    Attesting,
    store::{Deed, Error, Shared, TeeLog},
};

use crate::evidence::{Evidence, EvidenceError, Question};

/// Most entries. What is not written down is not done, so an agent that is full does nothing more; without an end the log would take
/// the enclave's memory.
const MAX_ENTRIES: u64 = 100_000;

/// The agent's log.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Shared,
    agent_id: String,
}

/// The agent's evidence as the log asks for it.
#[derive(Clone, Debug)]
pub(crate) struct Attester(pub(crate) Arc<dyn Evidence>);

impl Log {
    /// A fresh log, opened by the agent of this name. Its key is attested, unless there is nobody who attests.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn open(agent_id: &str, evidence: &dyn Evidence) -> Result<Self, Error> {
        let log = TeeLog::in_memory()?;
        let public_key = log.public_key().0.to_vec();
        let question = Question { nonce: String::new(), data: log.key_statement(), public_key };
        let attestation = evidence.attest(question).await.unwrap_or_else(|error: EvidenceError| {
            tracing::warn!(error = &error as &dyn std::error::Error, "the log's key is not attested");
            String::new()
        });
        log.register(agent_id, agent_id, attestation, now_ms())?;
        Ok(Self { shared: Arc::new(log), agent_id: agent_id.to_owned() })
    }

    /// The log itself.
    pub fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// Writes down what was done: durable for this life when it returns.
    ///
    /// # Errors
    /// [`Error`]
    pub fn record(
        &self,
        room: &str,
        user: &str,
        kind: &str,
        content: &serde_json::Value,
    ) -> Result<(), Error> {
        if self.shared.position().sequence >= MAX_ENTRIES {
            return Err(Error::Full);
        }
        let deed = Deed {
            agent_id: self.agent_id.clone(),
            room_id: room.to_owned(),
            user_id: user.to_owned(),
            kind: kind.to_owned(),
            content: content.to_string(),
        };
        self.shared.append(vec![deed], now_ms()).map(drop)
    }

    /// Writes down that the agent ends.
    ///
    /// # Errors
    /// [`Error`]
    pub fn close(&self) -> Result<(), Error> {
        self.shared.close(now_ms())
    }
}

impl tee_log::Evidence for Attester {
    fn attest<'a>(&'a self, nonce: &'a [u8], data: &'a [u8], public_key: &'a [u8]) -> Attesting<'a> {
        let question =
            Question { nonce: hex::encode(nonce), data: data.to_vec(), public_key: public_key.to_vec() };
        Box::pin(async move { Ok(self.0.attest(question).await?) })
    }
}

/// The enclave's clock, which is the host's; before 1970 is 1970.
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
