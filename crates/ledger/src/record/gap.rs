//! The payload of an entry that says: for some time nobody looked.

use crate::cbor::{DecodeError, Reader, Writer};

use super::VERSION;

/// Longest text of a gap.
pub const MAX_GAP_DETAIL_BYTES: usize = 256;

const WHAT: &str = "a gap";
/// More than the longest text and the rest.
const MAX_GAP_BYTES: usize = 512;

/// A time in which something may have happened that the ledger does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// Time of the last entry before it, in nanoseconds since 1970 by the enclave's clock; 0 if there is none.
    pub since: u64,
    /// More words for people, at most [`MAX_GAP_DETAIL_BYTES`].
    pub detail: String,
}

/// Why nobody looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum GapReason {
    /// Whoever keeps the ledger was not running.
    Restart = 1,
    /// The kernel had more notifications than it keeps.
    Overflow = 2,
    /// A file system under a monitored path went away or came.
    Mount = 3,
    /// Something failed that makes looking again necessary.
    Failure = 4,
}

impl GapReason {
    const ALL: [Self; 4] = [Self::Restart, Self::Overflow, Self::Mount, Self::Failure];

    /// Its name in texts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Overflow => "overflow",
            Self::Mount => "mount",
            Self::Failure => "failure",
        }
    }
}

impl Gap {
    /// The one encoding: `[version, reason, since, detail]`. A detail that is too long is cut.
    pub fn encode(&self) -> Vec<u8> {
        let end = self.detail.floor_char_boundary(MAX_GAP_DETAIL_BYTES);
        let mut writer = Writer::new();
        writer.array(4).uint(VERSION).uint(self.reason as u64).uint(self.since);
        writer.text(self.detail.get(..end).unwrap_or_default());
        writer.finish()
    }

    /// Decodes what [`Gap::encode`] makes, and nothing else.
    ///
    /// # Errors
    /// Whatever deviates from the specification.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(WHAT, bytes, MAX_GAP_BYTES)?;
        reader.array(4)?;
        reader.version(VERSION)?;
        let number = reader.uint()?;
        let reason = GapReason::ALL.into_iter().find(|reason| *reason as u64 == number);
        let gap = Gap {
            reason: reason.ok_or(reader.out_of_range())?,
            since: reader.uint()?,
            detail: reader.text(MAX_GAP_DETAIL_BYTES)?.to_owned(),
        };
        reader.finish(&gap.encode())?;
        Ok(gap)
    }
}
