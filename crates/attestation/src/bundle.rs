//! The bundle: one file with everything that answers a question about an enclave, to be verified without a network,
//! and years later.
//!
//! Types and the strict decoder. Nothing in a bundle is believed for being in it: whoever reads one gives its parts to
//! [`crate::verify`], [`crate::appraise`] and the ledger's verifiers. Written by the attestation server and by
//! `glasshouse verify --save-bundle`.
//!
//! Spec: `docs/spec/bundle.md`, with vectors in `docs/spec/vectors/bundle.json`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a vector without the member fails the test")]
mod tests;
mod text;

use serde::{Deserialize, Deserializer, Serialize, de};

pub use text::{Base64, Hex, Name};

use crate::batch::{self, NoncePath};
use crate::digest::Sha256;
use crate::document::MAX_DOCUMENT_BYTES;
use crate::form;

/// The version that this module writes and reads.
pub const VERSION: u64 = 1;
/// Longest bundle, in bytes.
pub const MAX_BUNDLE_BYTES: usize = 8 << 20;
/// Fewest and most bytes of a nonce.
pub const NONCE_BYTES: std::ops::RangeInclusive<usize> = 8..=64;
/// Most hashes of a consistency proof.
pub const MAX_CONSISTENCY_HASHES: usize = 128;
/// Longest SubjectPublicKeyInfo, in bytes.
pub const MAX_TLS_KEY_BYTES: usize = 1024;
/// Longest measured manifest, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 1 << 20;
/// Longest baseline, in bytes.
pub const MAX_BASELINE_BYTES: usize = 1024;
/// Most ledger proofs.
pub const MAX_PROOFS: usize = 256;
/// Longest ledger proof, in bytes.
pub const MAX_PROOF_BYTES: usize = 4 << 20;
/// Longest path or stream name, in bytes.
pub const MAX_NAME_BYTES: usize = 4096;
/// Most consistency proofs: from the baseline, and from checkpoints that verifiers kept.
pub const MAX_CONSISTENCY: usize = 4;
/// Most entries of a transcript.
pub const MAX_TRANSCRIPT_ENTRIES: usize = 4096;
/// Longest entry of a transcript, in bytes.
pub const MAX_TRANSCRIPT_ENTRY_BYTES: usize = 66_560;

/// A document and what goes with it. As JSON, the members in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Always [`VERSION`].
    pub version: Version,
    /// The attestation document: a COSE_Sign1.
    pub document: Base64,
    /// The verifier's nonce, [`NONCE_BYTES`] long.
    pub nonce: Hex,
    /// How the verifier's nonce is in the document's, if others' are too; absent when it is the document's.
    #[serde(default, deserialize_with = "form::object", skip_serializing_if = "Option::is_none")]
    pub batch: Option<NoncePath>,
    /// DER SubjectPublicKeyInfo of the server's TLS key.
    #[serde(default, deserialize_with = "form::present", skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<Base64>,
    /// The measured manifest, byte for byte.
    #[serde(default, deserialize_with = "form::present", skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Base64>,
    /// The ledger's baseline, byte for byte (`docs/spec/ledger.md`).
    #[serde(default, deserialize_with = "form::present", skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Base64>,
    /// What the ledger proves, for the checkpoint in the document's binding statement.
    #[serde(default, deserialize_with = "form::objects", skip_serializing_if = "Vec::is_empty")]
    pub proofs: Vec<Proof>,
    /// That the log only grew.
    #[serde(default, deserialize_with = "form::objects", skip_serializing_if = "Vec::is_empty")]
    pub consistency: Vec<Consistency>,
    /// The control channel's entries from the first (`docs/spec/control-trace.md`). Empty is not the same as absent: it
    /// says that there are none.
    #[serde(default, deserialize_with = "form::present", skip_serializing_if = "Option::is_none")]
    pub transcript: Option<Vec<Base64>>,
}

/// [`VERSION`], as a member of a form that has no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Version;

/// One proof of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// What it proves.
    pub kind: ProofKind,
    /// About what: an absolute path as the application sees it, or a stream's name.
    pub subject: Name,
    /// The proof (`docs/spec/ledger.md`).
    pub proof: Base64,
}

/// What a proof of the ledger proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofKind {
    /// A file's record now, or that there is none.
    File,
    /// All that ever happened to a file.
    History,
    /// All that a stream holds.
    Stream,
}

/// That the log of one size begins with the log of another (RFC 6962, section 2.1.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    /// The smaller size.
    pub from: u64,
    /// The larger size.
    pub to: u64,
    /// The proof's hashes.
    pub hashes: Vec<Sha256>,
}

impl Bundle {
    /// A bundle with nothing but what every bundle has.
    pub fn new(document: Vec<u8>, nonce: Vec<u8>) -> Self {
        Self {
            version: Version,
            document: Base64(document),
            nonce: Hex(nonce),
            batch: None,
            tls_key: None,
            manifest: None,
            baseline: None,
            proofs: Vec::new(),
            consistency: Vec::new(),
            transcript: None,
        }
    }

    /// The bundle as JSON on one line.
    ///
    /// # Errors
    /// When it is not within the limits of the form.
    pub fn encode(&self) -> Result<Vec<u8>, BundleError> {
        self.check()?;
        let bytes = serde_json::to_vec(self)?;
        at_most("bundle", bytes.len(), MAX_BUNDLE_BYTES)?;
        Ok(bytes)
    }

