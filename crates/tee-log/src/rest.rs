//! Agents and entries over HTTP, at the paths and in the JSON of the first logs of this kind (`docs/spec/tee-log.md#http`).

use std::{fmt, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query as UrlQuery, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::{
    Evidence, Page, reply_digest, reply_statement,
    store::{Error, Query, Shared},
};

/// Longest body of a query.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Most searches for content under way. Further ones wait.
const MAX_SEARCHING: usize = 2;
/// Bytes of a nonce.
const NONCE_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

struct Shown {
    log: Shared,
    evidence: Arc<dyn Evidence>,
    searching: Arc<Semaphore>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").field("log", &self.log).finish_non_exhaustive()
    }
}

/// The paths: `/tee/agents`, `/tee/agents/{agentId}`, `/tee/logs`.
pub fn router(log: Shared, evidence: Arc<dyn Evidence>) -> Router {
    Router::new()
        .route("/tee/agents", get(agents))
        .route("/tee/agents/{id}", get(agent))
        .route("/tee/logs", post(logs))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(Arc::new(Shown { log, evidence, searching: Arc::new(Semaphore::new(MAX_SEARCHING)) }))
}

#[derive(Deserialize)]
struct Challenge {
    nonce: Option<String>,
}

type Asked = Result<UrlQuery<Challenge>, QueryRejection>;

async fn agents(State(shown): State<Arc<Shown>>, asked: Asked) -> Response {
    reply(&shown, "agents", &shown.log.agents(), asked).await
}

async fn agent(State(shown): State<Arc<Shown>>, Path(id): Path<String>, asked: Asked) -> Response {
    match shown.log.agent(&id) {
        Some(agent) => reply(&shown, "agent", &agent, asked).await,
        None => failure(StatusCode::NOT_FOUND, "Agent not found"),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Search {
    #[serde(default)]
    query: Filters,
    #[serde(default = "first")]
    page: i64,
    #[serde(default = "ten")]
    page_size: i64,
}

/// Members that are null are as absent as those that are not there.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Filters {
    agent_id: Option<String>,
    room_id: Option<String>,
    user_id: Option<String>,
    r#type: Option<String>,
    contains_content: Option<String>,
    start_timestamp: Option<u64>,
    end_timestamp: Option<u64>,
}

fn first() -> i64 {
    1
}

fn ten() -> i64 {
    10
}

async fn logs(State(shown): State<Arc<Shown>>, asked: Asked, body: Bytes) -> Response {
    let search: Search = match serde_json::from_slice(&body) {
        Ok(search) => search,
        Err(error) => return failure(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let Search { query, page, page_size } = search;
    let query = Query {
        agent_id: query.agent_id.unwrap_or_default(),
        room_id: query.room_id.unwrap_or_default(),
        user_id: query.user_id.unwrap_or_default(),
        kind: query.r#type.unwrap_or_default(),
        contains_content: query.contains_content.unwrap_or_default(),
        start_timestamp: query.start_timestamp,
        end_timestamp: query.end_timestamp,
    };
    let number = |number: i64| u64::try_from(number).unwrap_or(1);
    match find(&shown, query, number(page), number(page_size)).await {
        Ok(page) => reply(&shown, "logs", &page, asked).await,
        Err(error @ Error::TooBroad) => failure(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(_) => failure(StatusCode::INTERNAL_SERVER_ERROR, "Failed to get TEE logs"),
    }
}

/// Not on the thread that answers others: a search reads up to [`MAX_SEARCHED`](crate::store::MAX_SEARCHED) entries, a few at once.
async fn find(shown: &Shown, query: Query, page: u64, page_size: u64) -> Result<Page, Error> {
    let permit = match query.contains_content.is_empty() {
        true => None,
        false => Some(shown.searching.clone().acquire_owned().await.expect("the semaphore is never closed")),
    };
    let log = shown.log.clone();
    let found = tokio::task::spawn_blocking(move || {
        // Held by the thread, which goes on when who asked has gone.
        let _permit = permit;
        log.query(&query, page, page_size)
    });
    found.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// The value under its name, byte by byte what is attested; a document if the caller brought a nonce; the log's signature.
async fn reply(shown: &Shown, name: &str, value: &impl Serialize, asked: Asked) -> Response {
    let json = serde_json::to_string(value).expect("what is shown is JSON");
    let nonce = match asked {
        Ok(UrlQuery(Challenge { nonce: None })) => None,
        Ok(UrlQuery(Challenge { nonce: Some(nonce) })) => Some(hex::decode(nonce).unwrap_or_default()),
        Err(_) => Some(Vec::new()),
    };
    let attestation = match nonce {
        None => None,
        Some(nonce) if NONCE_BYTES.contains(&nonce.len()) => {
            let key = shown.log.public_key();
            match shown.evidence.attest(&nonce, &reply_statement(&json), &key.0).await {
                Ok(document) => Some(document),
                Err(error) => return failure(StatusCode::BAD_GATEWAY, &error.to_string()),
            }
        }
        Some(_) => return failure(StatusCode::BAD_REQUEST, "a nonce is 16 to 64 bytes in hex"),
    };
    let signature = format!("0x{}", hex::encode(shown.log.sign(&reply_digest(&json))));
    let rest = json!({"attestation": attestation, "publicKey": shown.log.public_key().to_string(), "signature": signature});
    let rest = rest.to_string();
    let rest = rest.strip_prefix('{').expect("an object begins with a brace");
    ([(header::CONTENT_TYPE, "application/json")], format!("{{\"{name}\":{json},{rest}")).into_response()
}

fn failure(status: StatusCode, message: &str) -> Response {
    let body = json!({"error": message}).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
