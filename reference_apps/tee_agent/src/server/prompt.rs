//! Prompts: asked of the upstream, and the answer signed together with the question.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest;
use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use super::{Agent, Body, Failure};
use crate::{config::Upstream, json::Json, outside::OutsideError};

#[derive(Deserialize)]
struct Prompt {
    #[serde(default)]
    model: String,
    #[serde(default)]
    system_prompt: String,
    messages: Json,
    #[serde(default = "no_tools")]
    tools: Json,
    #[serde(default = "automatic")]
    tool_choice: Json,
    #[serde(default = "default_max_tokens")]
    max_tokens: u32,
}

fn no_tools() -> Json {
    Json::Array(Vec::new())
}

fn automatic() -> Json {
    Json::from("auto")
}

/// As the first deployments have it.
fn default_max_tokens() -> u32 {
    350
}

pub(super) async fn prompt(State(agent): State<Arc<Agent>>, body: Body) -> Response {
    match answer(&agent, &body).await {
        Ok(answer) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        Err(failure) => failure.into_response(),
    }
}

async fn answer(agent: &Agent, body: &Body) -> Result<String, Failure> {
    let mut prompt: Prompt = body.json()?;
    let Some(upstream) = &agent.config.upstream else {
        return Err(Failure::new(StatusCode::NOT_FOUND, "this agent has no [upstream]"));
    };
    check(&prompt, upstream)?;
    if prompt.model.is_empty() {
        prompt.model.clone_from(&upstream.model);
    }
    let key = match &upstream.key_variable {
        None => None,
        Some(name) => match agent.variables().value(name) {
            Some(key) => Some(key.to_owned()),
            None => {
                let message = format!("the operator has not set {name} yet");
                return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, message));
            }
        },
    };
    let within = Duration::from_secs(upstream.timeout_s.into());
    let asked =
        agent.outside.post(&upstream.url, key.as_deref(), question(&prompt).to_string(), within).await;
    let said = asked.map_err(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "the upstream did not answer");
        let status = match error {
            OutsideError::Slow => StatusCode::GATEWAY_TIMEOUT,
            OutsideError::Busy => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        };
        Failure::new(status, format!("the upstream: {error}"))
    })?;
    let response = response(&said).ok_or_else(|| {
        Failure::new(StatusCode::BAD_GATEWAY, "the upstream's answer is not a chat completion")
    })?;
    signed(agent, prompt, response)
}

fn check(prompt: &Prompt, upstream: &Upstream) -> Result<(), Failure> {
    let bad = |message: &str| Err(Failure::new(StatusCode::BAD_REQUEST, message));
    if prompt.messages.as_array().is_none_or(<[Json]>::is_empty) {
        return bad("`messages` is an array of at least one message");
    }
    if prompt.tools.as_array().is_none() {
        return bad("`tools` is an array");
    }
    if !matches!(prompt.tool_choice, Json::String(_) | Json::Object(_)) {
        return bad("`tool_choice` is a string or an object");
    }
    if prompt.max_tokens == 0 || prompt.max_tokens > upstream.max_tokens {
        return bad(&format!("`max_tokens` is 1 to {}", upstream.max_tokens));
    }
    Ok(())
}

fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
    Json::Object(members.map(|(name, value)| (name.to_owned(), value)).into())
}

/// The system prompt is the first message, which every upstream understands. Without tools there is no word of them: some
/// refuse an empty list.
fn question(prompt: &Prompt) -> Json {
    let mut messages = Vec::new();
    if !prompt.system_prompt.is_empty() {
        messages.push(object([("role", "system".into()), ("content", Json::from(&*prompt.system_prompt))]));
    }
    messages.extend_from_slice(prompt.messages.as_array().unwrap_or_default());
    let mut members = vec![
        ("model".to_owned(), Json::from(&*prompt.model)),
        ("messages".to_owned(), Json::Array(messages)),
        ("max_tokens".to_owned(), Json::Number(prompt.max_tokens.to_string())),
    ];
    if prompt.tools.as_array().is_some_and(|tools| !tools.is_empty()) {
        members.push(("tools".to_owned(), prompt.tools.clone()));
        members.push(("tool_choice".to_owned(), prompt.tool_choice.clone()));
    }
    Json::Object(members)
}

/// Content and tool calls of the first choice.
fn response(said: &str) -> Option<Json> {
    let said = Json::parse(said).ok()?;
    let message = said.member("choices")?.as_array()?.first()?.member("message")?;
    let content = message.member("content").cloned().unwrap_or(Json::Null);
    let tool_calls =
        message.member("tool_calls").filter(|calls| **calls != Json::Null).cloned().unwrap_or_else(no_tools);
    Some(object([("content", content), ("tool_calls", tool_calls)]))
}

/// The text that is signed, with the signature and itself as further members.
fn signed(agent: &Agent, prompt: Prompt, response: Json) -> Result<String, Failure> {
    let text = object([
        ("model", Json::String(prompt.model)),
        ("response", response),
        ("messages", prompt.messages),
        ("tools", prompt.tools),
        ("system_prompt", Json::String(prompt.system_prompt)),
    ])
    .to_string();
    let signature = agent.key.sign_message(text.as_bytes());
    let digest = hex::encode(digest::digest(&digest::SHA256, text.as_bytes()));
    let record = json!({"sha256": digest, "signature": signature.to_string()});
    agent.record("prompt", "", "Action:PROMPT", &record)?;
    let open = text.strip_suffix('}').expect("an object ends with a brace");
    Ok(format!("{open},\"signature\":\"{signature}\",\"signed_response\":{}}}", Json::from(&*text)))
}
