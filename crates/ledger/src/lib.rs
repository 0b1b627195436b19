//! The ledger: an append-only log of what happened to files and streams, and a map of where each of them stands.
//!
//! The log is an RFC 6962 Merkle tree of [`Entry`]s that tell whom they are about and in which order, and commit to a payload
//! without showing it. The map is a sparse Merkle tree from each subject to its last entry and the number of its entries. A
//! [`Checkpoint`] is the size and both roots. A [`Proof`] opens the entries of one subject against a checkpoint, and [`Anchor`]
//! verifies it: what a file is now, its whole history, that it was never there, what a stream holds.
//!
//! Files are in the map by a verifiable random function of their path, so that a proof about one says nothing about other
//! names. Nothing here does IO or reads a clock, but the module `store` behind the feature of that name.
//!
//! Spec: `docs/spec/ledger.md`, with vectors in `docs/spec/vectors/ledger`.
#![forbid(unsafe_code)]

mod cbor;
mod checkpoint;
mod entry;
mod hash;
pub mod log;
pub mod map;
mod note;
mod proof;
mod record;
#[cfg(feature = "store")]
pub mod store;
mod subject;
pub mod tile;
mod verify;

pub use cbor::DecodeError;
pub use checkpoint::{Baseline, Checkpoint, CheckpointError, origin};
pub use entry::{Entry, Kind, MAX_ENTRY_BYTES};
pub use hash::Hash;
pub use map::{Key, Value};
pub use note::{MAX_NOTE_BYTES, MAX_SIGNATURES, Note, NoteError, NoteKey, SigningKey};
pub use proof::{MAX_CHAIN, MAX_PROOF_BYTES, Opened, Proof, ProofKind, VRF_PROOF_BYTES};
pub use record::{
    Algorithm, Attributes, Cause, Content, Device, Digests, Gap, GapReason, MAX_GAP_DETAIL_BYTES,
    MAX_RECORD_BYTES, MAX_TARGET_BYTES, Record, State,
};
pub use subject::{
    InvalidStreamName, MAX_PATH_BYTES, MAX_PAYLOAD_BYTES, MAX_STREAM_NAME_BYTES, NONCE_BYTES, Nonces,
    StreamName, commitment, file_key,
};
pub use verify::{Anchor, FileNow, Observation, StreamEnd, StreamEntry, StreamPayload, VerifyError};
