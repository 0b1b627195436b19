//! An agent beside servers that say what a test tells them to.

#![allow(dead_code, reason = "no test uses all of it")]

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    http::{Request, StatusCode},
    routing::post,
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tee_agent::{
    config::Config,
    eth::{AgentKey, keccak256},
    evidence::Enclave,
    log::Log,
    server::{Agent, router},
};
use tokio::net::TcpListener;
use tower::ServiceExt;

pub(crate) const CONFIG: &str = include_str!("../../testdata/config.toml");

/// The agent's key: no secret.
pub(crate) fn agent_key() -> AgentKey {
    AgentKey::from_bytes(&[9; 32]).unwrap()
}

/// The key of the operator that the configuration names.
pub(crate) fn operator_key() -> AgentKey {
    AgentKey::from_bytes(&[0x42; 32]).unwrap()
}

/// An agent with this configuration, and the application API at `api`.
pub(crate) async fn agent(config: &str, api: &Path) -> Router {
    let config = Config::parse(config).unwrap();
    let enclave = Arc::new(Enclave::at(api));
    let log = Log::open(&config.tee_name, &config.log, &*enclave).await.unwrap();
    router(Agent::new(config, agent_key(), enclave, log))
}

/// The same without an enclave.
pub(crate) async fn agent_outside(config: &str) -> Router {
    agent(config, Path::new("/nowhere/api.sock")).await
}

/// Asks the agent; the answer's JSON, or its text where it is none.
pub(crate) async fn ask(
    agent: &Router,
    method: &str,
    path: &str,
    body: impl Into<Body>,
) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
    let asked = tokio::time::timeout(Duration::from_secs(60), agent.clone().oneshot(request));
    let (head, body) = asked.await.unwrap().unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    (head.status, serde_json::from_slice(&body).unwrap_or(Value::String(text)))
}

/// What was asked of a server that answers every question the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked(Arc<Mutex<Vec<Question>>>);

/// A bearer token, and a body.
type Question = (Option<String>, String);

impl Asked {
    /// In the order in which they came.
    pub(crate) fn questions(&self) -> Vec<Question> {
        self.0.lock().unwrap().clone()
    }
}

/// Serves one answer; returns the URL and what was asked.
pub(crate) async fn serve_answer(status: StatusCode, answer: String) -> (String, Asked) {
    let asked = Asked::default();
    let record = asked.clone();
    let handler = async move |request: Request<Body>| {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let token = head.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
        record.0.lock().unwrap().push((token, String::from_utf8(body.to_vec()).unwrap()));
        (status, answer)
    };
    (serve(Router::new().route("/chat", post(handler))).await + "/chat", asked)
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// A node that counts transactions, and answers as a node would.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    /// What `eth_chainId` says.
    pub(crate) id: u64,
    sent: Arc<Mutex<Vec<Vec<u8>>>>,
    refusal: Arc<Mutex<Option<String>>>,
}

impl Chain {
    /// Serves a node of the chain with this id; returns its URL too.
    pub(crate) async fn serve(id: u64) -> (String, Self) {
        let chain = Self { id, sent: Arc::default(), refusal: Arc::default() };
        let state = chain.clone();
        let router =
            Router::new().route("/", post(async move |Json(question)| Json(state.answer(&question))));
        (serve(router).await, chain)
    }

    /// The transactions that were sent.
    pub(crate) fn sent(&self) -> Vec<Vec<u8>> {
        self.sent.lock().unwrap().clone()
    }

    /// Refuses what is sent from now on.
    pub(crate) fn refuse(&self, reason: &str) {
        *self.refusal.lock().unwrap() = Some(reason.to_owned());
    }

    fn answer(&self, question: &Value) -> Value {
        let mut sent = self.sent.lock().unwrap();
        let result = match question["method"].as_str().unwrap() {
            "eth_chainId" => format!("{:#x}", self.id),
            "eth_gasPrice" => "0xf43cb".to_owned(),
            "eth_maxPriorityFeePerGas" => "0x5".to_owned(),
            "eth_estimateGas" => "0xea60".to_owned(),
            "eth_getTransactionCount" => format!("{:#x}", 128 + sent.len()),
            "eth_sendRawTransaction" => {
                if let Some(reason) = &*self.refusal.lock().unwrap() {
                    return json!({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -32000, "message": reason}});
                }
                let raw = question["params"][0].as_str().unwrap().strip_prefix("0x").unwrap();
                let raw = hex::decode(raw).unwrap();
                let hash = keccak256(&raw);
                sent.push(raw);
                format!("0x{}", hex::encode(hash))
            }
            method => {
                return json!({"jsonrpc": "2.0", "id": question["id"], "error": {"code": -32601, "message": method}});
            }
        };
        json!({"jsonrpc": "2.0", "id": question["id"], "result": result})
    }
}
