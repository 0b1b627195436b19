//! Who the agent is, and the proof of it.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{Agent, Failure};
use crate::evidence::{EnclaveError, Question};

/// The application data of the document about the agent's key.
pub const KEY_STATEMENT: &str = "tee_agent key v1";
/// Bytes of a nonce: enough not to be guessed, and what a document holds of it.
const NONCE_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

pub(super) async fn greet(State(agent): State<Arc<Agent>>) -> Json<String> {
    Json(format!("This is {}, a TEE agent.", agent.config.tee_name))
}

#[derive(Deserialize)]
pub(super) struct Challenge {
    pub(super) nonce: Option<String>,
}

/// Members up to `code_attestation` are those of the first deployments: `tee_public_key` is an address.
#[derive(Serialize)]
struct About<'a> {
    tee_name: &'a str,
    tee_public_key: String,
    operator_pubkey: Option<String>,
    code_attestation: Option<String>,
    public_key: String,
    operator_address: String,
    operator_number: u64,
    operator_signatures: &'static [&'static str],
}

pub(super) async fn config(
    State(agent): State<Arc<Agent>>,
    query: Result<Query<Challenge>, QueryRejection>,
) -> Response {
    let Ok(Query(Challenge { nonce })) = query else {
        return Failure::new(StatusCode::BAD_REQUEST, "ask with ?nonce=HEX").into_response();
    };
    let attestation = match nonce {
        None => None,
        Some(nonce) => match attest(&agent, nonce, KEY_STATEMENT, agent.key.public_key().to_vec()).await {
            // A line, as the first deployments have it.
            Ok(document) => Some(document + "\n"),
            Err(failure) => return failure.into_response(),
        },
    };
    let variables = agent.variables();
    let signatures: &[&str] =
        if variables.takes_legacy() { &["v2", "legacy (weak: can be replayed, ambiguous)"] } else { &["v2"] };
    Json(About {
        tee_name: &agent.config.tee_name,
        tee_public_key: agent.key.address().to_string(),
        operator_pubkey: agent.config.operator.public_key_hex(),
        code_attestation: attestation,
        public_key: format!("0x{}", hex::encode(agent.key.public_key())),
        operator_address: agent.config.operator.address().checksummed(),
        operator_number: variables.last_number(),
        operator_signatures: signatures,
    })
    .into_response()
}

/// A document for the caller's nonce, with these data and this key.
pub(super) async fn attest(
    agent: &Agent,
    nonce: String,
    data: &str,
    public_key: Vec<u8>,
) -> Result<String, Failure> {
    if !hex::decode(&nonce).is_ok_and(|nonce| NONCE_BYTES.contains(&nonce.len())) {
        let message = format!("a nonce is {} to {} bytes in hex", NONCE_BYTES.start(), NONCE_BYTES.end());
        return Err(Failure::new(StatusCode::BAD_REQUEST, message));
    }
    let question = Question { nonce, data: data.into(), public_key };
    agent.evidence.attest(question).await.map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "no document");
        let status = match &error {
            EnclaveError::Refused { status, .. } if status.as_u16() == 503 => *status,
            _ => StatusCode::BAD_GATEWAY,
        };
        Failure::new(status, error)
    })
}
