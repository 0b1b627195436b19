//! What the enclave's ledger remembers of the agent's log, and the proof of it (`docs/spec/tee-log.md#anchors`).

use std::sync::Arc;

use attestation::{Document, binding::Statement};
use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use super::{
    Agent, Failure,
    about::{Challenge, attest},
};
use crate::anchoring::STREAM;

/// The application data of the document that states the ledger.
pub const ANCHORS_STATEMENT: &str = "tee-log anchors v1";

#[derive(Serialize)]
struct Anchors {
    attestation: String,
    /// None in an image that keeps no ledger: then the document states none.
    proof: Option<String>,
}

pub(super) async fn anchors(
    State(agent): State<Arc<Agent>>,
    query: Result<Query<Challenge>, QueryRejection>,
) -> Response {
    let Ok(Query(Challenge { nonce: Some(nonce) })) = query else {
        return Failure::new(StatusCode::BAD_REQUEST, "ask with ?nonce=HEX").into_response();
    };
    match proved(&agent, nonce).await {
        Ok(anchors) => Json(anchors).into_response(),
        Err(failure) => failure.into_response(),
    }
}

async fn proved(agent: &Agent, nonce: String) -> Result<Anchors, Failure> {
    // A proof is work for the ledger, and megabytes in the end.
    let _permit = agent.proving.try_acquire().map_err(|_| {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "others are being shown proofs: come again")
    })?;
    let key = agent.log.shared().public_key().0.to_vec();
    let attestation = attest(agent, nonce, ANCHORS_STATEMENT, key).await?;
    let proof = match ledger_size(&attestation)? {
        None => None,
        Some(size) => {
            let proof = agent.evidence.stream_proof(STREAM, size).await.map_err(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "no proof");
                Failure::new(StatusCode::BAD_GATEWAY, error)
            })?;
            Some(STANDARD.encode(proof))
        }
    };
    Ok(Anchors { attestation, proof })
}

/// How many entries the ledger has by a document of the enclave's own.
fn ledger_size(document: &str) -> Result<Option<u64>, Failure> {
    let bytes = STANDARD.decode(document).map_err(|error| unreadable(&error))?;
    let user_data = Document::decode(&bytes).map_err(|error| unreadable(&error))?.user_data;
    let statement = Statement::decode(&user_data.unwrap_or_default()).map_err(|error| unreadable(&error))?;
    Ok(statement.ledger().map(|ledger| ledger.size))
}

fn unreadable(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(StatusCode::BAD_GATEWAY, format!("the enclave's document cannot be read: {error}"))
}
