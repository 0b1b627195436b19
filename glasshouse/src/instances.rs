//! `glasshouse ps`, `logs` and `stop`: what runs, what it wrote, and its end.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    path::Path,
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use enclave_init::event::Record;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, kill_process},
};

use crate::{
    Refusal, backend,
    cli::{LogsArgs, PsArgs, StopArgs},
    exit::Exit,
    output::{self, Line},
    run::BOOT_GRACE,
    state::{Folder, Instance, Status},
    table::Table,
};

/// How often a file or a lock that something is awaited of is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Runs `glasshouse ps`.
pub(crate) fn ps(args: &PsArgs) -> Result<Exit> {
    let mut shown = Vec::new();
    for folder in Folder::all()? {
        match folder.instance() {
            Ok(Some(instance)) if args.all || instance.status.is_alive() => {
                shown.push(instance);
            }
            Ok(_) => {}
            // One record that cannot be read does not hide the others.
            Err(error) => output::say(&format!("{error:#}")),
        }
    }
    if args.json {
        for instance in &shown {
            output::print(&serde_json::to_string(instance)?)?;
        }
        return Ok(Exit::Done);
    }
    let mut table = Table::new(["NAME", "STATUS", "HEALTH", "BACKEND", "AGE", "PORTS", "IMAGE"]);
    for instance in &shown {
        let ports: Vec<_> = instance.publish.iter().map(ToString::to_string).collect();
        let image = instance.image.display().to_string();
        let backend = backend::name(instance.backend);
        let (status, health, age) = (status(instance), health(instance), age(instance));
        table.row([&instance.name, &status, &health, backend, &age, &ports.join(" "), &image]);
    }
    output::print(table.to_string().trim_end())?;
    Ok(Exit::Done)
}

fn status(instance: &Instance) -> String {
    match instance.status {
        Status::Starting => "starting".to_owned(),
        Status::AwaitingSecrets => "awaiting secrets".to_owned(),
        Status::Ready => "ready".to_owned(),
        Status::Exited { code } => format!("exited {code}"),
        Status::Died => "died".to_owned(),
    }
}

/// What ended has no health.
fn health(instance: &Instance) -> String {
    if instance.status.is_alive() { instance.health.to_string() } else { "-".to_owned() }
}

fn age(instance: &Instance) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match now.saturating_sub(instance.started) {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds => format!("{}h", seconds / 3600),
    }
}

/// The enclave called `name`, running or not.
fn known(name: &str) -> Result<(Folder, Instance)> {
    let folder = Folder::of(name)?;
    match folder.instance()? {
        Some(instance) => Ok((folder, instance)),
        None => Err(Refusal(format!("no enclave is called {name}: see `glasshouse ps --all`")).into()),
    }
}

/// The enclave called `name`, which runs.
pub(crate) fn running(name: &str) -> Result<Instance> {
    let (folder, instance) = known(name)?;
    if folder.is_held()? { Ok(instance) } else { Err(not_running(name, &instance)) }
}

fn not_running(name: &str, instance: &Instance) -> anyhow::Error {
    Refusal(format!("{name} is not running ({})", status(instance))).into()
}

/// Runs `glasshouse logs`.
pub(crate) fn logs(args: &LogsArgs) -> Result<Exit> {
    let (folder, _) = known(&args.name)?;
    let path = folder.events();
    let old = path.with_added_extension("old");
    if old.exists() {
        show(&mut BufReader::new(File::open(&old)?), args.json)?;
    }
    let mut reader = open(&path)?;
    loop {
        // Asked before reading: what was written before the end is then read after it.
        let running = folder.is_held()?;
        show(&mut reader, args.json)?;
        if !args.follow || !running || reader_left() {
            return Ok(Exit::Done);
        }
        sleep(POLL);
        // A log that reached its limit was set aside, and this is a new one.
        let position = reader.stream_position()?;
        if std::fs::metadata(&path).is_ok_and(|now| now.len() < position) {
            show(&mut reader, args.json)?;
            reader = open(&path)?;
        }
    }
}

/// Whether standard output is a pipe whose reader has gone. An enclave that writes nothing more would otherwise be
/// followed for nobody until its end.
fn reader_left() -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok() && polled.iter().any(|fd| fd.revents().contains(PollFlags::ERR))
}

fn open(path: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::new(File::open(path).with_context(|| format!("opening {}", path.display()))?))
}

/// Shows every whole line there is, and leaves the reader before one that is still being written.
fn show(reader: &mut BufReader<File>, json: bool) -> Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        if line.pop_if(|last| *last == b'\n').is_none() {
            reader.seek(SeekFrom::Current(-i64::try_from(length)?))?;
            return Ok(());
        }
        if json {
            output::print_bytes(&line)?;
        } else if let Ok(record) = Record::from_line(&line) {
            match output::describe(&record) {
                Some(Line::Service(text)) => output::print_service(&text)?,
                Some(Line::Framework(text)) => output::print(&format!("* {text}"))?,
                Some(Line::Egress(text)) => output::print(&text)?,
                None => {}
            }
        }
    }
}

/// Runs `glasshouse stop`.
pub(crate) fn stop(args: &StopArgs) -> Result<Exit> {
    let (folder, instance) = known(&args.name)?;
    if !folder.is_held()? {
        return Err(not_running(&args.name, &instance));
    }
    let supervisor = Pid::from_raw(instance.supervisor).context("instance.json is damaged")?;
    signal(supervisor, Signal::TERM)?;
    let boots = if instance.status == Status::Starting { BOOT_GRACE.as_secs() } else { 0 };
    let seconds = args.timeout.unwrap_or(boots + instance.stop_seconds);
    if !ended_within(&folder, Duration::from_secs(seconds))? {
        output::say(&format!("{} did not end within {seconds} s and is ended by force", args.name));
        // A second request makes the supervisor end the enclave and tidy up.
        signal(supervisor, Signal::TERM)?;
        if !ended_within(&folder, Duration::from_secs(5))? {
            signal(supervisor, Signal::KILL)?;
            if !ended_within(&folder, Duration::from_secs(5))? {
                bail!("{} cannot be ended: its supervisor is process {}", args.name, instance.supervisor);
            }
        }
    }
    let last = folder.instance()?.map_or_else(|| "ended".to_owned(), |instance| status(&instance));
    output::say(&format!("{}: {last}", args.name));
    Ok(Exit::Done)
}

fn signal(process: Pid, signal: Signal) -> Result<()> {
    match kill_process(process, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(io::Error::from(e)).context("signalling the enclave's supervisor"),
    }
}

fn ended_within(folder: &Folder, limit: Duration) -> Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        if !folder.is_held()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(POLL);
    }
}
