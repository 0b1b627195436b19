//! The curves of keys that sign images, and what follows from each: AWS's tools choose the algorithm by the key.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
    ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaSigningAlgorithm, EcdsaVerificationAlgorithm,
};
use x509_cert::der::asn1::ObjectIdentifier;

/// A curve of FIPS 186-5 and the COSE algorithm (RFC 9053, 2.1) that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// P-256: ES256, with SHA-256.
    P256,
    /// P-384: ES384, with SHA-384. What AWS recommends.
    P384,
    /// P-521: ES512, with SHA-512.
    P521,
}

impl Curve {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// The curve with this object identifier (RFC 5480, 2.1.1.1).
    pub(crate) fn of_identifier(found: ObjectIdentifier) -> Option<Self> {
        Self::ALL.into_iter().find(|curve| ObjectIdentifier::new_unwrap(curve.identifier()) == found)
    }

    /// The curve of the algorithm that this protected header names.
    pub(crate) fn of_header(found: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|curve| curve.header() == found)
    }

    fn identifier(self) -> &'static str {
        match self {
            Self::P256 => "1.2.840.10045.3.1.7",
            Self::P384 => "1.3.132.0.34",
            Self::P521 => "1.3.132.0.35",
        }
    }

    /// `{1: algorithm}`, the only protected header that AWS's tools write: -7, -35 or -36.
    pub(crate) fn header(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0xa1, 0x01, 0x26],
            Self::P384 => &[0xa1, 0x01, 0x38, 0x22],
            Self::P521 => &[0xa1, 0x01, 0x38, 0x23],
        }
    }

    /// The length of r, and of s, in bytes.
    pub(crate) fn scalar_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// The length of a signature: r and s.
    pub(crate) fn signature_bytes(self) -> usize {
        2 * self.scalar_bytes()
    }

    pub(crate) fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
            Self::P521 => &ECDSA_P521_SHA512_FIXED_SIGNING,
        }
    }

    pub(crate) fn verification(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_FIXED,
            Self::P384 => &ECDSA_P384_SHA384_FIXED,
            Self::P521 => &ECDSA_P521_SHA512_FIXED,
        }
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        })
    }
}
