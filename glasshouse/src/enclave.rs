//! One running enclave: its backend's process, the host's services around it, and the tasks that keep both going.

use std::{
    fs,
    io::{ErrorKind, Read},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use enclave_init::{EVENTS_PORT, event::Record};
use nsm::{
    PcrIndex,
    sim::{self, DevelopmentRoot, SimulatedNsm},
};
use pf_proxy::host::{Host, HostOptions};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};
use transport::{Addr, Cid, Listener, Port, hybrid::Switchboard};
use vsock_bridge::Bridge;

use crate::{
    backend::{
        self, local,
        nitro::{self, NitroCli},
        qemu,
    },
    cli::BackendKind,
    host::{self, Fabric, LogFile},
    paths,
    run::Plan,
    state::Claimed,
};

/// The CID of an enclave under QEMU unless one is asked for. Each has a bridge of its own, so they cannot collide.
const QEMU_CID: u32 = 4;

/// How soon an enclave that did not hear a request to shut down is asked again.
const SHUTDOWN_RETRY: Duration = Duration::from_millis(200);
/// Bytes kept of what a backend's process writes to its standard error.
const MAX_ERRORS_BYTES: usize = 64 << 10;
/// How long a killed process may take to end.
pub(crate) const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A running enclave. Dropping it ends everything that was started for it.
pub(crate) struct Enclave {
    /// What its init reports.
    pub(crate) events: mpsc::Receiver<Record>,
    /// How it is reached.
    pub(crate) fabric: Fabric,
    /// How it ends.
    pub(crate) end: End,
    kill: Option<oneshot::Sender<()>>,
    _tasks: JoinSet<()>,
    _services: Services,
}

/// The end of an enclave, still to come or past.
#[derive(Debug)]
pub(crate) struct End(Option<oneshot::Receiver<Result<Ending>>>);

impl End {
    /// Waits for the end and says how it came; fails when that was said before.
    ///
    /// Cancel safe: what is given up here is awaited again by the next call.
    pub(crate) async fn wait(&mut self) -> Result<Ending> {
        let Some(ended) = &mut self.0 else { bail!("the enclave has ended") };
        let ending = ended.await;
        self.0 = None;
        ending.context("the task that watches the enclave ended")?
    }
}

/// How the backend's process ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Its exit status.
    pub(crate) status: u8,
    /// For people.
    pub(crate) what: String,
}

/// Threads that serve the enclave's devices; they stop when dropped.
#[derive(Default)]
struct Services {
    _nsm: Option<sim::ServerHandle>,
    _bridge: Option<vsock_bridge::Handle>,
}

/// The host's end of the way out, where the image has one. Bound before anything boots, as all that an enclave looks for.
async fn way_out(plan: &Plan, fabric: &Fabric) -> Result<Option<Host>> {
    let Some(guard) = plan.way_out.clone() else { return Ok(None) };
    let addr = fabric.host_addr(egress::EGRESS_PORT);
    Ok(Some(Host::bind(&addr, guard, HostOptions::default()).await?.counted_by(&plan.registry)))
}

fn serve_way_out(way_out: Option<Host>, tasks: &mut JoinSet<()>) {
    let Some(host) = way_out else { return };
    tasks.spawn(async move { log_failure("the way out", host.run(std::future::pending()).await.map(drop)) });
}

