//! The TLS identity: a P-256 key made at start and a self-signed certificate around it.
//!
//! The private key exists in this process's memory alone. Nobody has to sign the certificate: what a verifier trusts is the
//! attestation document, which names the digest of this key. The certificate may carry such a document itself, for clients
//! that ask nothing before they speak ([`crate::certificate`]); or an authority's stands in its place, for browsers
//! ([`crate::acme`]).

use std::sync::Arc;

use attestation::{
    Sha256,
    certificate::{ID_PE_CMW, extension_value},
};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    PublicKeyData,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use crate::certificates::{ALPN_ACME, Certificates};

/// Subject common name of every certificate made here.
const COMMON_NAME: &str = "glasshouse enclave";

/// ALPN names offered (RFC 7301), the preferred one first.
pub(crate) const ALPN_HTTP2: &[u8] = b"h2";
pub(crate) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// A TLS server key, and the certificate that is shown of it.
#[derive(Clone)]
pub struct TlsIdentity {
    config: Arc<ServerConfig>,
    key: Arc<KeyPair>,
    names: Vec<String>,
    shown: Arc<Certificates>,
}

/// Why no identity could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A server name can be no certificate's.
    #[error("a server name is neither a DNS name nor an IP address: {names:?}")]
    ServerName {
        /// The names given.
        names: Vec<String>,
        /// What the certificate library says of one of them.
        source: rcgen::Error,
    },
    /// The key or the certificate could not be made.
    #[error("cannot make the server's certificate")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused the key or the certificate.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The clients' authorities are no certificates in PEM.
    #[error("cannot read the certificates of the clients' authorities")]
    ClientRoots(#[source] rustls_pki_types::pem::Error),
    /// Nobody could have a certificate under these.
    #[error("cannot use the certificates of the clients' authorities")]
    ClientVerifier(#[from] VerifierBuilderError),
}

impl TlsIdentity {
    /// Makes a fresh key, and a certificate for `server_names`: DNS names or IP addresses; `localhost` when empty. With
    /// `client_roots`, the certificates of authorities in PEM, only clients with a certificate under one of them are served.
    ///
    /// # Errors
    /// [`IdentityError`] as its variants say.
    pub fn generate(server_names: &[String], client_roots: Option<&[u8]>) -> Result<Self, IdentityError> {
        let key = Arc::new(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?);
        let shown = Arc::new(Certificates::new(self_signed(server_names, &key, None)?));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?;
        let config = match client_roots {
            None => config.with_no_client_auth(),
            Some(roots) => config.with_client_cert_verifier(client_verifier(roots, provider)?),
        };
        let mut config = config.with_cert_resolver(Arc::clone(&shown) as _);
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec(), ALPN_ACME.to_vec()];
        // No resumption: every connection then shows the certificate whose key the document names.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config), key, names: server_names.to_vec(), shown })
    }

    /// SHA-256 of the key's DER SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7).
    #[must_use]
    pub fn key_digest(&self) -> Sha256 {
        Sha256::of(&self.public_key())
    }

    /// The key's DER SubjectPublicKeyInfo.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    /// Shows new connections a certificate of the same key that carries `document`.
    pub(crate) fn carry(&self, document: &[u8]) -> Result<(), IdentityError> {
        self.shown.renew(self_signed(&self.names, &self.key, Some(document))?);
        Ok(())
    }

    /// What an authority is asked to certify: this key, for these names.
    pub(crate) fn request(&self, domains: &[String]) -> Result<Vec<u8>, IdentityError> {
        let mut params = named(domains.to_vec())?;
        // Authorities fill it in by themselves, from the names.
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&*self.key)?.der().to_vec())
    }

    /// Shows an authority's chain from now on, its first certificate being for this key.
    pub(crate) fn show(&self, chain: Vec<CertificateDer<'static>>) -> Result<(), IdentityError> {
        self.shown.show(with_key(chain, &self.key)?);
        Ok(())
    }

    /// Answers an authority's challenge for `domain` (RFC 8737, section 3) until [`Self::forget_challenges`].
    pub(crate) fn answer_challenge(&self, domain: &str, digest: &[u8]) -> Result<(), IdentityError> {
        let mut params = named(vec![domain.to_owned()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let certificate = params.self_signed(&*self.key)?;
        self.shown.answer_challenge(domain.to_owned(), with_key(vec![certificate.der().clone()], &self.key)?);
        Ok(())
    }

    /// No challenge is answered any more.
    pub(crate) fn forget_challenges(&self) {
        self.shown.forget_challenges();
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsIdentity").field("key_digest", &self.key_digest()).finish_non_exhaustive()
    }
}

fn client_verifier(
    roots: &[u8],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, IdentityError> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots) {
        store.add(certificate.map_err(IdentityError::ClientRoots)?)?;
    }
    Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build()?)
}

/// A certificate of `key` with the names and, if there is one, the document.
fn self_signed(
    names: &[String],
    key: &KeyPair,
    document: Option<&[u8]>,
) -> Result<Arc<CertifiedKey>, IdentityError> {
    let mut params = certificate_params(names)?;
    if let Some(document) = document {
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(ID_PE_CMW, extension_value(document))];
    }
    let certificate = params.self_signed(key)?;
    with_key(vec![certificate.der().clone()], key)
}

fn with_key(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Arc<CertifiedKey>, IdentityError> {
    let private_key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signing = aws_lc_rs::default_provider().key_provider.load_private_key(private_key)?;
    Ok(Arc::new(CertifiedKey::new(chain, signing)))
}

/// Validity stays at the widest rcgen knows: the clock in an enclave comes from the host, so dates would prove
/// nothing, and the key lives only as long as the process.
fn certificate_params(server_names: &[String]) -> Result<CertificateParams, IdentityError> {
    let names = if server_names.is_empty() { vec!["localhost".to_owned()] } else { server_names.to_vec() };
    let mut params = named(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, COMMON_NAME);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn named(names: Vec<String>) -> Result<CertificateParams, IdentityError> {
    CertificateParams::new(names.clone()).map_err(|source| IdentityError::ServerName { names, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identity_has_its_own_key() {
        let first = TlsIdentity::generate(&[], None).unwrap();
        let second = TlsIdentity::generate(&[], None).unwrap();
        assert_ne!(first.key_digest(), second.key_digest());
    }

    #[test]
    fn accepts_dns_names_and_addresses() {
        TlsIdentity::generate(&["agent.example.com".to_owned(), "127.0.0.1".to_owned()], None).unwrap();
    }

    #[test]
    fn refuses_a_name_that_is_not_ascii() {
        let outcome = TlsIdentity::generate(&["agent.exämple".to_owned()], None);
        assert!(matches!(outcome, Err(IdentityError::ServerName { .. })), "{outcome:?}");
    }
}
