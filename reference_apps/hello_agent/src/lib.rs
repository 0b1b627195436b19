//! A small HTTP service that asks its enclave for an attestation.
//!
//! An example to copy from. The service knows nothing of enclaves but one Unix socket, behind [`Enclave`]; everything
//! else is what any web service has. It decides nothing about trust: whoever receives the document does.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use enclave_api::{Enclave, EnclaveError, Question};
use serde::Deserialize;
use serde_json::json;

/// What the agent says, and what it has bound into its documents. Data of more than 256 bytes would be bound by its
/// digest.
pub const GREETING: &str = "Hello from inside an enclave.";

/// The running agent.
#[derive(Debug)]
pub struct Agent {
    /// How it introduces itself.
    pub name: String,
    /// When it started.
    pub started: Instant,
    /// Whom it asks for documents.
    pub enclave: Enclave,
}

/// The agent's paths: `/`, `/attestation?nonce=HEX` and `/healthz`.
pub fn router(agent: Agent) -> Router {
    Router::new()
        .route("/", get(greet))
        .route("/attestation", get(attestation))
        .route("/healthz", get(async || "ok\n"))
        .with_state(Arc::new(agent))
}

async fn greet(State(agent): State<Arc<Agent>>) -> Response {
    tracing::info!("greeted a visitor");
    let uptime = agent.started.elapsed().as_secs();
    Json(json!({"greeting": GREETING, "name": agent.name, "uptime_seconds": uptime})).into_response()
}

/// The visitor's nonce, in hex. Without it a document proves nothing about now, so it is not optional here.
#[derive(Deserialize)]
struct Attestation {
    nonce: String,
}

async fn attestation(
    State(agent): State<Arc<Agent>>,
    query: Result<Query<Attestation>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let nonce = match query {
        Ok(Query(Attestation { nonce })) if !nonce.is_empty() => nonce,
        _ => {
            return failure(
                StatusCode::BAD_REQUEST,
                "send /attestation?nonce=HEX with up to 64 random bytes",
            );
        }
    };
    let question = Question { nonce, data: GREETING.into(), ..Question::default() };
    match agent.enclave.attest(&question).await {
        Ok(document) => {
            tracing::info!("asked the enclave for a document");
            Json(json!({"document": document, "greeting": GREETING})).into_response()
        }
        Err(EnclaveError::Refused { status, message, .. }) if status.is_client_error() => {
            failure(status, &message)
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "no document");
            failure(StatusCode::BAD_GATEWAY, &error.to_string())
        }
    }
}

fn failure(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": {"message": message}}))).into_response()
}
