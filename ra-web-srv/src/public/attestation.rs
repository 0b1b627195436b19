//! `GET /v1/attestation`: a document for the caller's nonce.

use ::attestation::{batch::NoncePath, certificate::COSE_SIGN1};
use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::{Shared, accepts};
use crate::attester::{Attested, Company};
use crate::error::ApiError;
use crate::query::Parameters;

/// Fewest bytes of a verifier's nonce: below that, answers could be collected ahead of the questions.
const MIN_NONCE_BYTES: usize = 8;

/// Most bytes of a verifier's nonce.
const MAX_NONCE_BYTES: usize = 64;

pub(super) async fn attestation(
    State(state): Shared,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let nonce = nonce(&Parameters::parse(query.as_deref(), &["nonce"])?)?;
    let caching = [(header::CACHE_CONTROL, "no-store"), (header::VARY, "accept")];
    if accepts(&headers, "application/json") {
        let attested = state.attester.attest(nonce.clone(), Company::Welcome).await?;
        return Ok((caching, Json(Answer::new(&nonce, attested))).into_response());
    }
    // The message alone leaves no place for a path.
    let Attested { document, .. } = state.attester.attest(nonce, Company::Unwanted).await?;
    Ok((caching, [(header::CONTENT_TYPE, COSE_SIGN1)], document).into_response())
}

#[derive(Serialize)]
struct Answer {
    document: String,
    nonce: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<NoncePath>,
}

impl Answer {
    fn new(nonce: &[u8], Attested { document, path, .. }: Attested) -> Self {
        Self { document: STANDARD.encode(document), nonce: hex::encode(nonce), batch: path }
    }
}

/// The verifier's nonce among `parameters`.
pub(super) fn nonce(parameters: &Parameters) -> Result<Vec<u8>, ApiError> {
    match parameters.required("nonce") {
        Ok(digits) => decode_nonce(digits, MIN_NONCE_BYTES),
        Err(ApiError::ParameterMissing { .. }) => Err(ApiError::NonceMissing),
        Err(ApiError::ParameterRepeated { times, .. }) => Err(ApiError::NonceRepeated(times)),
        Err(other) => Err(other),
    }
}

/// A nonce of `least` to [`MAX_NONCE_BYTES`] bytes from its hex digits.
pub(crate) fn decode_nonce(digits: &[u8], least: usize) -> Result<Vec<u8>, ApiError> {
    let nonce = hex::decode(digits).map_err(ApiError::NonceNotHex)?;
    if !(least..=MAX_NONCE_BYTES).contains(&nonce.len()) {
        return Err(ApiError::NonceLength { found: nonce.len(), least, most: MAX_NONCE_BYTES });
    }
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(query: &str) -> Result<Vec<u8>, ApiError> {
        super::nonce(&Parameters::parse(Some(query), &["nonce"])?)
    }

    fn text(outcome: Result<Vec<u8>, ApiError>) -> String {
        outcome.unwrap_err().to_string()
    }

    #[test]
    fn takes_nonces_of_8_to_64_bytes() {
        let digits = |count: usize| format!("nonce={}", "Ab".repeat(count));
        assert_eq!(nonce("nonce=0011223344556677").unwrap(), [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77]);
        assert_eq!(nonce(&digits(64)).unwrap(), [0xab; 64]);
        assert!(text(nonce(&digits(7))).contains("this one has 7"));
        assert!(text(nonce(&digits(65))).contains("this one has 65"));
    }

    #[test]
    fn takes_a_nonce_exactly_once_and_nothing_else() {
        for query in ["", "nonce", "nonce="] {
            assert!(matches!(nonce(query), Err(ApiError::NonceMissing)), "{query}");
        }
        let twice = nonce("nonce=0011223344556677&nonce=8899aabbccddeeff");
        assert!(matches!(twice, Err(ApiError::NonceRepeated(2))));
        let unknown = nonce("nonse=0011223344556677");
        assert!(matches!(unknown, Err(ApiError::UnknownParameter { name, .. }) if name == "nonse"));
    }

    #[test]
    fn refuses_what_is_not_hex() {
        for digits in ["0011223344556", "00112233445566zz", "0x11223344556677", "00%2011%2022%2033"] {
            assert!(matches!(nonce(&format!("nonce={digits}")), Err(ApiError::NonceNotHex(_))), "{digits}");
        }
    }
}
