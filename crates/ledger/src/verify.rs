//! Verification of proofs: a pure function of the proof, what it is asked about, and a checkpoint that the caller trusts.
//!
//! The numbers are those of `docs/spec/ledger.md`, section "Verification".

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::cbor::DecodeError;
use crate::map::{self, Key, Value};
use crate::proof::{Opened, Proof, ProofKind};
use crate::subject::{commitment, file_key};
use crate::{Checkpoint, Entry, Gap, Kind, Record, StreamName, log};

/// What proofs are checked against, from a source that the caller trusts: an appraised attestation document, above all.
#[derive(Clone, Debug)]
pub struct Anchor {
    checkpoint: Checkpoint,
    vrf_key: vrf::PublicKey,
}

/// The last that the ledger holds of a file, at the anchor's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileNow {
    /// Nothing was ever recorded at this path.
    Never,
    /// The last record. It may say that the file was removed.
    Recorded(Observation),
}

/// One record in the history of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Where in the log.
    pub index: u64,
    /// How many records of the file there were before.
    pub sequence: u64,
    /// By the enclave's clock, in nanoseconds since 1970.
    pub time: u64,
    /// What was recorded.
    pub record: Record,
}

/// The end of a stream, or all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamEnd {
    /// How many entries the stream has at the anchor's checkpoint.
    pub count: u64,
    /// The last of them, the oldest first, without one missing.
    pub entries: Vec<StreamEntry>,
}

impl StreamEnd {
    /// Whether all entries of the stream are here.
    pub fn is_complete(&self) -> bool {
        self.entries.len() as u64 == self.count
    }
}

/// One entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEntry {
    /// Where in the log.
    pub index: u64,
    /// How many entries of the stream there were before.
    pub sequence: u64,
    /// By the enclave's clock, in nanoseconds since 1970.
    pub time: u64,
    /// What was appended.
    pub payload: StreamPayload,
}

/// What an entry of a stream holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamPayload {
    /// Bytes whose meaning is of who appended them.
    Bytes(Vec<u8>),
    /// The ledger's own word.
    Gap(Gap),
}

