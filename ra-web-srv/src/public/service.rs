//! The server about itself: what it is, whether it is well, what it counts, and the manifest that it runs under.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use super::{Shared, accepts, auditor};
use crate::error::ApiError;
use crate::metrics::TEXT_FORMAT;

const GREETING: &str = include_str!("../greeting.txt");

/// The description of this API (OpenAPI 3.1), which a test compares with the paths that are served.
pub(super) const OPENAPI: &str = include_str!("../openapi.json");

/// What asking the NSM for its description costs.
const READINESS_COST: u32 = 10;

/// What to do here: a page that verifies for browsers, a text for everybody else.
pub(super) async fn greeting(headers: HeaderMap) -> Response {
    match accepts(&headers, "text/html") {
        true => auditor::page(),
        false => ([(header::VARY, "accept")], GREETING).into_response(),
    }
}

pub(super) async fn health() -> &'static str {
    "ok\n"
}

/// Whether a document could be had: the NSM answers, and so does the ledger where there is one.
pub(super) async fn readiness(State(state): Shared) -> Result<&'static str, ApiError> {
    state.budget.spend(READINESS_COST)?;
    if let Some(ledger) = &state.ledger {
        ledger.checkpoint().await?;
    }
    state.nsm.ask(|nsm| nsm.describe()).await?;
    Ok("ready\n")
}

pub(super) async fn metrics(State(state): Shared) -> Response {
    let text = state.metrics.text(state.attester.waiting());
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response()
}

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

pub(super) async fn manifest(State(state): Shared) -> Result<Response, ApiError> {
    let manifest = state.manifest.clone().ok_or(ApiError::NoManifest)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], manifest).into_response())
}

/// What every answer says that a verifier could take for evidence.
pub(crate) const NO_EVIDENCE: &str = "This is the enclave's own word and proves nothing to you. Verify an attestation document on your own machine.";

/// `answer` as JSON that nobody keeps.
pub(crate) fn uncached(answer: impl serde::Serialize) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}
