//! The whole server: both doors on their listeners, over one identity and one NSM.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use attestation::Sha256;
use axum::body::Bytes;
use nsm::Provider;
use tokio::sync::watch;
use tokio::task::JoinSet;
use transport::{Addr, BindError, Listener};

use crate::acme::{self, AcmeConfig};
use crate::application::{self, AppState};
use crate::attester::Attester;
use crate::binding::{ApplicationKey, Binding};
use crate::budget::Budget;
use crate::certificate::keep_attested;
use crate::identity::{IdentityError, TlsIdentity};
use crate::ledger::Ledger;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::nsm_queue::NsmQueue;
use crate::public::{self, PublicState, Trace};
use crate::serve::Door;

/// What to serve, and where.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Where to listen for HTTPS.
    pub listen: Vec<Addr>,
    /// Where to listen for plain HTTP/1.1, for whoever ends TLS elsewhere or needs none. A document that is fetched there says
    /// nothing of the connection that it came through.
    pub plain: Vec<Addr>,
    /// Certificates of authorities, in PEM: HTTPS is for clients with a certificate under one of them. `None`: for everybody.
    pub client_roots: Option<Vec<u8>>,
    /// Whether the certificate carries an attestation document, once there is one.
    pub attested_certificate: bool,
    /// Where to make the Unix socket of the application API; without it there is none.
    pub api: Option<PathBuf>,
    /// Subject alternative names of the certificate; `localhost` when empty.
    pub server_names: Vec<String>,
    /// The measured manifest's bytes; without them `GET /v1/manifest` answers 404.
    pub manifest: Option<Vec<u8>>,
    /// The file with the head of the control channel's chain, 32 bytes (`docs/spec/control-trace.md`); `None` in an image that
    /// has no control channel.
    pub control_head: Option<PathBuf>,
    /// The ledger's socket (`docs/spec/ledger-api.md`); `None` in an image that keeps no ledger.
    pub ledger: Option<PathBuf>,
    /// The authority that a certificate for browsers is ordered from; without it the certificate stays self-signed.
    pub acme: Option<AcmeConfig>,
    /// How much of it at once.
    pub limits: Limits,
}

/// A server that listens, and serves once [`Server::run`] is polled.
#[derive(Debug)]
pub struct Server {
    doors: Vec<(Door, Listener)>,
    key_digest: Sha256,
    public: axum::Router,
    /// End with the server.
    _tasks: JoinSet<()>,
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The TLS key or its certificate could not be made.
    #[error("cannot make the server's TLS identity")]
    Identity(#[from] IdentityError),
    /// An address cannot be listened on.
    #[error("cannot listen")]
    Bind(#[from] BindError),
    /// The application's socket could not be opened to every user in the enclave.
    #[error("cannot set the permissions of {}", path.display())]
    Permissions {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The thread that asks the NSM did not start.
    #[error("cannot start the thread that asks the NSM")]
    Thread(#[source] io::Error),
}

/// A listener that can accept no more, so that the server is better started anew.
#[derive(Debug, thiserror::Error)]
#[error("cannot accept connections at {addr} any more")]
pub struct ListenerBroken {
    /// Where it listened.
    pub addr: Addr,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl Server {
    /// Makes the TLS identity and starts to listen everywhere `config` says.
    ///
    /// # Errors
    /// [`StartError`] as its variants say; nothing is left listening then.
    pub async fn bind(config: Config, provider: Arc<dyn Provider>) -> Result<Self, StartError> {
        let identity = TlsIdentity::generate(&config.server_names, config.client_roots.as_deref())?;
        let queue = || {
            NsmQueue::start(Arc::clone(&provider), config.limits.nsm_queue, config.limits.nsm_answer)
                .map_err(StartError::Thread)
        };
        let ledger = config.ledger.map(|socket| Arc::new(Ledger::new(socket)));
        let control = config.control_head.as_deref().map(Trace::beside);
        let key = ApplicationKey::default();
        let manifest = config.manifest.map(Bytes::from);
        let application = (key.clone(), ledger.clone(), manifest.clone());
        let binding = Binding {
            tls_key: identity.key_digest(),
            application_key: key,
            control_head: config.control_head,
            ledger: ledger.clone(),
        };
        let (nsm, metrics) = (Arc::new(queue()?), Arc::new(Metrics::default()));
        let state = PublicState {
            attester: Attester::start(
                Arc::clone(&nsm),
                binding.clone(),
                &config.limits,
                Arc::clone(&metrics),
            ),
            nsm: Arc::clone(&nsm),
            binding: binding.clone(),
            metrics,
            budget: Budget::new(config.limits.budget, config.limits.budget_per_second),
            tls_key: identity.public_key().into(),
            manifest,
            control,
            ledger,
        };
        let router = public::router(state);
        let tls = Door::new(Some(identity.acceptor()), router.clone(), &config.limits);
        let plain = Door::new(None, router.clone(), &config.limits);
        let mut doors = Vec::new();
        for (door, addrs) in [(tls, &config.listen), (plain, &config.plain)] {
            for addr in addrs {
                doors.push((door.clone(), Listener::bind(addr).await?));
            }
        }
        if let Some(path) = &config.api {
            let listener = Listener::bind(&Addr::Unix(path.clone())).await?;
            open_to_every_user(path)?;
            let (key, ledger, manifest) = application;
            let application = application::router(AppState::new(queue()?, key, ledger, manifest));
            doors.push((Door::new(None, application, &config.limits), listener));
        }
        let key_digest = identity.key_digest();
        let mut tasks = JoinSet::new();
        if let Some(acme) = config.acme {
            tasks.spawn(acme::keep(acme, identity.clone()));
        }
        if config.attested_certificate {
            tasks.spawn(keep_attested(identity, binding, nsm));
        }
        Ok(Self { doors, key_digest, public: router, _tasks: tasks })
    }

    /// What the server answers to the world, for whoever brings connections of their own, such as a test that sends anything at
    /// all. Nothing here bounds time or size: that is the doors' business.
    pub fn public_router(&self) -> axum::Router {
        self.public.clone()
    }

    /// Where the server listens, in the order of [`Config`], the application's socket last.
    pub fn addrs(&self) -> impl Iterator<Item = &Addr> {
        self.doors.iter().map(|(_, listener)| listener.local_addr())
    }

    /// SHA-256 of the TLS key's DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn key_digest(&self) -> Sha256 {
        self.key_digest
    }

    /// Serves until `stop` completes or a listener breaks, then lets open connections finish within
    /// [`Limits::drain`].
    ///
    /// # Errors
    /// [`ListenerBroken`] when it was not `stop` that ended it.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), ListenerBroken> {
        let (stopped, _) = watch::channel(false);
        let mut serving = JoinSet::new();
        let Self { doors, _tasks, .. } = self;
        for (door, listener) in doors {
            serving.spawn(door.serve(listener, stopped.subscribe()));
        }
        let broken = tokio::select! {
            Some(Ok(ended)) = serving.join_next() => ended,
            () = stop => Ok(()),
        };
        stopped.send_replace(true);
        while serving.join_next().await.is_some() {}
        broken
    }
}

/// Services run under users of their own, and each may ask for documents about its own data.
fn open_to_every_user(path: &std::path::Path) -> Result<(), StartError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))
        .map_err(|source| StartError::Permissions { path: path.to_owned(), source })
}
