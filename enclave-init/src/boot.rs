//! The way from the kernel's handing over to running services, and back to the end of the enclave.
//!
//! The order matters: the host gets its heartbeat and its events from the first moment, and nothing that the manifest
//! names runs before the manifest is measured. Whatever fails on the way ends the enclave with
//! [`Cause::Refused`](crate::event::Cause), and the host is told why.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    path::Path,
    rc::Rc,
    time::Duration,
};

use manifest::{Enforce, Measured, MeasuredError};
use nsm::Provider;
use rustix::{fs::Mode, io::Errno};
use sys::pid1::SEED_BYTES;
use tokio::{sync::mpsc, task::spawn_local, time::timeout};

use crate::{
    CONTROL_PORT, EVENTS_PORT, HEARTBEAT_PORT, REFUSED_CODE,
    application::{self, ImageError},
    control,
    event::{Cause, Event, Exit, STREAM_VERSION},
    host,
    journal::{Journal, chain},
    measure::{MeasureError, Measurement},
    mounts::{self, MountError, ROOTFS},
    network,
    notify::{self, NotifySocket},
    place::Place,
    private,
    secrets::{self, Secrets},
    services::{PlanError, Unit, plan},
    shell::{Shell, Watched},
};

/// The security module.
pub(crate) const NSM_PATH: &str = "/dev/nsm";

/// The measured manifest.
pub(crate) const MANIFEST_PATH: &str = "/glasshouse/manifest.json";

/// The security module's driver, for kernels that have it as a module.
const NSM_MODULE_PATH: &str = "/nsm.ko";

/// More than any manifest has: one that is cut here is refused by its parser.
const MAX_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;

