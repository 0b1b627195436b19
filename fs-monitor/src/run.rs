//! `fs-monitor run`: the daemon.

use std::{
    convert::Infallible,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use ledger::store::{Ledger, Options};
use manifest::{Denied, DigestKind, Enforce, Measured, Monitor as Wanted, Nats};
use tokio::signal::unix::{SignalKind, signal};
use transport::{Addr, Listener};

use crate::{
    api::Service,
    content::DigestSet,
    enforce::{DenyList, Enforcer},
    monitor::{Monitor, MonitorError, Phase, Settings, now},
    nats::Sink,
    patterns::Patterns,
    scan::default_threads,
    tree::TreeError,
};

/// The ledger, in the directory of the state.
const LEDGER_FILE: &str = "ledger.redb";
/// The baseline, which is fixed for as long as the ledger lives: PCR16 holds it.
const BASELINE_FILE: &str = "baseline";
/// More than any manifest has: one that is cut here is refused by its parser.
const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
/// More than any baseline has.
const MAX_BASELINE_BYTES: u64 = 1024;

/// What to watch, and where to keep what was found.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// The measured manifest, whose `monitor` says what is watched
    #[arg(long, value_name = "FILE", conflicts_with_all = ["roots", "ignore", "digest", "sweep", "enforce", "deny"])]
    pub manifest: Option<PathBuf>,
    /// What is watched, an absolute path below --base; may be given more than once
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub roots: Vec<String>,
    /// What is not watched, as a line of a .gitignore file in --base; may be given more than once
    #[arg(long, value_name = "PATTERN")]
    pub ignore: Vec<String>,
    /// Digests beside BLAKE3
    #[arg(long, value_name = "DIGEST", value_enum)]
    pub digest: Vec<crate::scan::Digest>,
    /// Seconds from one look at everything to the next; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = manifest::DEFAULT_SWEEP_S)]
    pub sweep: u32,
    /// Whether programs that open or run a watched file are held until its content is recorded
    #[arg(long, value_name = "WHEN", value_enum, default_value = "off")]
    pub enforce: Enforcing,
    /// What no program may open or run: a path with all below it, or blake3:HEX; may be given more than once
    #[arg(long, value_name = "PATH|DIGEST", value_parser = |text: &str| text.parse::<Denied>())]
    pub deny: Vec<Denied>,
    /// Where the application's files lie
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub base: PathBuf,
    /// Where the ledger is kept; nobody else may be able to read it
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// Where to answer
    #[arg(long, value_name = "SOCKET", default_value = crate::cli::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// A server of NATS JetStream that events and records are sent to, as nats://HOST:PORT or tls://HOST:PORT; may be given
    /// more than once for servers of one cluster
    #[arg(long, value_name = "URL", conflicts_with = "manifest")]
    pub nats: Vec<String>,
    /// The stream there, and the bucket
    #[arg(long, value_name = "NAME", default_value = manifest::DEFAULT_NATS_STREAM, requires = "nats")]
    pub nats_stream: String,
    /// Most directories watched, whatever the kernel allows
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    pub max_watches: usize,
}

/// Whether programs are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Enforcing {
    /// They are not.
    Off,
    /// They are where the kernel can.
    Prefer,
    /// They are, or the monitor does not start.
    Require,
}

