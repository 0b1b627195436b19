//! Asks a running monitor over its socket.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use ledger::{Anchor, Checkpoint, MAX_PROOF_BYTES};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;

/// Why the monitor did not answer what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ClientError {
    /// Nobody is there.
    #[error("cannot reach the monitor at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The connection failed.
    #[error("the connection failed")]
    Http(#[from] hyper::Error),
    /// It is longer than any answer, or was cut.
    #[error("the answer cannot be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It was refused.
    #[error("the monitor says: {0}")]
    Refused(String),
    /// It makes no sense.
    #[error("the monitor's answer is not what it should be")]
    Json(#[from] serde_json::Error),
    /// Nor does this.
    #[error("the monitor's checkpoint is not what it should be")]
    Checkpoint,
}

/// A monitor behind a socket.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

/// The ledger as it was at one moment.
#[derive(Debug, Deserialize)]
pub(crate) struct Now {
    pub(crate) size: u64,
    log_root: String,
    map_root: String,
    vrf_key: String,
}

impl Now {
    /// What proofs for this size are checked against.
    pub(crate) fn anchor(&self) -> Result<Anchor, ClientError> {
        let bytes = |text: &str| -> Result<[u8; 32], ClientError> {
            let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
            bytes.ok_or(ClientError::Checkpoint)
        };
        let (log_root, map_root) =
            (ledger::Hash(bytes(&self.log_root)?), ledger::Hash(bytes(&self.map_root)?));
        let checkpoint = Checkpoint { size: self.size, log_root, map_root };
        Anchor::new(checkpoint, &bytes(&self.vrf_key)?).map_err(|_| ClientError::Checkpoint)
    }
}

impl Client {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    async fn ask(&self, method: Method, target: &str) -> Result<Incoming, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Connect { path: self.socket.clone(), source })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It moves bytes for as long as the body is read; what fails there fails the reading.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "ledger")
            .body(Empty::<Bytes>::new())
            .expect("a target is made of percent-encoded parts");
        let response = sender.send_request(request).await?;
        if response.status() == StatusCode::OK {
            return Ok(response.into_body());
        }
        let status = response.status();
        let body = all(response.into_body()).await?;
        let said = serde_json::from_slice::<Value>(&body).ok();
        let said = said.and_then(|said| said["error"].as_str().map(str::to_owned));
        Err(ClientError::Refused(said.unwrap_or_else(|| status.to_string())))
    }

    /// All of an answer.
    pub(crate) async fn get(&self, target: &str) -> Result<Bytes, ClientError> {
        all(self.ask(Method::GET, target).await?).await
    }

    /// An answer in JSON.
    pub(crate) async fn json<T: serde::de::DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        Ok(serde_json::from_slice(&self.get(target).await?)?)
    }

    /// Has everything looked at again.
    pub(crate) async fn sweep(&self) -> Result<Value, ClientError> {
        let body = all(self.ask(Method::POST, "/v1/sweep").await?).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Calls `each` with the data of every event, until it says that it has enough or the monitor ends.
    pub(crate) async fn events(
        &self,
        target: &str,
        mut each: impl FnMut(&str, &str) -> bool,
    ) -> Result<(), ClientError> {
        let mut body = self.ask(Method::GET, target).await?;
        let mut waiting = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            waiting.extend_from_slice(&data);
            while let Some(end) = waiting.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = waiting.drain(..end + 2).collect();
                let event = String::from_utf8_lossy(&event);
                let member = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                if !each(member("event: ").unwrap_or_default(), member("data: ").unwrap_or_default()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

async fn all(body: Incoming) -> Result<Bytes, ClientError> {
    let limited = Limited::new(body, MAX_PROOF_BYTES);
    Ok(limited.collect().await.map_err(ClientError::Body)?.to_bytes())
}
