//! Which certificate a client is shown: an authority's where one was issued, else the self-signed one, and its challenge's
//! to an authority that looks (RFC 8737). All are around the same key.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The protocol that authorities speak to look at a challenge (RFC 8737, section 6.2).
pub(crate) const ALPN_ACME: &[u8] = b"acme-tls/1";

/// The certificates of one key.
#[derive(Debug)]
pub(crate) struct Certificates {
    own: RwLock<Arc<CertifiedKey>>,
    issued: RwLock<Option<Arc<CertifiedKey>>>,
    challenges: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl Certificates {
    /// With a certificate that nobody vouches for.
    pub(crate) fn new(own: Arc<CertifiedKey>) -> Self {
        Self { own: RwLock::new(own), issued: RwLock::default(), challenges: RwLock::default() }
    }

    /// Another certificate that nobody vouches for, in the place of the first.
    pub(crate) fn renew(&self, own: Arc<CertifiedKey>) {
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = own;
    }

    /// From now on this one is shown.
    pub(crate) fn show(&self, issued: Arc<CertifiedKey>) {
        *self.issued.write().unwrap_or_else(PoisonError::into_inner) = Some(issued);
    }

    /// Whoever looks at the challenge for `domain` is shown this.
    pub(crate) fn answer_challenge(&self, domain: String, certificate: Arc<CertifiedKey>) {
        self.challenges.write().unwrap_or_else(PoisonError::into_inner).insert(domain, certificate);
    }

    /// No challenge is open any more.
    pub(crate) fn forget_challenges(&self) {
        self.challenges.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asks_for_challenge = hello.alpn().is_some_and(|mut names| names.any(|name| name == ALPN_ACME));
        if asks_for_challenge {
            let domain = hello.server_name()?;
            return self.challenges.read().unwrap_or_else(PoisonError::into_inner).get(domain).cloned();
        }
        let issued = self.issued.read().unwrap_or_else(PoisonError::into_inner).clone();
        let own = || Arc::clone(&self.own.read().unwrap_or_else(PoisonError::into_inner));
        Some(issued.unwrap_or_else(own))
    }
}
