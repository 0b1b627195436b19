//! The `qemu` backend: QEMU's `nitro-enclave` machine, with the image as it is.
//!
//! A real kernel boots in a software-emulated machine with an emulated security module. The vsock is our own
//! `vsock-bridge`, and our build of QEMU has its attestation documents signed under the development root by this process,
//! so that a verifier has one path for every backend.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use sys::namespace::kill_with_parent;

/// What the machine is made of.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    /// The QEMU to run.
    pub(crate) program: &'a Path,
    /// The image.
    pub(crate) image: &'a Path,
    /// The socket of the vsock device.
    pub(crate) vhost: &'a Path,
    /// The socket of the document signer.
    pub(crate) signer: &'a Path,
    /// `module_id` of the attestation documents.
    pub(crate) module_id: &'a str,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// Virtual CPUs.
    pub(crate) cpus: u64,
}

/// Why QEMU cannot be used here; `None` when it can.
pub(crate) fn missing(program: &Path) -> Option<String> {
    let run = Command::new(program).args(["-M", "help"]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    match run {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("nitro-enclave") => None,
        Ok(_) => Some(format!("{} has no nitro-enclave machine: run `make qemu`", program.display())),
        Err(e) => Some(format!("{} does not run ({e}): run `make qemu`", program.display())),
    }
}

/// Starts the machine. Its serial console is the child's standard output.
pub(crate) fn launch(machine: &Machine<'_>) -> Result<std::process::Child> {
    let comma = |path: &Path| path.display().to_string().replace(',', ",,");
    let firmware: PathBuf =
        machine.program.parent().and_then(Path::parent).unwrap_or(Path::new("/")).join("share");
    let mut command = Command::new(machine.program);
    command
        .arg("-L")
        .arg(firmware)
        .args(["-no-user-config", "-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot"])
        // Without the promise that `rep movsb` is fast, by which the kernel would copy everything byte by byte: emulated, that is
        // slower than by words (bench/proxy/guest: a quarter to a third less throughput).
        .args(["-accel", "tcg", "-cpu", "max,-erms,-fsrm"])
        // With event descriptors a starting device is notified once out of turn. The security module then finds a request
        // whose answer's buffer is not queued yet, takes the driver for broken and answers no more, and the driver waits
        // for two minutes. Without them it is notified by the driver alone.
        .args(["-global", "virtio-mmio.ioeventfd=off"])
        .args(["-m", &format!("{}M", machine.memory_mib), "-smp", &machine.cpus.to_string()])
        .args(["-chardev", &format!("socket,id=vsock,path={}", comma(machine.vhost))])
        .args(["-M", &format!("nitro-enclave,vsock=vsock,id={}", machine.module_id)])
        .arg("-kernel")
        .arg(machine.image)
        .args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"])
        // Added after the image's own command line, and not measured: the reboot method that ends this machine, and no
        // trial of the timer at boot, which panics when a busy host emulates too slowly.
        .args(["-append", "reboot=t panic=1 no_timer_check"])
        .env("NITRO_NSM_SIGNER", machine.signer)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A Ctrl-C at the supervisor's terminal is the supervisor's to act on.
        .process_group(0);
    kill_with_parent(&mut command)?.spawn().with_context(|| format!("starting {}", machine.program.display()))
}
