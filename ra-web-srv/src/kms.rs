//! The key to which AWS KMS encrypts what it gives this enclave: `docs/spec/application-api.md`.
//!
//! The application asks KMS itself, with the SDK and the credentials of its own; this is the half that needs the
//! security module.

mod seal;

use std::sync::Arc;

use ::kms::{GenerateError, KEY_ENCRYPTION_ALGORITHM, MAX_MESSAGE_BYTES, Recipient};
use attestation::binding::ApplicationData;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nsm::AttestationRequest;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::application::{AppState, Body, decode_field, read_json};
use crate::error::ApiError;

/// The module, and a key that is made when it is first wanted.
struct KmsState {
    application: Arc<AppState>,
    recipient: OnceCell<Arc<Recipient>>,
}

/// The paths under `/v1/kms`.
pub(crate) fn router(application: Arc<AppState>) -> Router {
    let state = KmsState { application, recipient: OnceCell::new() };
    Router::new()
        .route("/v1/kms/recipient", post(recipient))
        .route("/v1/kms/open", post(open))
        .merge(seal::routes())
        .with_state(Arc::new(state))
}

impl KmsState {
    async fn recipient(&self) -> Result<Arc<Recipient>, ApiError> {
        let make = || async {
            let made = tokio::task::spawn_blocking(Recipient::generate).await;
            made.unwrap_or(Err(GenerateError)).map(Arc::new)
        };
        Ok(self.recipient.get_or_try_init(make).await?.clone())
    }
}

/// The members of a KMS request's `Recipient`, with the names that KMS has for them.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RecipientInfo {
    key_encryption_algorithm: &'static str,
    attestation_document: String,
}

async fn recipient(State(state): State<Arc<KmsState>>) -> Result<Json<RecipientInfo>, ApiError> {
    let statement = state.application.statement(ApplicationData::default()).await?;
    let request = AttestationRequest {
        user_data: Some(statement.encode()),
        nonce: None,
        public_key: Some(state.recipient().await?.public_key().to_vec()),
    };
    let document = state.application.nsm.ask(move |nsm| nsm.attest(&request)).await?;
    let attestation_document = STANDARD.encode(document);
    Ok(Json(RecipientInfo { key_encryption_algorithm: KEY_ENCRYPTION_ALGORITHM, attestation_document }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    ciphertext_for_recipient: Option<String>,
}

#[derive(Serialize)]
struct Opened {
    plaintext: String,
}

async fn open(State(state): State<Arc<KmsState>>, body: Body) -> Result<Json<Opened>, ApiError> {
    let Sealed { ciphertext_for_recipient } = read_json(body, "ciphertext_for_recipient")?;
    let message = decode_field("ciphertext_for_recipient", ciphertext_for_recipient, MAX_MESSAGE_BYTES)?;
    let plaintext = state.recipient().await?.open(&message)?;
    Ok(Json(Opened { plaintext: STANDARD.encode(&*plaintext) }))
}
