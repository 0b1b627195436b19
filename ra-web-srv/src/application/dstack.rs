//! The calls of dstack's guest agent that mean something here: `docs/spec/dstack.md`.
//!
//! For applications that were written for it. What it calls a quote is an attestation document of the application's, with the
//! report data in its binding statement and as its nonce. Keys are those of an agent without a key provider: made in the
//! enclave, and gone with it.

mod info;
mod keys;

use attestation::binding::ApplicationData;
use axum::extract::rejection::BytesRejection;
use axum::extract::{RawQuery, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, body::Bytes};
use nsm::AttestationRequest;
use serde_json::{Map, Value, json};
use std::sync::Arc;

use super::{AppState, Shared, read_body};
use crate::error::ApiError;
use crate::limits::MAX_BODY_BYTES;
use crate::query::Parameters;

pub(super) use keys::Keys;

/// Bytes of report data; what is shorter is followed by zeros.
const REPORT_DATA_BYTES: usize = 64;

/// What goes before the data of a `Tappd.TdxQuote`, and is followed by a colon.
const DEFAULT_PREFIX: &str = "app-data";

/// What arguments may be called in a query; in a body others are passed over, as the agent does.
const ARGUMENTS: &[&str] = &["report_data", "path", "purpose", "algorithm", "hash_algorithm", "prefix"];

/// The agent's paths.
pub(super) fn router() -> Router<Arc<AppState>> {
    Router::new()
        .route("/GetQuote", get(quote).post(quote))
        .route("/Attest", get(attest).post(attest))
        .route("/GetKey", get(key).post(key))
        .route("/Info", get(info).post(info))
        .route("/Version", get(version).post(version))
        .route("/prpc/Tappd.TdxQuote", get(tagged_quote).post(tagged_quote))
        .route("/prpc/Tappd.RawQuote", get(quote).post(quote))
        .route("/prpc/Tappd.Info", get(info).post(info))
}

/// A refusal in the agent's form: `{"error": TEXT}`, with status 400 or 500.
pub(super) struct Refusal(ApiError);

impl<E: Into<ApiError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.0.log();
        let status = match self.0.status().is_client_error() {
            true => StatusCode::BAD_REQUEST,
            false => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({"error": self.0.to_string()}))).into_response()
    }
}

type Answer = Result<Json<Value>, Refusal>;

/// The arguments of a call: a query's, or a JSON object's.
pub(super) struct Arguments(Map<String, Value>);

impl Arguments {
    fn read(
        method: &Method,
        query: Option<&str>,
        body: Result<Bytes, BytesRejection>,
    ) -> Result<Self, ApiError> {
        if method == Method::POST {
            let body = read_body(body, MAX_BODY_BYTES)?;
            // A call without arguments may come without a body.
            let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
            let members = "the arguments of the call";
            return serde_json::from_slice(&body)
                .map(Self)
                .map_err(|source| ApiError::Json { members, source });
        }
        let parameters = Parameters::parse(query, ARGUMENTS)?;
        let mut arguments = Map::new();
        for name in ARGUMENTS {
            if let Some(value) = parameters.optional(name)? {
                let text = std::str::from_utf8(value).map_err(|_| ApiError::Query)?;
                arguments.insert((*name).to_owned(), text.into());
            }
        }
        Ok(Self(arguments))
    }

    /// A text; empty where it is absent.
    pub(super) fn text(&self, name: &'static str) -> Result<&str, ApiError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(ApiError::Text { name }),
        }
    }

    fn bytes(&self, name: &'static str, most: usize) -> Result<Vec<u8>, ApiError> {
        let bytes =
            hex::decode(self.text(name)?).map_err(|source| ApiError::NotHex { field: name, source })?;
        if bytes.len() > most {
            return Err(ApiError::FieldLength { field: name, found: bytes.len(), most });
        }
        Ok(bytes)
    }
}

/// A document that says `report_data`, in hex.
async fn document(state: &AppState, report_data: [u8; REPORT_DATA_BYTES]) -> Result<String, ApiError> {
    let data = ApplicationData::new(report_data.to_vec()).expect("64 bytes are not too many");
    let request = AttestationRequest {
        user_data: Some(state.statement(data).await?.encode()),
        nonce: Some(report_data.to_vec()),
        public_key: None,
    };
    Ok(hex::encode(state.nsm.ask(move |nsm| nsm.attest(&request)).await?))
}

