//! The TLS 1.3 handshake, by rustls: one version, AES-GCM, no resumption, no early data, any certificate.
//!
//! Records go in one by one, so that nothing is left in rustls' buffers when its keys are taken for [`crate::record`].

use std::fmt;
use std::sync::{Arc, LazyLock};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::client::{ClientConnection, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::server::{NoServerSessionStorage, ServerConnection};
use rustls::{ClientConfig, Connection, ExtractedSecrets, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

use crate::Error;
use crate::any_certificate::AnyCertificate;
use crate::exporter::{EXPORTER_BYTES, EXPORTER_LABEL, Exporter};
use crate::record::{Opener, Sealer};

/// The protocol's name in the handshake (RFC 7301); a server that speaks another ends it.
pub const ALPN: &[u8] = b"glasshouse-channel/1";

/// The name in every server's certificate and every client's greeting. It names nobody: who the server is, its
/// attestation document says.
const COMMON_NAME: &str = "enclave.invalid";

/// A server's TLS key, made when the server starts, and the certificate around it.
///
/// The key exists in this process's memory alone. Nobody trusts the certificate: the attestation document names the
/// connection.
#[derive(Clone)]
pub struct ServerIdentity(Arc<ServerConfig>);

impl ServerIdentity {
    /// Makes a fresh key (ECDSA P-256) and certificate.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(vec![COMMON_NAME.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, COMMON_NAME);
        let certificate = params.self_signed(&key)?;
        let private_key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private_key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        config.enable_secret_extraction = true;
        Ok(Self(Arc::new(config)))
    }
}

impl fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerIdentity").finish_non_exhaustive()
    }
}

/// Why a server has no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The key or the certificate could not be made.
    #[error("cannot make the server's key and certificate")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused them.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

/// AES-GCM alone, which the record layer knows; AES-128 first: it is faster, and as safe here. The hybrid group first:
/// what is recorded today stays secret from tomorrow's quantum computers, for 70 microseconds of both sides' time.
fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384];
    let kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1];
    Arc::new(CryptoProvider { cipher_suites, kx_groups, ..aws_lc_rs::default_provider() })
}

/// The same for every client: it has no secrets.
static CLIENT_CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = provider();
    let verifier = Arc::new(AnyCertificate::new(Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has the suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.enable_secret_extraction = true;
    Arc::new(config)
});

/// A handshake under way.
pub(crate) struct Handshake(Connection);

impl Handshake {
    pub(crate) fn client() -> Result<Self, Error> {
        let name = ServerName::try_from(COMMON_NAME).expect("a DNS name");
        Ok(Self(ClientConnection::new(Arc::clone(&CLIENT_CONFIG), name)?.into()))
    }

    pub(crate) fn server(identity: &ServerIdentity) -> Result<Self, Error> {
        Ok(Self(ServerConnection::new(Arc::clone(&identity.0))?.into()))
    }

    /// Takes one whole record.
    pub(crate) fn receive(&mut self, mut record: &[u8]) -> Result<(), Error> {
        while !record.is_empty() {
            self.0.read_tls(&mut record).map_err(|_| Error::TooMuch)?;
            self.0.process_new_packets()?;
        }
        Ok(())
    }

    /// Appends what is to be sent, an alert after an error included.
    pub(crate) fn transmit(&mut self, out: &mut Vec<u8>) {
        while self.0.wants_write() {
            self.0.write_tls(out).expect("writing to a Vec cannot fail");
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        !self.0.is_handshaking() && !self.0.wants_write()
    }

    /// Takes the keys of a handshake that is done.
    pub(crate) fn finish(self) -> Result<(Sealer, Opener, Exporter), Error> {
        if self.0.alpn_protocol() != Some(ALPN) {
            return Err(Error::Protocol);
        }
        let exporter = [0; EXPORTER_BYTES];
        let exporter = Exporter(self.0.export_keying_material(exporter, EXPORTER_LABEL, Some(&[]))?);
        let ExtractedSecrets { tx, rx } = self.0.dangerous_extract_secrets()?;
        Ok((Sealer::new(tx.0, &tx.1)?, Opener::new(rx.0, &rx.1)?, exporter))
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").finish_non_exhaustive()
    }
}
