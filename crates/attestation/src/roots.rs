//! The roots that a verifier trusts: AWS's, which is pinned here, or those the caller passes.

use std::fmt;

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, TrustAnchor};

use crate::chain::Validity;
use crate::digest::Sha256;

/// Most roots in one set.
pub const MAX_ROOTS: usize = 8;

/// AWS Nitro Enclaves Root G1, `CN=aws.nitro-enclaves`, as published by AWS (Nitro Enclaves user guide, "Verifying the
/// root of trust").
const AWS_ROOT_G1_PEM: &[u8] = include_bytes!("aws_root_g1.pem");

/// SHA-256 of the DER of AWS Nitro Enclaves Root G1.
const AWS_ROOT_G1_SHA256: Sha256 = Sha256([
    0x64, 0x1a, 0x03, 0x21, 0xa3, 0xe2, 0x44, 0xef, 0xe4, 0x56, 0x46, 0x31, 0x95, 0xd6, 0x06, 0x31, 0x7e,
    0xd7, 0xcd, 0xcc, 0x3c, 0x17, 0x56, 0xe0, 0x98, 0x93, 0xf3, 0xc6, 0x8f, 0x79, 0xbb, 0x5b,
]);

/// Which root a document was verified under.
///
/// Only [`TrustedRoot::Aws`] means that a Nitro hypervisor made the document: anybody can make documents under a root
/// of their own, and such a document is `simulated`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrustedRoot {
    /// AWS Nitro Enclaves Root G1.
    Aws,
    /// A root that the caller passed.
    Custom {
        /// SHA-256 of the certificate's DER.
        sha256: Sha256,
    },
}

impl TrustedRoot {
    fn of(der: &[u8]) -> Self {
        match Sha256::of(der) {
            AWS_ROOT_G1_SHA256 => TrustedRoot::Aws,
            sha256 => TrustedRoot::Custom { sha256 },
        }
    }

    /// SHA-256 of the root certificate's DER.
    pub fn sha256(self) -> Sha256 {
        match self {
            TrustedRoot::Aws => AWS_ROOT_G1_SHA256,
            TrustedRoot::Custom { sha256 } => sha256,
        }
    }
}

impl fmt::Display for TrustedRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrustedRoot::Aws => f.write_str("AWS Nitro Enclaves Root G1"),
            TrustedRoot::Custom { sha256 } => write!(f, "custom root {sha256}"),
        }
    }
}

/// A set of 1 to [`MAX_ROOTS`] trusted roots.
#[derive(Debug, Clone)]
pub struct Roots {
    roots: Vec<Root>,
    /// The same roots in the form that the certificate library takes.
    anchors: Vec<TrustAnchor<'static>>,
}

/// What is known of one trusted root besides its key and name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Root {
    pub(crate) identity: TrustedRoot,
    pub(crate) validity: Validity,
}

impl Roots {
    /// AWS Nitro Enclaves Root G1 alone.
    pub fn aws() -> Self {
        Roots::custom(AWS_ROOT_G1_PEM).expect("the embedded certificate is well-formed")
    }

    /// The roots in `pem_or_der`: one DER certificate, or a PEM text with one certificate or several. These replace
    /// the AWS root, which is trusted only if it is among them.
    ///
    /// # Errors
    /// When there is no certificate, more than [`MAX_ROOTS`], or one that cannot be read.
    pub fn custom(pem_or_der: &[u8]) -> Result<Self, RootsError> {
        let mut set = Roots { roots: Vec::new(), anchors: Vec::new() };
        for certificate in certificates(pem_or_der)? {
            if set.roots.len() == MAX_ROOTS {
                return Err(RootsError::TooMany);
            }
            let malformed = |source| RootsError::Certificate { number: set.roots.len() + 1, source };
            let validity = Validity::of(&certificate).map_err(malformed)?;
            let anchor = webpki::anchor_from_trusted_cert(&certificate).map_err(malformed)?;
            set.anchors.push(anchor.to_owned());
            set.roots.push(Root { identity: TrustedRoot::of(&certificate), validity });
        }
        if set.roots.is_empty() {
            return Err(RootsError::NoCertificate);
        }
        Ok(set)
    }

