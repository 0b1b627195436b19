//! What a request can be refused with, and how it looks on the wire:
//! `{"error": {"code": "nonce_missing", "message": "..."}}`, section "Errors" of both specifications.

use std::sync::Arc;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::binding::ControlHeadError;
use crate::limits::MAX_BODY_BYTES;
use crate::nsm_queue::NsmQueueError;

/// What `Retry-After` says when the NSM's queue is full: an attestation takes milliseconds, a full queue well under
/// a second.
const RETRY_AFTER_SECONDS: &str = "1";

/// A refused request. The text of each variant is the message sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ApiError {
    #[error("send a nonce: GET /v1/attestation?nonce=HEX with 8 to 64 random bytes, as 16 to 128 hex digits")]
    NonceMissing,
    #[error("send the nonce once; it came {0} times")]
    NonceRepeated(usize),
    #[error("send the nonce in hex: two digits 0-9, a-f for each byte")]
    NonceNotHex(#[source] hex::FromHexError),
    #[error("send a nonce of {least} to {most} bytes; this one has {found}")]
    NonceLength { found: usize, least: usize, most: usize },
    #[error("unknown parameter {0:?}; this path takes: nonce")]
    UnknownParameter(String),
    #[error("the query cannot be read; send ?nonce=HEX")]
    Query,
    #[error("send a JSON object with any of: nonce, data, public_key ({0})")]
    Json(#[source] serde_json::Error),
    #[error("send {field} in base64 (RFC 4648, section 4, with padding)")]
    NotBase64 { field: &'static str, source: base64::DecodeError },
    #[error("send at most {most} bytes of {field}; these are {found}")]
    FieldLength { field: &'static str, found: usize, most: usize },
    #[error("send a body of at most {MAX_BODY_BYTES} bytes")]
    BodyTooLarge,
    #[error("the request's body ended early")]
    BodyUnreadable,
    #[error("the request took too long")]
    TooSlow,
    #[error("nothing here; GET / lists what there is")]
    NoSuchPath,
    #[error("this path does not answer that method")]
    NoSuchMethod,
    #[error("this enclave was started without a manifest")]
    NoManifest,
    #[error("the enclave cannot say whether somebody entered")]
    ControlHead(#[from] ControlHeadError),
    #[error("the enclave's security module is busy; try again")]
    NsmBusy(#[source] NsmQueueError),
    #[error("the enclave's security module did not do what was asked")]
    NsmFailed(#[source] NsmQueueError),
    /// What went wrong for all who shared a document, and was logged where it did.
    #[error(transparent)]
    Shared(Arc<Self>),
}

impl From<NsmQueueError> for ApiError {
    fn from(error: NsmQueueError) -> Self {
        match error {
            NsmQueueError::Full | NsmQueueError::Slow(_) => Self::NsmBusy(error),
            NsmQueueError::Ended | NsmQueueError::Nsm(_) => Self::NsmFailed(error),
        }
    }
}

impl ApiError {
    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NonceMissing => (StatusCode::BAD_REQUEST, "nonce_missing"),
            Self::NonceRepeated(_) => (StatusCode::BAD_REQUEST, "nonce_repeated"),
            Self::NonceNotHex(_) => (StatusCode::BAD_REQUEST, "nonce_not_hex"),
            Self::NonceLength { .. } => (StatusCode::BAD_REQUEST, "nonce_length"),
            Self::UnknownParameter(_) => (StatusCode::BAD_REQUEST, "parameter_unknown"),
            Self::Query => (StatusCode::BAD_REQUEST, "query_malformed"),
            Self::Json(_) => (StatusCode::BAD_REQUEST, "json_malformed"),
            Self::NotBase64 { .. } => (StatusCode::BAD_REQUEST, "field_not_base64"),
            Self::FieldLength { .. } => (StatusCode::BAD_REQUEST, "field_length"),
            Self::BodyUnreadable => (StatusCode::BAD_REQUEST, "body_unreadable"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "request_too_slow"),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "no_such_path"),
            Self::NoSuchMethod => (StatusCode::METHOD_NOT_ALLOWED, "no_such_method"),
            Self::NoManifest => (StatusCode::NOT_FOUND, "no_manifest"),
            Self::ControlHead(_) => (StatusCode::INTERNAL_SERVER_ERROR, "control_head_failed"),
            Self::NsmBusy(_) => (StatusCode::SERVICE_UNAVAILABLE, "nsm_busy"),
            Self::NsmFailed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "nsm_failed"),
            Self::Shared(error) => error.kind(),
        }
    }

    pub(crate) fn log(&self) {
        match self {
            Self::Shared(_) => {}
            Self::ControlHead(cause) => {
                tracing::error!(
                    error = cause as &dyn std::error::Error,
                    "no document without the chain's head"
                )
            }
            Self::NsmFailed(cause) => {
                tracing::error!(error = cause as &dyn std::error::Error, "NSM request failed")
            }
            Self::NsmBusy(cause) => {
                tracing::warn!(error = cause as &dyn std::error::Error, "NSM request refused")
            }
            refusal => tracing::debug!(error = refusal as &dyn std::error::Error, "request refused"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let (status, code) = self.kind();
        let body = serde_json::json!({"error": {"code": code, "message": self.to_string()}});
        let mut response = (status, Json(body)).into_response();
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response
    }
}
