//! The application's public key, whose digest every later document states, the server's own ones too.
//!
//! So a verifier who has appraised the server knows the application's key, and needs no document of the application's.

use attestation::Sha256;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::{Body, Shared, decode_field, read_json};
use crate::error::ApiError;

/// Longest key, in a form that the application defines.
const MAX_KEY_BYTES: usize = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    public_key: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Shown {
    /// SHA-256 of the key; `None` before one is named.
    sha256: Option<Sha256>,
}

/// Takes the key that documents state from now on, in place of the one before.
pub(super) async fn name(State(state): Shared, body: Body) -> Result<Json<Shown>, ApiError> {
    let Named { public_key } = read_json(body, "public_key")?;
    let key = decode_field("public_key", public_key, MAX_KEY_BYTES)?;
    if key.is_empty() {
        return Err(ApiError::ParameterMissing { name: "public_key" });
    }
    state.key.name(Sha256::of(&key));
    Ok(show(State(state)).await)
}

pub(super) async fn show(State(state): Shared) -> Json<Shown> {
    Json(Shown { sha256: state.key.digest() })
}
