//! Proofs at a checkpoint.

use redb::ReadOnlyTable;

use super::places::Place;
use super::tables::{ENTRIES, PAYLOADS, corrupt};
use super::{Ledger, Published, Snapshot, TREE_BASE};
use crate::log::{self, Nodes, leaf_hash, node_hash};
use crate::map::End;
use crate::store::Error;
use crate::tile::{TileKind, TileName, encode_entries, encode_hashes};
use crate::{
    Entry, Hash, Key, MAX_CHAIN, MAX_PROOF_BYTES, Opened, Proof, ProofKind, StreamName, VRF_PROOF_BYTES,
};
use redb::ReadableDatabase as _;

/// What an opened entry has beside its bytes, at most: framing of the members.
const FRAMING_BYTES: usize = 32;

impl Ledger {
    /// What the file at `path` is, by a proof of kind [`ProofKind::File`], at the checkpoint of size `at` or now.
    ///
    /// # Errors
    /// [`Error::NotRetained`], [`Error::PathTooLong`], and those of the disk.
    pub fn prove_file(&self, path: &[u8], at: Option<u64>) -> Result<Vec<u8>, Error> {
        self.prove_path(ProofKind::File, path, at)
    }

    /// All that was recorded of the file at `path`, by a proof of kind [`ProofKind::History`].
    ///
    /// # Errors
    /// As [`Ledger::prove_file`], and [`Error::ProofTooLong`].
    pub fn prove_history(&self, path: &[u8], at: Option<u64>) -> Result<Vec<u8>, Error> {
        self.prove_path(ProofKind::History, path, at)
    }

    /// The entries of a stream from number `from` on, by a proof of kind [`ProofKind::Stream`].
    ///
    /// # Errors
    /// [`Error::NotRetained`], [`Error::ProofTooLong`], and those of the disk.
    pub fn prove_stream(&self, name: &StreamName, from: u64, at: Option<u64>) -> Result<Vec<u8>, Error> {
        self.prove(ProofKind::Stream, name.key(), None, from, &self.snapshot(at)?)
    }

    /// The hashes that show that the log of `from` entries is the beginning of the log of `to`.
    ///
    /// # Errors
    /// [`Error::Range`], and those of the disk.
    pub fn prove_consistency(&self, from: u64, to: u64) -> Result<Vec<Hash>, Error> {
        // In this order: what the file holds is never behind what is published.
        let published = self.published();
        let reader = self.reader()?;
        let size = published.snapshot.checkpoint.size;
        if from > to || to > size {
            return Err(Error::Range { size, from, to });
        }
        log::prove_consistency(&Stored { published: &published, reader: &reader }, from, to)
    }

