//! A running server with a simulated module, a refusing one, or one that waits to be let go.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use attestation::binding::{ApplicationData, Statement};
use attestation::{Document, Roots, Sha256, UnixTime, Verified, verify};
use aws_lc_rs::digest::{SHA384, digest};
use nsm::sim::{DevelopmentRoot, SimulatedNsm};
use nsm::wire::{Request, Response};
use nsm::{ErrorCode, PcrIndex, Provider, Transact};
use ra_web_srv::{Config, Limits, ListenerBroken, Server};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use transport::Addr;

use crate::client::PATIENCE;
use crate::ledger::FakeLedger;

/// The manifest served; any bytes will do for this server.
pub(crate) const MANIFEST: &[u8] = br#"{"name":"an-agent","version":1}"#;

/// A server on TCP and on a Unix socket, its application API, and the means to stop it.
pub(crate) struct Enclave {
    pub(crate) tcp: Addr,
    pub(crate) unix: Addr,
    pub(crate) api: Addr,
    pub(crate) key_digest: Sha256,
    pub(crate) dir: TempDir,
    root_pem: String,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), ListenerBroken>>,
}

impl Enclave {
    pub(crate) async fn start() -> Self {
        Self::start_with(patient()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        Self::start_simulated(limits, |module| Arc::new(module)).await
    }

    /// On a simulated module that answers nothing until it is let go.
    pub(crate) async fn start_gated(limits: Limits) -> (Self, Gate) {
        let gate = Gate::default();
        let held = gate.clone();
        let enclave = Self::start_simulated(limits, |module| Arc::new(Gated { module, gate: held })).await;
        (enclave, gate)
    }

    /// On a simulated module.
    pub(crate) async fn start_configured(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (module, root_pem) = simulated(dir.path());
        Self::start_on(dir, root_pem, Arc::new(module), config).await
    }

    /// On a module of the test's own; its documents do not verify.
    pub(crate) async fn start_configured_on(module: impl Provider + 'static, config: Config) -> Self {
        Self::start_on(tempfile::tempdir().unwrap(), String::new(), Arc::new(module), config).await
    }

    /// With a ledger that nobody serves yet.
    pub(crate) async fn start_with_ledger(limits: Limits) -> (Self, FakeLedger) {
        let dir = tempfile::tempdir().unwrap();
        let ledger = FakeLedger::new(dir.path());
        let config = Config { limits, ledger: Some(ledger.socket.clone()), ..Config::default() };
        let (module, root_pem) = simulated(dir.path());
        (Self::start_on(dir, root_pem, Arc::new(module), config).await, ledger)
    }

    /// In an image with a control channel that has written `entries`.
    pub(crate) async fn start_with_control(entries: &[&[u8]]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let head = dir.path().join("head");
        std::fs::write(&head, [9; 32]).unwrap();
        let framed = |entry: &&[u8]| [&u32::try_from(entry.len()).unwrap().to_be_bytes()[..], entry].concat();
        let transcript: Vec<_> = entries.iter().flat_map(framed).collect();
        std::fs::write(dir.path().join("transcript"), transcript).unwrap();
        let config = Config { control_head: Some(head), ..Config::default() };
        let (module, root_pem) = simulated(dir.path());
        Self::start_on(dir, root_pem, Arc::new(module), config).await
    }

    /// As init leaves it: the manifest is in PCR16.
    pub(crate) async fn start_measured() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (module, root_pem) = simulated(dir.path());
        let (framework, digest) = (PcrIndex::new(16_u64).unwrap(), digest(&SHA384, MANIFEST));
        module.extend_pcr(framework, digest.as_ref()).unwrap();
        module.lock_pcr(framework).unwrap();
        Self::start_on(dir, root_pem, Arc::new(module), Config::default()).await
    }

    async fn start_simulated(limits: Limits, wrap: impl FnOnce(SimulatedNsm) -> Arc<dyn Provider>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (module, root_pem) = simulated(dir.path());
        Self::start_on(dir, root_pem, wrap(module), Config { limits, ..Config::default() }).await
    }

    /// On a module of the test's own; its documents do not verify.
    pub(crate) async fn start_on_module(module: impl Provider + 'static, limits: Limits) -> Self {
        Self::start_configured_on(module, Config { limits, ..Config::default() }).await
    }

