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
    /// The certificate that signed the image.
    pub const SIGNER: PcrIndex = PcrIndex(8);
    /// What the framework measured before anything of the application ran.
    pub const FRAMEWORK: PcrIndex = PcrIndex(16);
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

    /// The register after it is extended with `data`: SHA-384(register || data).
    #[must_use]
    pub fn extended(self, data: &[u8]) -> Pcr {
        Pcr(sha384(&[&self.0, data]))
    }
}

/// PCR16 of an enclave whose init measured `manifest` and, if files are watched, the ledger's `baseline`
/// (`docs/spec/attestation.md`).
pub fn framework_pcr(manifest: &[u8], baseline: Option<&[u8]>) -> Pcr {
    let of_manifest = Pcr::ZERO.extended(&sha384(&[manifest]));
    baseline.map_or(of_manifest, |baseline| of_manifest.extended(&sha384(&[baseline])))
}

fn sha384(parts: &[&[u8]]) -> [u8; 48] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA384);
    parts.iter().for_each(|part| context.update(part));
    let mut digest = [0; 48];
    digest.copy_from_slice(context.finish().as_ref());
    digest
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
    fn the_framework_register_is_one_extension_for_each_thing_measured() {
        // printf '{}' | sha384sum; then 48 zero bytes and that digest through sha384sum again.
        let manifest = "5f39faa6110e0462f66fba1b16366971d894162ff3e4b6ac447fe32ba772fc740f5761c509cedd184340db8e84f54630";
        assert_eq!(framework_pcr(b"{}", None).to_string(), manifest);
        let both = framework_pcr(b"{}", Some(b"baseline"));
        assert_eq!(both, framework_pcr(b"{}", None).extended(&sha384(&[b"baseline"])));
        assert_ne!(both, framework_pcr(b"{}", Some(b"")));
    }

    #[test]
    fn text_form_round_trips() {
        let value = Pcr([0xa5; 48]);
        assert_eq!(value.to_string().parse(), Ok(value));
        assert!("a5".parse::<Pcr>().is_err());
    }
}
