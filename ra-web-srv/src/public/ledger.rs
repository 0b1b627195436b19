//! What the ledger shows the world: `docs/spec/ledger-api.md`, less what is for the enclave alone.
//!
//! Parameters are read strictly and written again, so that the ledger is asked nothing but what is meant here. Answers that
//! name the size that they are for never change, and are kept.

use ::ledger::StreamName;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::{PublicState, Shared};
use crate::error::ApiError;
use crate::ledger::LedgerAnswer;
use crate::query::{Parameters, encode};

/// What asking the ledger for little costs, and for a proof that it has to compute.
const LITTLE_COST: u32 = 5;
const PROOF_COST: u32 = 20;
const HISTORY_COST: u32 = 100;

/// Most entries of one answer.
const MAX_ENTRIES: u64 = 1000;

pub(super) async fn checkpoint(State(state): Shared) -> Result<Response, ApiError> {
    now(&state, "/v1/checkpoint").await
}

pub(super) async fn checkpoint_note(State(state): Shared) -> Result<Response, ApiError> {
    now(&state, "/v1/checkpoint.note").await
}

pub(super) async fn baseline(State(state): Shared) -> Result<Response, ApiError> {
    fixed(&state, BASELINE, LITTLE_COST).await
}

/// The ledger's baseline, which is fixed once it is there.
pub(super) const BASELINE: &str = "/v1/baseline";

/// A tile of the log (C2SP `tlog-tiles`): full ones never change, and partial ones name their width.
pub(super) async fn tile(State(state): Shared, Path(tile): Path<String>) -> Result<Response, ApiError> {
    let plain = tile.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"./".contains(&byte));
    if !plain || tile.contains("..") || tile.contains("//") {
        return Err(ApiError::NoSuchPath);
    }
    fixed(&state, &format!("/v1/tile/{tile}"), LITTLE_COST).await
}

pub(super) async fn consistency(
    State(state): Shared,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref(), &["from", "to"])?;
    let size = |name| parameters.number(name, 0..=u64::MAX)?.ok_or(ApiError::ParameterMissing { name });
    fixed(&state, &consistency_target(size("from")?, size("to")?), LITTLE_COST).await
}

/// Where the ledger answers that one size begins with another.
pub(super) fn consistency_target(from: u64, to: u64) -> String {
    format!("/v1/consistency?from={from}&to={to}")
}

pub(super) async fn entries(State(state): Shared, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref(), &["from", "limit"])?;
    now(&state, &format!("/v1/entries?{}", range(&parameters)?)).await
}

pub(super) async fn file_record(
    State(state): Shared,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    about_file(&state, "record", query, LITTLE_COST).await
}

pub(super) async fn file_proof(
    State(state): Shared,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    about_file(&state, "proof", query, PROOF_COST).await
}

pub(super) async fn file_history(
    State(state): Shared,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    about_file(&state, "history", query, HISTORY_COST).await
}

async fn about_file(
    state: &PublicState,
    what: &str,
    query: Option<String>,
    cost: u32,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref(), &["path", "at"])?;
    let path = parameters.path("path")?;
    match parameters.number("at", 0..=u64::MAX)? {
        Some(at) => fixed(state, &file_target(what, path, at), cost).await,
        None => {
            state.budget.spend(cost)?;
            Ok(answer(
                state.ledger()?.get(&format!("/v1/file/{what}?path={}", encode(path))).await?,
                "no-store",
            ))
        }
    }
}

/// Where the ledger says something of a file for one size: `what` is `record`, `proof` or `history`.
pub(crate) fn file_target(what: &str, path: &[u8], at: u64) -> String {
    format!("/v1/file/{what}?path={}&at={at}", encode(path))
}