    async fn start_on(dir: TempDir, root_pem: String, provider: Arc<dyn Provider>, config: Config) -> Self {
        let unix = Addr::Unix(dir.path().join("https.sock"));
        let api = dir.path().join("api.sock");
        let config = Config {
            listen: vec!["tcp://127.0.0.1:0".parse().unwrap(), unix.clone()],
            api: Some(api.clone()),
            manifest: Some(MANIFEST.to_vec()),
            ..config
        };
        let server = Server::bind(config, provider).await.unwrap();
        let tcp = server.addrs().next().unwrap().clone();
        let key_digest = server.key_digest();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(server.run(async move {
            let _ = stopped.await;
        }));
        Self { tcp, unix, api: Addr::Unix(api), key_digest, dir, root_pem, stop, served }
    }

    /// Verifies `document` under the development root, at the time the document states.
    pub(crate) fn verify(&self, document: &[u8]) -> Verified {
        let at = UnixTime::from_millis(Document::decode(document).unwrap().timestamp_ms);
        verify(document, &Roots::custom(self.root_pem.as_bytes()).unwrap(), at).unwrap()
    }

    /// The certificate of the root that its documents lead to.
    pub(crate) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    pub(crate) fn api_path(&self) -> PathBuf {
        match &self.api {
            Addr::Unix(path) => path.clone(),
            other => panic!("{other} is no Unix socket"),
        }
    }

    /// Stops the server and waits until it has.
    pub(crate) async fn stop(self) -> TempDir {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.served).await.unwrap().unwrap().unwrap();
        self.dir
    }
}

/// A module under a root of its own, and that root.
fn simulated(dir: &Path) -> (SimulatedNsm, String) {
    let root = DevelopmentRoot::load_or_create(dir).unwrap();
    let pcrs: Vec<_> = (0..3_u8).map(|n| (PcrIndex::new(n).unwrap(), [n + 1; 48])).collect();
    let module = SimulatedNsm::new(&root, "i-0123456789abcdef0-enc0123456789abcdef", &pcrs).unwrap();
    (module, root.root_pem().to_owned())
}

/// Limits on time that a machine that is busy, and does in a test what a crowd does, does not meet by itself.
pub(crate) fn patient() -> Limits {
    Limits { handshake: PATIENCE, nsm_answer: PATIENCE, request: PATIENCE, ..Limits::default() }
}

/// The statement a server with the TLS key `tls_key` makes.
pub(crate) fn server_statement(tls_key: Sha256) -> Statement {
    Statement::Server { tls_key, application_key: None, control_head: None, ledger: None }
}

/// The statement made on behalf of an application that says `data`.
pub(crate) fn application_statement(data: &[u8]) -> Statement {
    Statement::Application {
        application_key: None,
        data: ApplicationData::new(data.to_vec()).unwrap(),
        ledger: None,
    }
}

pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        dir.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A module that answers every request with an internal error.
pub(crate) struct Refusing;

impl Transact for Refusing {
    fn transact(&self, _: &Request) -> Result<Response, nsm::Error> {
        Ok(Response::Error(ErrorCode::InternalError))
    }
}

/// A module that answers every request as if it had been another.
pub(crate) struct Confused;

impl Transact for Confused {
    fn transact(&self, _: &Request) -> Result<Response, nsm::Error> {
        Ok(Response::LockPcr)
    }
}

/// What a module waits at until it is let go; counts what the module was asked.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    asked: usize,
    released: bool,
}

impl Gate {
    pub(crate) fn release(&self) {
        self.0.0.lock().unwrap().released = true;
        self.0.1.notify_all();
    }

    pub(crate) fn asked(&self) -> usize {
        self.0.0.lock().unwrap().asked
    }

    fn pass(&self) {
        let mut state = self.0.0.lock().unwrap();
        state.asked += 1;
        drop(self.0.1.wait_while(state, |state| !state.released).unwrap());
    }
}

/// A module behind a gate that then answers with no document at all.
#[derive(Clone, Default)]
pub(crate) struct Held(Gate);

impl Held {
    pub(crate) fn release(&self) {
        self.0.release();
    }

    pub(crate) fn asked(&self) -> usize {
        self.0.asked()
    }
}

impl Transact for Held {
    fn transact(&self, _: &Request) -> Result<Response, nsm::Error> {
        self.0.pass();
        Ok(Response::Attestation { document: b"document".to_vec() })
    }
}

/// A simulated module behind a gate.
struct Gated {
    module: SimulatedNsm,
    gate: Gate,
}

impl Transact for Gated {
    fn transact(&self, request: &Request) -> Result<Response, nsm::Error> {
        self.gate.pass();
        self.module.transact(request)
    }
}