/// The backend's process, before a task watches it.
enum Started {
    Process(std::process::Child, &'static str),
    Nitro(nitro::Enclave),
}

impl Enclave {
    /// Starts what `plan` says, with its sockets in `claimed`.
    pub(crate) async fn launch(plan: &Plan, claimed: &Claimed) -> Result<Self> {
        let folder = claimed.path();
        let (sender, events) = mpsc::channel(1024);
        let mut tasks = JoinSet::new();
        let mut services = Services::default();
        let log = LogFile::create(claimed.folder().events())?;
        let console = LogFile::create(claimed.folder().console())?;

        let (fabric, started) = match plan.backend {
            BackendKind::Nitro => {
                // Bound first: an enclave that nobody listens to is not started.
                let listener =
                    Listener::bind(&Addr::Vsock { cid: Cid::ANY, port: Port(EVENTS_PORT) }).await?;
                let way_out = way_out(plan, &Fabric::Vsock(Cid::ANY)).await?;
                let enclave = NitroCli::default().launch(&nitro_request(plan)).await?;
                tasks.spawn(host::receive_events(listener, Some(Cid(enclave.cid)), log, sender));
                serve_way_out(way_out.map(|host| host.only(Cid(enclave.cid))), &mut tasks);
                (Fabric::Vsock(Cid(enclave.cid)), Started::Nitro(enclave))
            }
            BackendKind::Qemu | BackendKind::Local => {
                let vsock = folder.join("v");
                fs::create_dir(&vsock).with_context(|| format!("making {}", vsock.display()))?;
                let fabric = Fabric::Hybrid(vsock.join("vsock"));
                // Both listen before anything boots: an enclave that finds no heartbeat does not start.
                let heartbeat = Listener::bind(&fabric.host_addr(enclave_init::HEARTBEAT_PORT)).await?;
                tasks.spawn(host::answer_heartbeats(heartbeat));
                let listener = Listener::bind(&fabric.host_addr(EVENTS_PORT)).await?;
                tasks.spawn(host::receive_events(listener, None, log, sender));
                let way_out = way_out(plan, &fabric).await?;
                let child = if plan.backend == BackendKind::Qemu {
                    Started::Process(launch_qemu(plan, folder, &vsock, &mut services)?, "QEMU")
                } else {
                    let switchboard = Switchboard::bind(&vsock.join("vsock")).await?;
                    tasks.spawn(async move { log_failure("the vsock's sockets", switchboard.run().await) });
                    Started::Process(launch_local(plan, folder, &vsock, &mut services)?, "the enclave's init")
                };
                serve_way_out(way_out, &mut tasks);
                (fabric, child)
            }
        };
        let (kill, killed) = oneshot::channel();
        let (report, ended) = oneshot::channel();
        tasks.spawn(async move {
            let ending = match started {
                Started::Process(child, what) => watch_process(child, what, console, killed).await,
                Started::Nitro(enclave) => watch_nitro(&enclave, killed).await,
            };
            // Nobody waits any more when the supervisor gave up.
            let _ = report.send(ending);
        });
        Ok(Self {
            events,
            fabric,
            end: End(Some(ended)),
            kill: Some(kill),
            _tasks: tasks,
            _services: services,
        })
    }

    /// Asks for a clean end, again and again until the enclave hears it: one that still boots does not listen yet.
    pub(crate) fn request_shutdown(&self) {
        let fabric = self.fabric.clone();
        tokio::spawn(async move {
            while let Err(error) = host::request_shutdown(&fabric).await {
                tracing::info!(error = format!("{error:#}"), "clean shutdown");
                sleep(SHUTDOWN_RETRY).await;
            }
        });
    }

    /// Ends the enclave by force, if it has not ended, and waits for that.
    pub(crate) async fn finish(&mut self) {
        self.kill();
        if timeout(KILL_TIMEOUT, self.end.wait()).await.is_err() {
            tracing::error!("the enclave could not be ended");
        }
    }

    /// Ends the enclave by force.
    pub(crate) fn kill(&mut self) {
        if let Some(kill) = self.kill.take() {
            // The task that would hear it has ended when the enclave has.
            let _ = kill.send(());
        }
    }
}

fn nitro_request(plan: &Plan) -> nitro::Request<'_> {
    nitro::Request {
        image: &plan.image.path,
        name: &plan.name,
        memory_mib: plan.memory_mib,
        cpus: plan.cpus,
        cid: plan.cid,
        debug: plan.debug,
    }
}

fn launch_qemu(
    plan: &Plan,
    folder: &Path,
    vsock: &Path,
    services: &mut Services,
) -> Result<std::process::Child> {
    let root = DevelopmentRoot::load_or_create(&paths::data()?)?;
    let signer = folder.join("signer");
    services._nsm = Some(sim::serve_signer(listen(&signer)?, Arc::new(sim::Signer::new(&root)))?);
    let config = vsock_bridge::Config {
        vhost_socket: folder.join("vhost"),
        uds: vsock.join("vsock"),
        guest_cid: plan.cid.unwrap_or(QEMU_CID),
    };
    let vhost = config.vhost_socket.clone();
    let bridge = Bridge::bind(config).and_then(Bridge::spawn);
    services._bridge = Some(bridge.map_err(|error| anyhow!("making the vsock device: {error}"))?);
    qemu::launch(&qemu::Machine {
        program: &paths::qemu()?,
        image: &plan.image.path,
        vhost: &vhost,
        signer: &signer,
        module_id: &module_id(plan),
        memory_mib: plan.memory_mib,
        cpus: plan.cpus,
    })
}

