//! The module's own protocol: CBOR requests and responses, as AWS's crate `aws-nitro-enclaves-nsm-api` 0.5 encodes them.
//!
//! A request without arguments is its name, a text; one with arguments is a map of its name to a map of its arguments.
//! Responses are alike. Layout, limits and refusals: `docs/spec/nsm-socket.md`, section "Messages"; the vectors beside it
//! were made with AWS's crate and hold this encoding to it byte for byte.
//!
//! Encoding is canonical. Decoding is strict in both directions (definite lengths, no duplicates, nothing missing, nothing
//! after the message), with one difference: an unknown field is refused in a request and passed over in a response,
//! because AWS reserves adding fields for minor versions of the module.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub(crate) mod fields;
mod request;
mod response;

use std::fmt;

pub use request::{AttestationRequest, Request};
pub use response::{Description, Digest, ErrorCode, Response};

/// Largest encoded request in bytes (`NSM_REQUEST_MAX_SIZE` of the kernel's `nsm.h`).
pub const MAX_REQUEST_BYTES: usize = 0x1000;

/// Largest encoded response in bytes (`NSM_RESPONSE_MAX_SIZE` of the kernel's `nsm.h`).
pub const MAX_RESPONSE_BYTES: usize = 0x3000;

/// Largest `user_data` a module takes, in bytes.
pub const MAX_USER_DATA_BYTES: usize = 512;

/// Largest `nonce` a module takes, in bytes.
pub const MAX_NONCE_BYTES: usize = 512;

/// Largest `public_key` a module takes, in bytes.
pub const MAX_PUBLIC_KEY_BYTES: usize = 1024;

/// Random bytes a module gives in one response.
pub const RANDOM_BYTES: usize = 256;

/// A field of an attestation request over its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} has {found} bytes, a module takes at most {limit}")]
pub struct InputTooLarge {
    /// The field's name in the protocol.
    pub field: &'static str,
    /// Its size in bytes.
    pub found: usize,
    /// The limit in bytes.
    pub limit: usize,
}

/// Why bytes are no message of the protocol.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// More bytes than any message has.
    #[error("a message of {found} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Length in bytes.
        found: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not CBOR, cut short, or a value of another type or range than its place demands.
    #[error("malformed CBOR")]
    Malformed(#[from] minicbor::decode::Error),
    /// An item of indefinite length.
    #[error("an item of indefinite length")]
    IndefiniteLength,
    /// A map or array with more or fewer entries than its kind has.
    #[error("a {what} of {found} entries, expected {expected}")]
    WrongLength {
        /// What it should be: `message`, ...
        what: &'static str,
        /// Entries it should have.
        expected: u64,
        /// Entries it has.
        found: u64,
    },
    /// A name this version of the protocol does not have.
    #[error("unknown {what} {name}")]
    UnknownName {
        /// What it names: `request`, `field`, ...
        what: &'static str,
        /// The name.
        name: ClippedName,
    },
    /// A field given twice.
    #[error("the field {field} is given twice")]
    DuplicateField {
        /// Its name.
        field: &'static str,
    },
    /// A field not given.
    #[error("the field {field} is missing")]
    MissingField {
        /// Its name.
        field: &'static str,
    },
    /// Bytes after the message.
    #[error("{found} bytes follow the message")]
    TrailingBytes {
        /// How many.
        found: usize,
    },
}

/// A name from a peer, cut to a length that is safe to log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClippedName(String);

impl ClippedName {
    /// Characters kept.
    const MAX_CHARS: usize = 32;

    pub(crate) fn new(name: &str) -> Self {
        Self(name.chars().take(Self::MAX_CHARS).collect())
    }
}

impl fmt::Display for ClippedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests;
