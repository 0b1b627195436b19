//! The `local` backend: the image's files in Linux namespaces of this machine.
//!
//! Nothing is isolated from the machine's root user here and the security module is simulated; what is real is the image,
//! its init and its services, so that a laptop shows what a Nitro instance will do. Three processes stand in a row:
//!
//! 1. the supervisor (`glasshouse run`), which starts
//! 2. `glasshouse local-enclave outer`, which makes the namespaces and has its ids mapped by the supervisor, then starts
//! 3. `glasshouse local-enclave inner`, PID 1 of the new PID namespace, which lays out the file system and becomes the
//!    image's `/init`.
//!
//! Each dies with the one before it, so a killed supervisor leaves no process and no mount.

use std::{
    fs::{self, File, Permissions},
    io::{self, BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use rbuilds::{Ownership, unpack_ramdisks};
use rustix::{
    fs::symlink,
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
        mount_change, unmount,
    },
    process::{chdir, getgid, getuid, pivot_root},
};
use serde::{Deserialize, Serialize};
use sys::namespace::{die_with_parent, kill_with_parent, unshare_all};

/// Ids that a root user's enclave has for itself, mapped one to one.
const MAPPED_IDS: u32 = 65536;
/// Where the enclave finds the sockets that stand for its vsock.
const VSOCK_DIR: &str = "/.vsock";

/// What the processes in the namespaces need to know.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    /// The image.
    pub(crate) image: PathBuf,
    /// An empty folder that becomes the enclave's root.
    pub(crate) root: PathBuf,
    /// The folder whose sockets stand for the enclave's vsock.
    pub(crate) vsock: PathBuf,
    /// The socket of the simulated security module.
    pub(crate) nsm: PathBuf,
    /// Size of the enclave's file system in MiB.
    pub(crate) memory_mib: u64,
}

/// Whether all of an image's services run as its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnlyRoot {
    Yes,
    No,
}

