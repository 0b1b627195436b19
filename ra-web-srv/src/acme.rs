//! A certificate that browsers accept, from an ACME authority (RFC 8555), around the key that documents name.
//!
//! The authority's word is for browsers: it says that whoever has this key answered for this name. That the key is an
//! enclave's, only a document says. Account and certificate live as long as the process; a new life orders anew.

mod http;

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder, OrderStatus, RetryPolicy,
};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::time::sleep;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::identity::{IdentityError, TlsIdentity};
use http::Client;

/// How long the authority may take to look at the challenges, and to issue.
const RETRY: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));

/// When it is asked again after a failure, first and at most. Authorities count failures.
const PAUSE_FIRST: Duration = Duration::from_secs(30);
const PAUSE_LAST: Duration = Duration::from_secs(3600);

/// Which certificate to order, and from whom.
#[derive(Debug, Clone)]
pub struct AcmeConfig {
    /// The authority's directory, an HTTPS URL (RFC 8555, section 7.1.1).
    pub directory: String,
    /// The names in the certificate, at least one.
    pub domains: Vec<String>,
    /// Whom the authority writes to, as `mailto:` URLs.
    pub contacts: Vec<String>,
    /// Roots that the authority's own server is trusted under, beside Mozilla's.
    pub roots: Vec<CertificateDer<'static>>,
}

#[derive(Debug, thiserror::Error)]
enum AcmeError {
    #[error("the authority's server")]
    Http(#[from] http::SetupError),
    #[error("the authority")]
    Acme(#[from] instant_acme::Error),
    #[error("the authority offers no tls-alpn-01 challenge for {0}")]
    NoChallenge(String),
    #[error("the authority did not find the challenge answered: the order is {0:?}")]
    NotReady(OrderStatus),
    #[error("the certificate")]
    Identity(#[from] IdentityError),
    #[error("the authority's chain is no PEM")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("the authority's certificate cannot be read")]
    Certificate(#[from] x509_cert::der::Error),
    #[error("the authority's certificate is for another key")]
    OtherKey,
    #[error("the authority sent no certificate")]
    Empty,
}

/// Orders certificates for `identity`, each before the one before it ends. Never ends.
pub(crate) async fn keep(config: AcmeConfig, identity: TlsIdentity) {
    let mut pause = PAUSE_FIRST;
    loop {
        match obtain(&config, &identity).await {
            Ok(lifetime) => {
                tracing::info!(domains = ?config.domains, days = lifetime.as_secs() / 86400, "certificate issued");
                pause = PAUSE_FIRST;
                sleep(lifetime * 2 / 3).await;
            }
            Err(error) => {
                warn(&error, pause);
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_LAST);
            }
        }
    }
}

fn warn(error: &AcmeError, pause: Duration) {
    let reason: &(dyn std::error::Error + 'static) = error;
    tracing::warn!(reason, again_in_s = pause.as_secs(), "no certificate");
}

/// Orders one certificate and shows it from then on. Returns how long it is valid in all.
async fn obtain(config: &AcmeConfig, identity: &TlsIdentity) -> Result<Duration, AcmeError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    roots.add_parsable_certificates(config.roots.iter().cloned());
    let client = Box::new(Client::new(roots)?);
    let contacts: Vec<_> = config.contacts.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
    let (account, _) =
        Account::builder_with_http(client).create(&new, config.directory.clone(), None).await?;
    let names: Vec<_> = config.domains.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    let answered = answer(&mut order, identity).await;
    let status = match answered {
        Ok(()) => order.poll_ready(&RETRY).await.map_err(AcmeError::from),
        Err(error) => Err(error),
    };
    identity.forget_challenges();
    match status? {
        OrderStatus::Ready => {}
        other => return Err(AcmeError::NotReady(other)),
    }
    order.finalize_csr(&identity.request(&config.domains)?).await?;
    let chain = order.poll_certificate(&RETRY).await?;
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let lifetime = check(chain.first().ok_or(AcmeError::Empty)?, identity)?;
    identity.show(chain)?;
    Ok(lifetime)
}

/// Has the server answer every challenge, and says so to the authority.
async fn answer(order: &mut instant_acme::Order, identity: &TlsIdentity) -> Result<(), AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let domain = authorization.identifier().to_string();
        let mut challenge = authorization
            .challenge(ChallengeType::TlsAlpn01)
            .ok_or_else(|| AcmeError::NoChallenge(domain.clone()))?;
        identity.answer_challenge(&domain, challenge.key_authorization().digest().as_ref())?;
        challenge.set_ready().await?;
    }
    Ok(())
}

/// Whether the certificate is for our key, and how long it is valid. Its dates are compared with each other only: the clock
/// here comes from the host.
fn check(leaf: &CertificateDer<'_>, identity: &TlsIdentity) -> Result<Duration, AcmeError> {
    use x509_cert::der::Encode;
    let certificate = Certificate::from_der(leaf)?;
    let certificate = certificate.tbs_certificate();
    if certificate.subject_public_key_info().to_der()? != identity.public_key() {
        return Err(AcmeError::OtherKey);
    }
    let validity = certificate.validity();
    let (from, to) = (validity.not_before.to_unix_duration(), validity.not_after.to_unix_duration());
    Ok(to.saturating_sub(from))
}
