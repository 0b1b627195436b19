//! Which attestation server is asked, and who asks: where an image lets nobody in without a certificate (`attestation.client_ca`).

use std::path::Path;

use anyhow::{Context, Result};
use rustls::{
    ClientConfig, ConfigBuilder,
    client::WantsClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::exit::Usage;

/// An attestation server, and what to show it.
#[derive(Debug)]
pub(crate) struct Server<'a> {
    /// As `https://HOST:PORT`.
    pub(crate) url: &'a str,
    /// What is shown to a server that asks for a certificate.
    pub(crate) identity: Option<Identity>,
}

/// A client's certificate, with those of its issuers, and its key.
#[derive(Debug)]
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads both from PEM files.
    ///
    /// # Errors
    /// When there is no certificate in the one or no key in the other.
    pub(crate) fn read(certificate: &Path, key: &Path) -> Result<Self> {
        let of_certificate = || format!("--client-cert {}", certificate.display());
        let chain = CertificateDer::pem_file_iter(certificate).with_context(of_certificate)?;
        let chain: Vec<_> = chain.collect::<Result<_, _>>().with_context(of_certificate)?;
        if chain.is_empty() {
            return Err(Usage(format!("{}: no certificate in PEM", of_certificate())).into());
        }
        let key = PrivateKeyDer::from_pem_file(key)
            .with_context(|| format!("--client-key {}: no private key in PEM", key.display()))?;
        Ok(Self { chain, key })
    }
}

/// The client's half of the handshake: with a certificate or none.
pub(super) fn configured(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    identity: Option<&Identity>,
) -> Result<ClientConfig> {
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(Identity { chain, key }) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .context("--client-cert and --client-key do not belong together"),
    }
}
