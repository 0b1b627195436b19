//! Channels over streams: [`connect`], [`accept`], and the [`Session`] that both give.
//!
//! Moves bytes for [`Client`] and [`Server`], which decide everything, and adds what they do not know: time,
//! random challenges, and the streams themselves.

mod buffer;
mod session;

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::time::Duration;

use attestation::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

pub use session::Session;

use crate::message::NONCE_BYTES;
use crate::ssh::{Identity, PublicKey, SignError, sign_sshsig};
use crate::{
    Challenge, Client, ClientStep, Error, Evidence, MAX_HANDSHAKE_BYTES, NAMESPACE, Refusal, Server,
    ServerIdentity, ServerStep,
};

/// How long a handshake may take, unless told otherwise.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(30);
/// What is read at once during a handshake.
const READ_BYTES: usize = 16 * 1024;
/// How long a client that was refused is given to read why.
const LINGER: Duration = Duration::from_secs(2);

/// Any error of the caller's own.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// How a client opens a channel.
#[derive(Clone, Copy)]
pub struct ClientConfig<'a> {
    /// Who it is; `None` for a server that asks nobody.
    pub identity: Option<&'a dyn Identity>,
    /// The first bytes of the session, which leave together with the signature and save a round trip. At most 64 KiB. The
    /// enclave has been appraised by then, but it reads them only once it has admitted the client.
    pub first: &'a [u8],
    /// How long to wait for the evidence, and again for the server's decision. Signing is not counted: it may have to ask
    /// a person.
    pub deadline: Duration,
}

impl Default for ClientConfig<'_> {
    fn default() -> Self {
        ClientConfig { identity: None, first: &[], deadline: HANDSHAKE_DEADLINE }
    }
}

impl std::fmt::Debug for ClientConfig<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = self.identity.map(Identity::public_key);
        f.debug_struct("ClientConfig").field("key", &key).field("deadline", &self.deadline).finish()
    }
}

/// How a server opens channels.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Its TLS key.
    pub identity: ServerIdentity,
    /// How long a client may take until its channel is open: with everything, also a person who confirms a signature.
    pub deadline: Duration,
}

impl ServerConfig {
    /// A server with a fresh TLS key.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub fn generate() -> Result<Self, crate::IdentityError> {
        Ok(ServerConfig { identity: ServerIdentity::generate()?, deadline: HANDSHAKE_DEADLINE })
    }
}

/// Who a server lets in, and what it shows of itself.
pub trait Gate: Sync {
    /// What is known of a client that was let in.
    type Admitted: Send;

    /// Gets the document that answers `challenge`. The binding statement is [`Challenge::statement`].
    ///
    /// # Errors
    /// [`Denied`]: what the client is told, and what went wrong.
    fn attest(&self, challenge: Challenge) -> impl Future<Output = Result<Vec<u8>, Denied>> + Send;

    /// Decides whether `peer` is let in. Its signature, if it has a key, is verified already.
    ///
    /// # Errors
    /// [`Denied`]: what the client is told, and perhaps what went wrong.
    fn authorize(&self, peer: &Peer) -> impl Future<Output = Result<Self::Admitted, Denied>> + Send;
}

/// A client that is not let in.
#[derive(Debug, thiserror::Error)]
#[error("{refusal}")]
pub struct Denied {
    /// What the client is told.
    pub refusal: Refusal,
    /// What it is not told.
    #[source]
    pub source: Option<BoxError>,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Denied { refusal, source: None }
    }
}

