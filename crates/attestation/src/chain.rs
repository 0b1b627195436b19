//! The certificate chain from a document's leaf to a trusted root (RFC 5280 section 6, by `rustls-webpki`), with
//! refusals that name the certificate.
//!
//! Spec: `docs/spec/attestation-document.md`, steps 4 and 5.

use rustls_pki_types::CertificateDer;
use webpki::{EndEntityCert, Error, KeyUsage};

use crate::document::Document;
use crate::key_usage::{Usage, permits};
use crate::roots::{Root, Roots};
use crate::time::UnixTime;
use crate::verify::{CertificatePosition, VerifyError};

/// A chain that was found good: the root it ends at and the intermediates it uses.
pub(crate) struct Path<'r> {
    pub(crate) root: &'r Root,
    pub(crate) anchor: &'r rustls_pki_types::TrustAnchor<'static>,
    /// Indices into `cabundle`, from the leaf's issuer towards the root.
    pub(crate) intermediates: Vec<usize>,
}

/// Verifies `leaf`, which is `document.certificate`, under its bundle and `roots` at the time `at`.
pub(crate) fn verify<'r>(
    leaf: &EndEntityCert<'_>,
    document: &Document,
    roots: &'r Roots,
    at: UnixTime,
) -> Result<Path<'r>, VerifyError> {
    let bundle: Vec<_> = document.cabundle.iter().map(|der| borrowed(der)).collect();
    // 4. A path of ES384 signatures from the leaf to a trusted root, every certificate of it valid at the time.
    let path = verify_leaf(leaf, roots.anchors(), &bundle, at)
        .map_err(|source| explain(source, document, roots, at))?;
    let intermediates: Vec<_> = path
        .intermediate_certificates()
        .filter_map(|used| bundle.iter().position(|der| *der == used.der()))
        .collect();
    let (root, anchor) = roots.root_of(path.anchor());
    root.validity.check(CertificatePosition::Root, at)?;
    // 5. Key usages.
    require(&document.certificate, CertificatePosition::Leaf, Usage::DigitalSignature)?;
    for &index in &intermediates {
        let position = CertificatePosition::Bundle(index);
        require(&document.cabundle[index], position, Usage::KeyCertSign)?;
    }
    Ok(Path { root, anchor, intermediates })
}

/// Verifies `leaf` under `anchors`, with `intermediates` to choose from.
pub(crate) fn verify_leaf<'p>(
    leaf: &'p EndEntityCert<'p>,
    anchors: &'p [rustls_pki_types::TrustAnchor<'_>],
    intermediates: &'p [CertificateDer<'p>],
    at: UnixTime,
) -> Result<webpki::VerifiedPath<'p>, Error> {
    leaf.verify_for_usage(
        &[webpki::aws_lc_rs::ECDSA_P384_SHA384],
        anchors,
        intermediates,
        at.to_pki(),
        // AWS's leaves have no extended key usage; where there is one, this is the purpose that fits best.
        KeyUsage::client_auth(),
        // AWS has no revocation lists for these certificates: the leaf lives for three hours.
        None,
        None,
    )
}

/// Refuses a certificate whose keyUsage lacks `usage`.
fn require(der: &[u8], position: CertificatePosition, usage: Usage) -> Result<(), VerifyError> {
    if permits(der, usage) {
        return Ok(());
    }
    Err(VerifyError::KeyUsage { position, expected: usage.name() })
}

/// Turns the certificate library's reason into one that names certificate, expected and found.
fn explain(source: Error, document: &Document, roots: &Roots, at: UnixTime) -> VerifyError {
    match source {
        Error::CertExpired { .. } | Error::CertNotValidYet { .. } => positions(document)
            .find_map(|(position, der)| Validity::of(&borrowed(der)).ok()?.check(position, at).err())
            .unwrap_or(VerifyError::Chain { source }),
        Error::UnknownIssuer => VerifyError::UntrustedRoot {
            expected: roots.iter().collect(),
            found: crate::Sha256::of(&document.cabundle[0]),
        },
        source => VerifyError::Chain { source },
    }
}

/// The document's certificates from the leaf towards the root.
fn positions(document: &Document) -> impl Iterator<Item = (CertificatePosition, &Vec<u8>)> {
    let bundle = document.cabundle.iter().enumerate().rev();
    std::iter::once((CertificatePosition::Leaf, &document.certificate))
        .chain(bundle.map(|(index, der)| (CertificatePosition::Bundle(index), der)))
}

pub(crate) fn borrowed(der: &[u8]) -> CertificateDer<'_> {
    CertificateDer::from(der)
}

/// The time in which a certificate is valid, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
}

impl Validity {
    /// Reads the validity of `certificate`.
    ///
    /// The certificate library keeps the fields to itself but names them when it refuses a time, and it compares times
    /// before anything else. Asking it for the first and the last time there is saves a second DER parser, which might
    /// read the same certificate differently.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        let certificate = EndEntityCert::try_from(certificate)?;
        let refusal_at = |seconds| verify_leaf(&certificate, &[], &[], UnixTime::from_secs(seconds)).err();
        let not_before = match refusal_at(0) {
            Some(Error::CertNotValidYet { not_before, .. }) => UnixTime::from_pki(not_before),
            _ => UnixTime::from_secs(0),
        };
        match refusal_at(u64::MAX) {
            Some(Error::CertExpired { not_after, .. }) => {
                Ok(Validity { not_before, not_after: UnixTime::from_pki(not_after) })
            }
            other => Err(other.unwrap_or(Error::BadDerTime)),
        }
    }

    /// Whether `at` lies inside.
    pub(crate) fn contains(self, at: UnixTime) -> bool {
        (self.not_before..=self.not_after).contains(&at)
    }

    /// Refuses a time outside, on behalf of the certificate at `position`.
    fn check(self, position: CertificatePosition, at: UnixTime) -> Result<(), VerifyError> {
        let Validity { not_before, not_after } = self;
        if at < not_before {
            return Err(VerifyError::NotYetValid { position, not_before, at });
        }
        if at > not_after {
            return Err(VerifyError::Expired { position, not_after, at });
        }
        Ok(())
    }
}
