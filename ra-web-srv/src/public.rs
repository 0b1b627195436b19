//! What the world may ask, over HTTPS: `docs/spec/attestation-api.md`.

use std::sync::Arc;

use attestation::batch::NoncePath;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::attester::{Attested, Attester, Company};
use crate::error::ApiError;
use crate::metrics::{self, Metrics};

/// Fewest bytes of a verifier's nonce: below that, answers could be collected ahead of the questions.
const MIN_NONCE_BYTES: usize = 8;

/// Most bytes of a verifier's nonce.
pub(crate) const MAX_NONCE_BYTES: usize = 64;

/// Media type of a COSE_Sign1 message (RFC 9052, section 9.3).
const COSE_SIGN1: &str = "application/cose; cose-type=\"cose-sign1\"";

const GREETING: &str = include_str!("greeting.txt");

/// What the public paths answer from.
pub(crate) struct PublicState {
    pub(crate) attester: Attester,
    pub(crate) metrics: Arc<Metrics>,
    /// The measured manifest, byte for byte.
    pub(crate) manifest: Option<Bytes>,
}

/// The public paths.
pub(crate) fn router(state: PublicState) -> Router {
    let metrics = Arc::clone(&state.metrics);
    Router::new()
        .route("/", get(async || GREETING))
        .route("/healthz", get(async || "ok\n"))
        .route("/v1/attestation", get(attestation))
        .route("/v1/manifest", get(manifest))
        .route("/metrics", get(metrics_text))
        .with_state(Arc::new(state))
        .layer(from_fn_with_state(metrics, metrics::count))
}

async fn attestation(
    State(state): State<Arc<PublicState>>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(parameters) = query.map_err(|_| ApiError::Query)?;
    let nonce = nonce_parameter(&parameters)?;
    let caching = [(header::CACHE_CONTROL, "no-store"), (header::VARY, "accept")];
    if accepts_json(&headers) {
        let attested = state.attester.attest(nonce.clone(), Company::Welcome).await?;
        return Ok((caching, Json(AttestationAnswer::new(&nonce, attested))).into_response());
    }
    // The message alone leaves no place for a path.
    let Attested { document, .. } = state.attester.attest(nonce, Company::Unwanted).await?;
    Ok((caching, [(header::CONTENT_TYPE, COSE_SIGN1)], document).into_response())
}

#[derive(Serialize)]
struct AttestationAnswer {
    document: String,
    nonce: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<NoncePath>,
}

impl AttestationAnswer {
    fn new(nonce: &[u8], Attested { document, path }: Attested) -> Self {
        Self { document: STANDARD.encode(document), nonce: hex::encode(nonce), batch: path }
    }
}

async fn metrics_text(State(state): State<Arc<PublicState>>) -> Response {
    let text = state.metrics.text(state.attester.waiting());
    ([(header::CONTENT_TYPE, metrics::TEXT_FORMAT)], text).into_response()
}

async fn manifest(State(state): State<Arc<PublicState>>) -> Result<Response, ApiError> {
    let manifest = state.manifest.clone().ok_or(ApiError::NoManifest)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], manifest).into_response())
}

/// The one parameter there is, exactly once. Others are refused rather than ignored: whoever asks a later version's
/// question learns that this version cannot answer it.
fn nonce_parameter(parameters: &[(String, String)]) -> Result<Vec<u8>, ApiError> {
    if let Some((unknown, _)) = parameters.iter().find(|(name, _)| name != "nonce") {
        return Err(ApiError::UnknownParameter(unknown.clone()));
    }
    match parameters {
        [] => Err(ApiError::NonceMissing),
        [(_, nonce)] if nonce.is_empty() => Err(ApiError::NonceMissing),
        [(_, nonce)] => decode_nonce(nonce, MIN_NONCE_BYTES),
        more => Err(ApiError::NonceRepeated(more.len())),
    }
}

/// A nonce of `least` to [`MAX_NONCE_BYTES`] bytes from its hex digits.
pub(crate) fn decode_nonce(digits: &str, least: usize) -> Result<Vec<u8>, ApiError> {
    let nonce = hex::decode(digits).map_err(ApiError::NonceNotHex)?;
    if !(least..=MAX_NONCE_BYTES).contains(&nonce.len()) {
        return Err(ApiError::NonceLength { found: nonce.len(), least, most: MAX_NONCE_BYTES });
    }
    Ok(nonce)
}

/// Whether an Accept field names `application/json` (RFC 9110, section 12.5.1); wildcards mean the default, COSE.
fn accepts_json(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| {
            range.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("application/json"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(outcome: Result<Vec<u8>, ApiError>) -> String {
        outcome.unwrap_err().to_string()
    }

    fn nonce(values: &[&str]) -> Result<Vec<u8>, ApiError> {
        let parameters: Vec<_> =
            values.iter().map(|value| ("nonce".to_owned(), (*value).to_owned())).collect();
        nonce_parameter(&parameters)
    }

    #[test]
    fn takes_nonces_of_8_to_64_bytes() {
        assert_eq!(nonce(&["0011223344556677"]).unwrap(), [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77]);
        assert_eq!(nonce(&[&"Ab".repeat(64)]).unwrap(), [0xab; 64]);
        assert!(code(nonce(&[&"00".repeat(7)])).contains("this one has 7"));
        assert!(code(nonce(&[&"00".repeat(65)])).contains("this one has 65"));
    }

    #[test]
    fn takes_a_nonce_exactly_once_and_nothing_else() {
        assert!(matches!(nonce(&[]), Err(ApiError::NonceMissing)));
        assert!(matches!(nonce(&[""]), Err(ApiError::NonceMissing)));
        assert!(matches!(nonce(&["0011223344556677", "8899aabbccddeeff"]), Err(ApiError::NonceRepeated(2))));
        let unknown = nonce_parameter(&[("nonse".to_owned(), "0011223344556677".to_owned())]);
        assert!(matches!(unknown, Err(ApiError::UnknownParameter(name)) if name == "nonse"));
    }

    #[test]
    fn refuses_what_is_not_hex() {
        for digits in ["0011223344556", "00112233445566zz", "0x11223344556677", "00 11 22 33 44 55 66 77"] {
            assert!(matches!(nonce(&[digits]), Err(ApiError::NonceNotHex(_))), "{digits}");
        }
    }

    #[test]
    fn json_is_given_only_to_whoever_names_it() {
        let accepts = |value: &'static str| {
            accepts_json(&HeaderMap::from_iter([(
                header::ACCEPT,
                axum::http::HeaderValue::from_static(value),
            )]))
        };
        assert!(accepts("application/json"));
        assert!(accepts("text/html, Application/JSON;q=0.9"));
        assert!(!accepts("*/*"));
        assert!(!accepts("application/jsonlines"));
        assert!(!accepts_json(&HeaderMap::new()));
    }
}
