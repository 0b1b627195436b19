//! What the application beside this server may ask, over a Unix socket: `docs/spec/application-api.md`.
//!
//! Every document made here carries a binding statement of kind "application", built in this module and nowhere
//! from the application's bytes: it cannot pass for the server's own, whatever the application sends.

mod attest;
mod dstack;
mod key;
mod ledger;
mod register;

use std::sync::{Arc, OnceLock};

use attestation::binding::{ApplicationData, Statement};
use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;

use crate::binding::ApplicationKey;
use crate::error::ApiError;
use crate::kms;
use crate::ledger::Ledger;
use crate::limits::MAX_BODY_BYTES;
use crate::nsm_queue::NsmQueue;

/// What the application's paths answer from.
pub(crate) struct AppState {
    pub(crate) nsm: NsmQueue,
    /// The key that the application has named, which the server's own documents state too.
    pub(crate) key: ApplicationKey,
    /// `None` in an image that keeps no ledger.
    pub(crate) ledger: Option<Arc<Ledger>>,
    /// The measured manifest, byte for byte.
    pub(crate) manifest: Option<Bytes>,
    /// Made when they are first asked for.
    keys: OnceLock<dstack::Keys>,
}

type Shared = axum::extract::State<Arc<AppState>>;

/// The paths of the application's socket.
pub(crate) fn router(state: AppState) -> Router {
    let state = Arc::new(state);
    Router::new()
        .route("/v1/attest", post(attest::attest))
        .route("/v1/describe", get(attest::description))
        .route("/v1/key", get(key::show).post(key::name))
        .route("/v1/pcr18/extend", post(register::extend))
        .route("/v1/pcr18/lock", post(register::lock))
        .route("/v1/ledger/checkpoint", get(ledger::checkpoint))
        .route("/v1/ledger/status", get(ledger::status))
        .route("/v1/ledger/stream/{name}", get(ledger::read).post(ledger::append))
        .route("/v1/ledger/stream/{name}/proof", get(ledger::prove))
        .merge(dstack::router())
        .layer(DefaultBodyLimit::max(ledger::MAX_PAYLOAD_BYTES))
        .with_state(Arc::clone(&state))
        .merge(kms::router(state))
}

impl AppState {
    /// For an application that has named no key yet.
    pub(crate) fn new(
        nsm: NsmQueue,
        key: ApplicationKey,
        ledger: Option<Arc<Ledger>>,
        manifest: Option<Bytes>,
    ) -> Self {
        Self { nsm, key, ledger, manifest, keys: OnceLock::new() }
    }

    fn keys(&self) -> Result<&dstack::Keys, ApiError> {
        if self.keys.get().is_none() {
            // Whoever is second has made keys for nothing.
            let _ = self.keys.set(dstack::Keys::generate()?);
        }
        self.keys.get().ok_or(ApiError::NoKey)
    }

    /// What a document of the application's says: `data`, the key that it has named, and the ledger as it is.
    ///
    /// # Errors
    /// When the ledger does not answer: a statement without it would say that there is none.
    pub(crate) async fn statement(&self, data: ApplicationData) -> Result<Statement, ApiError> {
        let ledger = match &self.ledger {
            Some(ledger) => Some(ledger.checkpoint().await?),
            None => None,
        };
        Ok(Statement::Application { application_key: self.key.digest(), data, ledger })
    }
}

/// A body as far as it could be read.
pub(crate) type Body = Result<Bytes, BytesRejection>;

/// The JSON object in a body.
pub(crate) fn read_json<T: DeserializeOwned>(body: Body, members: &'static str) -> Result<T, ApiError> {
    read_json_of(body, members, MAX_BODY_BYTES)
}

/// The JSON object in a body of at most `most` bytes.
pub(crate) fn read_json_of<T: DeserializeOwned>(
    body: Body,
    members: &'static str,
    most: usize,
) -> Result<T, ApiError> {
    let body = read_body(body, most)?;
    serde_json::from_slice(&body).map_err(|source| ApiError::Json { members, source })
}

/// A body of at most `most` bytes.
pub(crate) fn read_body(body: Body, most: usize) -> Result<Bytes, ApiError> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::BodyTooLarge { most },
        _ => ApiError::BodyUnreadable,
    })?;
    if body.len() > most {
        return Err(ApiError::BodyTooLarge { most });
    }
    Ok(body)
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
