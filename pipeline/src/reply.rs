//! Replies: what the server says of a request, before and after what it does.
//!
//! Canonical CBOR maps like requests. Spec: `docs/spec/pipeline.md`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use minicbor::{Decoder, Encoder};

use crate::request::RunId;

/// Longest message in a refusal, in bytes; a longer one is cut.
pub const MAX_MESSAGE_BYTES: usize = 2048;

/// Why the server does not do what it was asked. The numbers are part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum Code {
    /// The request, or a frame after it, is not of the protocol.
    Malformed = 1,
    /// The operator's key may not do this.
    Denied = 2,
    /// The enclave was sealed: nobody is admitted any more.
    Sealed = 3,
    /// Sealing is too late: somebody was admitted before.
    Entered = 4,
    /// The trace of sessions is not what the security module says, or cannot be kept: nobody is admitted.
    Untraceable = 5,
    /// As many sessions as are allowed are there already.
    Busy = 6,
    /// No such run, service or file.
    NotFound = 7,
    /// The program could not be started.
    CannotStart = 8,
    /// This server does not have what the request needs.
    Unsupported = 9,
    /// The client was silent for too long.
    Idle = 10,
    /// What was to be done failed.
    Failed = 11,
    /// A path leads out of where the operator may go, or to something that is no file.
    PathRefused = 12,
    /// There is no room.
    NoSpace = 13,
    /// What arrived is not what was sent.
    DigestMismatch = 14,
    /// It is there already.
    Exists = 15,
    /// The server ends.
    Stopping = 16,
}

impl Code {
    const ALL: [Self; 16] = [
        Self::Malformed,
        Self::Denied,
        Self::Sealed,
        Self::Entered,
        Self::Untraceable,
        Self::Busy,
        Self::NotFound,
        Self::CannotStart,
        Self::Unsupported,
        Self::Idle,
        Self::Failed,
        Self::PathRefused,
        Self::NoSpace,
        Self::DigestMismatch,
        Self::Exists,
        Self::Stopping,
    ];

    fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| *code as u16 == number)
    }
}

/// The server does not do what it was asked, or has given it up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Why, for programs.
    pub code: Code,
    /// Why, for people: at most [`MAX_MESSAGE_BYTES`].
    pub message: String,
}

/// The server does what it was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The number of the run, where there is one.
    pub id: Option<RunId>,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// The exit status; 128 + n for a program that a signal ended. 0 where no program was run.
    pub status: u8,
    /// The signal that ended the program.
    pub signal: Option<u8>,
    /// It was ended because it took longer than the request allowed.
    pub timed_out: bool,
}

/// A reply is not of the form this version reads.
#[derive(Debug, thiserror::Error)]
#[error("the server's reply is not of the form this version reads")]
pub struct ReplyError(#[source] Option<minicbor::decode::Error>);

impl From<minicbor::decode::Error> for ReplyError {
    fn from(source: minicbor::decode::Error) -> Self {
        Self(Some(source))
    }
}

impl Refusal {
    /// With a message that is cut to [`MAX_MESSAGE_BYTES`].
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        Self { code, message }
    }

    /// `{0: code, 1: message}`.
    pub fn encode(&self) -> Vec<u8> {
        let message = &self.message[..self.message.floor_char_boundary(MAX_MESSAGE_BYTES)];
        encoded(|e| e.map(2)?.u8(0)?.u16(self.code as u16)?.u8(1)?.str(message)?.ok())
    }

    /// # Errors
    /// For anything but what [`Refusal::encode`] makes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReplyError> {
        let mut d = Decoder::new(bytes);
        expect(d.map()? == Some(2) && d.u8()? == 0)?;
        let code = Code::from_number(d.u16()?).ok_or(ReplyError(None))?;
        expect(d.u8()? == 1)?;
        let refusal = Self { code, message: d.str()?.to_owned() };
        canonical(bytes, &refusal.encode(), refusal)
    }
}

