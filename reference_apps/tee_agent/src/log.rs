//! What the agent writes down of itself, for everybody to check: a TEE log (`docs/spec/tee-log.md`).
//!
//! It is in memory and ends with the agent, or in a file in the enclave, and then the agent's next start goes on with it. Either way the
//! [`anchoring`](crate::anchoring) has the enclave's ledger remember it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use aws_lc_rs::rand;
use tee_log::{
    Anchor, Attesting,
    store::{Deed, Error, Key, Shared, TeeLog},
};
use tokio::sync::Notify;

use crate::evidence::{Evidence, Question};

/// Most entries. What is not written down is not done, so an agent that is full does nothing more; without an end the log would take
/// the enclave's memory.
const MAX_ENTRIES: u64 = 100_000;
/// Longest file of a key: digits and a line's end.
const MAX_KEY_FILE_BYTES: u64 = 68;

/// A log that outlives the agent's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its file.
    pub file: PathBuf,
    /// A file with the key that it is sealed with, 64 hex digits; none: one beside it, which the first start makes.
    pub key: Option<PathBuf>,
}

/// What the configuration says of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Where the next start finds it; none: it ends with the process.
    pub kept: Option<Kept>,
    /// Whether entries are signed in the legacy form too, which is weak.
    pub legacy_signatures: bool,
}

/// The agent's log.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Shared,
    agent_id: String,
    changed: Arc<Notify>,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The log itself.
    #[error(transparent)]
    Log(#[from] Error),
    /// A file of it.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The agent's evidence as the log asks for it.
#[derive(Clone, Debug)]
pub(crate) struct Attester(pub(crate) Arc<dyn Evidence>);

impl Log {
    /// The log that is kept, or a fresh one, opened by the agent of this name. The key of this start is attested, together with the place
    /// where it takes the log over, unless there is nobody who attests.
    ///
    /// # Errors
    /// [`OpenError`]
    pub async fn open(agent_id: &str, options: &Options, evidence: &dyn Evidence) -> Result<Self, OpenError> {
        let mut log = match &options.kept {
            None => TeeLog::in_memory()?,
            Some(kept) => TeeLog::open(&kept.file, &kept.key()?)?,
        };
        if options.legacy_signatures {
            tracing::warn!("the log shows legacy signatures, which are weak");
            log = log.with_legacy_signatures();
        }
        let taken_over = log.position().sequence;
        let public_key = log.public_key().0.to_vec();
        let question = Question { nonce: String::new(), data: log.key_statement(), public_key };
        let attestation = evidence.attest(question).await.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "the log's key is not attested");
            String::new()
        });
        log.register(agent_id, agent_id, attestation, now_ms())?;
        tracing::info!(taken_over, "opened the log");
        Ok(Self { shared: Arc::new(log), agent_id: agent_id.to_owned(), changed: Arc::default() })
    }

    /// The log itself.
    pub fn shared(&self) -> Shared {
        self.shared.clone()
    }

    /// What the ledger is to remember of it now.
    pub fn anchor(&self) -> Anchor {
        Anchor { position: self.shared.position(), key: self.shared.public_key() }
    }

    /// Waits for entries that nobody has waited for yet.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Writes down what was done: durable when it returns, as far as the log is.
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
        self.shared.append(vec![deed], now_ms())?;
        self.changed.notify_one();
        Ok(())
    }

    /// Writes down that the agent ends.
    ///
    /// # Errors
    /// [`Error`]
    pub fn close(&self) -> Result<(), Error> {
        self.shared.close(now_ms())?;
        self.changed.notify_one();
        Ok(())
    }
}

impl Kept {
    /// The key that somebody brought, or the one beside the log. The first start makes that, and the folder that both are in.
    fn key(&self) -> Result<Key, OpenError> {
        let path = self.key.clone().unwrap_or_else(|| self.file.with_added_extension("key"));
        let failed = |source| OpenError::File { path: path.clone(), source };
        if self.key.is_none() {
            self.make_key(&path).map_err(failed)?;
        }
        let mut text = String::new();
        let file = fs::File::open(&path).map_err(failed)?;
        file.take(MAX_KEY_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim_end(), &mut key)
            .map_err(|_| failed(io::Error::new(io::ErrorKind::InvalidData, "not a key of 64 hex digits")))?;
        Ok(Key::new(key))
    }

    /// Does nothing where there is a log already: another key would not open it.
    fn make_key(&self, path: &Path) -> io::Result<()> {
        if self.file.try_exists()? || path.try_exists()? {
            return Ok(());
        }
        if let Some(folder) = self.file.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut key = [0; 32];
        rand::fill(&mut key).map_err(|_| io::Error::other("no random bytes"))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "{}", hex::encode(key))?;
        file.sync_all()
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
