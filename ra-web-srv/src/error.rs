//! What a request can be refused with, and how it looks on the wire:
//! `{"error": {"code": "nonce_missing", "message": "..."}}`, section "Errors" of both specifications.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::binding::ControlHeadError;
use crate::ledger::LedgerError;
use crate::nsm_queue::NsmQueueError;
use crate::public::TranscriptError;
use crate::query::MAX_PATH_BYTES;

/// What `Retry-After` says when the NSM's queue is full: an attestation takes milliseconds, a full queue well under
/// a second.
const RETRY_AFTER_SECONDS: u64 = 1;

/// A refused request. The text of each variant is the message sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ApiError {
    #[error("send a nonce: nonce=HEX with 8 to 64 random bytes, as 16 to 128 hex digits")]
    NonceMissing,
    #[error("send the nonce once; it came {0} times")]
    NonceRepeated(usize),
    #[error("send the nonce in hex: two digits 0-9, a-f for each byte")]
    NonceNotHex(#[source] hex::FromHexError),
    #[error("send a nonce of {least} to {most} bytes; this one has {found}")]
    NonceLength { found: usize, least: usize, most: usize },
    #[error("unknown parameter {name:?}; this path takes: {}", known.join(", "))]
    UnknownParameter { name: String, known: &'static [&'static str] },
    #[error("send {name}")]
    ParameterMissing { name: &'static str },
    #[error("send {name} once; it came {times} times")]
    ParameterRepeated { name: &'static str, times: usize },
    #[error("send {name} as a decimal number from {} to {}", range.start(), range.end())]
    Number { name: &'static str, range: RangeInclusive<u64> },
    #[error("send {name} as one of: {}", known.join(", "))]
    Choice { name: &'static str, known: &'static [&'static str] },
    #[error("the query cannot be read: send NAME=VALUE, joined by &, with two hex digits behind each %")]
    Query,
    #[error(
        "send an absolute path as the application sees it, without ., .., empty components and NUL, of at most \
         {MAX_PATH_BYTES} bytes"
    )]
    Path,
    #[error(
        "send the name of a stream: app/NAME with NAME of 1 to 63 of a-z 0-9 . _ -, egress, control or ledger"
    )]
    StreamName,
    #[error("ask for at most {most} proofs at once; these are {found}")]
    TooManyProofs { found: usize, most: usize },
    #[error("the log has {to} entries and cannot have grown since it had {from}")]
    Since { from: u64, to: u64 },
    #[error("send a JSON object with any of: {members} ({source})")]
    Json { members: &'static str, source: serde_json::Error },
    #[error("send {field} in base64 (RFC 4648, section 4, with padding)")]
    NotBase64 { field: &'static str, source: base64::DecodeError },
    #[error("send {field} in hex: two digits 0-9, a-f for each byte")]
    NotHex { field: &'static str, source: hex::FromHexError },
    #[error("send at most {most} bytes of {field}; these are {found}")]
    FieldLength { field: &'static str, found: usize, most: usize },
    #[error("send a body of at most {most} bytes")]
    BodyTooLarge { most: usize },
    #[error("the request's body ended early")]
    BodyUnreadable,
    #[error("the request took too long")]
    TooSlow,
    #[error("send exactly one Host field")]
    Host,
    #[error("nothing here; GET / lists what there is")]
    NoSuchPath,
    #[error("this path does not answer that method")]
    NoSuchMethod,
    #[error("this enclave was started without a manifest")]
    NoManifest,
    #[error(transparent)]
    KmsKey(#[from] ::kms::GenerateError),
    #[error(transparent)]
    KmsAnswer(#[from] ::kms::OpenError),
    #[error(transparent)]
    Seal(#[from] ::kms::SealError),
    #[error("this image has no control channel")]
    NoControl,
    #[error("this image keeps no ledger")]
    NoLedger,
    #[error("send {name} as a text")]
    Text { name: &'static str },
    #[error("no key could be made")]
    NoKey,
    #[error("PCR18 is locked, and changes no more")]
    RegisterLocked,
    #[error("the ledger has no such file now")]
    NoSuchFile,
    #[error(
        "the ledger has no SHA3-512 of this; the manifest's monitor.digests says which digests there are"
    )]
    NoDigest,
    #[error("the answer would be longer than a bundle may be; ask for less at once")]
    BundleTooLong,
    #[error("the server does as much as it may; come again in {} s", again_in.as_secs().saturating_add(1))]
    TooMuch { again_in: Duration },
    #[error("as many listen to events as may; try again later")]
    TooManyListeners,
    #[error("the enclave cannot say whether somebody entered")]
    ControlHead(#[from] ControlHeadError),
    #[error("the enclave cannot read what its control channel wrote")]
    Transcript(#[from] TranscriptError),
    #[error("the ledger does not answer, and may be starting again; try again")]
    LedgerUnavailable(#[source] LedgerError),
    #[error("the ledger answered nonsense")]
    LedgerFailed(#[source] LedgerError),
    #[error("the security module's document cannot be read")]
    Document(#[source] attestation::DecodeError),
    #[error("the security module's document has no payload")]
    DocumentPayload,
    /// What the ledger refused, in its words.
    #[error("{message}")]
    LedgerRefused { status: StatusCode, message: String },
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
    /// The status of the answer.
    pub(crate) fn status(&self) -> StatusCode {
        self.kind().0
    }

    fn kind(&self) -> (StatusCode, &'static str) {
        self.kind_of_refusal().unwrap_or_else(|| self.kind_of_failure())
    }

    /// Where another request would have been answered.
    fn kind_of_refusal(&self) -> Option<(StatusCode, &'static str)> {
        Some(match self {
            Self::NonceMissing => (StatusCode::BAD_REQUEST, "nonce_missing"),
            Self::NonceRepeated(_) => (StatusCode::BAD_REQUEST, "nonce_repeated"),
            Self::NonceNotHex(_) => (StatusCode::BAD_REQUEST, "nonce_not_hex"),
            Self::NonceLength { .. } => (StatusCode::BAD_REQUEST, "nonce_length"),
            Self::UnknownParameter { .. } => (StatusCode::BAD_REQUEST, "parameter_unknown"),
            Self::ParameterMissing { .. } => (StatusCode::BAD_REQUEST, "parameter_missing"),
            Self::ParameterRepeated { .. } => (StatusCode::BAD_REQUEST, "parameter_repeated"),
            Self::Number { .. } | Self::Choice { .. } | Self::Text { .. } => {
                (StatusCode::BAD_REQUEST, "parameter_malformed")
            }
            Self::Query => (StatusCode::BAD_REQUEST, "query_malformed"),
            Self::Path => (StatusCode::BAD_REQUEST, "path_malformed"),
            Self::StreamName => (StatusCode::BAD_REQUEST, "stream_malformed"),
            Self::TooManyProofs { .. } => (StatusCode::BAD_REQUEST, "too_many_proofs"),
            Self::Since { .. } => (StatusCode::BAD_REQUEST, "since_ahead"),
            Self::Json { .. } => (StatusCode::BAD_REQUEST, "json_malformed"),
            Self::NotBase64 { .. } => (StatusCode::BAD_REQUEST, "field_not_base64"),
            Self::NotHex { .. } => (StatusCode::BAD_REQUEST, "field_not_hex"),
            Self::FieldLength { .. } => (StatusCode::BAD_REQUEST, "field_length"),
            Self::BodyUnreadable => (StatusCode::BAD_REQUEST, "body_unreadable"),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::BundleTooLong => (StatusCode::BAD_REQUEST, "bundle_too_long"),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "request_too_slow"),
            Self::Host => (StatusCode::BAD_REQUEST, "host_malformed"),
            Self::NoSuchPath => (StatusCode::NOT_FOUND, "no_such_path"),
            Self::NoSuchMethod => (StatusCode::METHOD_NOT_ALLOWED, "no_such_method"),
            Self::NoManifest => (StatusCode::NOT_FOUND, "no_manifest"),
            Self::KmsKey(_) => (StatusCode::INTERNAL_SERVER_ERROR, "kms_key_failed"),
            Self::KmsAnswer(_) => (StatusCode::BAD_REQUEST, "kms_answer_refused"),
            Self::Seal(::kms::SealError::Random) => (StatusCode::INTERNAL_SERVER_ERROR, "seal_failed"),
            Self::Seal(_) => (StatusCode::BAD_REQUEST, "seal_refused"),
            Self::NoControl => (StatusCode::NOT_FOUND, "no_control"),
            Self::NoSuchFile => (StatusCode::NOT_FOUND, "no_such_file"),
            Self::NoDigest => (StatusCode::NOT_FOUND, "no_digest"),
            Self::RegisterLocked => (StatusCode::CONFLICT, "pcr_locked"),
            Self::NoLedger => (StatusCode::NOT_FOUND, "no_ledger"),
            Self::LedgerRefused { status, .. } => (*status, "ledger_refused"),
            Self::TooMuch { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests"),
            _ => return None,
        })
    }

    /// Where the server could not do what it should.
    fn kind_of_failure(&self) -> (StatusCode, &'static str) {
        match self {
            Self::ControlHead(_) => (StatusCode::INTERNAL_SERVER_ERROR, "control_head_failed"),
            Self::Transcript(_) => (StatusCode::INTERNAL_SERVER_ERROR, "transcript_failed"),
            Self::LedgerUnavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "ledger_unavailable"),
            Self::LedgerFailed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "ledger_failed"),
            Self::TooManyListeners => (StatusCode::SERVICE_UNAVAILABLE, "too_many_listeners"),
            Self::NsmBusy(_) => (StatusCode::SERVICE_UNAVAILABLE, "nsm_busy"),
            Self::Shared(error) => error.kind(),
            Self::NoKey => (StatusCode::INTERNAL_SERVER_ERROR, "key_failed"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "nsm_failed"),
        }
    }

    /// Seconds to wait where the same request may be answered later.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooMuch { again_in } => Some(again_in.as_secs().saturating_add(1)),
            other if other.kind().0 == StatusCode::SERVICE_UNAVAILABLE => Some(RETRY_AFTER_SECONDS),
            _ => None,
        }
    }

    /// Tells the log, once for each failure.
    pub(crate) fn log(&self) {
        match self {
            Self::Shared(_) => {}
            Self::ControlHead(_)
            | Self::Transcript(_)
            | Self::LedgerFailed(_)
            | Self::NsmFailed(_)
            | Self::Document(_) => {
                tracing::error!(error = self as &dyn std::error::Error, "request failed")
            }
            Self::NsmBusy(_) | Self::LedgerUnavailable(_) => {
                tracing::warn!(error = self as &dyn std::error::Error, "request refused")
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
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