/// Starts the enclave of `setup`. Its console is the child's standard output.
pub(crate) fn launch(setup: &Setup, only_root: OnlyRoot) -> Result<std::process::Child> {
    let mut outer = Command::new("/proc/self/exe");
    outer
        .args(["local-enclave", "outer", &serde_json::to_string(setup)?])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A Ctrl-C at the supervisor's terminal is the supervisor's to act on.
        .process_group(0);
    let mut child = kill_with_parent(&mut outer)?.spawn().context("starting the enclave's first process")?;
    match map_ids(&mut child, only_root) {
        Ok(()) => Ok(child),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

/// Whether this machine lets us make namespaces.
pub(crate) fn probe() -> Result<()> {
    let nowhere = PathBuf::from("/nonexistent");
    let setup = Setup {
        image: nowhere.clone(),
        root: nowhere.clone(),
        vsock: nowhere.clone(),
        nsm: nowhere,
        memory_mib: 1,
    };
    // Made and mapped, the namespaces have served; the process in them finds no root and ends.
    let mut child = launch(&setup, OnlyRoot::Yes)?;
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// The supervisor's part: waits until the namespaces are there, maps the ids, and lets the child go on.
fn map_ids(child: &mut std::process::Child, only_root: OnlyRoot) -> Result<()> {
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("the child's output is a pipe");
    // One byte at a time: what follows the line is the console's.
    let mut byte = [0];
    while !line.ends_with('\n') && io::Read::read(stdout, &mut byte)? == 1 {
        line.push(char::from(byte[0]));
    }
    if line != "unshared\n" {
        let mut reason = String::new();
        let stderr = child.stderr.as_mut().expect("the child's errors are a pipe");
        BufReader::new(stderr).read_line(&mut reason)?;
        bail!("cannot make namespaces: {}", reason.trim_end());
    }
    if map_users(child.id())? == Mapped::OneUser && only_root == OnlyRoot::No {
        bail!(
            "a service of the image has a user of its own, and this machine maps only yours into namespaces: install \
             newuidmap (Debian's package uidmap) and have a range in /etc/subuid and /etc/subgid, or be root"
        );
    }
    let stdin = child.stdin.take().expect("the child's input is a pipe");
    { stdin }.write_all(b"mapped\n").context("the enclave's first process ended")
}

/// The body of `glasshouse local-enclave STAGE SETUP`.
pub(crate) fn enter(stage: &str, setup: &str) -> Result<u8> {
    let parsed: Setup = serde_json::from_str(setup).context("this command is used by `glasshouse run`")?;
    match stage {
        "outer" => outer(setup),
        "inner" => Err(inner(&parsed)?.into()),
        _ => bail!("no stage is called {stage:?}"),
    }
}

/// Which users there are in the namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mapped {
    ManyUsers,
    OneUser,
}

/// Gives the namespaces of process `pid` as many users as this one may give: all that an image needs when it is root or
/// has subordinate ids (`subuid(5)`), else its own as root.
fn map_users(pid: u32) -> Result<Mapped> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let (uid, gid) = (getuid(), getgid());
    if uid.is_root() {
        let map = format!("0 0 {MAPPED_IDS}");
        fs::write(proc.join("uid_map"), &map).context("mapping the enclave's users")?;
        fs::write(proc.join("gid_map"), &map).context("mapping the enclave's groups")?;
        return Ok(Mapped::ManyUsers);
    }
    if let (Some(uids), Some(gids)) =
        (subordinate("/etc/subuid", uid.as_raw()), subordinate("/etc/subgid", uid.as_raw()))
        && map_with("newuidmap", pid, uid.as_raw(), &uids)
        && map_with("newgidmap", pid, gid.as_raw(), &gids)
    {
        return Ok(Mapped::ManyUsers);
    }
    fs::write(proc.join("setgroups"), "deny").context("mapping the enclave's groups")?;
    fs::write(proc.join("uid_map"), format!("0 {} 1", uid.as_raw()))
        .context("mapping the enclave's users")?;
    fs::write(proc.join("gid_map"), format!("0 {} 1", gid.as_raw()))
        .context("mapping the enclave's groups")?;
    Ok(Mapped::OneUser)
}

/// First id and number of ids that `table` lends to the user.
fn subordinate(table: &str, uid: u32) -> Option<(String, String)> {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let uid = uid.to_string();
    let name = users
        .lines()
        .find(|line| line.split(':').nth(2) == Some(&uid))
        .and_then(|line| line.split(':').next());
    let lent = fs::read_to_string(table).ok()?;
    lent.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next().filter(|owner| Some(*owner) == name || *owner == uid);
        owner.and(Some((fields.next()?.to_owned(), fields.next()?.to_owned())))
    })
}

/// Has the privileged `tool` map the user's own id to 0 and the ids lent to it from 1 on. False when it does not.
fn map_with(tool: &str, pid: u32, own: u32, (first, count): &(String, String)) -> bool {
    let run =
        Command::new(tool).args([&pid.to_string(), "0", &own.to_string(), "1", "1", first, count]).output();
    match run {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            tracing::warn!("{tool}: {}", String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            tracing::info!(%error, "{tool} does not run");
            false
        }
    }
}

fn outer(setup: &str) -> Result<u8> {
    unshare_all().context("unshare")?;
    die_with_parent()?;
    let mut console = io::stdout();
    console.write_all(b"unshared\n")?;
    console.flush()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    if line != "mapped\n" {
        bail!("the supervisor ended");
    }
    let mut inner = Command::new("/proc/self/exe");
    inner.args(["local-enclave", "inner", setup]).stdin(Stdio::null());
    let status = kill_with_parent(&mut inner)?.status().context("starting the enclave's init")?;
    Ok(crate::backend::exit_status(status))
}

