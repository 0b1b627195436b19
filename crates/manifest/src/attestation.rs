//! How the attestation web server is reached, and by whom.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::DEFAULT_ATTESTATION_PORT;
use crate::source::{Mistake, check_port, mistake};

/// Longest `client_ca`.
const MAX_CLIENT_CA_BYTES: usize = 64 * 1024;

const CERTIFICATE_BEGINS: &str = "-----BEGIN CERTIFICATE-----";

/// The attestation web server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// Authorities in PEM: HTTPS is for clients with a certificate under one of them. Absent: for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<String>,
    /// The vsock port for plain HTTP/1.1; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<NonZeroU16>,
    /// The vsock port for HTTPS.
    pub port: NonZeroU16,
}

/// `[attestation]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawAttestation {
    enabled: Option<bool>,
    port: Option<Spanned<u16>>,
    plain: Option<Spanned<u16>>,
    client_ca: Option<Spanned<String>>,
}

impl Attestation {
    /// Every port that the server listens on, that for HTTPS first.
    pub fn ports(&self) -> impl Iterator<Item = NonZeroU16> + use<> {
        [Some(self.port), self.plain].into_iter().flatten()
    }

    /// Checks the rules that hold between values.
    pub(crate) fn check(&self, has_acme: bool) -> Result<(), &'static str> {
        if self.plain == Some(self.port) {
            return Err("`attestation.plain` is `attestation.port`");
        }
        let Some(authorities) = &self.client_ca else { return Ok(()) };
        if has_acme {
            return Err(
                "`attestation.client_ca` and `acme`: an authority that looks at the server has no certificate",
            );
        }
        let clean = authorities.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte));
        if !clean || authorities.len() > MAX_CLIENT_CA_BYTES || !authorities.starts_with(CERTIFICATE_BEGINS) {
            return Err("`attestation.client_ca`: allowed: certificates in PEM, at most 64 KiB of ASCII");
        }
        Ok(())
    }
}

impl RawAttestation {
    pub(crate) fn check(self, has_acme: bool) -> Result<Option<Attestation>, Mistake> {
        let default = NonZeroU16::new(DEFAULT_ATTESTATION_PORT).expect("the default port is not 0");
        let port = match &self.port {
            Some(port) => check_port("attestation.port", port)?,
            None => default,
        };
        let plain = self.plain.as_ref().map(|port| check_port("attestation.plain", port)).transpose()?;
        let client_ca = self.client_ca.as_ref().map(|text| format!("{}\n", text.get_ref().trim()));
        let attestation = Attestation { client_ca, plain, port };
        let span = self.client_ca.as_ref().map(Spanned::span).or(self.plain.as_ref().map(Spanned::span));
        match (attestation.check(has_acme), span) {
            (Err(message), Some(span)) => return Err(mistake(&Spanned::new(span, ()), message.to_owned())),
            (Err(_), None) | (Ok(()), _) => {}
        }
        Ok(self.enabled.unwrap_or(true).then_some(attestation))
    }
}
