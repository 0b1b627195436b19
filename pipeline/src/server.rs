//! The server of the control channel: listens, shows evidence, admits operators, and serves their sessions.
//!
//! An enclave's init starts it where the measured manifest names operators.

use std::{collections::HashMap, io, path::PathBuf, sync::Arc, time::Duration};

use attestation::Sha256;
use channel::{
    Challenge, IdentityError, Refusal,
    io::{Denied, Gate, Peer},
    ssh::{KeyError, PublicKey},
};
use manifest::Operator;
use nsm::{AttestationRequest, Provider};
use tokio::{sync::Semaphore, task::JoinSet};
use transport::{Addr, BindError, Listener, Stream};

use crate::{
    application::Application,
    ledger::Ledger,
    limits::Limits,
    running::Running,
    session::Sessions,
    trace::{State, Trace},
    transfer::TransferVerbs,
};

/// How long programs of sessions that end with the server have to be killed and waited for.
const CLEAN_UP: Duration = Duration::from_secs(2);
/// Allocations of so many bytes go back to the system when they are freed: blocks of transfers and buffers of channels,
/// which are larger, and which a crowd leaves behind in many pieces otherwise.
pub const GIVEN_BACK_BYTES: u32 = 128 << 10;

/// What a server needs to know.
pub struct ServerConfig {
    /// Where it listens.
    pub listen: Addr,
    /// The security module.
    pub module: Arc<dyn Provider>,
    /// Who is admitted, as the measured manifest has it.
    pub operators: Vec<Operator>,
    /// Where it keeps its trace: a directory that no program of an operator or of the application can reach.
    pub state: PathBuf,
    /// Where and as whom programs run.
    pub application: Application,
    /// Init's private socket; without it there are no services.
    pub init: Option<PathBuf>,
    /// The ledger's socket (`docs/spec/ledger-api.md`); `None` in an image that keeps no ledger.
    pub ledger: Option<PathBuf>,
    /// What it holds at most.
    pub limits: Limits,
}

impl std::fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerConfig").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// Why a server cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// It cannot listen.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// It has no TLS key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An operator's key is none.
    #[error("the key of operator {operator}")]
    Key {
        /// Who.
        operator: String,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// The system takes no more connections.
    #[error("cannot accept connections any more")]
    Accept(#[source] io::Error),
}

/// Runs a server until `stop` is there; calls `ready` once it listens. Sessions that are open then are ended, and so is
/// every program in them.
///
/// # Errors
/// When it cannot listen, or cannot any more.
pub async fn run(
    config: ServerConfig,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let ServerConfig { listen, module, operators, state, application, init, ledger, limits } = config;
    sys::allocator::map_from(GIVEN_BACK_BYTES);
    let mut identity = channel::io::ServerConfig::generate()?;
    identity.deadline = limits.handshake;
    let trace = Arc::new(Trace::open(&state, module.clone()));
    match trace.state() {
        State::Fresh => tracing::info!("nobody has entered"),
        State::Entered => tracing::info!("going on with the trace of an earlier server"),
        State::Sealed => tracing::info!("sealed: nobody is admitted"),
        State::Broken(reason) => tracing::error!(reason, "nobody is admitted"),
    }
    let verbs = TransferVerbs::new(limits.stall);
    let running = Running::open(&state)
        .inspect_err(|error| tracing::warn!(%error, "if this server is killed, its programs are not"))
        .ok();
    let door = Door {
        operators: by_key(operators)?,
        module,
        trace: trace.clone(),
        ledger: ledger.map(Ledger::new),
        identity,
    };
    let door = Arc::new(door);
    let handshakes = Arc::new(Semaphore::new(limits.handshakes));
    let sessions = Sessions::new(application, trace, limits, init, vec![Box::new(verbs)]);
    let sessions = Arc::new(sessions.noting(running));
    let listener = Listener::bind(&listen).await?;
    ready();
    let mut tasks = JoinSet::new();
    tokio::pin!(stop);
    let outcome = loop {
        // A connection that nobody has a handshake for waits where it is.
        let accepted = async {
            let slot = handshakes.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, stream) = tokio::select! {
            () = &mut stop => break Ok(()),
            Some(_ended) = tasks.join_next() => continue,
            (slot, accepted) = accepted => match accepted {
                Ok((stream, _peer)) => (slot, stream),
                Err(error) => break Err(ServerError::Accept(error)),
            },
        };
        let (door, sessions) = (door.clone(), sessions.clone());
        tasks.spawn(async move {
            if let Some((session, operator)) = door.open(stream).await {
                drop(slot);
                sessions.serve(session, &operator).await;
            }
        });
    };
    tasks.shutdown().await;
    // What was killed just now is waited for in tasks of its own.
    tokio::time::sleep(CLEAN_UP.min(Duration::from_millis(50))).await;
    outcome
}

fn by_key(operators: Vec<Operator>) -> Result<HashMap<PublicKey, Operator>, ServerError> {
    let keyed = operators.into_iter().map(|operator| match PublicKey::from_line(operator.key.as_str()) {
        Ok(key) => Ok((key, operator)),
        Err(source) => Err(ServerError::Key { operator: operator.name, source }),
    });
    keyed.collect()
}

/// Shows the evidence, and lets those in who are listed.
struct Door {
    operators: HashMap<PublicKey, Operator>,
    module: Arc<dyn Provider>,
    trace: Arc<Trace>,
    ledger: Option<Ledger>,
    identity: channel::io::ServerConfig,
}

impl Door {
    async fn open(&self, stream: Stream) -> Option<(channel::io::Session<Stream>, Operator)> {
        match channel::io::accept(stream, &self.identity, self).await {
            Ok((session, _peer, operator)) => Some((session, operator)),
            Err(error) => {
                let reason: &(dyn std::error::Error + 'static) = &error;
                tracing::info!(reason, "not let in");
                None
            }
        }
    }
}

impl Gate for Door {
    type Admitted = Operator;

    async fn attest(&self, challenge: Challenge) -> Result<Vec<u8>, Denied> {
        let failed =
            |source: channel::io::BoxError| Denied { refusal: Refusal::NoEvidence, source: Some(source) };
        // A statement without it would say that this enclave keeps none.
        let ledger = match &self.ledger {
            Some(ledger) => Some(ledger.state().await.map_err(|error| failed(error.into()))?),
            None => None,
        };
        let head = Sha256(self.trace.head().0);
        let request = AttestationRequest {
            user_data: Some(challenge.statement(Some(head), ledger).encode()),
            nonce: Some(challenge.nonce.to_vec()),
            public_key: None,
        };
        let module = self.module.clone();
        // The module blocks; at most as many threads as there are handshakes wait for it.
        let document = tokio::task::spawn_blocking(move || module.attest(&request)).await;
        document.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))
    }

    async fn authorize(&self, peer: &Peer) -> Result<Operator, Denied> {
        let key = peer.key.as_ref().ok_or(Refusal::KeyRequired)?;
        let operator = self.operators.get(key).ok_or(Refusal::UnknownKey)?;
        // Said to those only who are listed: nobody else is told anything.
        if self.trace.state() == State::Sealed {
            return Err(Refusal::Sealed.into());
        }
        Ok(operator.clone())
    }
}
