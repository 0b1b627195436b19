//! A client of the enclave's application API: HTTP on a Unix socket (`docs/spec/application-api.md`).

use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::net::UnixStream;

/// Where the application API is, in every enclave of this framework.
pub const DEFAULT_API: &str = "/run/glasshouse/api.sock";

/// How long the enclave has to make a document.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Longest answer read. A document has less than 12 KiB before base64.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The application API at one socket.
#[derive(Debug, Clone)]
pub struct Enclave {
    api: PathBuf,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnclaveError {
    /// Nobody answers at the socket: probably this is no enclave.
    #[error("no enclave at {}", path.display())]
    Absent {
        /// The socket.
        path: PathBuf,
        /// Why it cannot be connected to.
        source: std::io::Error,
    },
    /// The enclave said no.
    #[error("the enclave refused ({status}): {message}")]
    Refused {
        /// HTTP status of the refusal.
        status: StatusCode,
        /// Its reason.
        message: String,
    },
    /// The enclave did not answer in time.
    #[error("the enclave did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Slow,
    /// The connection broke.
    #[error("the connection to the enclave broke")]
    Http(#[from] hyper::Error),
    /// The answer broke off or is too long.
    #[error("the enclave's answer could not be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not of the specified form.
    #[error("the enclave's answer is not what was specified")]
    Answer(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Answer {
    document: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    message: String,
}

impl Enclave {
    /// The application API at the Unix socket `api`.
    pub fn at(api: impl Into<PathBuf>) -> Self {
        Self { api: api.into() }
    }

    /// Has a document made that carries the verifier's `nonce` (hex) and `data` (at most 256 bytes); returns it in
    /// base64.
    ///
    /// # Errors
    /// [`EnclaveError`] as its variants say.
    pub async fn attest(&self, nonce: &str, data: &[u8]) -> Result<String, EnclaveError> {
        let question = json!({"nonce": nonce, "data": STANDARD.encode(data)});
        let (status, answer) =
            tokio::time::timeout(ANSWER_WITHIN, self.post("/v1/attest", question.to_string()))
                .await
                .map_err(|_| EnclaveError::Slow)??;
        if status != StatusCode::OK {
            let message = serde_json::from_slice::<Refusal>(&answer)?.error.message;
            return Err(EnclaveError::Refused { status, message });
        }
        Ok(serde_json::from_slice::<Answer>(&answer)?.document)
    }

    async fn post(&self, path: &str, body: String) -> Result<(StatusCode, Vec<u8>), EnclaveError> {
        let stream = UnixStream::connect(&self.api)
            .await
            .map_err(|source| EnclaveError::Absent { path: self.api.clone(), source })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::post(path)
            .header(header::HOST, "enclave")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .expect("a constant path and constant header fields");
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(EnclaveError::Body)?;
        Ok((status, body.to_bytes().into()))
    }
}
