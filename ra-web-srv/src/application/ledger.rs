//! The application's streams in the ledger: what it appends is there for good, in order, and provable. And the ledger's state.

use axum::extract::{Path, RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::{Body, Shared, read_body};
use crate::error::ApiError;
use crate::ledger::{Ledger, LedgerAnswer};
use crate::public::{is_application_stream, range};
use crate::query::Parameters;

/// Longest payload of an entry.
pub(super) const MAX_PAYLOAD_BYTES: usize = ::ledger::MAX_PAYLOAD_BYTES;

/// Appends the body to the stream `app/NAME`, and answers once it is durable.
pub(super) async fn append(
    State(state): Shared,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let stream = stream(&name)?;
    let payload = read_body(body, MAX_PAYLOAD_BYTES)?;
    Ok(passed_on(ledger(&state)?.post(&stream, payload).await?))
}

/// Entries of the stream `app/NAME`.
pub(super) async fn read(
    State(state): Shared,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref(), &["from", "limit"])?;
    let target = format!("{}?{}", stream(&name)?, range(&parameters)?);
    Ok(passed_on(ledger(&state)?.get(&target).await?))
}

/// A proof of all that the stream `app/NAME` holds, for the checkpoint of a document that the application was given.
pub(super) async fn prove(
    State(state): Shared,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref(), &["at"])?;
    let at = parameters.number("at", 0..=u64::MAX)?.ok_or(ApiError::ParameterMissing { name: "at" })?;
    let target = format!("{}/proof?at={at}", stream(&name)?);
    Ok(passed_on(ledger(&state)?.get_fixed(&target).await?))
}

pub(super) async fn checkpoint(State(state): Shared) -> Result<Response, ApiError> {
    Ok(passed_on(ledger(&state)?.get("/v1/checkpoint").await?))
}

/// What the monitor does, whether programs are held, and how far the sink is. For the enclave alone.
pub(super) async fn status(State(state): Shared) -> Result<Response, ApiError> {
    Ok(passed_on(ledger(&state)?.get("/v1/status").await?))
}

fn ledger(state: &super::AppState) -> Result<&Ledger, ApiError> {
    state.ledger.as_deref().ok_or(ApiError::NoLedger)
}

fn stream(name: &str) -> Result<String, ApiError> {
    is_application_stream(name).then(|| format!("/v1/stream/app/{name}")).ok_or(ApiError::StreamName)
}

fn passed_on(LedgerAnswer { content_type, body }: LedgerAnswer) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}
