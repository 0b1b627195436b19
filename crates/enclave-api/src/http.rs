//! One question over a Unix socket: HTTP/1.1, a connection that ends with the answer.

use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::EnclaveError;

pub(crate) async fn exchange(
    api: &Path,
    method: Method,
    target: &str,
    body: Bytes,
    most: usize,
) -> Result<(StatusCode, Bytes), EnclaveError> {
    let stream = UnixStream::connect(api)
        .await
        .map_err(|source| EnclaveError::Absent { path: api.to_owned(), source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends when the answer has been read; what fails there fails the reading.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, "enclave")
        .body(Full::new(body))
        .expect("a target of plain characters and constant header fields");
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), most).collect().await.map_err(EnclaveError::Body)?;
    Ok((status, body.to_bytes()))
}
