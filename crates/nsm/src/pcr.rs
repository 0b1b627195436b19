//! Platform configuration registers: their numbers, their values.

use std::fmt;

/// PCRs a Nitro module has.
pub const PCR_COUNT: u16 = 32;

/// Bytes in a PCR value: one SHA-384 digest.
pub const PCR_BYTES: usize = 48;

/// The number of a PCR, 0 to 31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PcrIndex(u8);

/// A PCR number beyond the last register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no PCR{found}: a module has PCR0 to PCR{}", PCR_COUNT - 1)]
pub struct PcrIndexOutOfRange {
    /// The number asked for.
    pub found: u64,
}

impl PcrIndex {
    /// The register of that number.
    ///
    /// # Errors
    /// When `index` is 32 or more.
    pub fn new(index: impl Into<u64>) -> Result<Self, PcrIndexOutOfRange> {
        let found = index.into();
        match u8::try_from(found) {
            Ok(index) if u16::from(index) < PCR_COUNT => Ok(Self(index)),
            _ => Err(PcrIndexOutOfRange { found }),
        }
    }

    /// Every register, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..32).map(Self)
    }
}

impl From<PcrIndex> for u8 {
    fn from(index: PcrIndex) -> Self {
        index.0
    }
}

impl From<PcrIndex> for u16 {
    fn from(index: PcrIndex) -> Self {
        index.0.into()
    }
}

impl From<PcrIndex> for usize {
    fn from(index: PcrIndex) -> Self {
        index.0.into()
    }
}

impl fmt::Display for PcrIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCR{}", self.0)
    }
}

/// The value of a PCR. Displays as 96 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pcr(pub [u8; PCR_BYTES]);

impl Pcr {
    /// The value of a register nobody extended. PCR0 to PCR2 of a debug enclave have it too.
    pub const ZERO: Self = Self([0; PCR_BYTES]);
}

impl fmt::Display for Pcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pcr({self})")
    }
}

/// What a module says of one PCR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PcrState {
    /// Whether it is locked: unchangeable until the enclave ends, and part of every attestation document.
    pub locked: bool,
    /// Its value.
    pub value: Pcr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_end_at_31() {
        assert_eq!(u16::from(PcrIndex::new(31_u16).unwrap()), 31);
        assert_eq!(PcrIndex::new(32_u16), Err(PcrIndexOutOfRange { found: 32 }));
        assert_eq!(PcrIndex::new(256_u16), Err(PcrIndexOutOfRange { found: 256 }));
        assert_eq!(PcrIndex::all().count(), usize::from(PCR_COUNT));
    }

    #[test]
    fn values_display_as_hexadecimal() {
        let text = Pcr([0x0f; PCR_BYTES]).to_string();
        assert_eq!(text, "0f".repeat(48));
    }
}
