//! Who signed an image. Whether the certificate is one to trust is not judged here.

use eif::Measurements;
use serde::Serialize;
use x509_cert::{Certificate, der::Decode};

use crate::{Digest, Error, image::Image, inspect::chain};

/// The signer, as the certificate in the image has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignerInfo {
    /// Whom the certificate is for (RFC 4514).
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// The first moment of its validity (RFC 3339).
    pub not_before: String,
    /// The last moment of its validity.
    pub not_after: String,
    /// Of the certificate, DER.
    pub certificate: Digest,
    /// Whether the certificate's holder signed this image's PCR0.
    pub valid: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

pub(crate) fn signer(image: &mut Image, measured: &Measurements) -> Result<Option<SignerInfo>, Error> {
    let Some(signature) = image.signature()? else { return Ok(None) };
    let der = signature.certificate_der();
    let problem = signature.verify_signature(&measured.pcr0).err().map(|error| chain(&error));
    let certificate = Certificate::from_der(der).ok();
    let of = |read: &dyn Fn(&Certificate) -> String| {
        certificate.as_ref().map_or_else(|| UNREADABLE.to_owned(), read)
    };
    Ok(Some(SignerInfo {
        subject: subject(der),
        issuer: of(&|certificate| certificate.tbs_certificate().issuer().to_string()),
        not_before: of(&|certificate| {
            certificate.tbs_certificate().validity().not_before.to_date_time().to_string()
        }),
        not_after: of(&|certificate| {
            certificate.tbs_certificate().validity().not_after.to_date_time().to_string()
        }),
        certificate: Digest::of(der),
        valid: problem.is_none(),
        problem,
    }))
}

const UNREADABLE: &str = "unknown: the certificate cannot be parsed";

/// Whom a certificate is for, or that it does not say so readably.
pub(crate) fn subject(der: &[u8]) -> String {
    match Certificate::from_der(der) {
        Ok(certificate) => certificate.tbs_certificate().subject().to_string(),
        Err(_) => UNREADABLE.to_owned(),
    }
}
