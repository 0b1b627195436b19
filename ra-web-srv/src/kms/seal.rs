//! Data that outlives the enclave: `docs/spec/sealed.md`.
//!
//! The application brings what KMS answered, as for `/v1/kms/open`. Nothing is kept here: the data key is opened for each call
//! and forgotten with it.

use std::sync::Arc;

use ::kms::MAX_MESSAGE_BYTES;
use ::kms::sealed::{
    Envelope, MAX_CONTEXT_BYTES, MAX_ENVELOPE_BYTES, MAX_SEALED_DATA_BYTES, MAX_WRAPPED_KEY_BYTES,
};
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::KmsState;
use crate::application::{Body, decode_field, read_json_of};
use crate::error::ApiError;

/// Longest body: the longest data and its data key, in base64.
const MAX_SEAL_BODY_BYTES: usize = 128 * 1024;

pub(super) fn routes() -> Router<Arc<KmsState>> {
    Router::new()
        .route("/v1/seal", post(seal))
        .route("/v1/unseal", post(unseal))
        .layer(DefaultBodyLimit::max(MAX_SEAL_BODY_BYTES))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToSeal {
    key_id: String,
    ciphertext_blob: Option<String>,
    ciphertext_for_recipient: Option<String>,
    data: Option<String>,
    context: Option<String>,
}

#[derive(Serialize)]
struct SealedData {
    sealed: String,
}

async fn seal(State(state): State<Arc<KmsState>>, body: Body) -> Result<Json<SealedData>, ApiError> {
    const MEMBERS: &str = "key_id, ciphertext_blob, ciphertext_for_recipient, data, context";
    let ToSeal { key_id, ciphertext_blob, ciphertext_for_recipient, data, context } =
        read_json_of(body, MEMBERS, MAX_SEAL_BODY_BYTES)?;
    let wrapped = decode_field("ciphertext_blob", ciphertext_blob, MAX_WRAPPED_KEY_BYTES)?;
    let data = Zeroizing::new(decode_field("data", data, MAX_SEALED_DATA_BYTES)?);
    let context = decode_field("context", context, MAX_CONTEXT_BYTES)?;
    let data_key = data_key(&state, ciphertext_for_recipient).await?;
    let envelope = Envelope::seal(&key_id, &wrapped, &data_key, &context, &data)?;
    Ok(Json(SealedData { sealed: STANDARD.encode(envelope.encode()) }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToUnseal {
    sealed: Option<String>,
    ciphertext_for_recipient: Option<String>,
    context: Option<String>,
}

/// What KMS has to be asked, with the names that `Decrypt` has for it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ToDecrypt<'a> {
    key_id: &'a str,
    ciphertext_blob: String,
}

#[derive(Serialize)]
struct Unsealed {
    data: String,
}

/// Without KMS's answer: what KMS has to be asked. With it: the data.
async fn unseal(State(state): State<Arc<KmsState>>, body: Body) -> Result<Response, ApiError> {
    let ToUnseal { sealed, ciphertext_for_recipient, context } =
        read_json_of(body, "sealed, ciphertext_for_recipient, context", MAX_SEAL_BODY_BYTES)?;
    let envelope = Envelope::decode(&decode_field("sealed", sealed, MAX_ENVELOPE_BYTES)?)?;
    let context = decode_field("context", context, MAX_CONTEXT_BYTES)?;
    if ciphertext_for_recipient.is_none() {
        let ciphertext_blob = STANDARD.encode(envelope.wrapped_key());
        return Ok(Json(ToDecrypt { key_id: envelope.key_id(), ciphertext_blob }).into_response());
    }
    let data_key = data_key(&state, ciphertext_for_recipient).await?;
    let data = envelope.open(&data_key, &context)?;
    Ok(Json(Unsealed { data: STANDARD.encode(&*data) }).into_response())
}

async fn data_key(state: &KmsState, answer: Option<String>) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let message = decode_field("ciphertext_for_recipient", answer, MAX_MESSAGE_BYTES)?;
    Ok(state.recipient().await?.open(&message)?)
}
