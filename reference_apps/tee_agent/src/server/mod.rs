//! The agent's paths below `/api/v1`, in both slash forms, and what they share.

mod about;
mod anchors;
mod prompt;
mod transaction;
mod variables;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{FromRequest, Request},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::json;
use tee_log::rest;
use tokio::sync::Semaphore;

pub use self::{about::KEY_STATEMENT, anchors::ANCHORS_STATEMENT};
use crate::{
    config::Config,
    eth::AgentKey,
    evidence::Evidence,
    log::{Attester, Log},
    outside::Outside,
    spending::Spent,
    variables::{Authority, Variables},
};

/// Longest body of a request.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(15);
/// Most proofs of the log's anchors under way.
const MAX_PROVING: usize = 2;

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    key: AgentKey,
    authority: Authority,
    variables: Mutex<Variables>,
    spent: Mutex<Spent>,
    /// URLs of nodes that are of the chain that they should be of.
    checked_nodes: Mutex<BTreeSet<String>>,
    /// Held from a transaction's number to its broadcast, so that no two get the same.
    signing: tokio::sync::Mutex<()>,
    evidence: Arc<dyn Evidence>,
    outside: Outside,
    log: Log,
    proving: Semaphore,
}

impl Agent {
    /// An agent with this key, held to this configuration, that writes down what it does.
    pub fn new(config: Config, key: AgentKey, evidence: Arc<dyn Evidence>, log: Log) -> Self {
        let authority = Authority {
            tee_name: config.tee_name.clone(),
            agent: key.address(),
            operator: config.operator.clone(),
        };
        Self {
            authority,
            variables: Mutex::new(Variables::new(config.variables.clone(), config.legacy_signatures)),
            spent: Mutex::default(),
            checked_nodes: Mutex::default(),
            signing: tokio::sync::Mutex::default(),
            evidence,
            log,
            proving: Semaphore::new(MAX_PROVING),
            outside: Outside::default(),
            config,
            key,
        }
    }

    /// Updates are taken whole, so what a panic leaves behind is whole too.
    fn variables(&self) -> MutexGuard<'_, Variables> {
        self.variables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, room: &str, user: &str, kind: &str, content: &serde_json::Value) -> Result<(), Failure> {
        self.log.record(room, user, kind, content).map_err(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "not written down");
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, format!("not written down, so not done: {error}"))
        })
    }

    fn checked_nodes(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.checked_nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spent(&self) -> MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The agent's paths, and its log's.
pub fn router(agent: Agent) -> Router {
    let both = |router: Router<Arc<Agent>>, name: &str, methods: MethodRouter<Arc<Agent>>| {
        // Clients of the first deployments write two slashes.
        router.route(&format!("/api/v1/{name}"), methods.clone()).route(&format!("/api/v1//{name}"), methods)
    };
    let mut router = Router::new()
        .route("/api/v1", get(about::greet))
        .route("/healthz", get(async || "ok\n"))
        .route("/tee/anchors", get(anchors::anchors));
    router = both(router, "", get(about::greet));
    router = both(router, "config", get(about::config));
    router = both(router, "variables", get(variables::read).post(variables::update));
    router = both(router, "prompt", post(prompt::prompt));
    router = both(router, "sign-transaction", post(transaction::sign));
    let log = rest::router(agent.log.shared(), Arc::new(Attester(agent.evidence.clone())));
    router
        .fallback(async || Failure::new(StatusCode::NOT_FOUND, "no such path"))
        .method_not_allowed_fallback(async || {
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, "not by this method")
        })
        .with_state(Arc::new(agent))
        .merge(log)
}

/// A request that was refused or failed: a status, and `{"error": TEXT}`.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    fn new(status: StatusCode, message: impl ToString) -> Self {
        Self { status, message: message.to_string() }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error": self.message}))).into_response()
    }
}

/// A request's body, whatever type it is said to be.
struct Body(Bytes);

impl<S: Sync> FromRequest<S> for Body {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
        match tokio::time::timeout(BODY_WITHIN, body).await {
            Ok(Ok(body)) => Ok(Self(body.to_bytes())),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Failure::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("a body has at most {MAX_BODY_BYTES} bytes"),
            )),
            Ok(Err(_)) => Err(Failure::new(StatusCode::BAD_REQUEST, "the body broke off")),
            Err(_) => Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
        }
    }
}

impl Body {
    fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        serde_json::from_slice(&self.0).map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error))
    }
}
