//! Documents about what the application says, and what the module says of itself.

use std::collections::BTreeMap;

use attestation::binding::{ApplicationData, MAX_APPLICATION_DATA_BYTES};
use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nsm::AttestationRequest;
use nsm::wire::MAX_PUBLIC_KEY_BYTES;
use serde::{Deserialize, Serialize};

use super::{Body, Shared, decode_field, read_json};
use crate::error::ApiError;
use crate::module_description::{Pcr, describe, describe_pcrs};
use crate::public::decode_nonce;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    nonce: Option<String>,
    data: Option<String>,
    public_key: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Answer {
    document: String,
}

pub(super) async fn attest(State(state): Shared, body: Body) -> Result<Json<Answer>, ApiError> {
    let Question { nonce, data, public_key } = read_json(body, "nonce, data, public_key")?;
    let nonce = decode_nonce(nonce.unwrap_or_default().as_bytes(), 0)?;
    let data = decode_field("data", data, MAX_APPLICATION_DATA_BYTES)?;
    let public_key = decode_field("public_key", public_key, MAX_PUBLIC_KEY_BYTES)?;
    let data = ApplicationData::new(data).expect("decode_field has checked its length");
    let request = AttestationRequest {
        user_data: Some(state.statement(data).await?.encode()),
        nonce: Some(nonce).filter(|nonce| !nonce.is_empty()),
        public_key: Some(public_key).filter(|key| !key.is_empty()),
    };
    let document = state.nsm.ask(move |nsm| nsm.attest(&request)).await?;
    Ok(Json(Answer { document: STANDARD.encode(document) }))
}

#[derive(Serialize)]
pub(super) struct Described {
    module_id: String,
    version: String,
    digest: &'static str,
    pcrs: BTreeMap<u16, Pcr>,
}

pub(super) async fn description(State(state): Shared) -> Result<Json<Described>, ApiError> {
    let both = state.nsm.ask(|nsm| Ok((describe(nsm)?, describe_pcrs(nsm)?)));
    let (module, pcrs) = both.await?;
    Ok(Json(Described { module_id: module.module_id, version: module.version, digest: module.digest, pcrs }))
}