fn padded(bytes: &[u8]) -> [u8; REPORT_DATA_BYTES] {
    let mut report_data = [0; REPORT_DATA_BYTES];
    report_data.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    report_data
}

async fn quote(
    State(state): Shared,
    method: Method,
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let arguments = Arguments::read(&method, query.as_deref(), body)?;
    let report_data = padded(&arguments.bytes("report_data", REPORT_DATA_BYTES)?);
    let document = document(&state, report_data).await?;
    Ok(Json(json!({
        "quote": document,
        "event_log": "[]",
        "report_data": hex::encode(report_data),
        "vm_config": "",
        "attestation": document,
    })))
}

async fn attest(
    State(state): Shared,
    method: Method,
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let arguments = Arguments::read(&method, query.as_deref(), body)?;
    let report_data = padded(&arguments.bytes("report_data", REPORT_DATA_BYTES)?);
    Ok(Json(json!({"attestation": document(&state, report_data).await?})))
}

/// The older agent's call, which hashes what is to be attested behind a tag.
async fn tagged_quote(
    State(state): Shared,
    method: Method,
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let arguments = Arguments::read(&method, query.as_deref(), body)?;
    let data = arguments.bytes("report_data", MAX_BODY_BYTES)?;
    let prefix = match arguments.text("prefix")? {
        "" => DEFAULT_PREFIX,
        prefix => prefix,
    };
    let algorithm = match arguments.text("hash_algorithm")? {
        "" => "sha512",
        algorithm => algorithm,
    };
    let document = document(&state, tagged(prefix, algorithm, &data)?).await?;
    Ok(Json(json!({
        "quote": document,
        "event_log": "[]",
        "hash_algorithm": algorithm,
        "prefix": if algorithm == "raw" { "" } else { prefix },
    })))
}

fn tagged(prefix: &str, algorithm: &str, data: &[u8]) -> Result<[u8; REPORT_DATA_BYTES], ApiError> {
    use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
    let hash = match algorithm {
        "sha512" => &SHA512,
        "sha384" => &SHA384,
        "sha256" => &SHA256,
        "raw" => {
            let found = data.len();
            let refused = |_| ApiError::FieldLength { field: "report_data", found, most: REPORT_DATA_BYTES };
            return data.try_into().map_err(refused);
        }
        _ => {
            return Err(ApiError::Choice {
                name: "hash_algorithm",
                known: &["sha512", "sha384", "sha256", "raw"],
            });
        }
    };
    Ok(padded(digest(hash, &[prefix.as_bytes(), b":", data].concat()).as_ref()))
}

async fn key(
    State(state): Shared,
    method: Method,
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let arguments = Arguments::read(&method, query.as_deref(), body)?;
    Ok(Json(state.keys()?.answer(&arguments, &info::app_id(&state))?))
}

async fn info(State(state): Shared) -> Answer {
    Ok(Json(info::answer(&state).await?))
}

async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION"), "rev": ""}))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What dstack's own SDKs compute.
    #[test]
    fn tagged_report_data_is_that_of_the_known_answer() {
        let expected = "7ea0b744ed5e9c0c83ff9f575668e1697652cd349f2027cdf26f918d4c53e8cd\
                        50b5ea9b449b4c3d50e20ae00ec29688d5a214e8daff8a10041f5d624dae8a01";
        assert_eq!(hex::encode(tagged("app-data", "sha512", b"test content").unwrap()), expected);
    }

    #[test]
    fn shorter_digests_are_followed_by_zeros_and_raw_is_taken_whole() {
        assert_eq!(tagged("app-data", "sha256", b"x").unwrap()[32..], [0; 32]);
        assert_eq!(tagged("app-data", "sha384", b"x").unwrap()[48..], [0; 16]);
        assert_eq!(tagged("", "raw", &[7; 64]).unwrap(), [7; 64]);
        tagged("", "raw", &[7; 63]).unwrap_err();
        tagged("", "raw", &[7; 65]).unwrap_err();
        tagged("", "md5", b"x").unwrap_err();
    }
}