/// Why a proof shows nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It is no proof, or holds something that is not what it should be.
    #[error("the proof cannot be read")]
    Decode(#[from] DecodeError),
    /// The key is none of ECVRF-EDWARDS25519-SHA512-TAI, or the proof by it does not hold for the path.
    #[error("where the file is in the map is not shown")]
    Vrf(#[from] vrf::Error),
    /// It is about something else than was asked.
    #[error("the proof is of kind {found:?}, expected {expected:?}")]
    Kind {
        /// What was asked.
        expected: ProofKind,
        /// What it is about.
        found: ProofKind,
    },
    /// It is for another checkpoint.
    #[error("the proof is for a log of {found} entries, the checkpoint for one of {expected}")]
    Size {
        /// Of the checkpoint.
        expected: u64,
        /// Of the proof.
        found: u64,
    },
    /// The subject's place in the map is not shown.
    #[error("what the map says of it is not shown")]
    Map(#[from] map::InvalidProof),
    /// An entry's place in the log is not shown.
    #[error("that entry {index} is in the log is not shown")]
    Log {
        /// The entry.
        index: u64,
        /// Why.
        #[source]
        source: log::InvalidProof,
    },
    /// More or fewer entries than the map counts.
    #[error("the proof opens {found} entries of {count}")]
    Count {
        /// Entries that the map counts.
        count: u64,
        /// Entries in the proof.
        found: usize,
    },
    /// An entry is not the one that must stand there.
    #[error("entry {index} is not the one that belongs there: {what} differs")]
    Entry {
        /// Where it is in the log.
        index: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Anchor {
    /// Takes the checkpoint and the ledger's public key of ECVRF-EDWARDS25519-SHA512-TAI.
    ///
    /// # Errors
    /// When the key is none.
    pub fn new(checkpoint: Checkpoint, vrf_key: &[u8; 32]) -> Result<Self, vrf::Error> {
        let vrf_key = vrf::PublicKey::from_bytes(vrf::Suite::Edwards25519Sha512Tai, vrf_key)?;
        Ok(Self { checkpoint, vrf_key })
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What the file at `path` is now, by a proof of kind [`ProofKind::File`].
    ///
    /// # Errors
    /// When it is not shown.
    pub fn verify_file(&self, path: &[u8], proof: &[u8]) -> Result<FileNow, VerifyError> {
        let (proof, key) = self.file_proof(path, proof, ProofKind::File)?;
        let Some(value) = self.value(&proof, &key)? else { return Ok(FileNow::Never) };
        if proof.chain.len() != 1 {
            return Err(VerifyError::Count { count: value.count, found: proof.chain.len() });
        }
        let mut now = self.chain(&proof, &key, &value)?.into_iter().map(observation);
        now.next().expect("one entry").map(FileNow::Recorded)
    }

    /// All that was ever recorded of the file at `path`, the oldest first, by a proof of kind [`ProofKind::History`].
    ///
    /// # Errors
    /// When it is not shown.
    pub fn verify_history(&self, path: &[u8], proof: &[u8]) -> Result<Vec<Observation>, VerifyError> {
        let (proof, key) = self.file_proof(path, proof, ProofKind::History)?;
        let Some(value) = self.value(&proof, &key)? else { return Ok(Vec::new()) };
        if proof.chain.len() as u64 != value.count {
            return Err(VerifyError::Count { count: value.count, found: proof.chain.len() });
        }
        self.chain(&proof, &key, &value)?.into_iter().rev().map(observation).collect()
    }

    /// The end of a stream, or all of it, by a proof of kind [`ProofKind::Stream`].
    ///
    /// # Errors
    /// When it is not shown.
    pub fn verify_stream(&self, name: &StreamName, proof: &[u8]) -> Result<StreamEnd, VerifyError> {
        // 1 and 2.
        let (proof, key) = (self.decode(proof, ProofKind::Stream)?, name.key());
        let Some(value) = self.value(&proof, &key)? else { return Ok(StreamEnd::default()) };
        if proof.chain.len() as u64 > value.count {
            return Err(VerifyError::Count { count: value.count, found: proof.chain.len() });
        }
        let entries = self.chain(&proof, &key, &value)?.into_iter().rev().map(stream_entry);
        Ok(StreamEnd { count: value.count, entries: entries.collect::<Result<_, _>>()? })
    }

    /// 1. The proof is what was asked for, for this checkpoint.
    fn decode(&self, proof: &[u8], expected: ProofKind) -> Result<Proof, VerifyError> {
        let proof = Proof::decode(proof)?;
        match (proof.kind, proof.size, self.checkpoint.size) {
            (found, ..) if found != expected => Err(VerifyError::Kind { expected, found }),
            (_, found, expected) if found != expected => Err(VerifyError::Size { expected, found }),
            _ => Ok(proof),
        }
    }

    /// 2. The key of a file is shown by the VRF.
    fn file_proof(
        &self,
        path: &[u8],
        proof: &[u8],
        expected: ProofKind,
    ) -> Result<(Proof, Key), VerifyError> {
        let proof = self.decode(proof, expected)?;
        let vrf = proof.vrf.as_ref().expect("decoded with a proof of a file");
        let vrf = vrf::Proof::from_bytes(self.vrf_key.suite(), vrf)?;
        let key = file_key(&self.vrf_key.verify(path, &vrf)?);
        Ok((proof, key))
    }

    /// 3. What the map says of the key. Where it says nothing, there is nothing to open.
    fn value(&self, proof: &Proof, key: &Key) -> Result<Option<Value>, VerifyError> {
        let value = proof.map.verify(key, &self.checkpoint.map_root)?;
        match value {
            None if !proof.chain.is_empty() => Err(VerifyError::Count { count: 0, found: proof.chain.len() }),
            value => Ok(value),
        }
    }

    /// 4. The entries from the last one back, each where the one after it says, and in the log.
    fn chain<'p>(
        &self,
        proof: &'p Proof,
        key: &Key,
        value: &Value,
    ) -> Result<Vec<(u64, Entry, &'p Opened)>, VerifyError> {
        let mut chain = Vec::with_capacity(proof.chain.len());
        let (mut index, mut after) = (value.last, value.count);
        for opened in &proof.chain {
            let mismatch = |what| VerifyError::Entry { index, what };
            let entry = Entry::decode(&opened.entry)?;
            let leaf = log::leaf_hash(&opened.entry);
            if chain.is_empty() && leaf != value.leaf {
                return Err(mismatch("the hash in the map"));
            }
            if entry.subject != *key {
                return Err(mismatch("the subject"));
            }
            if Some(entry.sequence) != after.checked_sub(1) {
                return Err(mismatch("the sequence number"));
            }
            if entry.previous.is_some_and(|previous| previous >= index) {
                return Err(mismatch("the entry before"));
            }
            if entry.commitment != commitment(&opened.nonce, &opened.payload) {
                return Err(mismatch("the payload"));
            }
            let Checkpoint { size, log_root, .. } = &self.checkpoint;
            log::verify_inclusion(&leaf, index, *size, log_root, &opened.path)
                .map_err(|source| VerifyError::Log { index, source })?;
            after = entry.sequence;
            let next = entry.previous;
            chain.push((index, entry, opened));
            // Of the first entry there is none before, and no number is below 0, so that nothing can follow it.
            index = next.unwrap_or_default();
        }
        Ok(chain)
    }
}

/// 5. The payload of a file is a record.
fn observation((index, entry, opened): (u64, Entry, &Opened)) -> Result<Observation, VerifyError> {
    if entry.kind != Kind::File {
        return Err(VerifyError::Entry { index, what: "the kind" });
    }
    let record = Record::decode(&opened.payload)?;
    Ok(Observation { index, sequence: entry.sequence, time: entry.time, record })
}

/// 5. The payload of a stream is bytes, or a gap.
fn stream_entry((index, entry, opened): (u64, Entry, &Opened)) -> Result<StreamEntry, VerifyError> {
    let payload = match entry.kind {
        Kind::File => return Err(VerifyError::Entry { index, what: "the kind" }),
        Kind::Stream => StreamPayload::Bytes(opened.payload.clone()),
        Kind::Gap => StreamPayload::Gap(Gap::decode(&opened.payload)?),
    };
    Ok(StreamEntry { index, sequence: entry.sequence, time: entry.time, payload })
}