    /// Reads a bundle. Its parts have the right form then, and nothing else is known of them.
    ///
    /// # Errors
    /// Whatever deviates from `docs/spec/bundle.md`.
    pub fn decode(bytes: &[u8]) -> Result<Self, BundleError> {
        /// Of any version, so that a later one is refused for what it is.
        #[derive(Deserialize)]
        struct Versioned {
            version: u64,
        }
        at_most("bundle", bytes.len(), MAX_BUNDLE_BYTES)?;
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(BundleError::Version { found: version });
        }
        let bundle: Self = serde_json::from_slice(bytes)?;
        bundle.check()?;
        Ok(bundle)
    }

    fn check(&self) -> Result<(), BundleError> {
        some_at_most("document", &self.document.0, MAX_DOCUMENT_BYTES)?;
        if !NONCE_BYTES.contains(&self.nonce.0.len()) {
            return Err(BundleError::NonceLength { found: self.nonce.0.len() });
        }
        let path = self.batch.as_ref().map_or(0, |batch| batch.hashes.len());
        at_most("batch path", path, batch::MAX_PATH_HASHES)?;
        for (what, part, limit) in [
            ("tls_key", &self.tls_key, MAX_TLS_KEY_BYTES),
            ("manifest", &self.manifest, MAX_MANIFEST_BYTES),
            ("baseline", &self.baseline, MAX_BASELINE_BYTES),
        ] {
            if let Some(part) = part {
                some_at_most(what, &part.0, limit)?;
            }
        }
        self.check_ledger()?;
        let transcript = self.transcript.as_deref().unwrap_or_default();
        at_most("transcript", transcript.len(), MAX_TRANSCRIPT_ENTRIES)?;
        transcript
            .iter()
            .try_for_each(|entry| some_at_most("transcript entry", &entry.0, MAX_TRANSCRIPT_ENTRY_BYTES))
    }

    fn check_ledger(&self) -> Result<(), BundleError> {
        at_most("proofs", self.proofs.len(), MAX_PROOFS)?;
        for Proof { kind, subject, proof } in &self.proofs {
            some_at_most("proof", &proof.0, MAX_PROOF_BYTES)?;
            some_at_most("subject", &subject.0, MAX_NAME_BYTES)?;
            let of_file = matches!(kind, ProofKind::File | ProofKind::History);
            if subject.0.contains(&0) || of_file != subject.0.starts_with(b"/") {
                return Err(BundleError::Subject { kind: *kind, found: subject.clone() });
            }
        }
        at_most("consistency", self.consistency.len(), MAX_CONSISTENCY)?;
        for Consistency { from, to, hashes } in &self.consistency {
            at_most("consistency hashes", hashes.len(), MAX_CONSISTENCY_HASHES)?;
            if from > to {
                return Err(BundleError::ConsistencySizes { from: *from, to: *to });
            }
        }
        Ok(())
    }
}

fn some_at_most(what: &'static str, part: &[u8], limit: usize) -> Result<(), BundleError> {
    if part.is_empty() {
        return Err(BundleError::Empty { what });
    }
    at_most(what, part.len(), limit)
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), BundleError> {
    if found > limit {
        return Err(BundleError::TooLong { what, found, limit });
    }
    Ok(())
}

impl<'de> Deserialize<'de> for ProofKind {
    /// A text alone: what is derived takes `{"file": null}`, too.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "file" => Ok(Self::File),
            "history" => Ok(Self::History),
            "stream" => Ok(Self::Stream),
            other => Err(de::Error::unknown_variant(other, &["file", "history", "stream"])),
        }
    }
}

impl From<Version> for u64 {
    fn from(Version: Version) -> Self {
        VERSION
    }
}

impl TryFrom<u64> for Version {
    type Error = BundleError;

    fn try_from(found: u64) -> Result<Self, BundleError> {
        if found == VERSION { Ok(Version) } else { Err(BundleError::Version { found }) }
    }
}

/// Why bytes are no bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Not JSON of this form.
    #[error("not a bundle")]
    Json(#[from] serde_json::Error),
    /// Another version.
    #[error("expected a bundle of version {VERSION}, found version {found}")]
    Version {
        /// The version found.
        found: u64,
    },
    /// A part has more bytes or items than allowed.
    #[error("{what}: expected at most {limit}, found {found}")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A part that must hold something holds nothing.
    #[error("{what}: expected content, found none")]
    Empty {
        /// Which part.
        what: &'static str,
    },
    /// The nonce is shorter or longer than any verifier's.
    #[error("nonce: expected {} to {} bytes, found {found}", NONCE_BYTES.start(), NONCE_BYTES.end())]
    NonceLength {
        /// Its length in bytes.
        found: usize,
    },
    /// A path where a stream's name belongs, the other way round, or a NUL byte.
    #[error("{kind:?} proof: expected an absolute path for a file, another name for a stream, found {found}")]
    Subject {
        /// What the proof is of.
        kind: ProofKind,
        /// What was found.
        found: Name,
    },
    /// A log cannot begin with a larger one.
    #[error("consistency: expected a size of at most {to}, found {from}")]
    ConsistencySizes {
        /// The size said to be the smaller.
        from: u64,
        /// The size said to be the larger.
        to: u64,
    },
}
