//! The asking end of the ledger's socket: `docs/spec/ledger-api.md`.
//!
//! The ledger lives in another process, which is started again when it ends. Whoever asks meanwhile is told so, and nobody
//! waits for long. What it answers is bounded here, and passed on as it is: its proofs are for verifiers to judge.

mod cache;
mod client;

use std::path::PathBuf;
use std::sync::Arc;

use attestation::{Sha256, binding};
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::error::ApiError;
use cache::Cache;

/// Most requests that the ledger is asked at once; further ones wait.
const MAX_AT_ONCE: usize = 32;

/// Most who listen to events at once.
const MAX_LISTENERS: usize = 32;

/// Longest answer of the ledger that is passed on: the longest proof that a bundle takes.
pub(crate) const MAX_ANSWER_BYTES: usize = 4 << 20;

/// The ledger of this enclave.
#[derive(Debug)]
pub(crate) struct Ledger {
    socket: PathBuf,
    turns: Semaphore,
    listeners: Arc<Semaphore>,
    cache: Cache,
}

/// What the ledger answered.
#[derive(Debug, Clone)]
pub(crate) struct LedgerAnswer {
    /// Its media type.
    pub(crate) content_type: HeaderValue,
    /// Its body.
    pub(crate) body: Bytes,
}

/// Why the ledger did not answer what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LedgerError {
    #[error("cannot connect to {}", path.display())]
    Connect { path: PathBuf, source: std::io::Error },
    #[error("no answer within {} s", .0.as_secs())]
    Slow(std::time::Duration),
    #[error("the connection failed")]
    Http(#[source] hyper::Error),
    #[error("its answer is cut, or longer than {MAX_ANSWER_BYTES} bytes")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("it answered {status}")]
    Status { status: StatusCode },
    #[error("its answer is not what it should be")]
    Json(#[source] serde_json::Error),
    #[error("its baseline is none")]
    Baseline(#[source] ::ledger::DecodeError),
    #[error("its proof is none")]
    Proof(#[source] ::ledger::DecodeError),
    #[error("its VRF key is none")]
    Vrf(#[source] vrf::Error),
    #[error("its proof is not of its own checkpoint")]
    Verify(#[source] ::ledger::VerifyError),
}

/// The state of the ledger, as it states it.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Checkpoint {
    size: u64,
    log_root: Sha256,
    map_root: Sha256,
    vrf_key: Sha256,
}

/// Its errors.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Ledger {
    /// The ledger behind `socket`, which need not be there yet.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            turns: Semaphore::new(MAX_AT_ONCE),
            listeners: Arc::new(Semaphore::new(MAX_LISTENERS)),
            cache: Cache::default(),
        }
    }

    /// What it answers to `GET target`.
    pub(crate) async fn get(&self, target: &str) -> Result<LedgerAnswer, ApiError> {
        self.ask(Method::GET, target, Bytes::new()).await
    }

    /// As [`Ledger::get`], for a `target` whose answer never changes: it names the size of the log that it is about.
    pub(crate) async fn get_fixed(&self, target: &str) -> Result<LedgerAnswer, ApiError> {
        if let Some(answer) = self.cache.get(target) {
            return Ok(answer);
        }
        let answer = self.get(target).await?;
        self.cache.put(target, &answer);
        Ok(answer)
    }

    /// What [`Ledger::get_fixed`] would answer without asking.
    pub(crate) fn kept(&self, target: &str) -> Option<LedgerAnswer> {
        self.cache.get(target)
    }

    /// What it answers to `POST target` with `body`.
    pub(crate) async fn post(&self, target: &str, body: Bytes) -> Result<LedgerAnswer, ApiError> {
        self.ask(Method::POST, target, body).await
    }

    /// The ledger as it is now, for a binding statement.
    pub(crate) async fn checkpoint(&self) -> Result<binding::Ledger, ApiError> {
        let answer = self.get("/v1/checkpoint").await?;
        let Checkpoint { size, log_root, map_root, vrf_key } = serde_json::from_slice(&answer.body)
            .map_err(|source| ApiError::LedgerFailed(LedgerError::Json(source)))?;
        Ok(binding::Ledger { vrf_key: vrf_key.0, size, log_root, map_root })
    }

    /// The events, without end.
    pub(crate) async fn events(&self, target: &str) -> Result<Body, ApiError> {
        let listener =
            Arc::clone(&self.listeners).try_acquire_owned().map_err(|_| ApiError::TooManyListeners)?;
        let response = client::ask(&self.socket, Method::GET, target, Bytes::new()).await?;
        if response.status() != StatusCode::OK {
            return Err(refused(response.status(), &Bytes::new()));
        }
        // Held for as long as the events are read.
        let events = response.into_body().map_frame(move |frame| {
            let _ = &listener;
            frame
        });
        Ok(Body::new(events))
    }

    async fn ask(&self, method: Method, target: &str, body: Bytes) -> Result<LedgerAnswer, ApiError> {
        let _turn = self.turns.acquire().await.expect("the semaphore is never closed");
        let response = client::ask(&self.socket, method, target, body).await?;
        let status = response.status();
        let octets = HeaderValue::from_static("application/octet-stream");
        let content_type = response.headers().get("content-type").cloned().unwrap_or(octets);
        let body = client::read(response.into_body()).await?;
        match status {
            StatusCode::OK => Ok(LedgerAnswer { content_type, body }),
            other => Err(refused(other, &body)),
        }
    }
}

/// A refusal of the ledger as one of this server's.
fn refused(status: StatusCode, body: &[u8]) -> ApiError {
    let said = serde_json::from_slice(body).map(|Refusal { error }| error).ok();
    match status {
        StatusCode::BAD_REQUEST
        | StatusCode::NOT_FOUND
        | StatusCode::CONFLICT
        | StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::LedgerRefused { status, message: said.unwrap_or_else(|| status.to_string()) }
        }
        _ => ApiError::LedgerUnavailable(LedgerError::Status { status }),
    }
}