fn launch_local(
    plan: &Plan,
    folder: &Path,
    vsock: &Path,
    services: &mut Services,
) -> Result<std::process::Child> {
    let root = DevelopmentRoot::load_or_create(&paths::data()?)?;
    let mut pcrs = Vec::new();
    // Register 16 is the enclave's own init's to extend.
    for (index, value) in plan.image.pcrs.range(..16) {
        pcrs.push((PcrIndex::new(*index)?, value.0));
    }
    let module = SimulatedNsm::new(&root, &module_id(plan), &pcrs)?;
    let nsm = folder.join("nsm");
    services._nsm = Some(sim::serve_module(listen(&nsm)?, Arc::new(module))?);
    let enclave_root = folder.join("root");
    fs::create_dir(&enclave_root).with_context(|| format!("making {}", enclave_root.display()))?;
    let is_root =
        |service: &manifest::Service| matches!(service.user.as_str(), "0" | "0:0" | "root" | "root:root");
    let only_root = if plan.image.manifest.services.iter().all(is_root) {
        local::OnlyRoot::Yes
    } else {
        local::OnlyRoot::No
    };
    let setup = local::Setup {
        image: plan.image.path.clone(),
        root: enclave_root,
        vsock: vsock.to_owned(),
        nsm,
        memory_mib: plan.memory_mib,
    };
    local::launch(&setup, only_root)
}

/// In the form AWS gives it, so that nothing takes it for a name.
fn module_id(plan: &Plan) -> String {
    format!("i-simulated-enc-{}", plan.name)
}

fn listen(path: &PathBuf) -> Result<UnixListener> {
    UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))
}

fn log_failure<T, E: std::error::Error + 'static>(what: &str, result: Result<T, E>) {
    if let Err(error) = result {
        tracing::error!(error = &error as &dyn std::error::Error, "{what} failed");
    }
}

/// Keeps the process's output and tells how it ended; `killed` ends it by force.
async fn watch_process(
    mut child: std::process::Child,
    what: &'static str,
    mut console: LogFile,
    killed: oneshot::Receiver<()>,
) -> Result<Ending> {
    let mut stdout = child.stdout.take().expect("the child's output is a pipe");
    let mut stderr = child.stderr.take().expect("the child's errors are a pipe");
    let errors = std::thread::spawn(move || collect_errors(&mut stderr, what));
    let output = std::thread::spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        loop {
            match stdout.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => console.write(buffer.get(..count).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    });
    let id = rustix::process::Pid::from_child(&child);
    let waited = tokio::task::spawn_blocking(move || child.wait());
    tokio::pin!(waited);
    let status = tokio::select! {
        status = &mut waited => status,
        Ok(()) = killed => {
            // It may have ended by itself this moment; then there is nobody to kill, and its id is not reused yet.
            let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
            waited.await
        }
    };
    let status = status.context("waiting")?.with_context(|| format!("waiting for {what}"))?;
    let joined = tokio::task::spawn_blocking(move || {
        let _ = output.join();
        errors.join().unwrap_or_default()
    });
    let errors = joined.await.unwrap_or_default();
    let mut what = format!("{what} ended: {status}");
    if !errors.is_empty() {
        what = format!("{what}: {errors}");
    }
    Ok(Ending { status: backend::exit_status(status), what })
}

/// What the process wrote to its standard error, which is also said as it comes: a process that complains and goes on
/// would otherwise be heard only at its end. Bounded; the rest is read and forgotten.
fn collect_errors(stderr: &mut impl Read, what: &str) -> String {
    let mut text = String::new();
    let mut buffer = vec![0; 4 << 10];
    while text.len() < MAX_ERRORS_BYTES {
        match stderr.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                let piece = String::from_utf8_lossy(buffer.get(..count).unwrap_or_default());
                tracing::warn!("{what}: {}", piece.trim_end());
                text.push_str(&piece);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // What was read before a failure is all there is to tell.
            Err(_) => break,
        }
    }
    let _ = std::io::copy(stderr, &mut std::io::sink());
    text.trim().to_owned()
}

async fn watch_nitro(enclave: &nitro::Enclave, killed: oneshot::Receiver<()>) -> Result<Ending> {
    let nitro = NitroCli::default();
    tokio::select! {
        ended = nitro.ended(enclave) => if let Err(error) = ended {
            // An enclave that cannot be watched is not left running alone.
            nitro.terminate(enclave).await?;
            return Err(error);
        },
        Ok(()) = killed => nitro.terminate(enclave).await?,
    }
    Ok(Ending { status: 0, what: format!("nitro-cli no longer lists {}", enclave.id) })
}
