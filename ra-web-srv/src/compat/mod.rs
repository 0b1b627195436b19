//! Commands of an earlier framework, as its guides print them: `docs/spec/compat-api.md`.
//!
//! For whoever comes from there with scripts. Every answer comes from what the attestation API is made of, has a status and a
//! media type that are true, and says, where it judges, that the judgement belongs on the caller's side.

mod file;
mod module;
mod verify;
mod view;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::routing::{MethodRouter, get, post};
use serde::de::DeserializeOwned;

use crate::application::read_body;
use crate::error::ApiError;
use crate::limits::MAX_BODY_BYTES;
use crate::public::PublicState;

/// What every answer says that judges evidence.
const YOUR_SIDE: &str = "This was judged inside the enclave, by whom it is about: it proves nothing to you. \
                         Verify on your own machine, with glasshouse verify.";

/// The commands, each with and without a slash at its end.
pub(crate) fn routes() -> Vec<(&'static str, MethodRouter<Arc<PublicState>>)> {
    let both = |with: &'static str, method: MethodRouter<Arc<PublicState>>| {
        [(with, method.clone()), (with.trim_end_matches('/'), method)]
    };
    [
        both("/generate/", post(file::generate)),
        both("/ready/", get(file::ready)),
        both("/hash/", get(file::hash)),
        both("/proof/", get(file::proof)),
        both("/doc/", get(file::doc)),
        both("/pcrs/", get(module::pcrs)),
        both("/nsm_desc/", get(module::description)),
        both("/rng_seq/", get(module::random)),
        both("/pubkeys/", get(module::public_keys)),
        both("/verify_pcrs/", post(verify::pcrs)),
        both("/verify_hash/", post(verify::hash)),
        both("/verify_proof/", post(verify::proof)),
        both("/verify_doc/", post(verify::document)),
        both("/verify_cert_valid/", post(verify::certificate)),
        both("/verify_cert_bundle/", post(verify::chain)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The longest body: a document in hex, or a proof of the ledger.
pub(crate) const MAX_COMPAT_BODY_BYTES: usize = 256 * 1024;

/// A request's body as JSON with `members`.
fn body<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
    members: &'static str,
) -> Result<T, ApiError> {
    let body = read_body(body, MAX_COMPAT_BODY_BYTES)?;
    serde_json::from_slice(&body).map_err(|source| ApiError::Json { members, source })
}

const _: () = assert!(MAX_COMPAT_BODY_BYTES > MAX_BODY_BYTES);

/// A member in hex.
fn unhex(field: &'static str, digits: &str) -> Result<Vec<u8>, ApiError> {
    hex::decode(digits).map_err(|source| ApiError::NotHex { field, source })
}