/// How long the host has at the end to take the events that are left.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Inputs that wait for the supervisor.
const INPUTS: usize = 64;

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error("cannot load the driver {NSM_MODULE_PATH}")]
    Driver(#[source] io::Error),
    #[error("cannot bring the loopback interface up")]
    Loopback(#[source] io::Error),
    #[error("cannot open the security module")]
    Module(#[source] nsm::Error),
    #[error("cannot take entropy from the security module")]
    Entropy(#[source] nsm::Error),
    #[error("cannot seed the kernel's random number generator")]
    Seed(#[source] io::Error),
    #[error("cannot read {MANIFEST_PATH}")]
    ReadManifest(#[source] io::Error),
    #[error("cannot use {MANIFEST_PATH}")]
    Manifest(#[from] MeasuredError),
    #[error(transparent)]
    Measure(#[from] MeasureError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("cannot listen at {}", notify::SOCKET_PATH)]
    Notify(#[source] io::Error),
    #[error("cannot listen at {}", private::SOCKET_PATH)]
    Private(#[source] io::Error),
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Boots, runs the services, shuts down. Returns how the enclave ended.
pub(crate) async fn boot_and_run(place: &Place) -> Exit {
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    let failures = mounts::mount_system();
    let journal = Rc::new(Journal::new());
    journal.open_console();
    journal.record(Event::Boot { version: STREAM_VERSION });
    let events = spawn_local(host::stream_events(place.host(EVENTS_PORT), journal.clone()));
    spawn_local(host::heartbeat(place.host(HEARTBEAT_PORT), journal.clone()));
    // Lets both tasks call the host before the rest of boot, which does not wait for anything.
    tokio::task::yield_now().await;

    let exit = match prepare(place, failures, &journal) {
        Ok(shell) => shell.run().await,
        Err(error) => {
            journal.error(format!("nothing is started: {}", chain(&error)));
            Exit { code: REFUSED_CODE, cause: Cause::Refused }
        }
    };
    journal.close(exit);
    // A host that does not take the rest in time does without.
    let _ = timeout(FLUSH_TIMEOUT, events).await;
    exit
}

/// Everything that has to be so before the first service starts.
fn prepare(place: &Place, failures: Vec<MountError>, journal: &Rc<Journal>) -> Result<Shell, BootError> {
    tolerate(place, failures, journal)?;
    if let Err(error) = sys::pid1::close_descriptors_on_exec() {
        journal.warn(format!("services may inherit descriptors: {error}"));
    }
    load_driver()?;
    sys::pid1::raise_loopback().map_err(BootError::Loopback)?;
    let module = nsm::open(Path::new(NSM_PATH)).map_err(BootError::Module)?;
    if *place == Place::Machine {
        seed(&*module)?;
    }
    let (measured, measurement) = measure_manifest(module, journal)?;
    if let Err(error) = rustix::system::sethostname(measured.name.as_bytes()) {
        journal.warn(format!("cannot set the host name: {error}"));
    }
    if *place == Place::Machine {
        application::mount_files()?;
    }
    tolerate(place, mounts::mount_rootfs(), journal)?;
    name_network(&measured, journal);
    let units = plan(&measured, place)?;
    let watched = match &measured.monitor {
        Some(monitor) => {
            if *place == Place::Machine {
                raise_watch_limits(journal);
            }
            Some(Watched { measurement: Some(measurement), required: monitor.enforce == Enforce::Require })
        }
        None => {
            measurement.lock()?;
            None
        }
    };
    start_shell(place, units, watched, journal)
}

/// In a machine every mount has to be there; in namespaces the supervisor may have forbidden some, and says why.
fn tolerate(place: &Place, failures: Vec<MountError>, journal: &Journal) -> Result<(), BootError> {
    for failure in failures {
        match place {
            Place::Machine => return Err(failure.into()),
            Place::Local(_) => journal.warn(chain(&failure)),
        }
    }
    Ok(())
}

fn load_driver() -> Result<(), BootError> {
    let module = match File::open(NSM_MODULE_PATH) {
        Ok(module) => module,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BootError::Driver(error)),
    };
    match rustix::system::finit_module(module, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(BootError::Driver(errno.into())),
    }
}

/// Gives the kernel what the module's generator has: a new machine has hardly any entropy of its own.
fn seed(module: &dyn Provider) -> Result<(), BootError> {
    let bytes = module.random(SEED_BYTES).map_err(BootError::Entropy)?;
    let seed = bytes.as_slice().try_into().expect("the module gives as many bytes as it was asked for");
    let random = OpenOptions::new().write(true).open("/dev/urandom").map_err(BootError::Seed)?;
    sys::pid1::add_entropy(&random, seed).map_err(BootError::Seed)
}

fn measure_manifest(
    module: Box<dyn Provider>,
    journal: &Journal,
) -> Result<(Measured, Measurement), BootError> {
    let file = File::open(MANIFEST_PATH).map_err(BootError::ReadManifest)?;
    let mut bytes = Vec::new();
    file.take(MAX_MANIFEST_BYTES).read_to_end(&mut bytes).map_err(BootError::ReadManifest)?;
    let measured = Measured::from_canonical_json(&bytes)?;
    let (measurement, digest) = Measurement::begin(module, &bytes)?;
    let manifest_sha384 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    journal.record(Event::Measured { name: measured.name.clone(), manifest_sha384 });
    Ok((measured, measurement))
}

/// The kernel's own limits are for machines that many users share.
fn raise_watch_limits(journal: &Journal) {
    for (name, limit) in [("max_user_watches", "524288"), ("max_queued_events", "131072")] {
        if let Err(error) = std::fs::write(format!("/proc/sys/fs/inotify/{name}"), limit) {
            journal.warn(format!("cannot raise fs.inotify.{name}: {error}"));
        }
    }
}

/// Lays out the files by which programs find names.
fn name_network(measured: &Measured, journal: &Journal) {
    let root = Path::new(ROOTFS);
    if let Err(error) = network::name_localhost(root) {
        journal.warn(format!("cannot write /etc/hosts: {error}"));
    }
    if measured.egress.is_none() {
        return;
    }
    // The framework's own daemons resolve names as programs do.
    if let Err(error) = network::name_resolver(Path::new("/")) {
        journal.warn(format!("the framework's daemons resolve no names: {error}"));
    }
    match network::name_resolver(root) {
        Ok(network::Own::Absent) => {}
        Ok(network::Own::Kept) => {
            journal.warn("the image's /etc/resolv.conf is now /etc/resolv.conf.image".to_owned());
        }
        Err(error) => journal.warn(format!("cannot write /etc/resolv.conf: {error}")),
    }
}

fn start_shell(
    place: &Place,
    units: Vec<Unit>,
    watched: Option<Watched>,
    journal: &Rc<Journal>,
) -> Result<Shell, BootError> {
    let socket = NotifySocket::bind(Path::new(notify::SOCKET_PATH)).map_err(BootError::Notify)?;
    let (inputs, received) = mpsc::channel(INPUTS);
    spawn_local(control::serve(place.guest(CONTROL_PORT), journal.clone(), inputs.clone()));
    let (asks, asked) = mpsc::channel(INPUTS);
    let private = private::bind(Path::new(private::PRIVATE_DIRECTORY)).map_err(BootError::Private)?;
    spawn_local(private::serve(private, journal.clone(), asks));
    let secrets = Secrets::new(Path::new(secrets::DIRECTORY), &units);
    let shell = Shell::new(units, secrets, socket, journal.clone(), inputs, received, asked);
    Ok(shell.map_err(BootError::Signals)?.watched_by(watched))
}
