//! The ssh agent: which keys it has, and to have it sign (OpenSSH, `PROTOCOL.agent`).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::public_key::PublicKey;
use super::wire::{Cut, Reader, put_string};
use super::{Identity, SignError, Signing};

/// Where the agent's socket is.
const SOCKET_VARIABLE: &str = "SSH_AUTH_SOCK";
/// Longest message of an agent; OpenSSH's own limit.
const MAX_MESSAGE_BYTES: u32 = 256 * 1024;
/// Most keys that are looked at.
const MAX_KEYS: u32 = 1024;
/// Longest comment of a key that is kept.
const MAX_COMMENT_CHARS: usize = 200;
/// How long an agent may take to list its keys. Signing may wait for a person.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take for a signature, a person's confirmation included.
const SIGN_TIMEOUT: Duration = Duration::from_secs(120);

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const FAILURE: u8 = 5;

/// An agent that listens on a Unix socket.
#[derive(Debug, Clone)]
pub struct Agent {
    socket: PathBuf,
}

impl Agent {
    /// The agent that the environment names (`SSH_AUTH_SOCK`), if it names one.
    pub fn from_env() -> Option<Self> {
        let socket = env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty())?;
        Some(Self::new(Path::new(&socket)))
    }

    /// The agent behind `socket`.
    pub fn new(socket: &Path) -> Self {
        Agent { socket: socket.to_owned() }
    }

    /// The keys that it has and that are of a type that is taken, in its order.
    ///
    /// # Errors
    /// When it cannot be reached or does not answer as an agent.
    pub async fn keys(&self) -> Result<Vec<AgentKey>, AgentError> {
        let answer = self.request(&[REQUEST_IDENTITIES], IDENTITIES_ANSWER, LIST_TIMEOUT).await?;
        let mut reader = Reader::new(&answer);
        let count = reader.u32()?;
        if count > MAX_KEYS {
            return Err(AgentError::Malformed);
        }
        let mut keys = Vec::new();
        for _ in 0..count {
            let (blob, comment) = (reader.string()?, reader.string()?);
            if let Ok(public) = PublicKey::from_blob(blob) {
                let comment = String::from_utf8_lossy(comment);
                let clean = |c: char| if c.is_control() { ' ' } else { c };
                let comment = comment.chars().take(MAX_COMMENT_CHARS).map(clean).collect();
                keys.push(AgentKey { agent: self.clone(), public, comment });
            }
        }
        Ok(keys)
    }

    async fn sign(&self, key: &PublicKey, data: &[u8]) -> Result<Vec<u8>, AgentError> {
        let mut request = vec![SIGN_REQUEST];
        put_string(&mut request, &key.to_blob());
        put_string(&mut request, data);
        request.extend_from_slice(&0_u32.to_be_bytes());
        let answer = self.request(&request, SIGN_RESPONSE, SIGN_TIMEOUT).await?;
        let mut reader = Reader::new(&answer);
        let signature = reader.string()?.to_vec();
        if reader.rest().is_empty() { Ok(signature) } else { Err(AgentError::Malformed) }
    }

    async fn request(&self, request: &[u8], expected: u8, limit: Duration) -> Result<Vec<u8>, AgentError> {
        match timeout(limit, self.exchange(request)).await {
            Err(_) => Err(AgentError::Silent),
            Ok(Err(source)) => Err(AgentError::Unreachable { path: self.socket.clone(), source }),
            Ok(Ok(answer)) => match answer.split_first() {
                Some((kind, payload)) if *kind == expected => Ok(payload.to_vec()),
                Some((&FAILURE, _)) => Err(AgentError::Refused),
                _ => Err(AgentError::Malformed),
            },
        }
    }

    async fn exchange(&self, request: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        let mut framed = Vec::new();
        put_string(&mut framed, request);
        stream.write_all(&framed).await?;
        let length = stream.read_u32().await?;
        if length > MAX_MESSAGE_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut answer = Vec::new();
        stream.take(length.into()).read_to_end(&mut answer).await?;
        if u32::try_from(answer.len()) != Ok(length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer)
    }
}

/// A key that an agent holds.
#[derive(Debug, Clone)]
pub struct AgentKey {
    agent: Agent,
    public: PublicKey,
    comment: String,
}

impl AgentKey {
    /// What its owner called it, without control characters.
    pub fn comment(&self) -> &str {
        &self.comment
    }
}

impl Identity for AgentKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign<'a>(&'a self, data: &'a [u8]) -> Signing<'a> {
        Box::pin(async move {
            let failed = |source| SignError::Agent { fingerprint: self.public.fingerprint(), source };
            self.agent.sign(&self.public, data).await.map_err(failed)
        })
    }
}

/// Why an agent is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// Nobody there, or gone in between.
    #[error("the ssh agent at {}", .path.display())]
    Unreachable {
        /// Its socket.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// It does not answer.
    #[error("the ssh agent does not answer")]
    Silent,
    /// It says no: the key is locked, gone, or its owner did not confirm.
    #[error("the ssh agent refuses")]
    Refused,
    /// It does not speak the agents' protocol.
    #[error("the ssh agent's answer is malformed")]
    Malformed,
}

impl From<Cut> for AgentError {
    fn from(_: Cut) -> Self {
        AgentError::Malformed
    }
}