    /// The content of a tile (C2SP `tlog-tiles`); `None` if the log is not large enough to have it.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn tile(&self, name: &TileName) -> Result<Option<Vec<u8>>, Error> {
        // In this order: what the file holds is never behind what is published.
        let published = self.published();
        let reader = self.reader()?;
        let Some(range) = name.range().filter(|_| name.exists_in(published.snapshot.checkpoint.size)) else {
            return Ok(None);
        };
        match name.kind {
            TileKind::Entries => {
                let entries: Result<Vec<_>, _> = range.map(|index| reader.entry(index)).collect();
                Ok(Some(encode_entries(&entries?)))
            }
            TileKind::Hashes { .. } => {
                let nodes = Stored { published: &published, reader: &reader };
                let hashes: Result<Vec<_>, _> =
                    range.map(|index| nodes.node(name.tree_level(), index)).collect();
                Ok(Some(encode_hashes(&hashes?)))
            }
        }
    }

    fn prove_path(&self, kind: ProofKind, path: &[u8], at: Option<u64>) -> Result<Vec<u8>, Error> {
        let snapshot = self.snapshot(at)?;
        if path.len() > crate::MAX_PATH_BYTES {
            return Err(Error::PathTooLong { found: path.len() });
        }
        let Place { key, proof } = self.places.prove(&self.vrf, path);
        self.prove(kind, key, Some(proof), 0, &snapshot)
    }

    fn prove(
        &self,
        kind: ProofKind,
        key: Key,
        vrf: Option<[u8; VRF_PROOF_BYTES]>,
        from: u64,
        snapshot: &Snapshot,
    ) -> Result<Vec<u8>, Error> {
        let (size, map) = (snapshot.checkpoint.size, snapshot.map.prove(&key));
        let chain = match map.end {
            End::Value(value) => {
                let from = if kind == ProofKind::File { value.count - 1 } else { from };
                self.open_chain(value.last, value.count, from, size)?
            }
            End::Other(..) | End::Empty => Vec::new(),
        };
        let proof = Proof { kind, size, vrf, map, chain }.encode();
        if proof.len() > MAX_PROOF_BYTES { Err(Error::ProofTooLong) } else { Ok(proof) }
    }

    /// The entries of a subject from number `from` on, the last one first.
    fn open_chain(&self, last: u64, count: u64, from: u64, size: u64) -> Result<Vec<Opened>, Error> {
        let wanted = count.saturating_sub(from);
        if wanted > MAX_CHAIN as u64 {
            return Err(Error::ProofTooLong);
        }
        let reader = self.reader()?;
        let (mut chain, mut next, mut bytes) = (Vec::new(), Some(last), 0);
        while let Some(index) = next.filter(|_| (chain.len() as u64) < wanted) {
            let entry = reader.entry(index)?;
            let payload = reader.payload(index)?;
            let decoded = Entry::decode(&entry).map_err(|_| corrupt(format!("entry {index}")))?;
            let nonce = self.nonces.nonce(&decoded.subject, decoded.sequence, &payload);
            // Locked for one path only, so that whoever commits does not wait for a long chain.
            let path = {
                let published = self.published();
                log::prove_inclusion(&Stored { published: &published, reader: &reader }, index, size)?
            };
            bytes += entry.len() + payload.len() + path.len() * Hash::BYTES + nonce.len() + FRAMING_BYTES;
            if bytes > MAX_PROOF_BYTES {
                return Err(Error::ProofTooLong);
            }
            next = decoded.previous;
            chain.push(Opened { entry, path, nonce, payload });
        }
        Ok(chain)
    }

    pub(super) fn reader(&self) -> Result<Reader, Error> {
        let transaction = self.db.begin_read()?;
        Ok(Reader { entries: transaction.open_table(ENTRIES)?, payloads: transaction.open_table(PAYLOADS)? })
    }
}

/// Entries and payloads as of one commit.
pub(super) struct Reader {
    pub(super) entries: ReadOnlyTable<u64, &'static [u8]>,
    payloads: ReadOnlyTable<u64, &'static [u8]>,
}

impl Reader {
    pub(super) fn entry(&self, index: u64) -> Result<Vec<u8>, Error> {
        let entry = self.entries.get(index)?.ok_or_else(|| corrupt(format!("no entry {index}")))?;
        Ok(entry.value().to_vec())
    }

    pub(super) fn payload(&self, index: u64) -> Result<Vec<u8>, Error> {
        let payload = self.payloads.get(index)?.ok_or_else(|| corrupt(format!("no payload {index}")))?;
        Ok(payload.value().to_vec())
    }
}

/// The log's tree: upper levels from memory, what is below from entries.
struct Stored<'a> {
    published: &'a Published,
    reader: &'a Reader,
}

impl Nodes for Stored<'_> {
    type Error = Error;

    fn node(&self, level: u8, index: u64) -> Result<Hash, Error> {
        if let Some(hash) = self.published.tree.node(level, index) {
            return Ok(hash);
        }
        if level >= TREE_BASE {
            return Err(corrupt(format!("no node {index} of level {level}")));
        }
        if level == 0 {
            return Ok(leaf_hash(&self.reader.entry(index)?));
        }
        Ok(node_hash(&self.node(level - 1, 2 * index)?, &self.node(level - 1, 2 * index + 1)?))
    }
}
