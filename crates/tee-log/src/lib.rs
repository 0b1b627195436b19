//! What an agent did: entries signed and chained, kept encrypted, queried, verified.
//!
//! Every entry carries its number and the digest of the one before it, and is signed with a key that its enclave attested when the
//! program started. So a verifier finds out what was altered, dropped or put elsewhere. Format: `docs/spec/tee-log.md`.
//!
//! [`Entry`] and [`Verifier`] know no IO, clock or storage. [`TeeLog`](store::TeeLog) (feature `store`) keeps entries, [`rest`] (feature
//! `rest`) shows them. What it does not do: keep anybody from putting an older log in place of a newer one. Who remembers a
//! [`Position`] finds that out, and so does the enclave's ledger, where an [`Anchor`] was written into it.

#![forbid(unsafe_code)]

mod anchor;
mod entry;
mod json;
mod key;
pub mod legacy;
#[cfg(feature = "rest")]
pub mod rest;
#[cfg(feature = "store")]
pub mod store;
mod verify;

use std::{future::Future, pin::Pin};

pub use self::{
    anchor::{Anchor, AnchorError, anchors},
    entry::{
        CLOSED, Entry, EntryError, MAX_CONTENT_BYTES, MAX_NAME_BYTES, OPENED, Position, RESERVED, SignedEntry,
    },
    json::{Agent, Page, Row},
    key::{PublicKey, SigningKey},
    verify::{Broken, Life, Verifier, key_statement, reply_digest, reply_statement},
};

/// What [`Evidence::attest`] returns: a document as text, in the end.
pub type Attesting<'a> =
    Pin<Box<dyn Future<Output = Result<String, Box<dyn std::error::Error + Send + Sync>>> + Send + 'a>>;

/// Who attests: the enclave that this runs in, of whatever make.
pub trait Evidence: Send + Sync {
    /// Has a document made that carries the verifier's `nonce` (which may be empty), `data` (at most 256 bytes) and a public key.
    fn attest<'a>(&'a self, nonce: &'a [u8], data: &'a [u8], public_key: &'a [u8]) -> Attesting<'a>;
}