/// Lays out the enclave's file system and becomes its init; returns only if that failed.
fn inner(setup: &Setup) -> Result<io::Error> {
    let root = &setup.root;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("detaching mounts")?;
    let options = format!("mode=755,size={}m", setup.memory_mib);
    mount("tmpfs", root, "tmpfs", MountFlags::empty(), Some(cstring(&options)?.as_c_str()))
        .context("mounting the enclave's root")?;
    let ownership = if has_many_users()? { Ownership::Keep } else { Ownership::Squash };
    let notes = unpack_ramdisks(&setup.image, root, ownership).with_context(|| {
        format!("unpacking {} ({} MiB of memory)", setup.image.display(), setup.memory_mib)
    })?;
    for note in notes {
        tracing::warn!(count = note.count, examples = ?note.examples, "{}", note.kind.explanation());
    }
    mount_devices(root).context("laying out /dev")?;
    bind_file(&setup.nsm, &root.join("dev/nsm")).context("placing the security module")?;
    let vsock = own_directory(root, VSOCK_DIR.trim_start_matches('/'))?;
    mount_bind(&setup.vsock, &vsock).context("placing the vsock's sockets")?;
    for (kind, dir) in [("proc", "proc"), ("sysfs", "sys"), ("tmpfs", "run"), ("tmpfs", "tmp")] {
        let target = own_directory(root, dir)?;
        mount(kind, &target, kind, MountFlags::NOSUID | MountFlags::NODEV, None)
            .with_context(|| format!("mounting /{dir}"))?;
    }
    fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o1777))?;
    chdir(root).context("entering the enclave's root")?;
    pivot_root(".", ".").context("entering the enclave's root")?;
    unmount(".", UnmountFlags::DETACH).context("leaving the machine's file system")?;
    chdir("/")?;
    Ok(Command::new("/init").args(["--local", VSOCK_DIR]).env_clear().exec())
}

/// Devices of the machine that any process may use; a user namespace cannot make nodes of its own.
fn mount_devices(root: &Path) -> Result<()> {
    let dev = own_directory(root, "dev")?;
    mount("tmpfs", &dev, "tmpfs", MountFlags::NOSUID, Some(c"mode=755"))?;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        bind_file(&Path::new("/dev").join(name), &dev.join(name))?;
    }
    fs::create_dir(dev.join("pts"))?;
    let options = c"newinstance,ptmxmode=0666,mode=620";
    mount("devpts", dev.join("pts"), "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, Some(options))?;
    fs::create_dir(dev.join("shm"))?;
    mount("tmpfs", dev.join("shm"), "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=1777"))?;
    // The way out needs it, which without it says so.
    let tun = Path::new("/dev/net/tun");
    if tun.exists() {
        fs::create_dir(dev.join("net"))?;
        bind_file(tun, &dev.join("net/tun"))?;
    }
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("console", "/proc/1/fd/1"),
    ] {
        symlink(target, dev.join(name))?;
    }
    Ok(())
}

/// A directory of the image to mount on, made if it is missing. Until the enclave's root is entered, a link of the image
/// in its place would lead into the machine's own file system.
fn own_directory(root: &Path, name: &str) -> Result<PathBuf> {
    let path = root.join(name);
    match fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => bail!("/{name} has to be a folder in the image's ramdisks, and is something else"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir(&path).with_context(|| format!("making /{name}"))?;
            Ok(path)
        }
        Err(error) => Err(error).with_context(|| format!("looking at /{name}")),
    }
}

fn bind_file(source: &Path, target: &Path) -> Result<()> {
    File::create(target)?;
    mount_bind_recursive(source, target).with_context(|| format!("binding {}", source.display()))
}

/// Whether this user namespace has more than one user, so that files can have other owners than root.
fn has_many_users() -> Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map").context("reading the user map")?;
    Ok(map.lines().count() > 1 || map.split_whitespace().nth(2).is_some_and(|count| count != "1"))
}

fn cstring(text: &str) -> Result<std::ffi::CString> {
    Ok(std::ffi::CString::new(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image whose `/.vsock` was a link had folders made wherever on the machine it pointed, as root if root ran it.
    #[test]
    fn a_link_in_the_place_of_a_mount_point_is_refused() {
        let (root, machine) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(machine.path().join("made"), root.path().join("run")).unwrap();
        symlink(machine.path(), root.path().join("dev")).unwrap();
        for name in ["run", "dev"] {
            assert!(
                own_directory(root.path(), name).unwrap_err().to_string().contains("something else"),
                "{name}"
            );
        }
        assert!(!machine.path().join("made").exists());
        assert!(own_directory(root.path(), "tmp").unwrap().is_dir());
        assert!(own_directory(root.path(), "tmp").is_ok());
    }
}
