//! One request over the ledger's socket.

use std::path::Path;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{LedgerError, MAX_ANSWER_BYTES};
use crate::error::ApiError;

/// From connecting to the head of the answer, and from there to its end. A proof takes milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Sends one request on a connection of its own, which ends with the answer's body.
pub(super) async fn ask(
    socket: &Path,
    method: Method,
    target: &str,
    body: Bytes,
) -> Result<Response<Incoming>, ApiError> {
    let exchange = async {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|source| LedgerError::Connect { path: socket.to_owned(), source })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(LedgerError::Http)?;
        // It moves bytes for as long as the body is read; what fails there fails the reading.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "ledger")
            .body(Full::new(body))
            .expect("a target is made of percent-encoded parts");
        sender.send_request(request).await.map_err(LedgerError::Http)
    };
    let answered = timeout(ANSWER_WITHIN, exchange).await;
    answered.unwrap_or(Err(LedgerError::Slow(ANSWER_WITHIN))).map_err(ApiError::LedgerUnavailable)
}

/// All of an answer.
pub(super) async fn read(body: Incoming) -> Result<Bytes, ApiError> {
    let collected = timeout(ANSWER_WITHIN, Limited::new(body, MAX_ANSWER_BYTES).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(source)) => Err(ApiError::LedgerFailed(LedgerError::Body(source))),
        Err(_) => Err(ApiError::LedgerUnavailable(LedgerError::Slow(ANSWER_WITHIN))),
    }
}
