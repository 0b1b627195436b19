//! Whether an image is signed by whom it should be.
//!
//! The numbered steps are those of `docs/spec/signing.md`, "Checking". All reasons against are collected: a checker of
//! many images wants to know them at once.

use std::{collections::BTreeMap, fmt, path::Path};

use eif::{ImageSignature, Measurements, SignatureError};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject};
use serde::Serialize;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{material::validity, write_registers};
use crate::{
    Digest, Error, PcrValue, SignerInfo,
    image::Image,
    inspect::{chain, signer_info},
    path::printable,
    report::boot_registers,
    time::{LAST_SECOND, rfc3339},
};

/// The purpose that a certificate has to be for if it says for which ones it is: signing code (RFC 5280, 4.2.1.12).
const CODE_SIGNING: KeyUsage = KeyUsage::required_if_present(&[0x2b, 6, 1, 5, 5, 7, 3, 3]);

/// Whose signatures are good.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Anybody's: only whether the signature is one of this image by its certificate's key.
    Anyone,
    /// Those by this certificate.
    Certificate(CertificateDer<'static>),
    /// Those by certificates that lead to one of these roots at this time, in seconds since 1970. Certificates between
    /// the two are those that the image carries.
    Roots {
        /// The roots.
        roots: Vec<CertificateDer<'static>>,
        /// When.
        at: u64,
    },
}

/// What checking the signature of an image showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignatureCheck {
    /// Whether the signature is good: there is no reason against it.
    pub good: bool,
    /// What booting the image measures, by register.
    pub pcrs: BTreeMap<u8, PcrValue>,
    /// The signer, if the image is signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<SignerInfo>,
    /// Every reason against it.
    pub refusals: Vec<SignatureRefusal>,
}

/// A reason not to accept an image's signature. As JSON, an object whose `reason` is the variant's name in kebab case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SignatureRefusal {
    /// There is no signature.
    #[error("the image is not signed")]
    Unsigned,
    /// The signature is of another image: over another PCR0.
    #[error("the signature is of another image: what was signed is not this image's PCR0, {pcr0}")]
    OtherImage {
        /// PCR0 of the file.
        pcr0: PcrValue,
    },
    /// The signature was not made with the certificate's key.
    #[error("the signature was not made with the key of the certificate in the image")]
    BadSignature,
    /// The algorithm or the key is not one for images.
    #[error("the signature cannot be judged: {problem}")]
    Unsupported {
        /// What is wrong.
        problem: String,
    },
    /// The certificate is not the expected one.
    #[error("the image is signed under the certificate {found}, expected {expected}")]
    OtherCertificate {
        /// Of the expected certificate, DER.
        expected: Digest,
        /// Of the one in the image.
        found: Digest,
    },
    /// The certificate does not lead to a root.
    #[error("the certificate does not lead to any of the given roots: {problem}")]
    Untrusted {
        /// Why not.
        problem: String,
    },
    /// The certificate is not valid yet, at the time given.
    #[error("the certificate is valid from {not_before} on, not yet at {at}")]
    NotYetValid {
        /// The first moment of its validity (RFC 3339).
        not_before: String,
        /// The time given.
        at: String,
    },
    /// The certificate is no longer valid, at the time given.
    #[error("the certificate expired: it was valid until {not_after}, not at {at}")]
    Expired {
        /// The last moment of its validity (RFC 3339).
        not_after: String,
        /// The time given.
        at: String,
    },
}

/// Checks the signature of an image. `at`, in seconds since 1970, is when the certificate has to be valid; without it,
/// that is not judged (but [`Trust::Roots`] has a time of its own).
///
/// # Errors
/// When the image cannot be read, or it or the form of its signature section is malformed.
pub fn check_signature(image: &Path, trust: &Trust, at: Option<u64>) -> Result<SignatureCheck, Error> {
    let mut image = Image::open(image)?;
    let measured = image.measure()?;
    let mut refusals = Vec::new();
    match image.signature()? {
        // Step 1.
        None => refusals.push(SignatureRefusal::Unsigned),
        Some(signature) => {
            // Steps 2 to 4.
            refusals.extend(signature_refusal(&signature, &measured));
            refusals.extend(trust_refusal(&signature, trust));
            refusals.extend(at.and_then(|at| validity_refusal(&signature, at)));
        }
    }
    let signer = signer_info(&mut image, &measured)?;
    Ok(SignatureCheck { good: refusals.is_empty(), pcrs: boot_registers(&measured), signer, refusals })
}

fn signature_refusal(signature: &ImageSignature, measured: &Measurements) -> Option<SignatureRefusal> {
    Some(match signature.verify_signature(&measured.pcr0).err()? {
        SignatureError::OtherPayload { .. } => SignatureRefusal::OtherImage { pcr0: PcrValue(measured.pcr0) },
        SignatureError::Forged => SignatureRefusal::BadSignature,
        other => SignatureRefusal::Unsupported { problem: chain(&other) },
    })
}

fn trust_refusal(signature: &ImageSignature, trust: &Trust) -> Option<SignatureRefusal> {
    let found = signature.certificate_der();
    match trust {
        Trust::Anyone => None,
        Trust::Certificate(expected) => (expected.as_ref() != found).then(|| {
            SignatureRefusal::OtherCertificate { expected: Digest::of(expected), found: Digest::of(found) }
        }),
        // A certificate given as a root is trusted itself: signing certificates are often their own issuer.
        Trust::Roots { roots, at } if roots.iter().any(|root| root.as_ref() == found) => {
            validity_refusal(signature, *at)
        }
        Trust::Roots { roots, at } => {
            let problem = leads_to(signature, roots, *at).err()?.to_string();
            Some(SignatureRefusal::Untrusted { problem })
        }
    }
}

/// Builds a path as RFC 5280, section 6, has it.
fn leads_to(signature: &ImageSignature, roots: &[CertificateDer<'_>], at: u64) -> Result<(), webpki::Error> {
    let leaf = CertificateDer::from(signature.certificate_der());
    let anchors = roots.iter().map(anchor_from_trusted_cert).collect::<Result<Vec<_>, _>>()?;
    // What is not a certificate in there leads nowhere.
    let between: Vec<_> =
        CertificateDer::pem_slice_iter(signature.certificate_pem()).skip(1).filter_map(Result::ok).collect();
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
    EndEntityCert::try_from(&leaf)?
        .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &between, time, CODE_SIGNING, None, None)
        .map(|_| ())
}

fn validity_refusal(signature: &ImageSignature, at: u64) -> Option<SignatureRefusal> {
    let text = |seconds: u64| rfc3339(seconds.min(LAST_SECOND));
    // A certificate that cannot be parsed is refused for its key already.
    let (from, until) = validity(signature.certificate_der())?;
    if at < from {
        Some(SignatureRefusal::NotYetValid { not_before: text(from), at: text(at) })
    } else if at > until {
        Some(SignatureRefusal::Expired { not_after: text(until), at: text(at) })
    } else {
        None
    }
}

impl fmt::Display for SignatureCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(signer) = &self.signer {
            writeln!(f, "signer       {}", printable(signer.subject.as_bytes()))?;
            writeln!(f, "issuer       {}", printable(signer.issuer.as_bytes()))?;
            writeln!(f, "valid        {} to {}", signer.not_before, signer.not_after)?;
            writeln!(f, "certificate  {}", signer.certificate)?;
        }
        write_registers(f, &self.pcrs)?;
        for refusal in &self.refusals {
            writeln!(f, "REFUSED: {}", printable(refusal.to_string().as_bytes()))?;
        }
        if self.good { writeln!(f, "The signature is good.") } else { Ok(()) }
    }
}
