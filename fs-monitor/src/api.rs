//! The ledger and the monitor for those beside them: `docs/spec/ledger-api.md`, HTTP/1.1 on a Unix socket.
//!
//! Whoever reaches the socket is trusted with names of files; what is shown to the world is for the attestation server to choose.

pub(crate) mod answers;
mod error;
mod events;
mod files;
pub(crate) mod query;
mod streams;

use std::sync::{Arc, OnceLock};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, RawQuery, State},
    http::header,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ledger::{MAX_PAYLOAD_BYTES, store::Ledger};
use serde_json::{Value, json};
use transport::{Listener, Peer, Stream};

use self::{
    error::ApiError,
    query::{MAX_AT_ONCE, Parameters},
};
use crate::{
    monitor::{Handle, Phase},
    nats::Sent,
};

/// What the service knows.
#[derive(Debug)]
pub struct Service {
    ledger: Arc<Ledger>,
    monitor: OnceLock<Handle>,
    baseline: OnceLock<Vec<u8>>,
    enforce: OnceLock<String>,
    nats: OnceLock<Arc<Sent>>,
    roots: Vec<String>,
    grown: tokio::sync::watch::Sender<u64>,
}

type Shared = State<Arc<Service>>;

impl Service {
    /// The service of a ledger, whose monitor has not begun.
    pub fn new(ledger: Arc<Ledger>, roots: Vec<String>) -> Self {
        let (grown, _) = tokio::sync::watch::channel(ledger.size());
        Self {
            ledger,
            monitor: OnceLock::new(),
            baseline: OnceLock::new(),
            enforce: OnceLock::new(),
            nats: OnceLock::new(),
            roots,
            grown,
        }
    }

    /// The first walk is done: from now on there is a baseline, and a monitor to ask.
    pub fn begin(&self, monitor: Handle, baseline: Vec<u8>, enforce: String) {
        // Called once, by whoever started the monitor.
        let _ = self.monitor.set(monitor);
        let _ = self.baseline.set(baseline);
        let _ = self.enforce.set(enforce);
    }

    /// Events are sent elsewhere, too.
    pub(crate) fn sends(&self, sent: Arc<Sent>) {
        // Called once, as the other.
        let _ = self.nats.set(sent);
    }

    /// Told whenever the ledger has grown.
    pub fn grown(&self) -> tokio::sync::watch::Sender<u64> {
        self.grown.clone()
    }

    /// Serves the socket without end.
    ///
    /// # Errors
    /// When it can accept no more.
    pub async fn serve(self: Arc<Self>, listener: Listener) -> std::io::Result<()> {
        axum::serve(Accept(listener), self.router()).await
    }

    /// What answers requests.
    pub fn router(self: Arc<Self>) -> Router {
        router(self)
    }

    fn status(&self) -> Value {
        let mut status = json!({
            "baseline": self.baseline.get().is_some(),
            "enforce": self.enforce.get().map_or("off", String::as_str),
            "entries": self.ledger.size(),
            "roots": self.roots,
            "state": "scanning",
        });
        if let Some(sent) = self.nats.get() {
            status["nats"] = sent.status();
        }
        let Some(monitor) = self.monitor.get() else { return status };
        answers::add_counters(&mut status, monitor);
        status["state"] = match monitor.phase() {
            Phase::Scanning => "scanning".into(),
            Phase::Watching => "watching".into(),
            Phase::Stopped => "failed".into(),
            Phase::Failed(why) => {
                status["why"] = why.into();
                "failed".into()
            }
        };
        status
    }
}

fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route("/v1/checkpoint", get(checkpoint))
        .route("/v1/checkpoint.note", get(note))
        .route("/v1/tile/{*rest}", get(tile))
        .route("/v1/baseline", get(baseline))
        .route("/v1/file/record", get(files::record))
        .route("/v1/file/proof", get(files::proof))
        .route("/v1/file/history", get(files::history))
        .route("/v1/consistency", get(consistency))
        .route("/v1/entries", get(entries))
        .route("/v1/stream/{*rest}", get(streams::read).post(streams::append))
        .route("/v1/events", get(events::entries))
        .route("/v1/changes", get(events::changes))
        .route("/v1/status", get(status))
        .route("/v1/sweep", post(sweep))
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .fallback(async || ApiError::NotFound("nothing here".to_owned()))
        .layer(DefaultBodyLimit::max(MAX_PAYLOAD_BYTES))
        .with_state(service)
}

