//! `glasshouse run`: plans, starts, watches and ends one enclave.

use std::{
    io::{BufRead, BufReader},
    num::NonZeroU32,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use enclave_init::event::{Event, Record, ServiceState};
use pf_proxy::{
    host::Guard,
    metrics::{self, Registry},
};
use tokio::time::{Instant, sleep_until, timeout};
use transport::{Addr, Listener};

use crate::{
    backend,
    cli::{BackendKind, RunArgs},
    enclave::{Enclave, KILL_TIMEOUT},
    exit::{Exit, RUN_FAILED, Usage},
    health::Healths,
    host::Fabric,
    image::Image,
    output::{self, Output},
    publish::{self, Publish},
    published::Published,
    signals::Signals,
    state::{Claimed, Folder, Instance, Status},
};

/// How long a shutdown may take beyond the time that the services have, before the enclave is ended by force.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// How long after the enclave's end its last events may take to arrive.
const LAST_EVENTS: Duration = Duration::from_secs(3);
/// How much longer a shutdown may take of an enclave that still boots: its init hears of it when it listens.
pub(crate) const BOOT_GRACE: Duration = Duration::from_secs(60);
/// Lines of the console shown when an enclave ends without a word.
const CONSOLE_TAIL_LINES: usize = 15;
/// What the background half of `--detach` prints when the enclave is ready, or waits for secrets.
pub(crate) const READY_LINE: &str = "ready";

/// Everything decided before anything is started.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) image: Image,
    pub(crate) backend: BackendKind,
    pub(crate) publish: Vec<Publish>,
    /// How many connections one client may have to each of them.
    pub(crate) max_per_source: Option<NonZeroU32>,
    /// What this machine lets the enclave reach; `None` if the image has no way out.
    pub(crate) way_out: Option<Guard>,
    /// Where what `registry` holds is served, if anywhere.
    pub(crate) metrics: Option<Addr>,
    /// What is counted of published ports and the way out.
    pub(crate) registry: Registry,
    pub(crate) memory_mib: u64,
    pub(crate) cpus: u64,
    pub(crate) cid: Option<u32>,
    pub(crate) debug: bool,
    pub(crate) ready_timeout: Duration,
}

/// Runs the command. Only who wants to see much is shown what the framework's own programs have to say.
pub(crate) fn run(args: &RunArgs, is_verbose: bool) -> Result<Exit> {
    let plan = plan(args)?;
    if args.detach && !args.background {
        return detach(&plan.name);
    }
    let claimed = Folder::of(&plan.name)?.claim()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut output =
        if args.background { Output::background(is_verbose) } else { Output::attached(is_verbose) };
    let result = runtime.block_on(supervise(&plan, &claimed, &mut output));
    // Tasks that hold sockets in the folder end before the folder is cleared; what cannot be ended is not waited for.
    runtime.shutdown_timeout(KILL_TIMEOUT);
    claimed.leave(args.background)?;
    result.map(Exit::Application)
}

fn plan(args: &RunArgs) -> Result<Plan> {
    let image = Image::open(&args.image)?;
    let choice = backend::choose(args.backend)?;
    if args.debug && choice.kind != BackendKind::Nitro {
        return Err(Usage(
            "--debug is a mode of Nitro: the other backends always show their console".to_owned(),
        )
        .into());
    }
    if args.cid.is_some() && choice.kind == BackendKind::Local {
        return Err(Usage("--cid: the local backend has no vsock, so no CIDs".to_owned()).into());
    }
    if !args.background {
        output::say(&format!("backend: {} ({})", backend::name(choice.kind), choice.why));
    }
    let name = match &args.name {
        Some(name) => name.clone(),
        None => args.image.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    };
    if !manifest::is_valid_name(&name) {
        return Err(Usage(format!(
            "{name:?} cannot be an enclave's name: pass --name with a-z, 0-9 and `-`"
        ))
        .into());
    }
    let publish = match args.publish_all {
        true => image.ports().map(|(port, protocol)| Publish::same(port, protocol)).collect(),
        false => args.publish.clone(),
    };
    for port in &publish {
        if !image.ports().any(|own| own == (port.enclave, port.protocol)) {
            let ports: Vec<_> = image.ports().map(|(own, protocol)| publish::number(own, protocol)).collect();
            let wanted = publish::number(port.enclave, port.protocol);
            let text = format!("--publish: the image has no port {wanted}; it has: {}", ports.join(", "));
            return Err(Usage(text).into());
        }
    }
    let memory_mib = args.memory.unwrap_or(image.memory_mib);
    check_memory(choice.kind, memory_mib, &image)?;
    let way_out = way_out(args, &image)?;
    Ok(Plan {
        name,
        backend: choice.kind,
        publish,
        max_per_source: args.max_per_source,
        way_out,
        metrics: args.metrics.clone(),
        registry: Registry::default(),
        memory_mib,
        cpus: args.cpus.unwrap_or(image.cpus),
        cid: args.cid,
        debug: args.debug,
        ready_timeout: Duration::from_secs(args.ready_timeout),
        image,
    })
}

