//! What the security module says of itself, and its random bytes. None of it is signed, so none of it is evidence.

use std::collections::BTreeMap;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::service::{NO_EVIDENCE, uncached};
use super::{Shared, accepts};
use crate::error::ApiError;
use crate::module_description::{Description, Pcr, describe, describe_pcrs};
use crate::query::Parameters;

/// Most random bytes in one answer, and how many there are if nobody says.
pub(crate) const MAX_RANDOM_BYTES: u64 = 1024;
const DEFAULT_RANDOM_BYTES: u64 = 32;

/// What one call of the NSM costs that signs nothing.
pub(crate) const NSM_CALL_COST: u32 = 10;

/// Bytes that the NSM gives a call.
pub(crate) const RANDOM_BYTES_PER_CALL: u64 = 256;

#[derive(Serialize)]
struct Described {
    note: &'static str,
    #[serde(flatten)]
    description: Description,
}

pub(super) async fn description(State(state): Shared) -> Result<Response, ApiError> {
    state.budget.spend(NSM_CALL_COST)?;
    let description = state.nsm.ask(describe).await?;
    Ok(uncached(Described { note: NO_EVIDENCE, description }))
}

#[derive(Serialize)]
struct Pcrs {
    note: &'static str,
    pcrs: BTreeMap<u16, Pcr>,
}

pub(super) async fn pcrs(State(state): Shared) -> Result<Response, ApiError> {
    state.budget.spend(32 * NSM_CALL_COST)?;
    let pcrs = state.nsm.ask(describe_pcrs).await?;
    Ok(uncached(Pcrs { note: NO_EVIDENCE, pcrs }))
}

#[derive(Serialize)]
struct Random {
    note: &'static str,
    random: String,
}

pub(super) async fn random(
    State(state): Shared,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref(), &["len"])?;
    let len = parameters.number("len", 1..=MAX_RANDOM_BYTES)?.unwrap_or(DEFAULT_RANDOM_BYTES);
    let calls = u32::try_from(len.div_ceil(RANDOM_BYTES_PER_CALL)).expect("at most MAX_RANDOM_BYTES");
    state.budget.spend(calls * NSM_CALL_COST)?;
    let len = usize::try_from(len).expect("at most MAX_RANDOM_BYTES");
    let random = state.nsm.ask(move |nsm| nsm.random(len)).await?;
    if accepts(&headers, "application/json") {
        return Ok(uncached(Random { note: NO_EVIDENCE, random: hex::encode(random) }));
    }
    let caching = [(header::CACHE_CONTROL, "no-store"), (header::VARY, "accept")];
    Ok((caching, [(header::CONTENT_TYPE, "application/octet-stream")], random).into_response())
}
