//! PCR18, the application's own register: extended as often as it likes, and seen by verifiers once it is locked.

use axum::Json;
use axum::extract::State;
use nsm::{ErrorCode, PcrIndex, Provider};
use serde::{Deserialize, Serialize};

use super::{Body, Shared, decode_field, read_json};
use crate::error::ApiError;
use crate::nsm_queue::NsmQueueError;

/// The register.
const PCR: u8 = 18;

/// Most bytes of one extension; longer things are hashed first.
const MAX_DATA_BYTES: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Extension {
    data: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Register {
    /// In hex.
    value: String,
    locked: bool,
}

/// The register becomes SHA-384 of its value and `data`.
pub(super) async fn extend(State(state): Shared, body: Body) -> Result<Json<Register>, ApiError> {
    let Extension { data } = read_json(body, "data")?;
    let data = decode_field("data", data, MAX_DATA_BYTES)?;
    change(&state, move |nsm, index| nsm.extend_pcr(index, &data).map(|_| ())).await
}

/// Documents carry the register from now on, and nothing changes it any more.
pub(super) async fn lock(State(state): Shared) -> Result<Json<Register>, ApiError> {
    change(&state, |nsm, index| nsm.lock_pcr(index)).await
}

async fn change<F>(state: &super::AppState, change: F) -> Result<Json<Register>, ApiError>
where
    F: FnOnce(&dyn Provider, PcrIndex) -> Result<(), nsm::Error> + Send + 'static,
{
    let index = PcrIndex::new(PCR).expect("a module has 32 registers");
    let changed = state.nsm.ask(move |nsm| {
        change(nsm, index)?;
        nsm.describe_pcr(index)
    });
    let pcr = changed.await.map_err(|error| match error {
        NsmQueueError::Nsm(nsm::Error::Module(ErrorCode::ReadOnlyIndex)) => ApiError::RegisterLocked,
        error => error.into(),
    })?;
    Ok(Json(Register { value: pcr.value.to_string(), locked: pcr.locked }))
}
