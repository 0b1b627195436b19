//! What the application beside this server may ask, over a Unix socket: `docs/spec/application-api.md`.
//!
//! Every document made here carries a binding statement of kind "application", built in this module and nowhere
//! from the application's bytes: it cannot pass for the server's own, whatever the application sends.

use std::collections::BTreeMap;
use std::sync::Arc;

use attestation::binding::{ApplicationData, MAX_APPLICATION_DATA_BYTES, Statement};
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nsm::AttestationRequest;
use nsm::wire::MAX_PUBLIC_KEY_BYTES;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::ApiError;
use crate::kms;
use crate::limits::MAX_BODY_BYTES;
use crate::module_description::{Pcr, describe, describe_pcrs};
use crate::nsm_queue::NsmQueue;
use crate::public::decode_nonce;

/// The paths of the application's socket.
pub(crate) fn router(nsm: NsmQueue) -> Router {
    let nsm = Arc::new(nsm);
    Router::new()
        .route("/v1/attest", post(attest))
        .route("/v1/describe", get(description))
        .with_state(Arc::clone(&nsm))
        .merge(kms::router(nsm))
}

/// A body as far as it could be read.
pub(crate) type Body = Result<Bytes, BytesRejection>;

/// The JSON object in a body.
pub(crate) fn read_json<T: DeserializeOwned>(body: Body, members: &'static str) -> Result<T, ApiError> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::BodyTooLarge { most: MAX_BODY_BYTES },
        _ => ApiError::BodyUnreadable,
    })?;
    serde_json::from_slice(&body).map_err(|source| ApiError::Json { members, source })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttestBody {
    nonce: Option<String>,
    data: Option<String>,
    public_key: Option<String>,
}

#[derive(Serialize)]
struct AttestAnswer {
    document: String,
}

async fn attest(State(nsm): State<Arc<NsmQueue>>, body: Body) -> Result<Json<AttestAnswer>, ApiError> {
    let request = attestation_request(read_json(body, "nonce, data, public_key")?)?;
    let document = nsm.ask(move |nsm| nsm.attest(&request)).await?;
    Ok(Json(AttestAnswer { document: STANDARD.encode(document) }))
}

fn attestation_request(body: AttestBody) -> Result<AttestationRequest, ApiError> {
    let nonce = decode_nonce(body.nonce.unwrap_or_default().as_bytes(), 0)?;
    let data = decode_field("data", body.data, MAX_APPLICATION_DATA_BYTES)?;
    let public_key = decode_field("public_key", body.public_key, MAX_PUBLIC_KEY_BYTES)?;
    let data = ApplicationData::new(data).expect("decode_field has checked its length");
    Ok(AttestationRequest {
        user_data: Some(Statement::Application { application_key: None, data, ledger: None }.encode()),
        nonce: Some(nonce).filter(|nonce| !nonce.is_empty()),
        public_key: Some(public_key).filter(|key| !key.is_empty()),
    })
}

/// The bytes of an optional base64 member; absent is empty.
pub(crate) fn decode_field(
    field: &'static str,
    text: Option<String>,
    most: usize,
) -> Result<Vec<u8>, ApiError> {
    let bytes =
        STANDARD.decode(text.unwrap_or_default()).map_err(|source| ApiError::NotBase64 { field, source })?;
    if bytes.len() > most {
        return Err(ApiError::FieldLength { field, found: bytes.len(), most });
    }
    Ok(bytes)
}

#[derive(Serialize)]
struct Described {
    module_id: String,
    version: String,
    digest: &'static str,
    pcrs: BTreeMap<u16, Pcr>,
}

async fn description(State(nsm): State<Arc<NsmQueue>>) -> Result<Json<Described>, ApiError> {
    let both = nsm.ask(|nsm| Ok((describe(nsm)?, describe_pcrs(nsm)?)));
    let (module, pcrs) = both.await?;
    Ok(Json(Described { module_id: module.module_id, version: module.version, digest: module.digest, pcrs }))
}
