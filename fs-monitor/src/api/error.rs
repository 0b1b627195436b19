//! Why a request is refused: `{"error":"..."}`.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use ledger::store::Error;
use serde_json::json;

#[derive(Debug)]
pub(super) enum ApiError {
    /// The request makes no sense.
    Malformed(String),
    /// There is no such thing.
    NotFound(String),
    /// Not at this time.
    NotYet(String),
    /// More than can be taken.
    TooLong(String),
    /// The ledger cannot be used.
    Unavailable(String),
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::PathTooLong { .. } => Self::Malformed(text),
            Error::Reserved | Error::NotRetained { .. } | Error::Range { .. } => Self::NotFound(text),
            Error::PayloadTooLong { .. } | Error::ProofTooLong => Self::TooLong(text),
            _ => {
                tracing::error!(error = &error as &dyn std::error::Error, "the ledger failed");
                Self::Unavailable(text)
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Malformed(text) => (StatusCode::BAD_REQUEST, text),
            Self::NotFound(text) => (StatusCode::NOT_FOUND, text),
            Self::NotYet(text) => (StatusCode::CONFLICT, text),
            Self::TooLong(text) => (StatusCode::PAYLOAD_TOO_LARGE, text),
            Self::Unavailable(text) => (StatusCode::SERVICE_UNAVAILABLE, text),
        };
        (status, Json(json!({"error": text}))).into_response()
    }
}
