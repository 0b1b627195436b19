//! The file systems of the enclave, and of its services below `/rootfs`.
//!
//! Services see a `/dev` of their own with the usual harmless nodes and above all without the security module: an
//! application that could ask the module itself could have the framework's statements attested with its own content.
//! What of `/proc` and `/sys` reaches into the kernel is read-only for them, as container runtimes have it.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, StatxAttributes, StatxFlags},
    io::Errno,
    mount::{MountFlags, mount, mount_bind, mount_bind_recursive, mount_remount},
};

/// The services' root directory.
pub(crate) const ROOTFS: &str = "/rootfs";

/// Where daemons and services meet: sockets of the framework.
pub(crate) const RUNTIME_DIRECTORY: &str = "/run/glasshouse";

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Devices that every program may expect.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links in `/dev` that programs expect, with their targets.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Parts of `/proc` that change the kernel's behaviour for everybody.
const READ_ONLY_PROC: [&str; 5] = ["sys", "sysrq-trigger", "irq", "bus", "fs"];

/// What was being mounted or made when the system refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("cannot mount {path}")]
    Mount {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make {path}")]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It would lead outside the services' root.
    #[error("{path} is a symbolic link in the image, and has to be a directory")]
    SymbolicLink { path: PathBuf },
}

/// A file system to be mounted.
struct FileSystem {
    target: &'static str,
    kind: &'static str,
    flags: MountFlags,
    data: Option<&'static std::ffi::CStr>,
}

/// In the order of mounting.
const SYSTEM: [FileSystem; 7] = [
    FileSystem { target: "/proc", kind: "proc", flags: PLAIN, data: None },
    FileSystem { target: "/sys", kind: "sysfs", flags: PLAIN, data: None },
    FileSystem { target: "/dev", kind: "devtmpfs", flags: MountFlags::NOSUID, data: Some(c"mode=755") },
    FileSystem {
        target: "/dev/pts",
        kind: "devpts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        data: Some(c"mode=620,ptmxmode=666"),
    },
    FileSystem {
        target: "/dev/shm",
        kind: "tmpfs",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        data: Some(c"mode=1777"),
    },
    FileSystem {
        target: "/run",
        kind: "tmpfs",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        data: Some(c"mode=755"),
    },
    FileSystem {
        target: "/tmp",
        kind: "tmpfs",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        data: Some(c"mode=1777"),
    },
];

/// Mounts what is not mounted yet. Tries everything and returns what failed; in namespaces that may be tolerable.
pub(crate) fn mount_system() -> Vec<MountError> {
    let mut failures: Vec<_> = SYSTEM.iter().filter_map(|fs| mount_one(fs).err()).collect();
    failures.extend(link_devices(Path::new("/dev")).err());
    failures.extend(make_directory(Path::new(RUNTIME_DIRECTORY), 0o755).err());
    failures
}

/// Makes the system's file systems visible to services, the dangerous parts read-only. As [`mount_system`] otherwise.
pub(crate) fn mount_rootfs() -> Vec<MountError> {
    let root = Path::new(ROOTFS);
    let temporary = own_directory(root, "tmp", 0o1777).map(drop);
    let outcomes = [share_devices(root), share_proc(root), share_sys(root), share_runtime(root), temporary];
    outcomes.into_iter().filter_map(Result::err).collect()
}

fn mount_one(fs: &FileSystem) -> Result<(), MountError> {
    let target = Path::new(fs.target);
    make_directory(target, 0o755)?;
    if is_mounted(target) {
        return Ok(());
    }
    match mount(fs.kind, target, fs.kind, fs.flags, fs.data) {
        // The very file system is there already.
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(errno) => Err(MountError::Mount { path: target.into(), source: errno.into() }),
    }
}

fn is_mounted(path: &Path) -> bool {
    rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// A `/dev` with nothing but [`DEVICES`], terminals and shared memory.
fn share_devices(root: &Path) -> Result<(), MountError> {
    let target = &own_directory(root, "dev", 0o755)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    tried(target, mount("tmpfs", target, "tmpfs", flags, c"mode=755,size=64k"))?;
    for device in DEVICES {
        let node = target.join(device);
        made(&node, OpenOptions::new().write(true).create_new(true).mode(0o600).open(&node).map(drop))?;
        tried(&node, mount_bind(Path::new("/dev").join(device), &node))?;
    }
    for (name, mode) in [("pts", 0o755), ("shm", 0o1777)] {
        let directory = target.join(name);
        make_directory(&directory, mode)?;
        tried(&directory, mount_bind(Path::new("/dev").join(name), &directory))?;
    }
    link_devices(target)
}

fn share_proc(root: &Path) -> Result<(), MountError> {
    let target = &own_directory(root, "proc", 0o755)?;
    tried(target, mount_bind_recursive("/proc", target))?;
    for name in READ_ONLY_PROC {
        let part = target.join(name);
        if part.exists() {
            tried(&part, mount_bind(&part, &part))?;
            make_read_only(&part)?;
        }
    }
    Ok(())
}

fn share_sys(root: &Path) -> Result<(), MountError> {
    let target = &own_directory(root, "sys", 0o755)?;
    tried(target, mount_bind_recursive("/sys", target))?;
    make_read_only(target)
}

/// Services can connect to the sockets there, which needs no writing, and cannot put others in their place.
fn share_runtime(root: &Path) -> Result<(), MountError> {
    let target = &own_directory(&own_directory(root, "run", 0o755)?, "glasshouse", 0o755)?;
    tried(target, mount_bind(RUNTIME_DIRECTORY, target))?;
    make_read_only(target)
}

fn make_read_only(target: &Path) -> Result<(), MountError> {
    tried(target, mount_remount(target, MountFlags::BIND | MountFlags::RDONLY | PLAIN, c""))
}

fn link_devices(dev: &Path) -> Result<(), MountError> {
    for (name, target) in LINKS {
        let link = dev.join(name);
        match symlink(target, &link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => made(&link, other)?,
        }
    }
    Ok(())
}

/// A directory of the image itself: made if it is missing, refused if it is a link to somewhere else.
fn own_directory(parent: &Path, name: &str, mode: u32) -> Result<PathBuf, MountError> {
    let path = parent.join(name);
    if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
        return Err(MountError::SymbolicLink { path });
    }
    make_directory(&path, mode)?;
    Ok(path)
}

fn make_directory(path: &Path, mode: u32) -> Result<(), MountError> {
    if path.is_dir() {
        return Ok(());
    }
    made(path, DirBuilder::new().recursive(true).mode(mode).create(path))?;
    // The mode above is subject to the umask.
    made(path, fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)))
}

fn tried(path: &Path, outcome: Result<(), Errno>) -> Result<(), MountError> {
    outcome.map_err(|errno| MountError::Mount { path: path.into(), source: errno.into() })
}

fn made(path: &Path, outcome: io::Result<()>) -> Result<(), MountError> {
    outcome.map_err(|source| MountError::Make { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linked_mount_point_is_refused_and_a_missing_one_made() {
        let directory = tempfile::tempdir().unwrap();
        symlink("/etc", directory.path().join("proc")).unwrap();
        let refused = own_directory(directory.path(), "proc", 0o755);
        assert!(matches!(refused, Err(MountError::SymbolicLink { .. })));
        let made = own_directory(directory.path(), "tmp", 0o1777).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(made).unwrap().permissions());
        assert_eq!(mode & 0o7777, 0o1777);
    }

    #[test]
    fn tells_a_mount_point_from_a_directory() {
        assert!(is_mounted(Path::new("/proc")));
        assert!(!is_mounted(Path::new("/proc/self")));
    }
}
