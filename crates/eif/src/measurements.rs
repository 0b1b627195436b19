//! The values an enclave's platform configuration registers take when an image boots.
//!
//! Holds and prints them; [`crate::hashing`] computes them. See `docs/spec/eif.md`, "Measurements".

use std::fmt;

use aws_lc_rs::digest::{self, SHA384};
use serde::{Serialize, Serializer};

/// The length of a register: a SHA-384 digest, in bytes.
pub const PCR_BYTES: usize = 48;

/// What booting an image puts into the registers. Serializes as AWS's tools print them: `{"PCR0": "hex", ..}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Measurements {
    /// Register 0: kernel, command line and all ramdisks.
    #[serde(rename = "PCR0", serialize_with = "as_hex")]
    pub pcr0: [u8; PCR_BYTES],
    /// Register 1: kernel, command line and the first ramdisk.
    #[serde(rename = "PCR1", serialize_with = "as_hex")]
    pub pcr1: [u8; PCR_BYTES],
    /// Register 2: the ramdisks after the first.
    #[serde(rename = "PCR2", serialize_with = "as_hex")]
    pub pcr2: [u8; PCR_BYTES],
    /// Register 8: the certificate of the image's signer; `None` when the image is unsigned (the register is then
    /// all zeros).
    #[serde(rename = "PCR8", serialize_with = "as_optional_hex", skip_serializing_if = "Option::is_none")]
    pub pcr8: Option<[u8; PCR_BYTES]>,
}

impl fmt::Display for Measurements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "PCR0: {}", hex::encode(self.pcr0))?;
        writeln!(f, "PCR1: {}", hex::encode(self.pcr1))?;
        write!(f, "PCR2: {}", hex::encode(self.pcr2))?;
        match self.pcr8 {
            Some(pcr8) => write!(f, "\nPCR8: {}", hex::encode(pcr8)),
            None => Ok(()),
        }
    }
}

/// A register which was zero and is extended once, with the digest of what `measured` took in:
/// SHA-384(48 zero bytes || SHA-384(data)).
pub(crate) fn extended_once(measured: digest::Context) -> [u8; PCR_BYTES] {
    let mut register = digest::Context::new(&SHA384);
    register.update(&[0; PCR_BYTES]);
    register.update(measured.finish().as_ref());
    register.finish().as_ref().try_into().expect("a SHA-384 digest is 48 bytes long")
}

/// Register 8 of an image signed by the holder of this certificate.
pub(crate) fn certificate_register(certificate_der: &[u8]) -> [u8; PCR_BYTES] {
    let mut measured = digest::Context::new(&SHA384);
    measured.update(certificate_der);
    extended_once(measured)
}

fn as_hex<S: Serializer>(value: &[u8; PCR_BYTES], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(value))
}

fn as_optional_hex<S: Serializer>(value: &Option<[u8; PCR_BYTES]>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(hex::encode).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pcr8: Option<[u8; PCR_BYTES]>) -> Measurements {
        Measurements { pcr0: [0xa0; 48], pcr1: [0xa1; 48], pcr2: [0xa2; 48], pcr8 }
    }

    #[test]
    fn prints_register_8_only_when_signed() {
        assert!(!sample(None).to_string().contains("PCR8"));
        assert!(sample(Some([8; 48])).to_string().ends_with(&format!("PCR8: {}", "08".repeat(48))));
        assert_eq!(serde_json::to_value(sample(None)).unwrap().as_object().unwrap().len(), 3);
        assert_eq!(serde_json::to_value(sample(Some([8; 48]))).unwrap()["PCR8"], "08".repeat(48));
    }

    #[test]
    fn a_register_that_measured_nothing_is_not_zero() {
        // SHA-384(48 zeros || SHA-384("")): what AWS's tools print as PCR2 of an image with one ramdisk.
        let empty = extended_once(digest::Context::new(&SHA384));
        assert!(
            hex::encode(empty)
                .starts_with("21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c")
        );
    }
}
