//! Verification: is this document genuine, at this time, under these roots?
//!
//! Says nothing about whether the enclave is the one that was wanted: that is [`crate::appraise`]'s question.
//! The steps are those of `docs/spec/attestation-document.md`.

use std::collections::BTreeMap;
use std::fmt;

use webpki::EndEntityCert;

use crate::chain::{self, borrowed};
use crate::cose::Es384;
use crate::digest::Sha256;
use crate::document::{DecodeError, Document, decode_signed};
use crate::pcr::{Pcr, PcrIndex};
use crate::roots::{Roots, TrustedRoot};
use crate::time::UnixTime;

/// Verifies the attestation document `document` (a COSE_Sign1, tagged or not) at the time `at`, under `roots`.
///
/// Pure: the same arguments give the same answer. For many documents of the same enclaves see [`crate::Verifier`].
///
/// # Errors
/// The first step of the procedure that fails.
pub fn verify(document: &[u8], roots: &Roots, at: UnixTime) -> Result<Verified, VerifyError> {
    verify_with(document, |leaf, document| {
        chain::verify(leaf, document, roots, at).map(|path| path.root.identity)
    })
}

/// The procedure, with steps 4 and 5 (the chain) left to the caller, who returns the root that the chain ends at.
pub(crate) fn verify_with(
    bytes: &[u8],
    verify_chain: impl FnOnce(&EndEntityCert<'_>, &Document) -> Result<TrustedRoot, VerifyError>,
) -> Result<Verified, VerifyError> {
    // 1 to 3. Envelope, headers, payload.
    let (envelope, document) = decode_signed(bytes)?;
    let leaf = borrowed(&document.certificate);
    let leaf = EndEntityCert::try_from(&leaf).map_err(|source| VerifyError::Certificate { source })?;
    // 4, 5. Chain.
    let root = verify_chain(&leaf, &document)?;
    // 6. The signature over the document, by the leaf's key, which must be one on P-384.
    leaf.verify_signature(&Es384, &envelope.sig_structure(), envelope.signature)
        .map_err(|source| VerifyError::Signature { source })?;
    Ok(Verified { document, root })
}

/// A document whose signature and chain were verified: evidence.
///
/// Only [`verify`] and [`crate::Verifier::verify`] make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    document: Document,
    root: TrustedRoot,
}

impl Verified {
    /// The root that the chain ends at. Anything but [`TrustedRoot::Aws`] means a simulated module.
    pub fn root(&self) -> TrustedRoot {
        self.root
    }

    /// Which security module issued the document, and for which enclave.
    pub fn module_id(&self) -> &str {
        &self.document.module_id
    }

    /// When the document was made by the module's clock: milliseconds since 1970-01-01T00:00:00Z.
    pub fn timestamp_ms(&self) -> u64 {
        self.document.timestamp_ms
    }

    /// When the document was made by the module's clock, to the second.
    pub fn timestamp(&self) -> UnixTime {
        UnixTime::from_millis(self.document.timestamp_ms)
    }

    /// The PCRs that were locked when the document was made. An absent one was not locked.
    pub fn pcrs(&self) -> &BTreeMap<PcrIndex, Pcr> {
        &self.document.pcrs
    }

    /// The value of one PCR, if it was locked.
    pub fn pcr(&self, index: PcrIndex) -> Option<Pcr> {
        self.document.pcrs.get(&index).copied()
    }

    /// A key that the enclave put in.
    pub fn public_key(&self) -> Option<&[u8]> {
        self.document.public_key.as_deref()
    }

    /// What the enclave wants to say; Glasshouse puts a [`crate::binding::Statement`] there.
    pub fn user_data(&self) -> Option<&[u8]> {
        self.document.user_data.as_deref()
    }

    /// The challenge that the document answers.
    pub fn nonce(&self) -> Option<&[u8]> {
        self.document.nonce.as_deref()
    }

    /// Whether the enclave ran in debug mode, in which its operator can read its console: the hypervisor then
    /// reports PCR0, PCR1 and PCR2 as zero. Absent counts as zero.
    pub fn is_debug(&self) -> bool {
        [PcrIndex::IMAGE, PcrIndex::BOOT, PcrIndex::APPLICATION]
            .iter()
            .all(|index| self.pcr(*index).is_none_or(|value| value == Pcr::ZERO))
    }

    /// The whole document.
    pub fn document(&self) -> &Document {
        &self.document
    }
}

/// Which certificate an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificatePosition {
    /// `certificate`: the one whose key signed the document.
    Leaf,
    /// The certificate of `cabundle` with this index; 0 is the root's place.
    Bundle(usize),
    /// The trusted root.
    Root,
}

impl fmt::Display for CertificatePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CertificatePosition::Leaf => f.write_str("the leaf certificate"),
            CertificatePosition::Bundle(index) => write!(f, "certificate {index} of cabundle"),
            CertificatePosition::Root => f.write_str("the trusted root certificate"),
        }
    }
}

/// Why a document is not accepted as genuine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It is no attestation document.
    #[error("not an attestation document")]
    Decode(#[from] DecodeError),
    /// The leaf certificate cannot be read.
    #[error("the leaf certificate cannot be read")]
    Certificate {
        /// What was wrong.
        #[source]
        source: webpki::Error,
    },
    /// A certificate is not valid yet.
    #[error("{position}: expected to be valid at {at}, found that it is valid from {not_before}")]
    NotYetValid {
        /// Which certificate.
        position: CertificatePosition,
        /// From when it is valid.
        not_before: UnixTime,
        /// The time of verification.
        at: UnixTime,
    },
    /// A certificate has expired.
    #[error("{position}: expected to be valid at {at}, found that it is valid until {not_after}")]
    Expired {
        /// Which certificate.
        position: CertificatePosition,
        /// Until when it was valid.
        not_after: UnixTime,
        /// The time of verification.
        at: UnixTime,
    },
    /// The certificates do not lead to a trusted root.
    #[error("chain: expected it to lead to {}, found a bundle that begins with {found}", roots(expected))]
    UntrustedRoot {
        /// The roots trusted.
        expected: Vec<TrustedRoot>,
        /// SHA-256 of the DER of `cabundle[0]`, where the document has its own root.
        found: Sha256,
    },
    /// The chain is broken in another way: a signature does not verify, a certificate must not issue certificates, the
    /// chain is too long, an algorithm is not ES384.
    #[error("chain: expected certificates signed with ES384 up to a trusted root")]
    Chain {
        /// What was found.
        #[source]
        source: webpki::Error,
    },
    /// A certificate's key must not be used for what it was used for.
    #[error("{position}: expected the key usage {expected}, found none")]
    KeyUsage {
        /// Which certificate.
        position: CertificatePosition,
        /// The usage's name in RFC 5280.
        expected: &'static str,
    },
    /// The document's signature is not one of the leaf's key over this document, or the key is not on P-384.
    #[error("document signature: expected one by the leaf certificate's P-384 key")]
    Signature {
        /// What was found.
        #[source]
        source: webpki::Error,
    },
}

fn roots(roots: &[TrustedRoot]) -> String {
    let names: Vec<_> = roots.iter().map(TrustedRoot::to_string).collect();
    names.join(" or ")
}
