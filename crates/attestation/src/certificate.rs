//! A TLS server's certificate that carries an attestation document (RA-TLS): `docs/spec/attestation-api.md`,
//! "Certificate".
//!
//! The document is in the extension id-pe-cmw as a conceptual message wrapper (RFC 9999, section 4.4). What is found is
//! not judged here: [`verify`](crate::verify) the document, and [`appraise`](crate::appraise) it for
//! [`Attested::nonce`] and [`BindingPolicy::Server`](crate::BindingPolicy::Server).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use minicbor::decode::Decoder;
use rustls_pki_types::CertificateDer;
use x509_cert::{
    Certificate,
    der::{Decode, asn1::OctetString, oid::ObjectIdentifier},
};

use crate::{MAX_DOCUMENT_BYTES, Sha256, cbor};

/// The extension that carries a document, id-pe-cmw, as the arcs of its object identifier.
pub const ID_PE_CMW: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 1, 35];
/// The same for comparison.
const ID_PE_CMW_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.1.35");

/// The media type of an attestation document, a COSE_Sign1 message (RFC 9052, section 9.3).
pub const COSE_SIGN1: &str = "application/cose; cose-type=\"cose-sign1\"";

/// Most bytes of a certificate with a document in it.
pub const MAX_ATTESTED_CERTIFICATE_BYTES: usize = 2 * MAX_DOCUMENT_BYTES;

/// What a certificate says: a document, and the key that the document should be about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The attestation document.
    pub document: Vec<u8>,
    /// SHA-256 of the certificate's SubjectPublicKeyInfo (DER).
    pub tls_key: Sha256,
}

