//! Who certifies the attestation server's key for browsers (ACME, RFC 8555).

use std::ops::Range;

use egress::{Destination, Name, Protocol};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::{Egress, source::Mistake};

/// The authority unless the manifest names another.
pub const DEFAULT_ACME_DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Most names in one certificate.
const MAX_DOMAINS: usize = 100;
/// Longest URL, in bytes.
const MAX_URL_BYTES: usize = 1024;
/// The port of HTTPS.
const HTTPS_PORT: u16 = 443;

// Members stand in ascending order of their names, as the canonical form wants them.

/// The certificate of the attestation server. An image without one has a self-signed certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    /// Whom the authority writes to: `mailto:ADDRESS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// The authority's directory, an HTTPS URL.
    pub directory: String,
    /// DNS names, at least one, ascending, unique.
    pub domains: Vec<String>,
}

/// `[acme]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawAcme {
    domains: Vec<String>,
    directory: Option<String>,
    contact: Option<String>,
}

impl Acme {
    /// Checks the rules that hold between values.
    pub(crate) fn check(&self, has_attestation: bool, egress: Option<&Egress>) -> Result<(), &'static str> {
        if !has_attestation {
            return Err("`acme` goes with an attestation server, and there is none");
        }
        if !(1..=MAX_DOMAINS).contains(&self.domains.len())
            || !self.domains.iter().all(|name| is_domain(name))
        {
            return Err("`acme.domains`: 1 to 100 DNS names of at least two labels, in lower case");
        }
        if !self.domains.is_sorted_by(|a, b| a < b) {
            return Err("`acme.domains` are not ascending and unique");
        }
        let clean = |text: &str| text.bytes().all(|b| b.is_ascii_graphic()) && text.len() <= MAX_URL_BYTES;
        if !self.contact.as_deref().is_none_or(|contact| contact.starts_with("mailto:") && clean(contact)) {
            return Err("`acme.contact`: allowed: \"mailto:ADDRESS\"");
        }
        let server = Some(&self.directory).filter(|url| clean(url)).and_then(|url| server(url));
        let Some((name, port)) = server else {
            return Err("`acme.directory`: allowed: an HTTPS URL with a DNS name");
        };
        let allowed = |egress: &Egress| {
            egress.policy().evaluate(&Destination::Name(name.clone()), port, Protocol::Tcp).is_allowed()
        };
        if !egress.is_some_and(allowed) {
            return Err(
                "`acme.directory`: `egress.allow` does not have its server: add \"acme-v02.api.letsencrypt.org:443\", or \
                 the name and port of the directory that is set",
            );
        }
        Ok(())
    }
}

/// Name and port in an HTTPS URL.
fn server(url: &str) -> Option<(Name, u16)> {
    let authority = url.strip_prefix("https://")?.split(['/', '?', '#']).next()?;
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, HTTPS_PORT),
    };
    Some((host.parse().ok()?, port))
}

/// A name that an authority can certify, in the one spelling of the measured form.
fn is_domain(text: &str) -> bool {
    text.contains('.') && text.parse::<Name>().is_ok_and(|name| name.to_string() == text)
}

impl RawAcme {
    pub(crate) fn check(
        this: Option<Spanned<Self>>,
        has_attestation: bool,
        egress: Option<&Egress>,
    ) -> Result<Option<Acme>, Mistake> {
        let Some(this) = this else { return Ok(None) };
        let span: Range<usize> = this.span();
        let Self { mut domains, directory, contact } = this.into_inner();
        domains.sort_unstable();
        domains.dedup();
        let directory = directory.unwrap_or_else(|| DEFAULT_ACME_DIRECTORY.to_owned());
        let acme = Acme { contact, directory, domains };
        match acme.check(has_attestation, egress) {
            Ok(()) => Ok(Some(acme)),
            Err(message) => Err(Mistake::new(span, message.to_owned())),
        }
    }
}
