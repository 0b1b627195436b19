//! Checkpoints: the ledger's state in three values, as signed notes that witnesses read, and as a baseline that is measured.
//!
//! Formats: C2SP `tlog-checkpoint` for the note's text, `docs/spec/ledger.md`, section "Checkpoints".

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::cbor::{DecodeError, Reader, Writer};
use crate::note::{self, NoteError, NoteKey, SigningKey};
use crate::{Hash, log, map};

const BASELINE: &str = "a baseline";
const BASELINE_VERSION: u64 = 1;
const BASELINE_MEMBERS: usize = 6;
const MAX_BASELINE_BYTES: usize = 256;
const ORIGIN_PREFIX: &str = "glasshouse/";
const MAP_EXTENSION: &str = "map ";
const ORIGIN_TAG: &[u8] = b"glasshouse/ledger/origin/1\0";

/// The state of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Entries in the log.
    pub size: u64,
    /// Root of the log's tree.
    pub log_root: Hash,
    /// Root of the map of subjects.
    pub map_root: Hash,
}

impl Checkpoint {
    /// Of a ledger without entries.
    pub fn empty() -> Self {
        Self { size: 0, log_root: log::empty_root(), map_root: map::EMPTY }
    }

    /// The text of a C2SP checkpoint: origin, size, root of the log, and an extension line with the root of the map.
    pub fn to_text(&self, origin: &str) -> String {
        let (log, map) = (BASE64.encode(self.log_root.0), BASE64.encode(self.map_root.0));
        format!("{origin}\n{}\n{log}\n{MAP_EXTENSION}{map}\n", self.size)
    }

    /// Signs the checkpoint as the ledger that has this key: a C2SP signed note, whose origin is the key's name.
    pub fn sign(&self, key: &SigningKey) -> String {
        key.sign_note(&self.to_text(key.name()))
    }

    /// Reads a note and checks the ledger's signature. Signatures of others are passed over.
    ///
    /// # Errors
    /// When it is no note, not signed by `ledger`, or not a checkpoint of that ledger.
    pub fn open(note: &[u8], ledger: &NoteKey) -> Result<Self, CheckpointError> {
        let note = note::Note::decode(note)?;
        note.verify(ledger)?;
        Self::from_text(note.text(), ledger.name())
    }

    /// Reads the text of a checkpoint of the ledger named `origin`.
    ///
    /// # Errors
    /// Whatever deviates from the specification.
    pub fn from_text(text: &str, origin: &str) -> Result<Self, CheckpointError> {
        let malformed = |what| CheckpointError::Text { what };
        let body = text.strip_suffix('\n').ok_or(malformed("end of line"))?;
        let lines: Vec<&str> = body.split('\n').collect();
        let [found, size, log_root, map_root] = lines.as_slice() else { return Err(malformed("lines")) };
        if *found != origin {
            return Err(CheckpointError::Origin { found: (*found).to_owned() });
        }
        let map_root = map_root.strip_prefix(MAP_EXTENSION).ok_or(malformed("map root"))?;
        let checkpoint = Self {
            size: size.parse().map_err(|_| malformed("size"))?,
            log_root: root(log_root).ok_or(malformed("log root"))?,
            map_root: root(map_root).ok_or(malformed("map root"))?,
        };
        // A sign or zeros before the size.
        if checkpoint.to_text(origin) != text {
            return Err(malformed("size"));
        }
        Ok(checkpoint)
    }
}

fn root(text: &str) -> Option<Hash> {
    BASE64.decode(text).ok()?.try_into().ok().map(Hash)
}

/// The name of the ledger that has these keys: `glasshouse/` and 64 hexadecimal digits of
/// `SHA-256("glasshouse/ledger/origin/1\0" || ledger key || VRF key)`.
pub fn origin(ledger_key: &[u8; 32], vrf_key: &[u8; 32]) -> String {
    format!("{ORIGIN_PREFIX}{}", Hash::of(&[ORIGIN_TAG, ledger_key, vrf_key]))
}

/// Why a text is no checkpoint that counts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The note around it.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The text is not origin, size and roots.
    #[error("the checkpoint's text is malformed: {what}")]
    Text {
        /// What is wrong with it.
        what: &'static str,
    },
    /// It is of another ledger.
    #[error("the checkpoint is of another ledger")]
    Origin {
        /// That ledger.
        found: String,
    },
}

/// What a ledger was when the application started: measured into PCR16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Baseline {
    /// Public key of ECVRF-EDWARDS25519-SHA512-TAI.
    pub vrf_key: [u8; 32],
    /// Public key of Ed25519 that signs checkpoints.
    pub ledger_key: [u8; 32],
    /// After the first scan.
    pub checkpoint: Checkpoint,
}

impl Baseline {
    /// The one encoding: `[version, VRF key, ledger key, size, log root, map root]`.
    pub fn encode(&self) -> Vec<u8> {
        let Checkpoint { size, log_root, map_root } = &self.checkpoint;
        let mut writer = Writer::new();
        writer.array(BASELINE_MEMBERS).uint(BASELINE_VERSION).bytes(&self.vrf_key).bytes(&self.ledger_key);
        writer.uint(*size).bytes(&log_root.0).bytes(&map_root.0);
        writer.finish()
    }

    /// Decodes what [`Baseline::encode`] makes, and nothing else.
    ///
    /// # Errors
    /// Whatever deviates from the specification.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(BASELINE, bytes, MAX_BASELINE_BYTES)?;
        reader.array(BASELINE_MEMBERS)?;
        reader.version(BASELINE_VERSION)?;
        let (vrf_key, ledger_key) = (reader.fixed()?, reader.fixed()?);
        let (size, log_root, map_root) = (reader.uint()?, reader.hash()?, reader.hash()?);
        let baseline = Self { vrf_key, ledger_key, checkpoint: Checkpoint { size, log_root, map_root } };
        reader.finish(&baseline.encode())?;
        Ok(baseline)
    }

    /// The name of this ledger in checkpoints.
    pub fn origin(&self) -> String {
        origin(&self.ledger_key, &self.vrf_key)
    }
}
