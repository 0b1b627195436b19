//! What is appended to streams, and read from them.

use axum::{
    Json,
    body::Bytes,
    extract::{Path, RawQuery, State, rejection::BytesRejection},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use ledger::{StreamEntry, StreamName, StreamPayload, store::Event};
use serde_json::{Value, json};

use super::{Shared, answers, blocking, cbor, error::ApiError, query::Parameters};
use crate::monitor::now;

/// Longest name behind `app/`, in bytes.
const MAX_APPLICATION_NAME_BYTES: usize = 63;

pub(super) async fn append(
    State(service): Shared,
    Path(rest): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    let name = name(&rest).filter(|name| name.as_str() != StreamName::LEDGER).ok_or_else(no_stream)?;
    let payload = body.map_err(|error| ApiError::TooLong(error.body_text()))?.to_vec();
    blocking(move || {
        let appended = service.ledger.append(now(), vec![Event::Stream { name, payload }])?;
        service.grown.send_replace(service.ledger.size());
        let at = appended.first().ok_or_else(|| ApiError::Unavailable("nothing was appended".to_owned()))?;
        Ok(Json(json!({"index": at.index, "sequence": at.sequence})))
    })
    .await
}

pub(super) async fn read(
    State(service): Shared,
    Path(rest): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    if let Some(name) = rest.strip_suffix("/proof").and_then(name) {
        let at = Parameters::parse(query.as_deref(), &["at"])?.number("at")?;
        return blocking(move || Ok(service.ledger.prove_stream(&name, 0, at)?)).await.map(cbor);
    }
    let name = name(&rest).ok_or_else(no_stream)?;
    let parameters = Parameters::parse(query.as_deref(), &["from", "limit"])?;
    let (from, limit) = (parameters.number("from")?.unwrap_or(0), parameters.limit()?);
    let entries = blocking(move || Ok(service.ledger.stream(&name, from, limit)?)).await?;
    let next = entries.last().map_or(from, |entry| entry.sequence.saturating_add(1));
    let entries: Vec<Value> = entries.iter().map(entry).collect();
    Ok(Json(json!({"entries": entries, "next": next})).into_response())
}

fn entry(entry: &StreamEntry) -> Value {
    let mut value = json!({"index": entry.index, "sequence": entry.sequence, "time": entry.time});
    match &entry.payload {
        StreamPayload::Bytes(bytes) => value["payload"] = STANDARD.encode(bytes).into(),
        StreamPayload::Gap(gap) => {
            value["gap"] = answers::gap(gap);
        }
    }
    value
}

fn no_stream() -> ApiError {
    ApiError::NotFound("streams are `egress`, `control`, and `app/` with 1 to 63 of a-z 0-9 . _ -".to_owned())
}

/// A stream that is known by name.
fn name(text: &str) -> Option<StreamName> {
    let known = match text.strip_prefix("app/") {
        Some(own) => own.len() <= MAX_APPLICATION_NAME_BYTES && !own.contains('/'),
        None => matches!(text, "egress" | "control" | StreamName::LEDGER),
    };
    text.parse().ok().filter(|_| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_streams_have_names() {
        for good in ["egress", "control", "ledger", "app/a.b-c_1", "app/proof"] {
            assert!(name(good).is_some(), "{good}");
        }
        for bad in ["", "app", "app/", "app/a/b", "app/A", "other", &format!("app/{}", "a".repeat(64))] {
            assert!(name(bad).is_none(), "{bad}");
        }
    }
}