/// The client of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// Its key, which it has proved to hold; `None` when it has shown none.
    pub key: Option<PublicKey>,
    /// The digest that names this connection.
    pub exporter: Sha256,
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The peer does not keep to the protocol, or refuses.
    #[error(transparent)]
    Channel(#[from] Error),
    /// The stream failed.
    #[error("the connection failed before the channel was open")]
    Io(#[from] io::Error),
    /// The stream ended.
    #[error("the connection ended before the channel was open")]
    Ended,
    /// It took too long.
    #[error("the channel was not open within {} s", .limit.as_secs_f32())]
    Deadline {
        /// The time allowed.
        limit: Duration,
    },
    /// The client's appraisal says no. Nothing was sent.
    #[error("the enclave's evidence was refused")]
    Appraisal(#[source] BoxError),
    /// The client's key does not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The server did not let the client in, and told it.
    #[error("turned away")]
    Denied {
        /// Who, if it had come that far.
        peer: Option<Peer>,
        /// Why.
        #[source]
        source: Denied,
    },
}

/// Opens a channel over `stream`, as a client.
///
/// `appraise` gets what the enclave shows before anything of the caller's is sent, and says whether it is the enclave that
/// was wanted. What it returns is returned with the session.
///
/// # Errors
/// [`OpenError`]. The stream is dropped then.
pub async fn connect<S, T, E>(
    mut stream: S,
    config: ClientConfig<'_>,
    appraise: impl FnOnce(&Evidence) -> Result<T, E>,
) -> Result<(Session<S>, T), OpenError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    E: Into<BoxError>,
{
    let limit = config.deadline;
    let mut client = Client::new(nonce())?;
    within(limit, drive(&mut stream, &mut client)).await?;
    let evidence = client.evidence().ok_or(Error::Over)?;
    let appraisal = appraise(evidence).map_err(|error| OpenError::Appraisal(error.into()))?;
    let signature = match (config.identity, client.message()) {
        (Some(identity), Some(message)) => Some(sign_sshsig(identity, NAMESPACE, &message).await?),
        _ => None,
    };
    client.authenticate(signature.as_deref(), config.first)?;
    within(limit, drive(&mut stream, &mut client)).await?;
    Ok((Session::new(stream, client.into_established()?), appraisal))
}

/// Opens a channel over `stream`, as a server: shows a document of `gate`'s, and asks it whether the client is let in.
///
/// # Errors
/// [`OpenError`]. The client has been told if it was refused, and the stream is dropped.
pub async fn accept<S, G>(
    mut stream: S,
    config: &ServerConfig,
    gate: &G,
) -> Result<(Session<S>, Peer, G::Admitted), OpenError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    G: Gate,
{
    let opened = within(config.deadline, serve(&mut stream, config, gate)).await;
    if let Err(OpenError::Denied { .. } | OpenError::Channel(_)) = opened {
        linger(&mut stream).await;
    }
    let (server, peer, admitted) = opened?;
    Ok((Session::new(stream, server.into_established()?), peer, admitted))
}

async fn serve<S, G>(
    stream: &mut S,
    config: &ServerConfig,
    gate: &G,
) -> Result<(Server, Peer, G::Admitted), OpenError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    G: Gate,
{
    let mut server = Server::new(&config.identity)?;
    let ServerStep::Attest(challenge) = drive(stream, &mut server).await? else {
        return Err(Error::Over.into());
    };
    match gate.attest(challenge).await {
        Ok(document) => server.attest(document)?,
        Err(denied) => return Err(turn_away(stream, &mut server, None, denied).await),
    }
    let ServerStep::Authorize(key) = drive(stream, &mut server).await? else {
        return Err(Error::Over.into());
    };
    let peer = Peer { key, exporter: challenge.exporter };
    let admitted = match gate.authorize(&peer).await {
        Ok(admitted) => admitted,
        Err(denied) => return Err(turn_away(stream, &mut server, Some(peer), denied).await),
    };
    server.accept()?;
    drive(stream, &mut server).await?;
    Ok((server, peer, admitted))
}

async fn turn_away<S: AsyncWrite + Unpin>(
    stream: &mut S,
    server: &mut Server,
    peer: Option<Peer>,
    denied: Denied,
) -> OpenError {
    let told = match server.refuse(denied.refusal) {
        Ok(()) => send(stream, server.transmit()).await,
        Err(error) => return error.into(),
    };
    match told {
        Ok(()) => OpenError::Denied { peer, source: denied },
        Err(error) => error.into(),
    }
}

/// Gives the client time to read why, since closing a socket with unread bytes in it can take back what was sent.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let drain = async {
        stream.shutdown().await?;
        let limit = MAX_HANDSHAKE_BYTES as u64;
        tokio::io::copy(&mut stream.take(limit), &mut tokio::io::sink()).await
    };
    // Neither matters any more.
    let _ = timeout(LINGER, drain).await;
}

/// What [`drive`] needs of a client or server.
trait Machine {
    type Step;

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Error>;
    fn transmit(&mut self) -> Vec<u8>;
    /// `None` while it needs more bytes.
    fn step(&mut self) -> Result<Option<Self::Step>, Error>;
}

impl Machine for Client {
    type Step = ClientStep;

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Client::receive(self, bytes)
    }

    fn transmit(&mut self) -> Vec<u8> {
        Client::transmit(self)
    }

    fn step(&mut self) -> Result<Option<ClientStep>, Error> {
        Client::step(self).map(|step| Some(step).filter(|step| *step != ClientStep::Receive))
    }
}

impl Machine for Server {
    type Step = ServerStep;

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Server::receive(self, bytes)
    }

    fn transmit(&mut self) -> Vec<u8> {
        Server::transmit(self)
    }

    fn step(&mut self) -> Result<Option<ServerStep>, Error> {
        Server::step(self).map(|step| Some(step).filter(|step| *step != ServerStep::Receive))
    }
}

/// Moves bytes until `machine` wants something else.
async fn drive<S, M>(stream: &mut S, machine: &mut M) -> Result<M::Step, OpenError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    M: Machine,
{
    let mut bytes = Vec::new();
    loop {
        let step = machine.step();
        // Also after an error: the peer is told by what is sent now.
        let sent = send(stream, machine.transmit()).await;
        if let Some(step) = step? {
            sent?;
            return Ok(step);
        }
        sent?;
        bytes.resize(READ_BYTES, 0);
        match stream.read(&mut bytes).await? {
            0 => return Err(OpenError::Ended),
            count => machine.receive(&bytes[..count])?,
        }
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, bytes: Vec<u8>) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    stream.write_all(&bytes).await?;
    stream.flush().await
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, OpenError>>,
) -> Result<T, OpenError> {
    timeout(limit, work).await.unwrap_or(Err(OpenError::Deadline { limit }))
}

fn nonce() -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    aws_lc_rs::rand::fill(&mut nonce).expect("the system has random bytes");
    nonce
}