/// Runs what reads the disk or computes where it holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ApiError::Unavailable("the request failed".to_owned()))?
}

fn cbor(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/cbor")], bytes).into_response()
}

async fn checkpoint(State(service): Shared) -> Json<Value> {
    Json(answers::checkpoint(&service.ledger))
}

async fn note(State(service): Shared) -> String {
    service.ledger.signed_checkpoint().1
}

async fn tile(State(service): Shared, Path(rest): Path<String>) -> Result<Response, ApiError> {
    let name =
        format!("tile/{rest}").parse().map_err(|_| ApiError::NotFound("not a tile's name".to_owned()))?;
    let tile = blocking(move || Ok(service.ledger.tile(&name)?)).await?;
    let tile = tile.ok_or_else(|| ApiError::NotFound("the log has no such tile yet".to_owned()))?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], tile).into_response())
}

async fn baseline(State(service): Shared) -> Result<Response, ApiError> {
    let baseline = service.baseline.get().cloned();
    baseline.map(cbor).ok_or_else(|| ApiError::NotYet("the first scan is not done".to_owned()))
}

async fn consistency(State(service): Shared, RawQuery(query): RawQuery) -> Result<Json<Value>, ApiError> {
    let parameters = Parameters::parse(query.as_deref(), &["from", "to"])?;
    let (from, to) = (parameters.required_number("from")?, parameters.required_number("to")?);
    let hashes = blocking(move || Ok(service.ledger.prove_consistency(from, to)?)).await?;
    let hashes: Vec<String> = hashes.iter().map(ToString::to_string).collect();
    Ok(Json(json!({"from": from, "hashes": hashes, "to": to})))
}

async fn entries(State(service): Shared, RawQuery(query): RawQuery) -> Result<Json<Value>, ApiError> {
    let parameters = Parameters::parse(query.as_deref(), &["from", "limit"])?;
    let (from, limit) = (parameters.number("from")?.unwrap_or(0), parameters.limit()?);
    let entries = blocking(move || Ok(service.ledger.entries(from, limit)?)).await?;
    let next = entries.last().map_or(from, |(index, _)| index.saturating_add(1));
    let entries: Vec<Value> = entries.iter().map(|(index, entry)| answers::entry(*index, entry)).collect();
    Ok(Json(json!({"entries": entries, "next": next})))
}

async fn status(State(service): Shared) -> Json<Value> {
    Json(service.status())
}

async fn sweep(State(service): Shared) -> Result<Json<Value>, ApiError> {
    blocking(move || {
        let monitor = service.monitor.get();
        let monitor = monitor.ok_or_else(|| ApiError::NotYet("the first scan is not done".to_owned()))?;
        monitor.sweep().map_err(|error| ApiError::Unavailable(error.to_string()))?;
        Ok(Json(service.status()))
    })
    .await
}

async fn health(State(service): Shared) -> Result<&'static str, ApiError> {
    match service.monitor.get().map(Handle::phase) {
        Some(Phase::Watching) => Ok("ok\n"),
        None | Some(Phase::Scanning) => Err(ApiError::Unavailable("the first scan is not done".to_owned())),
        Some(Phase::Stopped) => Err(ApiError::Unavailable("the monitor has ended".to_owned())),
        Some(Phase::Failed(why)) => Err(ApiError::Unavailable(why)),
    }
}

async fn metrics(State(service): Shared) -> Response {
    let text = answers::metrics(&service.ledger, service.monitor.get());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// Connections of the project's own listener, for axum.
struct Accept(Listener);

impl axum::serve::Listener for Accept {
    type Io = Stream;
    type Addr = Peer;

    async fn accept(&mut self) -> (Stream, Peer) {
        loop {
            match self.0.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "cannot accept");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Peer> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}
