//! Operator variables over HTTP.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Agent, Body, Failure};
use crate::{
    eth::AgentKey,
    sealed,
    variables::{Item, UpdateError},
};

/// What the body of the answer was in the first deployments.
const DONE: &str = "Variables set.";

#[derive(Deserialize, Default)]
struct Wanted {
    name: Option<String>,
}

#[derive(Serialize)]
struct Shown<'a> {
    value: &'a str,
    public: bool,
    immutable: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    weak: bool,
}

/// All public ones, or the value of one. The name is in the body, although this is a GET.
pub(super) async fn read(State(agent): State<Arc<Agent>>, body: Body) -> Response {
    let wanted = match body.0.is_empty() {
        true => Wanted::default(),
        false => match body.json() {
            Ok(wanted) => wanted,
            Err(failure) => return failure.into_response(),
        },
    };
    let variables = agent.variables();
    let Some(name) = wanted.name else {
        let all: BTreeMap<_, _> = variables
            .public()
            .map(|(name, found)| {
                (
                    name,
                    Shown { value: &found.value, public: true, immutable: found.immutable, weak: found.weak },
                )
            })
            .collect();
        return Json(all).into_response();
    };
    match variables.by_name(&name).filter(|found| found.public) {
        Some(found) => Json(&found.value).into_response(),
        // The same for one that is hidden: that it is there is hidden too.
        None => Failure::new(StatusCode::NOT_FOUND, "Variable not found").into_response(),
    }
}

#[derive(Deserialize)]
struct Update {
    variables: Vec<RawItem>,
    number: Option<u64>,
    signature: Option<String>,
}

#[derive(Deserialize)]
struct RawItem {
    name: String,
    value: Option<String>,
    sealed: Option<String>,
    #[serde(default)]
    public: bool,
    #[serde(default)]
    immutable: bool,
    signature: Option<String>,
}

pub(super) async fn update(State(agent): State<Arc<Agent>>, body: Body) -> Response {
    let update: Update = match body.json() {
        Ok(update) => update,
        Err(failure) => return failure.into_response(),
    };
    match (update.number, update.signature) {
        (Some(number), Some(signature)) => update_sound(&agent, number, &signature, update.variables),
        (None, None) => update_legacy(&agent, update.variables),
        _ => Failure::new(StatusCode::BAD_REQUEST, "`number` and `signature` go together").into_response(),
    }
}

fn update_sound(agent: &Agent, number: u64, signature: &str, items: Vec<RawItem>) -> Response {
    if items.iter().any(|item| item.signature.is_some()) {
        let message = "with `number` there is one `signature`, over all variables";
        return Failure::new(StatusCode::BAD_REQUEST, message).into_response();
    }
    let Some(signature) = signature.strip_prefix("0x").and_then(bytes) else {
        return Failure::new(StatusCode::BAD_REQUEST, "`signature` is 0x and 65 bytes in hex")
            .into_response();
    };
    let items: Vec<Item> = match items.into_iter().map(|item| item.open(&agent.key)).collect() {
        Ok(items) => items,
        Err(failure) => return failure.into_response(),
    };
    let mut variables = agent.variables();
    // Taken only if it is written down.
    let mut next = variables.clone();
    if let Err(error) = next.update(&agent.authority, number, &items, &signature) {
        return Failure::new(status(&error), error).into_response();
    }
    let names: Vec<&str> = items.iter().map(|item| &*item.name).collect();
    let record = json!({"names": names, "number": number});
    if let Err(failure) = agent.record("variables", "operator", "Action:SET_VARIABLES", &record) {
        return failure.into_response();
    }
    *variables = next;
    tracing::info!(number, count = items.len(), "the operator set variables");
    Json(json!({"result": DONE, "number": number})).into_response()
}

/// Answers are strings here, as clients of this form expect; the statuses tell what they mean.
fn update_legacy(agent: &Agent, items: Vec<RawItem>) -> Response {
    let mut signed = Vec::with_capacity(items.len());
    for item in items {
        let signature = item.signature.as_deref().and_then(bytes);
        // What is no signature at all does not verify either.
        let Some(signature) = signature else {
            return (StatusCode::UNAUTHORIZED, Json(UpdateError::Signature.to_string())).into_response();
        };
        match item.open(&agent.key) {
            Ok(item) => signed.push((item, signature)),
            Err(failure) => return failure.into_response(),
        }
    }
    let mut variables = agent.variables();
    let mut next = variables.clone();
    let mut response = match next.update_legacy(&agent.authority, &signed) {
        Ok(()) => {
            let names: Vec<&str> = signed.iter().map(|(item, _)| &*item.name).collect();
            let record = json!({"names": names, "legacy": true});
            if let Err(failure) = agent.record("variables", "operator", "Action:SET_VARIABLES", &record) {
                return failure.into_response();
            }
            *variables = next;
            tracing::warn!(count = signed.len(), "the operator set variables with legacy signatures");
            Json(DONE).into_response()
        }
        Err(error) => (status(&error), Json(error.to_string())).into_response(),
    };
    response.headers_mut().insert("x-signature-strength", HeaderValue::from_static("weak"));
    response
}

fn status(error: &UpdateError) -> StatusCode {
    match error {
        UpdateError::Signature => StatusCode::UNAUTHORIZED,
        UpdateError::Replay { .. } => StatusCode::CONFLICT,
        UpdateError::Immutable { .. } | UpdateError::Legacy { .. } => StatusCode::FORBIDDEN,
        UpdateError::Unknown { .. } => StatusCode::NOT_FOUND,
        UpdateError::Twice { .. } | UpdateError::Size => StatusCode::BAD_REQUEST,
    }
}

fn bytes<const N: usize>(hex_digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(hex_digits, &mut bytes).ok()?;
    Some(bytes)
}

impl RawItem {
    fn open(self, key: &AgentKey) -> Result<Item, Failure> {
        let bad = |message: String| Failure::new(StatusCode::BAD_REQUEST, message);
        let (value, sealed) = match (self.value, self.sealed) {
            (Some(value), None) => (value, None),
            (None, Some(sealed)) => {
                let opened = sealed::open(key, &self.name, &sealed);
                let (value, digest) = opened.map_err(|error| bad(format!("{:?}: {error}", self.name)))?;
                (value, Some(digest))
            }
            _ => return Err(bad(format!("{:?} has either `value` or `sealed`", self.name))),
        };
        Ok(Item { name: self.name, value, sealed, public: self.public, immutable: self.immutable })
    }
}
