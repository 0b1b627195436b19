//! The messages that are exchanged inside TLS before the channel is open.
//!
//! Spec: `docs/spec/channel.md`, "Messages", with vectors in `docs/spec/vectors/channel.json`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;

use attestation::MAX_DOCUMENT_BYTES;

/// The version that this module speaks.
pub const VERSION: u8 = 1;
/// Length of the client's challenge.
pub const NONCE_BYTES: usize = 32;
/// Longest SSHSIG signature in a message.
pub const MAX_SIGNATURE_BYTES: usize = 1024;

const HEADER_BYTES: usize = 5;
const HELLO_BYTES: usize = 1 + NONCE_BYTES;

const TYPE_HELLO: u8 = 1;
const TYPE_EVIDENCE: u8 = 2;
const TYPE_AUTHENTICATE: u8 = 3;
const TYPE_ACCEPTED: u8 = 4;
const TYPE_REFUSED: u8 = 5;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// The client's first: which version it speaks, and its challenge.
    Hello {
        /// [`VERSION`], or another that the server refuses.
        version: u8,
        /// What the document must have as its nonce.
        nonce: [u8; NONCE_BYTES],
    },
    /// The server's answer: 1 to [`MAX_DOCUMENT_BYTES`] bytes of attestation document.
    Evidence(Vec<u8>),
    /// The client has appraised the document and says who it is: 0 to [`MAX_SIGNATURE_BYTES`] bytes of SSHSIG, none
    /// when it has no key.
    Authenticate(Vec<u8>),
    /// The server admits the client: the channel is open.
    Accepted,
    /// The server does not go on, and closes.
    Refused(Refusal),
}

/// Why a server does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// There are as many sessions as it takes.
    Busy,
    /// Sealed: it admits nobody any more.
    Sealed,
    /// The client's key is not listed.
    UnknownKey,
    /// The client has no key, and the server wants one.
    KeyRequired,
    /// The client's signature is not valid, or not of a key type that is taken.
    Signature,
    /// The server could not get an attestation document.
    NoEvidence,
    /// It does not speak the client's version.
    Version,
    /// Something in the enclave failed, which its own log names.
    Internal,
    /// A reason that this version does not know.
    Other(u8),
}

/// Every reason that has a name.
const REFUSALS: [Refusal; 8] = [
    Refusal::Busy,
    Refusal::Sealed,
    Refusal::UnknownKey,
    Refusal::KeyRequired,
    Refusal::Signature,
    Refusal::NoEvidence,
    Refusal::Version,
    Refusal::Internal,
];

impl Refusal {
    /// Its number on the wire.
    pub fn code(self) -> u8 {
        match self {
            Refusal::Busy => 1,
            Refusal::Sealed => 2,
            Refusal::UnknownKey => 3,
            Refusal::KeyRequired => 4,
            Refusal::Signature => 5,
            Refusal::NoEvidence => 6,
            Refusal::Version => 7,
            Refusal::Internal => 8,
            Refusal::Other(code) => code,
        }
    }

    /// The reason with number `code`.
    pub fn from_code(code: u8) -> Self {
        REFUSALS.into_iter().find(|known| known.code() == code).unwrap_or(Refusal::Other(code))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Busy => "busy: as many sessions are open as it takes",
            Refusal::Sealed => "sealed: it admits nobody any more",
            Refusal::UnknownKey => "unknown key: the enclave's measured configuration does not list it",
            Refusal::KeyRequired => "a key is required, and none was shown",
            Refusal::Signature => "the signature is not valid",
            Refusal::NoEvidence => "it has no attestation document to show",
            Refusal::Version => "it does not speak this version of the channel",
            Refusal::Internal => "something failed in the enclave",
            Refusal::Other(code) => return write!(f, "reason {code}, which this version does not know"),
        })
    }
}

impl Message {
    /// The type's number and the payload.
    fn parts(&self) -> (u8, Vec<u8>) {
        match self {
            Message::Hello { version, nonce } => (TYPE_HELLO, [&[*version][..], nonce].concat()),
            Message::Evidence(document) => (TYPE_EVIDENCE, document.clone()),
            Message::Authenticate(signature) => (TYPE_AUTHENTICATE, signature.clone()),
            Message::Accepted => (TYPE_ACCEPTED, Vec::new()),
            Message::Refused(refusal) => (TYPE_REFUSED, vec![refusal.code()]),
        }
    }

    /// The message's frame: type, length (32 bits, big-endian), payload.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload) = self.parts();
        let length = u32::try_from(payload.len()).expect("payloads are limited far below 4 GiB");
        [&[kind][..], &length.to_be_bytes(), &payload].concat()
    }

    /// The message that `bytes` begin with and its frame's length; `None` while it is not complete. Nothing is kept or
    /// allocated for a length that is refused.
    ///
    /// # Errors
    /// Whatever deviates from `docs/spec/channel.md`, as soon as the header shows it.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Message, usize)>, MessageError> {
        let &[kind, a, b, c, d, ref rest @ ..] = bytes else {
            return bytes.first().map_or(Ok(None), |kind| sizes(*kind).map(|_| None));
        };
        let (least, most) = sizes(kind)?;
        let found = u32::from_be_bytes([a, b, c, d]);
        let length = usize::try_from(found).ok().filter(|length| (least..=most).contains(length));
        let length = length.ok_or(MessageError::Length { kind, least, most, found })?;
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        Ok(Some((Self::from_parts(kind, payload)?, length.saturating_add(HEADER_BYTES))))
    }

    fn from_parts(kind: u8, payload: &[u8]) -> Result<Self, MessageError> {
        Ok(match (kind, payload) {
            (TYPE_HELLO, [version, nonce @ ..]) => {
                let nonce = nonce.try_into().map_err(|_| MessageError::Kind { found: kind })?;
                Message::Hello { version: *version, nonce }
            }
            (TYPE_EVIDENCE, document) => Message::Evidence(document.to_vec()),
            (TYPE_AUTHENTICATE, signature) => Message::Authenticate(signature.to_vec()),
            (TYPE_ACCEPTED, _) => Message::Accepted,
            (TYPE_REFUSED, [code]) => Message::Refused(Refusal::from_code(*code)),
            (found, _) => return Err(MessageError::Kind { found }),
        })
    }

    /// What it is, for errors.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Message::Hello { .. } => "HELLO",
            Message::Evidence(_) => "EVIDENCE",
            Message::Authenticate(_) => "AUTHENTICATE",
            Message::Accepted => "ACCEPTED",
            Message::Refused(_) => "REFUSED",
        }
    }
}

/// Least and most bytes of payload.
fn sizes(kind: u8) -> Result<(usize, usize), MessageError> {
    match kind {
        TYPE_HELLO => Ok((HELLO_BYTES, HELLO_BYTES)),
        TYPE_EVIDENCE => Ok((1, MAX_DOCUMENT_BYTES)),
        TYPE_AUTHENTICATE => Ok((0, MAX_SIGNATURE_BYTES)),
        TYPE_ACCEPTED => Ok((0, 0)),
        TYPE_REFUSED => Ok((1, 1)),
        found => Err(MessageError::Kind { found }),
    }
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// There is no such type.
    #[error("expected a message of the channel, found type {found}")]
    Kind {
        /// The type found.
        found: u8,
    },
    /// No message of this type is that long or short.
    #[error("message of type {kind}: expected {least} to {most} bytes, found {found}")]
    Length {
        /// The type.
        kind: u8,
        /// Least bytes of payload.
        least: usize,
        /// Most bytes of payload.
        most: usize,
        /// What the header announces.
        found: u32,
    },
}
