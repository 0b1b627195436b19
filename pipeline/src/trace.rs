//! The trace of operators: PCR17, the chain, and the transcript that it is over.
//!
//! Nobody is admitted who does not show in PCR17. Before the first session the register is extended with that session's
//! opening entry, and locked; every later entry goes into the chain, whose head attestation documents carry. Or it is
//! locked while it is zero, and then nobody is ever admitted. Whatever goes wrong on the way ends in nobody being
//! admitted any more.
//!
//! Spec: `docs/spec/control-trace.md`.

pub mod chain;
pub mod entry;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use manifest::Operator;
use nsm::{Pcr, PcrIndex, Provider};

use crate::{
    reply::{Code, Refusal},
    serve::Done,
};
use chain::{Chain, read_entries};
use entry::{Ending, Entry, Event, Head, MAX_ENTRY_BYTES};

/// The register of the control channel.
pub const PCR: u8 = 17;

/// The transcript, in the trace's directory: entries, each behind its length as a 32-bit big-endian integer.
pub const TRANSCRIPT_FILE: &str = "transcript";

/// The head of the chain, in the trace's directory: 32 bytes.
pub const HEAD_FILE: &str = "head";

/// Longest transcript, in bytes. When it is full nobody is admitted any more; it is in the enclave's memory.
pub const MAX_TRANSCRIPT_BYTES: u64 = 64 << 20;

/// Room in the transcript that is kept for the ends of open sessions, in bytes.
const RESERVED_BYTES: u64 = 1 << 20;

/// Keeps the trace. All calls block for as long as a small file takes; the first [`Trace::admit`] and [`Trace::seal`] for
/// as long as the security module takes, too.
pub struct Trace {
    kept: Mutex<Kept>,
}

struct Kept {
    state: State,
    module: Arc<dyn Provider>,
    directory: PathBuf,
    transcript: Option<File>,
    transcript_bytes: u64,
    chain: Chain,
}