/// Why there is no document to be had of a certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// It is too long.
    #[error("the certificate has {found} bytes, more than {MAX_ATTESTED_CERTIFICATE_BYTES}")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// It is none.
    #[error("it is no X.509 certificate")]
    Malformed(#[source] x509_cert::der::Error),
    /// Its key cannot be had.
    #[error("it is no certificate of a TLS server")]
    NotServer(#[source] webpki::Error),
    /// It carries no document.
    #[error("the certificate carries no attestation document")]
    NoDocument,
    /// It carries several.
    #[error("the certificate carries several documents")]
    Repeated,
    /// The extension's value is no OCTET STRING.
    #[error("the document in the certificate is not wrapped as it has to be")]
    Wrapper(#[source] x509_cert::der::Error),
    /// What is in it is no CBOR array of a media type and a document.
    #[error("the document in the certificate is not wrapped as it has to be")]
    Record(#[source] minicbor::decode::Error),
    /// The certificate carries evidence of another kind.
    #[error("the certificate carries {found:?}, no attestation document of Nitro")]
    OtherKind {
        /// Its media type.
        found: String,
    },
}

impl Attested {
    /// Reads a certificate (DER). Its signature, names and dates are not looked at: they prove nothing of an enclave.
    ///
    /// # Errors
    /// When it is no certificate, or carries no document or several.
    pub fn of(certificate: &[u8]) -> Result<Self, CertificateError> {
        if certificate.len() > MAX_ATTESTED_CERTIFICATE_BYTES {
            return Err(CertificateError::TooLong { found: certificate.len() });
        }
        let parsed = Certificate::from_der(certificate).map_err(CertificateError::Malformed)?;
        let extensions = parsed.tbs_certificate().extensions().map_or(&[][..], Vec::as_slice);
        let mut found = extensions.iter().filter(|extension| extension.extn_id == ID_PE_CMW_OID);
        let value = match (found.next(), found.next()) {
            (None, _) => return Err(CertificateError::NoDocument),
            (Some(only), None) => only.extn_value.as_bytes(),
            (Some(_), Some(_)) => return Err(CertificateError::Repeated),
        };
        let record = OctetString::from_der(value).map_err(CertificateError::Wrapper)?;
        let document = unwrapped(record.as_bytes())?;
        let certificate = CertificateDer::from(certificate);
        let server = webpki::EndEntityCert::try_from(&certificate).map_err(CertificateError::NotServer)?;
        Ok(Self { document, tls_key: Sha256::of(&server.subject_public_key_info()) })
    }

    /// The nonce that the document has to carry, nobody's challenge: the key's digest.
    pub fn nonce(&self) -> &[u8] {
        &self.tls_key.0
    }
}

/// The value of the extension [`ID_PE_CMW`] for a document: an OCTET STRING with the CBOR array of media type and
/// document.
pub fn extension_value(document: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    let mut encoder = minicbor::Encoder::new(&mut record);
    let written = encoder.array(2).and_then(|e| e.str(COSE_SIGN1)?.bytes(document));
    written.expect("a Vec takes everything");
    let wrapper = OctetString::new(record).and_then(|record| x509_cert::der::Encode::to_der(&record));
    wrapper.expect("a Vec is short enough for DER")
}

/// The document in `[media type, document]`.
fn unwrapped(record: &[u8]) -> Result<Vec<u8>, CertificateError> {
    let other = |text: &str| CertificateError::Record(minicbor::decode::Error::message(text));
    let mut decoder = Decoder::new(record);
    if decoder.array().map_err(CertificateError::Record)? != Some(2) {
        return Err(other("expected an array of two"));
    }
    let kind = decoder.str().map_err(CertificateError::Record)?;
    if kind != COSE_SIGN1 {
        return Err(CertificateError::OtherKind { found: kind.to_owned() });
    }
    let document = decoder.bytes().map_err(CertificateError::Record)?.to_vec();
    match cbor::remaining(&decoder) {
        0 => Ok(document),
        _ => Err(other("something follows the array")),
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "what is cut and changed was made here")]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, CustomExtension, KeyPair};

    use super::*;

    fn certificate(values: &[Vec<u8>]) -> (Vec<u8>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let extension = |value: &Vec<u8>| CustomExtension::from_oid_content(ID_PE_CMW, value.clone());
        params.custom_extensions = values.iter().map(extension).collect();
        (params.self_signed(&key).unwrap().der().to_vec(), key)
    }

    #[test]
    fn what_was_put_in_comes_out() {
        let document = vec![0x84; 5000];
        let (der, key) = certificate(&[extension_value(&document)]);
        let attested = Attested::of(&der).unwrap();
        assert_eq!(attested.document, document);
        assert_eq!(attested.tls_key, Sha256::of(&rcgen::PublicKeyData::subject_public_key_info(&key)));
        assert_eq!(attested.nonce(), attested.tls_key.0);
    }

    #[test]
    fn what_is_wrapped_in_another_way_is_refused() {
        let of = |values: &[Vec<u8>]| Attested::of(&certificate(values).0).unwrap_err();
        assert!(matches!(of(&[]), CertificateError::NoDocument));
        let good = extension_value(b"document");
        assert!(matches!(of(&[good.clone(), good.clone()]), CertificateError::Repeated));
        let octets = |record: &[u8]| [&[0x04, u8::try_from(record.len()).unwrap()][..], record].concat();
        let record = good[2..].to_vec();
        assert_eq!(octets(&record), good);
        assert!(matches!(of(std::slice::from_ref(&record)), CertificateError::Wrapper(_)));
        assert!(matches!(of(&[[&good[..], &[0]].concat()]), CertificateError::Wrapper(_)));
        assert!(matches!(of(&[octets(&[&record[..], &[0]].concat())]), CertificateError::Record(_)));
        assert!(matches!(of(&[octets(&[0x83, 0, 0, 0])]), CertificateError::Record(_)));
        assert!(matches!(of(&[octets(&record[..4])]), CertificateError::Record(_)));
        let other = of(&[octets(b"\x82\x67text/xx\x41x")]);
        assert!(matches!(&other, CertificateError::OtherKind { found } if found == "text/xx"), "{other}");
        assert!(matches!(Attested::of(b"no certificate"), Err(CertificateError::Malformed(_))));
        let long = Attested::of(&vec![0x30; MAX_ATTESTED_CERTIFICATE_BYTES + 1]);
        assert!(matches!(long, Err(CertificateError::TooLong { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn changed_certificates_never_panic(at in any::<prop::sample::Index>(), bits in 1_u8.., cut in any::<prop::sample::Index>()) {
            let (mut der, _) = certificate(&[extension_value(b"document")]);
            let end = cut.index(der.len());
            let _ = Attested::of(&der[..end]);
            let at = at.index(der.len());
            der[at] ^= bits;
            let _ = Attested::of(&der);
        }
    }
}