/// What the image may reach, narrowed by the operator. What it may reach of this machine's own networks is said aloud.
fn way_out(args: &RunArgs, image: &Image) -> Result<Option<Guard>> {
    let Some(egress) = &image.manifest.egress else {
        return match args.egress_allow.is_empty() && args.egress_deny.is_empty() {
            true => Ok(None),
            false => Err(Usage("--egress-allow, --egress-deny: the image has no [egress]".to_owned()).into()),
        };
    };
    let policy = egress.host_policy();
    if !args.background {
        for (range, special) in policy.opened() {
            output::say(&format!("egress: the image may reach {range}, which is {}", special.class));
        }
    }
    Ok(Some(Guard::new(Some(policy), &args.egress_allow, &args.egress_deny)?))
}

/// Too little memory shows as files cut short or as an obscure failure of a boot, so it is refused before. `nitro-cli`
/// takes no less than four times the image; `local` boots no kernel and holds the files once.
fn check_memory(backend: BackendKind, memory_mib: u64, image: &Image) -> Result<()> {
    let needed = match backend {
        BackendKind::Nitro => image.needed_mib.max(image.size_mib * 4),
        BackendKind::Qemu => image.needed_mib,
        BackendKind::Local => image.size_mib + 16,
    };
    if memory_mib >= needed {
        return Ok(());
    }
    Err(Usage(format!(
        "{memory_mib} MiB of memory are too little for {}, which needs {needed} MiB on {}, and what its application \
         takes on top: pass --memory {needed} or more, or raise memory_mib under [resources] in glasshouse.toml",
        image.path.display(),
        backend::name(backend)
    ))
    .into())
}

/// Starts this command again in the background and waits until its enclave is ready, or waits itself: for secrets.
fn detach(name: &str) -> Result<Exit> {
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).arg("--background");
    // A process group of its own: a Ctrl-C at this terminal is not meant for it any more.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().context("starting the background process")?;
    let stderr = BufReader::new(child.stderr.take().expect("the child's errors are a pipe"));
    let relay = std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            output::say(&line);
        }
    });
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("the child's output is a pipe")).read_line(&mut line)?;
    if line.trim_end() == READY_LINE {
        // It closes its errors then, so this ends.
        let _ = relay.join();
        output::print(name)?;
        return Ok(Exit::Done);
    }
    let status = child.wait().context("waiting for the background process")?;
    let _ = relay.join();
    match backend::exit_status(status) {
        0 => bail!("the enclave ended before it was ready, with status 0; see `glasshouse logs {name}`"),
        status => Ok(Exit::Application(status)),
    }
}

/// Runs the planned enclave to its end and returns the application's status.
async fn supervise(plan: &Plan, claimed: &Claimed, output: &mut Output) -> Result<u8> {
    let mut instance = Instance {
        name: plan.name.clone(),
        image: plan.image.path.clone(),
        backend: plan.backend,
        supervisor: rustix::process::getpid().as_raw_nonzero().get(),
        started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        publish: Vec::new(),
        health: Healths::of(&plan.image.manifest),
        stop_seconds: (plan.image.stop_timeout() + 2 * SHUTDOWN_GRACE).as_secs(),
        control: None,
        status: Status::Starting,
    };
    // Heard from before there is anything to end: a `stop` that comes early must not leave half a start behind.
    let signals = Signals::listen(output.is_background())?;
    claimed.record(&instance)?;
    let mut enclave = Enclave::launch(plan, claimed).await?;
    let watched = watch(plan, claimed, &mut instance, &mut enclave, signals, output).await;
    if watched.is_err() {
        enclave.finish().await;
    }
    instance.status = Status::Exited { code: *watched.as_ref().unwrap_or(&RUN_FAILED) };
    claimed.record(&instance)?;
    let code = watched?;
    output.ended(&plan.name, code);
    Ok(code)
}