impl Accepted {
    /// `{0: id}`, or an empty map.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|e| match self.id {
            Some(RunId(id)) => e.map(1)?.u8(0)?.u64(id)?.ok(),
            None => e.map(0)?.ok(),
        })
    }

    /// # Errors
    /// For anything but what [`Accepted::encode`] makes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReplyError> {
        let mut d = Decoder::new(bytes);
        let id = match d.map()? {
            Some(0) => None,
            Some(1) if d.u8()? == 0 => Some(RunId(d.u64()?)),
            _ => return Err(ReplyError(None)),
        };
        let accepted = Self { id };
        canonical(bytes, &accepted.encode(), accepted)
    }
}

impl Exit {
    /// `{0: status, 1: signal, 2: timed out}`, the last two where they are there.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|e| {
            let optional = u64::from(self.signal.is_some()).saturating_add(self.timed_out.into());
            e.map(optional.saturating_add(1))?.u8(0)?.u8(self.status)?;
            if let Some(signal) = self.signal {
                e.u8(1)?.u8(signal)?;
            }
            if self.timed_out {
                e.u8(2)?.bool(true)?;
            }
            e.ok()
        })
    }

    /// # Errors
    /// For anything but what [`Exit::encode`] makes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReplyError> {
        let mut d = Decoder::new(bytes);
        let mut exit = Self::default();
        let entries = d.map()?.filter(|count| *count <= 3).ok_or(ReplyError(None))?;
        for _ in 0..entries {
            match d.u8()? {
                0 => exit.status = d.u8()?,
                1 => exit.signal = Some(d.u8()?),
                2 => exit.timed_out = d.bool()?,
                _ => return Err(ReplyError(None)),
            }
        }
        canonical(bytes, &exit.encode(), exit)
    }
}

type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn encoded(write: impl FnOnce(&mut Encoder<&mut Vec<u8>>) -> Written) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut Encoder::new(&mut bytes)).expect("writing to a Vec cannot fail");
    bytes
}

fn expect(holds: bool) -> Result<(), ReplyError> {
    if holds { Ok(()) } else { Err(ReplyError(None)) }
}

fn canonical<T>(found: &[u8], encoded: &[u8], value: T) -> Result<T, ReplyError> {
    if found == encoded { Ok(value) } else { Err(ReplyError(None)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn codes_keep_their_numbers() {
        let numbers: Vec<_> = Code::ALL.iter().map(|code| *code as u16).collect();
        assert_eq!(numbers, (1..=16).collect::<Vec<_>>());
        assert_eq!(Code::from_number(17), None);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let refusal = Refusal::new(Code::Failed, "\u{20ac}".repeat(MAX_MESSAGE_BYTES));
        assert_eq!(refusal.message.len(), MAX_MESSAGE_BYTES / 3 * 3);
        assert_eq!(Refusal::decode(&refusal.encode()).unwrap(), refusal);
    }

    proptest! {
        #[test]
        fn replies_survive(code in 1_u16..=16, message in ".{0,60}", id: Option<u64>, status: u8, signal: Option<u8>, timed_out: bool) {
            let refusal = Refusal::new(Code::from_number(code).unwrap(), message);
            prop_assert_eq!(Refusal::decode(&refusal.encode()).unwrap(), refusal);
            let accepted = Accepted { id: id.map(RunId) };
            prop_assert_eq!(Accepted::decode(&accepted.encode()).unwrap(), accepted);
            let exit = Exit { status, signal, timed_out };
            prop_assert_eq!(Exit::decode(&exit.encode()).unwrap(), exit);
        }

        #[test]
        fn decoding_never_panics_and_knows_one_encoding(bytes: Vec<u8>) {
            if let Ok(reply) = Refusal::decode(&bytes) {
                prop_assert_eq!(reply.encode(), bytes.clone());
            }
            if let Ok(reply) = Accepted::decode(&bytes) {
                prop_assert_eq!(reply.encode(), bytes.clone());
            }
            if let Ok(reply) = Exit::decode(&bytes) {
                prop_assert_eq!(reply.encode(), bytes);
            }
        }
    }
}
