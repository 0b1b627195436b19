//! Who attests the agent's key: the enclave's application API (`docs/spec/application-api.md`), or nobody.
//!
//! Outside an enclave there is no evidence, and nothing here makes any up. Other hardware is another [`Evidence`].

use std::{fmt, future::Future, path::PathBuf, pin::Pin, time::Duration};

use axum::{
    body::Body,
    http::{Request, StatusCode, header},
};
use base64::{Engine, engine::general_purpose::STANDARD};
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

/// What a document is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The verifier's challenge, in hex.
    pub nonce: String,
    /// What the agent says, at most 256 bytes.
    pub data: Vec<u8>,
    /// The agent's public key.
    pub public_key: Vec<u8>,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// Nobody is there who could attest: probably this is no enclave.
    #[error("no enclave at {}", path.display())]
    Absent {
        /// Where one was looked for.
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
    /// It did not answer in time.
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

/// What [`Evidence::attest`] returns: a document in base64, in the end.
pub type Attesting<'a> = Pin<Box<dyn Future<Output = Result<String, EvidenceError>> + Send + 'a>>;

/// Has documents made about this process.
pub trait Evidence: fmt::Debug + Send + Sync {
    /// Has a document made that carries `question`; returns it in base64.
    fn attest(&self, question: Question) -> Attesting<'_>;
}

/// The application API at one socket.
#[derive(Debug, Clone)]
pub struct Enclave {
    api: PathBuf,
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

    async fn ask(&self, question: Question) -> Result<String, EvidenceError> {
        let question = json!({
            "nonce": question.nonce,
            "data": STANDARD.encode(question.data),
            "public_key": STANDARD.encode(question.public_key),
        });
        let (status, answer) =
            tokio::time::timeout(ANSWER_WITHIN, self.post("/v1/attest", question.to_string()))
                .await
                .map_err(|_| EvidenceError::Slow)??;
        if status != StatusCode::OK {
            let message = serde_json::from_slice::<Refusal>(&answer)?.error.message;
            return Err(EvidenceError::Refused { status, message });
        }
        Ok(serde_json::from_slice::<Answer>(&answer)?.document)
    }

    async fn post(&self, path: &str, body: String) -> Result<(StatusCode, Vec<u8>), EvidenceError> {
        let stream = UnixStream::connect(&self.api)
            .await
            .map_err(|source| EvidenceError::Absent { path: self.api.clone(), source })?;
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
            .map_err(EvidenceError::Body)?;
        Ok((status, body.to_bytes().into()))
    }
}

impl Evidence for Enclave {
    fn attest(&self, question: Question) -> Attesting<'_> {
        Box::pin(self.ask(question))
    }
}
