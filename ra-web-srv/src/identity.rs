//! The TLS identity: a P-256 key made at start and a self-signed certificate around it.
//!
//! The private key exists in this process's memory alone. Nobody signs the certificate, and nobody needs to: what a
//! verifier trusts is the attestation document, which names the digest of this key.

use std::sync::Arc;

use attestation::Sha256;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, PublicKeyData};
use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

/// Subject common name of every certificate made here.
const COMMON_NAME: &str = "glasshouse enclave";

/// ALPN names offered (RFC 7301), the preferred one first.
pub(crate) const ALPN_HTTP2: &[u8] = b"h2";
pub(crate) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// A TLS server key, its certificate and its digest.
#[derive(Debug, Clone)]
pub struct TlsIdentity {
    config: Arc<ServerConfig>,
    public_key: Vec<u8>,
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
}

impl TlsIdentity {
    /// Makes a fresh key, and a certificate for `server_names`: DNS names or IP addresses; `localhost` when empty.
    ///
    /// # Errors
    /// [`IdentityError`] as its variants say.
    pub fn generate(server_names: &[String]) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = certificate_params(server_names)?.self_signed(&key)?;
        let private_key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], private_key)?;
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
        // No resumption: every connection then shows the certificate whose key the document names.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { config: Arc::new(config), public_key: key.subject_public_key_info() })
    }

    /// SHA-256 of the key's DER SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7).
    #[must_use]
    pub fn key_digest(&self) -> Sha256 {
        Sha256::of(&self.public_key)
    }

    /// The key's DER SubjectPublicKeyInfo.
    pub(crate) fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

/// Validity stays at the widest rcgen knows: the clock in an enclave comes from the host, so dates would prove
/// nothing, and the key lives only as long as the process.
fn certificate_params(server_names: &[String]) -> Result<CertificateParams, IdentityError> {
    let names = if server_names.is_empty() { vec!["localhost".to_owned()] } else { server_names.to_vec() };
    let mut params = CertificateParams::new(names.clone())
        .map_err(|source| IdentityError::ServerName { names, source })?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, COMMON_NAME);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identity_has_its_own_key() {
        let first = TlsIdentity::generate(&[]).unwrap();
        let second = TlsIdentity::generate(&[]).unwrap();
        assert_ne!(first.key_digest(), second.key_digest());
    }

    #[test]
    fn accepts_dns_names_and_addresses() {
        TlsIdentity::generate(&["agent.example.com".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    }

    #[test]
    fn refuses_a_name_that_is_not_ascii() {
        let outcome = TlsIdentity::generate(&["agent.exämple".to_owned()]);
        assert!(matches!(outcome, Err(IdentityError::ServerName { .. })), "{outcome:?}");
    }
}
