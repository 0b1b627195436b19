//! Proofs as they are sent: what a subject is now, its history, and that it was never heard of.
//!
//! Decoding says nothing of truth; [`crate::Anchor`] does. Spec: `docs/spec/ledger.md`, section "Proofs".

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::cbor::{DecodeError, Reader, Writer};
use crate::map::{self, End, Key, Value};
use crate::subject::{MAX_PAYLOAD_BYTES, NONCE_BYTES};
use crate::{Hash, entry::MAX_ENTRY_BYTES, log};

/// The version that this module writes and reads.
pub(crate) const VERSION: u64 = 1;
/// Longest proof.
pub const MAX_PROOF_BYTES: usize = 32 << 20;
/// Most entries that a proof opens.
pub const MAX_CHAIN: usize = 1 << 16;
/// Bytes of a proof of ECVRF-EDWARDS25519-SHA512-TAI.
pub const VRF_PROOF_BYTES: usize = 80;

const WHAT: &str = "a proof";
const MEMBERS: usize = 7;

/// What a proof is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ProofKind {
    /// The last entry of a file.
    File = 1,
    /// All entries of a file.
    History = 2,
    /// The last entries of a stream without a gap between them, up to all.
    Stream = 3,
}

/// A proof about one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// What it is about.
    pub kind: ProofKind,
    /// Entries in the log of the checkpoint that it is for.
    pub size: u64,
    /// What shows where the file is in the map; `None` for streams, and for them alone.
    pub vrf: Option<[u8; VRF_PROOF_BYTES]>,
    /// What the map says of the subject.
    pub map: map::Proof,
    /// The subject's entries, the last one first; none if the map has no such subject.
    pub chain: Vec<Opened>,
}

/// An entry with everything that shows what it stands for. Where it is in the log follows from the map, or from the entry
/// before it in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The entry as it is in the log.
    pub entry: Vec<u8>,
    /// The path from the entry to the log's root.
    pub path: Vec<Hash>,
    /// What opens the commitment.
    pub nonce: [u8; NONCE_BYTES],
    /// What the entry commits to.
    pub payload: Vec<u8>,
}

impl Proof {
    /// The one encoding: `[version, kind, size, vrf or null, siblings, end, chain]`.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.array(MEMBERS).uint(VERSION).uint(self.kind as u64).uint(self.size);
        match &self.vrf {
            Some(proof) => writer.bytes(proof),
            None => writer.null(),
        };
        writer.hashes(&self.map.siblings);
        match &self.map.end {
            End::Empty => {
                writer.null();
            }
            End::Value(value) => write_value(writer.array(3), value),
            End::Other(key, value) => write_value(writer.array(4).bytes(&key.0), value),
        }
        writer.array(self.chain.len());
        for opened in &self.chain {
            writer.array(4).bytes(&opened.entry).hashes(&opened.path);
            writer.bytes(&opened.nonce).bytes(&opened.payload);
        }
        writer.finish()
    }

    /// Decodes what [`Proof::encode`] makes, and nothing else.
    ///
    /// # Errors
    /// Whatever deviates from the specification.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(WHAT, bytes, MAX_PROOF_BYTES)?;
        reader.array(MEMBERS)?;
        reader.version(VERSION)?;
        let kind = match reader.uint()? {
            1 => ProofKind::File,
            2 => ProofKind::History,
            3 => ProofKind::Stream,
            _ => return Err(reader.out_of_range()),
        };
        let size = reader.uint()?;
        let vrf = if reader.null()? { None } else { Some(reader.fixed()?) };
        if vrf.is_none() != (kind == ProofKind::Stream) {
            return Err(reader.out_of_range());
        }
        let siblings = reader.hashes(map::MAX_SIBLINGS)?;
        let map = map::Proof { siblings, end: read_end(&mut reader)? };
        let proof = Proof { kind, size, vrf, map, chain: read_chain(&mut reader)? };
        reader.finish(&proof.encode())?;
        Ok(proof)
    }
}

fn write_value(writer: &mut Writer, value: &Value) {
    writer.uint(value.count).uint(value.last).bytes(&value.leaf.0);
}

fn read_value(reader: &mut Reader<'_>) -> Result<Value, DecodeError> {
    Ok(Value { count: reader.uint()?, last: reader.uint()?, leaf: reader.hash()? })
}

fn read_end(reader: &mut Reader<'_>) -> Result<End, DecodeError> {
    if reader.null()? {
        return Ok(End::Empty);
    }
    match reader.array_len()? {
        3 => Ok(End::Value(read_value(reader)?)),
        4 => Ok(End::Other(Key(reader.fixed()?), read_value(reader)?)),
        found => Err(DecodeError::Members { what: WHAT, found: found as u64 }),
    }
}

fn read_chain(reader: &mut Reader<'_>) -> Result<Vec<Opened>, DecodeError> {
    let members = reader.array_len()?;
    if members > MAX_CHAIN {
        return Err(DecodeError::Members { what: WHAT, found: members as u64 });
    }
    // Not sized by what is announced: a member may take a byte only, before it is refused.
    let mut chain = Vec::new();
    for _ in 0..members {
        reader.array(4)?;
        chain.push(Opened {
            entry: reader.bytes(MAX_ENTRY_BYTES)?.to_vec(),
            path: reader.hashes(log::MAX_PROOF_HASHES)?,
            nonce: reader.fixed()?,
            payload: reader.bytes(MAX_PAYLOAD_BYTES)?.to_vec(),
        });
    }
    Ok(chain)
}
