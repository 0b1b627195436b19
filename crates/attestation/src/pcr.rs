//! Platform configuration registers: index and value.

use std::fmt;
use std::str::FromStr;

use crate::digest::{ParseHexError, parse_hex};

/// Registers that a Nitro security module has.
pub const PCR_COUNT: u8 = 32;

/// The index of a PCR, 0 to 31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PcrIndex(u8);

impl PcrIndex {
    /// The whole enclave image.
    pub const IMAGE: PcrIndex = PcrIndex(0);
    /// Kernel, command line and boot ramdisk.
    pub const BOOT: PcrIndex = PcrIndex(1);
    /// The application's ramdisks.
    pub const APPLICATION: PcrIndex = PcrIndex(2);
    /// The control channel (`docs/spec/control-trace.md`).
    pub const CONTROL: PcrIndex = PcrIndex(17);

    /// The index `index`.
    ///
    /// # Errors
    /// When `index` is not below [`PCR_COUNT`].
    pub const fn new(index: u8) -> Result<Self, PcrIndexError> {
        if index < PCR_COUNT { Ok(PcrIndex(index)) } else { Err(PcrIndexError { found: index as u64 }) }
    }

    /// The number, 0 to 31.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// What the register measures: AWS assigns 0 to 4 and 8 (Nitro Enclaves user guide, "Cryptographic
    /// attestation"), Glasshouse assigns 16 and 17.
    pub const fn meaning(self) -> &'static str {
        match self.0 {
            0 => "enclave image",
            1 => "kernel and boot ramdisk",
            2 => "application",
            3 => "IAM role of the parent instance",
            4 => "parent instance ID",
            8 => "image signing certificate",
            16 => "framework state at boot",
            17 => "control channel",
            _ => "application-defined",
        }
    }
}

impl fmt::Display for PcrIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCR{}", self.0)
    }
}

impl TryFrom<u64> for PcrIndex {
    type Error = PcrIndexError;

    fn try_from(index: u64) -> Result<Self, PcrIndexError> {
        u8::try_from(index)
            .ok()
            .and_then(|index| PcrIndex::new(index).ok())
            .ok_or(PcrIndexError { found: index })
    }
}

/// A number that is no PCR index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a PCR index is 0 to 31, found {found}")]
pub struct PcrIndexError {
    /// The number found.
    pub found: u64,
}

/// The value of a PCR: a SHA-384 digest. Its text form is 96 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pcr(pub [u8; 48]);

impl Pcr {
    /// The value of a register that nothing has extended.
    pub const ZERO: Pcr = Pcr([0; 48]);
}

impl fmt::Display for Pcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Pcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pcr({self})")
    }
}

impl FromStr for Pcr {
    type Err = ParseHexError;

    fn from_str(text: &str) -> Result<Self, ParseHexError> {
        parse_hex(text).map(Pcr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_32_does_not_exist() {
        assert_eq!(PcrIndex::new(31).unwrap().number(), 31);
        assert_eq!(PcrIndex::new(32), Err(PcrIndexError { found: 32 }));
        // 256 would be index 0 if it were cut to a byte.
        assert_eq!(PcrIndex::try_from(256), Err(PcrIndexError { found: 256 }));
    }

    #[test]
    fn text_form_round_trips() {
        let value = Pcr([0xa5; 48]);
        assert_eq!(value.to_string().parse(), Ok(value));
        assert!("a5".parse::<Pcr>().is_err());
    }
}