    /// The roots of the set.
    pub fn iter(&self) -> impl Iterator<Item = TrustedRoot> + '_ {
        self.roots.iter().map(|root| root.identity)
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The root that `anchor`, borrowed from [`Roots::anchors`], stands for.
    pub(crate) fn root_of(&self, anchor: &TrustAnchor<'_>) -> (&Root, &TrustAnchor<'static>) {
        let mut pairs = self.roots.iter().zip(&self.anchors);
        pairs.find(|(_, candidate)| *candidate == anchor).expect("a path ends at an anchor of the set")
    }
}

fn certificates(pem_or_der: &[u8]) -> Result<Vec<CertificateDer<'static>>, RootsError> {
    const DER_SEQUENCE: u8 = 0x30;
    if pem_or_der.first() == Some(&DER_SEQUENCE) {
        return Ok(vec![CertificateDer::from(pem_or_der.to_vec())]);
    }
    CertificateDer::pem_slice_iter(pem_or_der)
        .collect::<Result<_, _>>()
        .map_err(|source| RootsError::Pem { source })
}

/// Why bytes are no set of trusted roots.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    /// There is no certificate.
    #[error("expected a root certificate in PEM or DER, found none")]
    NoCertificate,
    /// There are more than [`MAX_ROOTS`].
    #[error("expected at most {MAX_ROOTS} root certificates, found more")]
    TooMany,
    /// The PEM text is broken.
    #[error("the root certificates are not valid PEM")]
    Pem {
        /// What was wrong.
        #[source]
        source: pem::Error,
    },
    /// A certificate cannot be read.
    #[error("root certificate {number} cannot be read")]
    Certificate {
        /// Which one, counted from 1.
        number: usize,
        /// What was wrong.
        #[source]
        source: webpki::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UnixTime;

    #[test]
    fn the_embedded_root_is_the_published_one() {
        let der = CertificateDer::from_pem_slice(AWS_ROOT_G1_PEM).unwrap();
        let published = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b";
        assert_eq!(Sha256::of(&der).to_string(), published);
        assert_eq!(Roots::aws().iter().collect::<Vec<_>>(), [TrustedRoot::Aws]);
    }

    #[test]
    fn validity_is_read_from_the_certificate() {
        let validity = Roots::aws().roots[0].validity;
        assert_eq!(validity.not_before, "2019-10-28T13:28:05Z".parse::<UnixTime>().unwrap());
        assert_eq!(validity.not_after, "2049-10-28T14:28:05Z".parse::<UnixTime>().unwrap());
    }

    #[test]
    fn the_aws_root_is_recognised_when_passed_by_the_caller() {
        let der = CertificateDer::from_pem_slice(AWS_ROOT_G1_PEM).unwrap();
        assert_eq!(Roots::custom(&der).unwrap().iter().next(), Some(TrustedRoot::Aws));
    }

    #[test]
    fn refuses_what_is_no_set_of_roots() {
        assert!(matches!(Roots::custom(b""), Err(RootsError::NoCertificate)));
        assert!(matches!(Roots::custom(b"no PEM at all"), Err(RootsError::NoCertificate)));
        let cut = &AWS_ROOT_G1_PEM[..AWS_ROOT_G1_PEM.len() / 2];
        assert!(matches!(Roots::custom(cut), Err(RootsError::Pem { .. })));
        assert!(matches!(Roots::custom(&[0x30, 0x01, 0x00]), Err(RootsError::Certificate { number: 1, .. })));
        let nine = [AWS_ROOT_G1_PEM, b"\n"].concat().repeat(MAX_ROOTS + 1);
        assert!(matches!(Roots::custom(&nine), Err(RootsError::TooMany)));
    }
}
