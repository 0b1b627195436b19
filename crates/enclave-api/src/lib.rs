//! What a program asks of the enclave that it runs in: documents about itself, and entries of the ledger.
//!
//! A client of the application API (`docs/spec/application-api.md`), for programs in the enclave. It decides nothing: whether a document is
//! to be trusted, its receiver finds out. Each question has a connection of its own and an end.

#![forbid(unsafe_code)]

mod http;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

/// Where the application API is, in every enclave of this framework.
pub const DEFAULT_API: &str = "/run/glasshouse/api.sock";

/// How long the enclave has to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Longest answer read. A document has less than 12 KiB before base64; a proof at most what the enclave's server passes on.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// The enclave, behind the socket of its application API.
#[derive(Clone, Debug)]
pub struct Enclave {
    api: PathBuf,
}

/// What a document is to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// The verifier's challenge in hex, at most 64 bytes; empty: none, and then the document proves nothing about now.
    pub nonce: String,
    /// What the program says, at most 256 bytes.
    pub data: Vec<u8>,
    /// A public key of the program's, at most 1024 bytes.
    pub public_key: Vec<u8>,
}

/// Where an entry is in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Place {
    /// How many entries of the ledger came before it.
    pub index: u64,
    /// How many entries of its stream did.
    pub sequence: u64,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnclaveError {
    /// Nobody answers at the socket: probably this is no enclave.
    #[error("no enclave at {}", path.display())]
    Absent {
        /// The socket.
        path: PathBuf,
        /// Why it cannot be connected to.
        source: io::Error,
    },
    /// The enclave said no.
    #[error("the enclave refused ({status}): {message}")]
    Refused {
        /// HTTP status of the refusal.
        status: StatusCode,
        /// What is wrong, for programs: `no_ledger`, `nsm_busy` and so on.
        code: String,
        /// The same for people.
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
    /// A stream's name that cannot be one, so it was not asked for.
    #[error("a stream's name has 1 to 63 of a-z 0-9 . _ -")]
    Stream,
}

#[derive(Deserialize)]
struct Document {
    document: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    message: String,
}

impl Enclave {
    /// The enclave whose application API is at the Unix socket `api`, [`DEFAULT_API`] in an enclave.
    pub fn at(api: impl Into<PathBuf>) -> Self {
        Self { api: api.into() }
    }

    /// The socket.
    pub fn api(&self) -> &Path {
        &self.api
    }

    /// Has a document made that carries `question`; returns it in base64.
    ///
    /// # Errors
    /// [`EnclaveError`] as its variants say.
    pub async fn attest(&self, question: &Question) -> Result<String, EnclaveError> {
        let Question { nonce, data, public_key } = question;
        let question = json!({
            "nonce": nonce,
            "data": STANDARD.encode(data),
            "public_key": STANDARD.encode(public_key),
        });
        let answer = self.ask(Method::POST, "/v1/attest", question.to_string().into()).await?;
        Ok(read::<Document>(&answer)?.document)
    }

    /// Appends an entry of at most 65,536 bytes to the stream `app/STREAM` of the enclave's ledger, for everybody to read. It is there
    /// for good when this returns.
    ///
    /// # Errors
    /// [`EnclaveError`] as its variants say; refused with the code `no_ledger` in an image that keeps none.
    pub async fn append(&self, stream: &str, payload: impl Into<Bytes>) -> Result<Place, EnclaveError> {
        let target = format!("/v1/ledger/stream/{}", checked(stream)?);
        read(&self.ask(Method::POST, &target, payload.into()).await?)
    }

    /// The proof of what the stream `app/STREAM` holds, as a whole, when the ledger had `at` entries (`docs/spec/ledger.md#proofs`).
    ///
    /// # Errors
    /// [`EnclaveError`] as its variants say.
    pub async fn stream_proof(&self, stream: &str, at: u64) -> Result<Bytes, EnclaveError> {
        let target = format!("/v1/ledger/stream/{}/proof?at={at}", checked(stream)?);
        self.ask(Method::GET, &target, Bytes::new()).await
    }

    /// The body of an answer with status 200.
    async fn ask(&self, method: Method, target: &str, body: Bytes) -> Result<Bytes, EnclaveError> {
        let exchange = http::exchange(&self.api, method, target, body, MAX_ANSWER_BYTES);
        let (status, answer) =
            tokio::time::timeout(ANSWER_WITHIN, exchange).await.map_err(|_| EnclaveError::Slow)??;
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let Reason { code, message } = read::<Refusal>(&answer)?.error;
        Err(EnclaveError::Refused { status, code, message })
    }
}

fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, EnclaveError> {
    Ok(serde_json::from_slice(answer)?)
}

/// What can be written into a path as it is.
fn checked(stream: &str) -> Result<&str, EnclaveError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let valid =
        (1..=63).contains(&stream.len()) && stream.bytes().all(allowed) && !matches!(stream, "." | "..");
    valid.then_some(stream).ok_or(EnclaveError::Stream)
}