/// Why the daemon cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The manifest is none.
    #[error("cannot use the manifest")]
    Manifest(#[from] manifest::MeasuredError),
    /// The manifest wants no monitor.
    #[error("the manifest has no `monitor`")]
    NoMonitor,
    /// Servers of NATS that cannot be.
    #[error("--nats, --nats-stream: {0}")]
    Nats(&'static str),
    /// A deny list without anybody who is held.
    #[error("--deny goes with --enforce prefer or require: nobody is held otherwise")]
    Deny,
    /// The ledger cannot be opened.
    #[error("cannot open the ledger")]
    Ledger(#[from] ledger::store::Error),
    /// The socket cannot be made.
    #[error("cannot listen")]
    Listen(#[from] transport::BindError),
    /// The patterns cannot be used.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Watching and recording cannot begin.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// They ended.
    #[error("the monitor has ended: {0}")]
    Ended(String),
    /// The system refuses something.
    #[error("the system refuses a thread, a signal or a socket")]
    System(#[source] io::Error),
}

impl RunArgs {
    fn wanted(&self) -> Result<Wanted, RunError> {
        let Some(path) = &self.manifest else { return Ok(self.given()) };
        let bytes = read(path, MAX_MANIFEST_BYTES)?;
        let mut monitor = Measured::from_canonical_json(&bytes)?.monitor.ok_or(RunError::NoMonitor)?;
        monitor.ignore.extend(manifest::NEVER_WATCHED.map(|path| format!("{path}/")));
        Ok(monitor)
    }

    fn given(&self) -> Wanted {
        let kind = |digest: &crate::scan::Digest| match digest {
            crate::scan::Digest::Sha256 => DigestKind::Sha256,
            crate::scan::Digest::Sha3_512 => DigestKind::Sha3_512,
        };
        Wanted {
            deny: self.deny.clone(),
            digests: self.digest.iter().map(kind).collect(),
            enforce: match self.enforce {
                Enforcing::Off => Enforce::Off,
                Enforcing::Prefer => Enforce::Prefer,
                Enforcing::Require => Enforce::Require,
            },
            ignore: self.ignore.clone(),
            nats: (!self.nats.is_empty()).then(|| self.nats()),
            roots: self.roots.clone(),
            sweep_s: self.sweep,
        }
    }

    fn nats(&self) -> Nats {
        let mut servers = self.nats.clone();
        servers.sort_unstable();
        servers.dedup();
        Nats { servers, stream: self.nats_stream.clone() }
    }

    fn settings(&self, wanted: &Wanted) -> Result<Settings, RunError> {
        let sweep = Duration::from_secs(wanted.sweep_s.into());
        Ok(Settings {
            base: self.base.clone(),
            roots: wanted.roots.iter().map(|root| root.clone().into_bytes()).collect(),
            patterns: Patterns::new(&wanted.ignore).map_err(TreeError::from)?,
            digests: DigestSet::of(&wanted.digests),
            sweep: (!sweep.is_zero()).then_some(sweep),
            threads: default_threads(),
            max_watches: self.max_watches,
            clock: now,
        })
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot begin, or not go on with all that it promises.
pub fn run(args: &RunArgs) -> Result<(), RunError> {
    let wanted = args.wanted()?;
    if wanted.enforce == Enforce::Off && !wanted.deny.is_empty() {
        return Err(RunError::Deny);
    }
    if let Some(nats) = &wanted.nats {
        nats.check_values().map_err(RunError::Nats)?;
    }
    let settings = args.settings(&wanted)?;
    make_private(&args.state)?;
    let ledger = Ledger::open(&args.state.join(LEDGER_FILE), now(), Options::default())?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::System)?;
    let outcome = runtime.block_on(serve(args, wanted, settings, Arc::new(ledger)));
    // A reader of events must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// How often who waits hears of a first scan.
const PROGRESS: Duration = Duration::from_secs(5);

/// Whoever waits for an enclave with many files sees what it waits for.
async fn tell_progress(ledger: &Ledger) -> Infallible {
    let begun = Instant::now();
    loop {
        tokio::time::sleep(PROGRESS).await;
        let (recorded, seconds) = (ledger.checkpoint().size, begun.elapsed().as_secs());
        tracing::warn!(recorded, seconds, "recording the watched files, before anything else starts");
    }
}

async fn serve(
    args: &RunArgs,
    wanted: Wanted,
    settings: Settings,
    ledger: Arc<Ledger>,
) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::System)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::System)?;
    let listener = Listener::bind(&Addr::Unix(args.socket.clone())).await?;
    let only_owner = fs::set_permissions(&args.socket, fs::Permissions::from_mode(0o600));
    only_owner.map_err(file_error(&args.socket))?;
    let service = Arc::new(Service::new(Arc::clone(&ledger), wanted.roots.clone()));
    tokio::spawn(Arc::clone(&service).serve(listener));
    let (state, grown) = (args.state.clone(), service.grown());
    let (sent, nats) = (Arc::clone(&ledger), wanted.nats.clone());
    let started = tokio::task::spawn_blocking(move || -> Result<_, RunError> {
        let monitor = Monitor::start(settings, Arc::clone(&ledger), grown)?;
        let enforcer = enforce(&monitor, &wanted)?;
        let baseline = baseline(&state, &ledger)?;
        Ok((monitor, enforcer, baseline))
    });
    let (monitor, (enforcer, held), baseline) = tokio::select! {
        started = started => started.map_err(|error| RunError::System(error.into()))??,
        // Nothing is promised yet, so nothing is left to do.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
        never = tell_progress(&sent) => match never {},
    };
    let handle = monitor.handle();
    service.begin(handle.clone(), baseline, held);
    if let Some(nats) = nats {
        let sink = Sink::new(nats, &args.state, sent, &handle, service.grown().subscribe());
        service.sends(sink.sent());
        tokio::spawn(sink.run());
    }
    tracing::info!(files = handle.counters().files.load(std::sync::atomic::Ordering::Relaxed), "watching");
    transport::notify::ready().map_err(RunError::System)?;
    let ended = tokio::task::spawn_blocking(move || handle.wait_end());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        phase = ended => {
            let why = match phase {
                Ok(Phase::Failed(why)) => why,
                _ => "stopped".to_owned(),
            };
            return Err(RunError::Ended(why));
        }
    }
    let stop = || {
        monitor.stop();
        // Until everything is recorded nobody is let through.
        drop(enforcer);
    };
    tokio::task::spawn_blocking(stop).await.map_err(|error| RunError::System(error.into()))
}

/// Begins to hold programs, if that is wanted; the text says whether it could.
fn enforce(monitor: &Monitor, wanted: &Wanted) -> Result<(Option<Enforcer>, String), RunError> {
    if wanted.enforce == Enforce::Off {
        return Ok((None, "off".to_owned()));
    }
    match Enforcer::start(monitor.handle(), DenyList::new(&wanted.deny), default_threads()) {
        Ok(enforcer) => Ok((Some(enforcer), "on".to_owned())),
        Err(error) if wanted.enforce == Enforce::Prefer => {
            tracing::warn!(error = &error as &dyn std::error::Error, "programs that open files are not held");
            Ok((None, format!("unavailable: {error}")))
        }
        Err(error) => Err(MonitorError::Enforce(error).into()),
    }
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::File { path: path.to_owned(), source }
}

/// The ledger's secrets open what the log hides.
fn make_private(state: &Path) -> Result<(), RunError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(state);
    let private = made.and_then(|()| fs::set_permissions(state, fs::Permissions::from_mode(0o700)));
    private.map_err(file_error(state))
}

/// The ledger as it was when the first walk of all was done.
fn baseline(state: &Path, ledger: &Ledger) -> Result<Vec<u8>, RunError> {
    let path = state.join(BASELINE_FILE);
    match read(&path, MAX_BASELINE_BYTES) {
        Err(RunError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        outcome => return outcome,
    }
    let baseline = ledger.baseline().encode();
    let (new, write) = (path.with_extension("new"), file_error(&path));
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&new);
    file.and_then(|mut file| file.write_all(&baseline).and_then(|()| file.sync_all())).map_err(&write)?;
    fs::rename(&new, &path).map_err(&write)?;
    File::open(state).and_then(|directory| directory.sync_all()).map_err(&write)?;
    Ok(baseline)
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, RunError> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    file.map_err(file_error(path))?;
    Ok(bytes)
}
