//! Keeps a log: entries sealed in a file or in memory, what they are searched by in memory.
//!
//! Twenty-four bytes of each entry are in memory, so a query reads the entries that it shows and no others, unless it looks for content.

mod columns;
mod error;
mod load;
mod query;
mod sealer;
mod stored;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::rand;
use redb::{Database, TableDefinition, backends::InMemoryBackend};

use self::{columns::Columns, sealer::Sealer};
pub use self::{
    error::Error,
    query::{MAX_PAGE_SIZE, MAX_SEARCHED, Query},
    sealer::Key,
};
use crate::{
    Agent, CLOSED, Entry, EntryError, MAX_NAME_BYTES, OPENED, Position, PublicKey, RESERVED, SignedEntry,
    SigningKey, json::uuid, key_statement, legacy,
};

/// Most entries of a log: what is searched by stays below 100 MB.
pub const MAX_ENTRIES: u64 = 4_000_000;
/// Most agents of one log, over all starts.
const MAX_AGENTS: u64 = 10_000;

const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
const AGENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("agents");

/// What an agent did, to be written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deed {
    /// Whose.
    pub agent_id: String,
    /// Where.
    pub room_id: String,
    /// With whom.
    pub user_id: String,
    /// What kind; not beginning with [`RESERVED`].
    pub kind: String,
    /// What exactly.
    pub content: String,
}

/// A log, and the key of this start of the program.
#[derive(Debug)]
pub struct TeeLog {
    database: Database,
    sealer: Sealer,
    signer: SigningKey,
    taken_over: Position,
    legacy_signatures: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    position: Position,
    columns: Columns,
    agents: Vec<Agent>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Open,
    Closed,
}

impl TeeLog {
    /// A log in memory, which ends with the program.
    ///
    /// # Errors
    /// [`Error`].
    pub fn in_memory() -> Result<Self, Error> {
        let database =
            Database::builder().create_with_backend(InMemoryBackend::new()).map_err(Error::storage)?;
        Self::with(database, &Key::random().ok_or(Error::Random)?)
    }

    /// The log in a file, which is made if it is not there. What is in it is checked from the first entry to the last.
    ///
    /// # Errors
    /// [`Error`]; [`Error::Sealed`] with another key than it was made with.
    pub fn open(path: &Path, key: &Key) -> Result<Self, Error> {
        Self::with(Database::create(path).map_err(Error::storage)?, key)
    }

    fn with(database: Database, key: &Key) -> Result<Self, Error> {
        let sealer = Sealer::new(key);
        let write = database.begin_write().map_err(Error::storage)?;
        write.open_table(ENTRIES).map_err(Error::storage)?;
        write.open_table(AGENTS).map_err(Error::storage)?;
        write.commit().map_err(Error::storage)?;
        let state = load::load(&database, &sealer)?;
        let signer = SigningKey::generate().ok_or(Error::Random)?;
        Ok(Self {
            database,
            sealer,
            signer,
            taken_over: state.position,
            legacy_signatures: false,
            state: Mutex::new(state),
        })
    }

    /// From now on entries are signed in the legacy form too, and shown with that signature in the place of the sound one, which goes
    /// beside it. It is weak: [`crate::legacy`].
    pub fn with_legacy_signatures(mut self) -> Self {
        self.legacy_signatures = true;
        self
    }

    /// The key of this start of the program.
    pub fn public_key(&self) -> PublicKey {
        self.signer.public_key()
    }

    /// What has to be attested of the key, as application data: where it takes the log over.
    pub fn key_statement(&self) -> Vec<u8> {
        key_statement(&self.taken_over)
    }

    /// The place after the last entry.
    pub fn position(&self) -> Position {
        self.state().position
    }

    /// Signs an answer's digest.
    pub fn sign(&self, digest: &[u8; 32]) -> Vec<u8> {
        self.signer.sign(digest)
    }

