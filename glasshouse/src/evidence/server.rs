//! Which attestation server is asked, and who asks: where an image lets nobody in without a certificate (`attestation.client_ca`).

use std::{io, path::Path};

use anyhow::{Context, Result};
use rustls::{
    AlertDescription, ClientConfig, ConfigBuilder,
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
        Some(Identity { chain, key }) => {
            let configured = builder.with_client_auth_cert(chain.clone(), key.clone_key());
            configured.map_err(|error| match error {
                rustls::Error::InvalidCertificate(_) => anyhow::Error::new(error).context(
                    "--client-cert cannot be used: it has to be X.509 version 3, which `openssl x509 -req` writes with -extfile",
                ),
                error => anyhow::Error::new(error).context("--client-cert and --client-key do not belong together"),
            })
        }
    }
}

/// What a server says of the client's certificate, as an alert, is worth a sentence on what it wants.
pub(super) fn of_certificate(error: anyhow::Error, has_identity: bool) -> anyhow::Error {
    let alert = error.chain().find_map(|cause| {
        match cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::AlertReceived(alert) => Some(*alert),
            _ => None,
        }
    });
    use AlertDescription as Alert;
    match alert {
        Some(Alert::CertificateRequired) if !has_identity => error.context(
            "it lets nobody in without a certificate (attestation.client_ca): show yours with --client-cert and --client-key",
        ),
        Some(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::DecryptError,
        ) => error.context(
            "it does not take this client certificate: that has to be under an authority of attestation.client_ca in its manifest, \
             valid now, and for clients if it says what it is for",
        ),
        _ => error,
    }
}