/// `GET /v1/ledger/stream/NAME` and `GET /v1/ledger/stream/NAME/proof`, where names have slashes.
pub(super) async fn stream(
    State(state): Shared,
    Path(rest): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let of_proof = rest.strip_suffix("/proof").filter(|name| is_stream(name));
    if let Some(name) = of_proof {
        let parameters = Parameters::parse(query.as_deref(), &["at"])?;
        return match parameters.number("at", 0..=u64::MAX)? {
            Some(at) => fixed(&state, &stream_target(name, at), HISTORY_COST).await,
            None => {
                state.budget.spend(HISTORY_COST)?;
                Ok(answer(state.ledger()?.get(&format!("/v1/stream/{name}/proof")).await?, "no-store"))
            }
        };
    }
    if !is_stream(&rest) {
        return Err(ApiError::NoSuchPath);
    }
    let parameters = Parameters::parse(query.as_deref(), &["from", "limit"])?;
    now(&state, &format!("/v1/stream/{rest}?{}", range(&parameters)?)).await
}

/// Where the ledger proves a whole stream for one size.
pub(super) fn stream_target(name: &str, at: u64) -> String {
    format!("/v1/stream/{name}/proof?at={at}")
}

/// Whether `name` is that of a stream that is shown: `egress`, `control`, the ledger's own, or an application's.
pub(crate) fn is_stream(name: &str) -> bool {
    match name.strip_prefix("app/") {
        Some(name) => is_application_stream(name),
        None => matches!(name, "egress" | "control" | StreamName::LEDGER),
    }
}

/// Whether `name` is what an application's stream may be called, behind `app/`: 1 to 63 of `a-z 0-9 . _ -`.
pub(crate) fn is_application_stream(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=63).contains(&name.len()) && name.bytes().all(allowed) && !matches!(name, "." | "..")
}

/// Events as the ledger sends them, until this connection's time is over.
pub(super) async fn events(State(state): Shared, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref(), &["from"])?;
    let target = match parameters.number("from", 0..=u64::MAX)? {
        Some(from) => format!("/v1/events?from={from}"),
        None => "/v1/events".to_owned(),
    };
    let events: Body = state.ledger()?.events(&target).await?;
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, events).into_response())
}

/// Where to begin and how many at most, for the ledger.
pub(crate) fn range(parameters: &Parameters) -> Result<String, ApiError> {
    let from = parameters.number("from", 0..=u64::MAX)?.unwrap_or(0);
    let limit = parameters.number("limit", 1..=MAX_ENTRIES)?;
    Ok(limit.map_or_else(|| format!("from={from}"), |limit| format!("from={from}&limit={limit}")))
}

/// What the ledger says now, which the next caller may find changed.
async fn now(state: &PublicState, target: &str) -> Result<Response, ApiError> {
    let ledger = state.ledger()?;
    state.budget.spend(LITTLE_COST)?;
    Ok(answer(ledger.get(target).await?, "no-store"))
}

/// What the ledger says for good; what is kept already costs nothing.
async fn fixed(state: &PublicState, target: &str, cost: u32) -> Result<Response, ApiError> {
    let ledger = state.ledger()?;
    let said = match ledger.kept(target) {
        Some(kept) => kept,
        None => {
            state.budget.spend(cost)?;
            ledger.get_fixed(target).await?
        }
    };
    Ok(answer(said, "public, max-age=31536000, immutable"))
}

fn answer(LedgerAnswer { content_type, body }: LedgerAnswer, caching: &'static str) -> Response {
    let caching = [(header::CACHE_CONTROL, caching)];
    (caching, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_have_the_names_that_the_ledger_gives() {
        for name in ["egress", "control", "ledger", "app/a", "app/proof", &format!("app/{}", "x".repeat(63))]
        {
            assert!(is_stream(name), "{name}");
        }
        let long = format!("app/{}", "x".repeat(64));
        for name in ["", "app", "app/", "app/..", "app/.", "app/A", "app/a/b", "app/a%2fb", "egress/", &long]
        {
            assert!(!is_stream(name), "{name}");
        }
    }
}