/// Who is admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody was yet.
    Fresh,
    /// Somebody was.
    Entered,
    /// Nobody was, and nobody will be.
    Sealed,
    /// Nobody will be any more: the trace cannot be kept, or is not what it was.
    Broken(String),
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Trace {
    /// Takes the trace up where an earlier server left it, or begins it. `directory` is made if it is not there.
    ///
    /// What is found is compared with PCR17; if they do not agree, the trace is there, and admits nobody.
    pub fn open(directory: &Path, module: Arc<dyn Provider>) -> Self {
        let mut kept = Kept {
            state: State::Fresh,
            module,
            directory: directory.to_owned(),
            transcript: None,
            transcript_bytes: 0,
            chain: Chain::default(),
        };
        kept.state = kept.recover().unwrap_or_else(State::Broken);
        Self { kept: Mutex::new(kept) }
    }

    /// Who is admitted.
    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// The head of the chain, for the attestation documents of this server.
    pub fn head(&self) -> Head {
        self.lock().chain.head()
    }

    /// Admits a session, which is known by the returned number from then on.
    ///
    /// # Errors
    /// [`Code::Sealed`], and [`Code::Untraceable`] if the session would leave no trace.
    pub fn admit(&self, operator: &Operator, request: &[u8]) -> Result<u64, Refusal> {
        let mut kept = self.lock();
        kept.check()?;
        if kept.transcript_bytes > MAX_TRANSCRIPT_BYTES - RESERVED_BYTES {
            return Err(Refusal::new(
                Code::Untraceable,
                "the transcript is full: nobody is admitted any more",
            ));
        }
        let event = Event::Open {
            operator: operator.name.clone(),
            key: operator.key.as_str().to_owned(),
            request: request.to_vec(),
        };
        kept.record(event).map_err(|reason| kept.broken(reason))
    }

    /// Records how a session ended. Failing that, nobody is admitted any more.
    pub fn close(&self, session: u64, ending: Ending, done: &Done) {
        let mut kept = self.lock();
        let &Done { files, bytes, digest, .. } = done;
        if let Err(reason) = kept.record(Event::Close { session, ending, files, bytes, digest }) {
            kept.broken(reason);
        }
    }

    /// Locks PCR17 at zero: nobody was admitted, and nobody will be.
    ///
    /// # Errors
    /// [`Code::Entered`] when somebody was; otherwise as [`Trace::admit`].
    pub fn seal(&self) -> Result<(), Refusal> {
        let mut kept = self.lock();
        kept.check()?;
        if kept.state == State::Entered {
            let message =
                "somebody was admitted before, and PCR17 says so for good: there is nothing to seal";
            return Err(Refusal::new(Code::Entered, message));
        }
        kept.module
            .lock_pcr(pcr())
            .map_err(|error| kept.broken(format!("PCR17 cannot be locked: {error}")))?;
        kept.state = State::Sealed;
        Ok(())
    }

    /// The transcript as it is now, and its length in bytes; what is behind that may still grow.
    ///
    /// # Errors
    /// As [`Trace::admit`].
    pub fn transcript(&self) -> Result<(File, u64), Refusal> {
        let kept = self.lock();
        kept.check()?;
        let opened = match kept.transcript_bytes {
            // The file comes with the first entry.
            0 => File::open("/dev/null"),
            _ => File::open(kept.directory.join(TRANSCRIPT_FILE)),
        };
        let file = opened.map_err(|error| Refusal::new(Code::Failed, format!("the transcript: {error}")))?;
        Ok((file, kept.transcript_bytes))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // A panic in between left something half done, which the next restart will see; until then: as it is.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pcr() -> PcrIndex {
    PcrIndex::new(PCR).expect("17 is below 32")
}

impl Kept {
    fn check(&self) -> Result<(), Refusal> {
        match &self.state {
            State::Fresh | State::Entered => Ok(()),
            State::Sealed => {
                let message = "this enclave is sealed: nobody was admitted, and nobody is any more";
                Err(Refusal::new(Code::Sealed, message))
            }
            State::Broken(reason) => Err(untraceable(reason)),
        }
    }

    /// Admits nobody from now on.
    fn broken(&mut self, reason: String) -> Refusal {
        let refusal = untraceable(&reason);
        self.state = State::Broken(reason);
        refusal
    }

    /// Appends an entry, and returns its number. The first goes into PCR17 as well.
    fn record(&mut self, event: Event) -> Result<u64, String> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let entry = Entry { number: self.chain.count() + 1, time_ms, event };
        let bytes = entry.encode();
        // First the transcript: an entry of which PCR17 says nothing admits nobody, the other way round there would be a
        // register that nobody can explain.
        self.append(&bytes).map_err(|error| format!("the transcript cannot be written: {error}"))?;
        if self.state == State::Fresh {
            let extended = self.module.extend_pcr(pcr(), &entry::extension(&bytes));
            extended.map_err(|error| format!("PCR17 cannot be extended: {error}"))?;
            self.module.lock_pcr(pcr()).map_err(|error| format!("PCR17 cannot be locked: {error}"))?;
            self.state = State::Entered;
        }
        self.chain.push(&bytes).expect("the entry was made for this chain");
        self.write_head().map_err(|error| format!("the chain's head cannot be written: {error}"))?;
        Ok(entry.number)
    }

    fn append(&mut self, entry: &[u8]) -> io::Result<()> {
        let length = u32::try_from(entry.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let bytes = [&length.to_be_bytes(), entry].concat();
        if self.transcript.is_none() {
            let path = self.directory.join(TRANSCRIPT_FILE);
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
            self.transcript = Some(file);
        }
        let mut file = self.transcript.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.write_all(&bytes)?;
        self.transcript_bytes += bytes.len() as u64;
        Ok(())
    }

    /// A reader finds the old head or the new one, never a part.
    fn write_head(&self) -> io::Result<()> {
        let new = self.directory.join("head.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&self.chain.head().0)?;
        fs::rename(new, self.directory.join(HEAD_FILE))
    }

    fn recover(&mut self) -> Result<State, String> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|error| format!("{}: {error}", self.directory.display()))?;
        let register =
            self.module.describe_pcr(pcr()).map_err(|error| format!("PCR17 cannot be read: {error}"))?;
        let first = self.read().map_err(|error| format!("the transcript cannot be read: {error}"))?;
        let state = match (register.locked, register.value == Pcr::ZERO, first) {
            (false, true, None) => State::Fresh,
            (true, true, None) => State::Sealed,
            (locked, false, Some(first)) if register.value.0 == entry::pcr17(&first) => {
                if !locked {
                    // The server before ended between extending and locking.
                    self.module
                        .lock_pcr(pcr())
                        .map_err(|error| format!("PCR17 cannot be locked: {error}"))?;
                }
                State::Entered
            }
            _ => return Err("the transcript and PCR17 do not agree".to_owned()),
        };
        self.state = state.clone();
        if state == State::Entered {
            self.check_head().map_err(|error| format!("the chain's head: {error}"))?;
            self.record(Event::Restart)?;
        } else {
            self.write_head().map_err(|error| format!("the chain's head cannot be written: {error}"))?;
        }
        Ok(state)
    }

    /// Reads the transcript into the chain, and returns the first entry. What was not written to its end is cut off.
    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        let path = self.directory.join(TRANSCRIPT_FILE);
        let file = match OpenOptions::new().read(true).append(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut first = None;
        let chain = &mut self.chain;
        let bytes = read_entries(BufReader::new(&file), |entry| {
            first.get_or_insert_with(|| entry.to_vec());
            chain.push(entry).map(drop).map_err(io::Error::other)
        })?;
        file.set_len(bytes)?;
        self.transcript_bytes = bytes;
        self.transcript = Some(file);
        Ok(first)
    }

    /// The head on file is that of the transcript, or of all but its last entry: the server before ended in between.
    fn check_head(&self) -> io::Result<()> {
        let found = fs::read(self.directory.join(HEAD_FILE))?;
        if found == self.chain.head().0 || found == self.chain.before().0 {
            return Ok(());
        }
        Err(io::Error::other("it is not that of the transcript"))
    }
}

fn untraceable(reason: &str) -> Refusal {
    Refusal::new(Code::Untraceable, format!("nobody is admitted: {reason}"))
}

const _: () = assert!(RESERVED_BYTES < MAX_TRANSCRIPT_BYTES && (MAX_ENTRY_BYTES as u64) < RESERVED_BYTES);
