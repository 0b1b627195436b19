//! What is asked of one file.

use axum::{
    Json,
    extract::{RawQuery, State},
    response::Response,
};
use serde_json::Value;

use super::{Shared, answers, blocking, cbor, error::ApiError, query::Parameters};

pub(super) async fn record(
    State(service): Shared,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, ApiError> {
    let (path, at) = path_at(query.as_deref())?;
    blocking(move || {
        let file = service.ledger.file(path)?;
        let last = service.ledger.last_at(&file, at)?;
        let last =
            last.ok_or_else(|| ApiError::NotFound("nothing was ever recorded of this path".to_owned()))?;
        Ok(Json(answers::record(file.path(), &last)))
    })
    .await
}

pub(super) async fn proof(State(service): Shared, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let (path, at) = path_at(query.as_deref())?;
    blocking(move || Ok(service.ledger.prove_file(&path, at)?)).await.map(cbor)
}

pub(super) async fn history(State(service): Shared, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let (path, at) = path_at(query.as_deref())?;
    blocking(move || Ok(service.ledger.prove_history(&path, at)?)).await.map(cbor)
}

fn path_at(query: Option<&str>) -> Result<(Vec<u8>, Option<u64>), ApiError> {
    let parameters = Parameters::parse(query, &["path", "at"])?;
    Ok((parameters.path()?, parameters.number("at")?))
}