/// Follows the enclave from its start to its end.
async fn watch(
    plan: &Plan,
    claimed: &Claimed,
    instance: &mut Instance,
    enclave: &mut Enclave,
    mut signals: Signals,
    output: &mut Output,
) -> Result<u8> {
    let started = Instant::now();
    // Bound now, so that a port in use is known at once; served when there is somebody to answer.
    let (published, bound) = Published::bind(plan, &enclave.fabric)?;
    if let Some(addr) = &plan.metrics {
        tokio::spawn(metrics::serve(Listener::bind(addr).await?, plan.registry.clone()));
    }
    instance.publish = bound;
    instance.control = control_channel(plan, &enclave.fabric);
    // Operators can enter before the application is ready, and may have to.
    claimed.record(instance)?;
    let (published, deadline) = (Some(published), Some(started + plan.ready_timeout));
    let (ready, awaited, exit) = (false, None, None);
    let mut progress =
        Progress { plan, claimed, instance, output, started, published, ready, deadline, awaited, exit };
    let mut stopping = false;
    let ending = loop {
        let deadline = progress.deadline;
        let overdue = async { sleep_until(deadline.expect("only then is it asked")).await };
        tokio::select! {
            Some(record) = enclave.events.recv() => progress.take(&record)?,
            ending = enclave.end.wait() => break ending?,
            () = signals.recv() => {
                if stopping {
                    enclave.kill();
                } else {
                    stopping = true;
                    let boots = if progress.ready { Duration::ZERO } else { BOOT_GRACE };
                    let limit = boots + plan.image.stop_timeout() + SHUTDOWN_GRACE;
                    progress.deadline = Some(Instant::now() + limit);
                    enclave.request_shutdown();
                }
            }
            () = overdue, if deadline.is_some() => {
                if !stopping {
                    let awaited = progress.awaited.map(|service| format!(", {service:?} had only begun"));
                    let (limit, awaited) = (plan.ready_timeout.as_secs(), awaited.unwrap_or_default());
                    bail!("the enclave was not ready within {limit} s{awaited}; see --ready-timeout");
                }
                output::say("the enclave did not shut down in time and is ended by force");
                enclave.kill();
                progress.deadline = Some(Instant::now() + SHUTDOWN_GRACE);
            }
        }
    };
    // What the enclave said last may still be on its way when it has ended.
    while progress.exit.is_none()
        && let Ok(Some(record)) = timeout(LAST_EVENTS, enclave.events.recv()).await
    {
        progress.take(&record)?;
    }
    match progress.exit {
        Some(code) => Ok(code),
        None if stopping => Ok(ending.status),
        None => bail!(
            "the enclave ended without a last word ({}); the end of its console:\n{}",
            ending.what,
            console_tail(claimed.folder())
        ),
    }
}

/// How far an enclave has come.
struct Progress<'a> {
    plan: &'a Plan,
    claimed: &'a Claimed,
    instance: &'a mut Instance,
    output: &'a mut Output,
    started: Instant,
    /// Until they are served.
    published: Option<Published>,
    /// Whether every service has been ready.
    ready: bool,
    /// When it has to be ready, or ended; `None` while nobody waits for it.
    deadline: Option<Instant>,
    /// The service that it started last, until that is ready.
    awaited: Option<String>,
    /// What it says that its end is.
    exit: Option<u8>,
}

impl Progress<'_> {
    /// Takes in what the enclave reports.
    fn take(&mut self, record: &Record) -> Result<()> {
        self.output.record(record)?;
        if self.instance.health.take(&record.event) {
            self.claimed.record(self.instance)?;
        }
        match &record.event {
            Event::Service { service, state: ServiceState::Starting, .. } => {
                self.awaited = Some(service.clone())
            }
            Event::Service { service, state: ServiceState::Ready, .. }
                if self.awaited.as_ref() == Some(service) =>
            {
                self.awaited = None;
            }
            _ => {}
        }
        match &record.event {
            Event::Ready if !self.ready => {
                self.ready = true;
                self.serve();
                self.enter(Status::Ready, None)?;
                let log = self.claimed.folder().supervisor_log();
                self.output.ready(self.instance, self.started.elapsed(), &log)?;
            }
            // Operators may take their time. Who wants to verify before anything secret is in it can: the attestation
            // server is ready before any service is started.
            Event::Service { state: ServiceState::AwaitingSecrets { .. }, .. } if !self.ready => {
                self.serve();
                self.enter(Status::AwaitingSecrets, None)?;
                self.output.release(&self.claimed.folder().supervisor_log())?;
            }
            Event::Service { state: ServiceState::Starting, .. }
                if self.instance.status == Status::AwaitingSecrets =>
            {
                self.enter(Status::Starting, Some(Instant::now() + self.plan.ready_timeout))?;
            }
            Event::Exit(end) => self.exit = Some(end.code),
            _ => {}
        }
        Ok(())
    }

    /// Serves the published ports, if they are not served yet.
    fn serve(&mut self) {
        if let Some(published) = self.published.take() {
            published.serve();
        }
    }

    fn enter(&mut self, status: Status, deadline: Option<Instant>) -> Result<()> {
        self.instance.status = status;
        self.deadline = deadline;
        self.claimed.record(self.instance)
    }
}

/// The address of the control channel, if the image has one.
fn control_channel(plan: &Plan, fabric: &Fabric) -> Option<String> {
    let control = plan.image.manifest.control.as_ref()?;
    Some(fabric.enclave_addr(control.port.get()).to_string())
}

/// The last lines of what the enclave's kernel and init wrote.
fn console_tail(folder: &Folder) -> String {
    let bytes = std::fs::read(folder.console()).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(CONSOLE_TAIL_LINES)..).unwrap_or_default().join("\n")
}