    /// State is changed after everything that can fail, so what a panic leaves behind is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an agent down, with the document about the key ([`Self::key_statement`]). The first one opens the log.
    ///
    /// # Errors
    /// [`Error`].
    pub fn register(
        &self,
        agent_id: &str,
        agent_name: &str,
        attestation: String,
        now_ms: u64,
    ) -> Result<Agent, Error> {
        if agent_id.len() > MAX_NAME_BYTES || agent_name.len() > MAX_NAME_BYTES {
            return Err(EntryError::Limit { what: "agentId" }.into());
        }
        let mut state = self.state();
        let number = state.agents.len() as u64;
        if number >= MAX_AGENTS {
            return Err(Error::Full);
        }
        let agent = Agent {
            id: uuid(&random_id()?),
            agent_id: agent_id.to_owned(),
            agent_name: agent_name.to_owned(),
            created_at: now_ms,
            public_key: self.public_key().to_string(),
            attestation,
            sequence: self.taken_over.sequence,
            previous: hex::encode(self.taken_over.head),
        };
        let json = serde_json::to_vec(&agent).expect("an agent is JSON");
        let opening = match state.stage {
            Stage::Closed => return Err(Error::NotOpen),
            Stage::Open => None,
            Stage::New => {
                let deed = Deed { agent_id: agent_id.to_owned(), kind: OPENED.to_owned(), ..Deed::default() };
                Some(self.entry(&state, state.position, deed, now_ms)?)
            }
        };
        let write = self.database.begin_write().map_err(Error::storage)?;
        {
            let sealed = self.sealer.seal("agent", number, &json).ok_or(Error::Random)?;
            write
                .open_table(AGENTS)
                .map_err(Error::storage)?
                .insert(number, &*sealed)
                .map_err(Error::storage)?;
            self.insert(&write, opening.as_slice())?;
        }
        write.commit().map_err(Error::storage)?;
        state.take(opening.iter());
        state.stage = Stage::Open;
        state.agents.push(agent.clone());
        Ok(agent)
    }

    /// Writes deeds down, all or none; they are durable afterwards.
    ///
    /// # Errors
    /// [`Error`].
    pub fn append(&self, deeds: Vec<Deed>, now_ms: u64) -> Result<Vec<SignedEntry>, Error> {
        if deeds.iter().any(|deed| deed.kind.starts_with(RESERVED)) {
            return Err(Error::Reserved);
        }
        self.write(deeds, now_ms, Stage::Open)
    }

    /// Writes down that this start of the program ends. Nothing can be written after that.
    ///
    /// # Errors
    /// [`Error`].
    pub fn close(&self, now_ms: u64) -> Result<(), Error> {
        self.write(vec![Deed { kind: CLOSED.to_owned(), ..Deed::default() }], now_ms, Stage::Closed).map(drop)
    }

    fn write(&self, deeds: Vec<Deed>, now_ms: u64, then: Stage) -> Result<Vec<SignedEntry>, Error> {
        let mut state = self.state();
        if state.stage != Stage::Open {
            return Err(Error::NotOpen);
        }
        if state.position.sequence.saturating_add(deeds.len() as u64) > MAX_ENTRIES {
            return Err(Error::Full);
        }
        let mut position = state.position;
        let mut entries = Vec::with_capacity(deeds.len());
        for deed in deeds {
            let signed = self.entry(&state, position, deed, now_ms)?;
            position = signed.position();
            entries.push(signed);
        }
        let write = self.database.begin_write().map_err(Error::storage)?;
        self.insert(&write, &entries)?;
        write.commit().map_err(Error::storage)?;
        state.take(entries.iter());
        state.stage = then;
        Ok(entries)
    }

    fn entry(&self, state: &State, after: Position, deed: Deed, now_ms: u64) -> Result<SignedEntry, Error> {
        let entry = Entry {
            after,
            key: self.public_key(),
            id: random_id()?,
            agent_id: deed.agent_id,
            room_id: deed.room_id,
            user_id: deed.user_id,
            kind: deed.kind,
            content: deed.content,
            // The clock is the host's and may go back. The log's times do not.
            timestamp: now_ms.max(state.columns.last_timestamp()),
        };
        entry.check()?;
        Ok(entry.sign(&self.signer))
    }

    fn insert(&self, write: &redb::WriteTransaction, entries: &[SignedEntry]) -> Result<(), Error> {
        let mut table = write.open_table(ENTRIES).map_err(Error::storage)?;
        for signed in entries {
            let sequence = signed.entry.after.sequence;
            let legacy = self.legacy_signatures.then(|| legacy::sign(&signed.entry, &self.signer)).flatten();
            let stored = stored::encode(signed, &legacy.unwrap_or_default());
            let sealed = self.sealer.seal("entry", sequence, &stored).ok_or(Error::Random)?;
            table.insert(sequence, &*sealed).map_err(Error::storage)?;
        }
        Ok(())
    }

    /// The agents of all starts, oldest first.
    pub fn agents(&self) -> Vec<Agent> {
        self.state().agents.clone()
    }

    /// The agent of this name that was registered last.
    pub fn agent(&self, agent_id: &str) -> Option<Agent> {
        self.state().agents.iter().rev().find(|agent| agent.agent_id == agent_id).cloned()
    }
}

impl State {
    fn take<'a>(&mut self, entries: impl Iterator<Item = &'a SignedEntry>) {
        for signed in entries {
            self.columns.push(&signed.entry);
            self.position = signed.position();
        }
    }
}

/// A random UUID (RFC 9562, version 4).
fn random_id() -> Result<[u8; 16], Error> {
    let mut id = [0; 16];
    rand::fill(&mut id).map_err(|_| Error::Random)?;
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    Ok(id)
}

/// What is shared by those who write and those who show.
pub type Shared = Arc<TeeLog>;
