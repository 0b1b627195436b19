//! What an image says of its users: as whom its programs run.
//!
//! Init asks it for services, the control channel for what operators run, so that both mean the same by a user's name.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use sys::pid1::Confinement;

use crate::accounts;
pub use crate::accounts::{AccountError, Login};

/// Longest `/etc/passwd` or `/etc/group` that is read, in bytes.
const MAX_ACCOUNTS_BYTES: u64 = 1024 * 1024;

/// An image's `passwd(5)` and `group(5)`, and whether this user namespace lets groups be set.
#[derive(Clone, Debug)]
pub struct Users {
    pub(crate) passwd: String,
    pub(crate) group: String,
    pub(crate) may_set_groups: bool,
}

/// Why what an image says of its users cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the image's /{path}")]
pub struct AccountsError {
    path: &'static str,
    #[source]
    source: io::Error,
}

impl Users {
    /// Reads the files of the image at `root`.
    ///
    /// # Errors
    /// When one is there and cannot be read.
    pub fn read(root: &Path) -> Result<Self, AccountsError> {
        let read = |path| read_within(root, path).map_err(|source| AccountsError { path, source });
        let setgroups = std::fs::read_to_string("/proc/self/setgroups").unwrap_or_default();
        Ok(Self {
            passwd: read("etc/passwd")?,
            group: read("etc/group")?,
            may_set_groups: setgroups.trim() != "deny",
        })
    }

    /// How a process of `user` is confined to `root`; `user` is `name`, `uid`, `name:group` or `uid:gid`.
    ///
    /// # Errors
    /// When the image does not know the user or group.
    pub fn confine(
        &self,
        user: &str,
        root: impl Into<PathBuf>,
        workdir: impl Into<PathBuf>,
    ) -> Result<Confinement, AccountError> {
        let identity = accounts::resolve(user, &self.passwd, &self.group)?;
        Ok(Confinement {
            root: root.into(),
            workdir: workdir.into(),
            uid: identity.uid,
            gid: identity.gid,
            groups: self.may_set_groups.then_some(identity.groups),
        })
    }

    /// The home directory of the user with that id, `/` if the image does not say, as container engines have it.
    pub(crate) fn home(&self, uid: u32) -> String {
        Some(self.login(uid).home).filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned())
    }

    /// Name, home directory and shell of the user with that id, as far as the image says.
    pub fn login(&self, uid: u32) -> Login {
        accounts::login(uid, &self.passwd)
    }
}

/// Reads a text file of the image, its links resolved as the image means them; a missing file is empty.
fn read_within(root: &Path, path: &str) -> io::Result<String> {
    let directory =
        rustix::fs::openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = match rustix::fs::openat2(&directory, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Err(Errno::NOSYS) => open_without_links(directory, path, flags),
        opened => opened,
    };
    let file = match opened {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(String::new()),
        Err(errno) => return Err(errno.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_ACCOUNTS_BYTES).read_to_end(&mut bytes)?;
    // Names that are not UTF-8 cannot be in a manifest.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The same on kernels before Linux 5.6, which cannot resolve links that way: a path with links is refused (`ELOOP`, `ENOTDIR`).
fn open_without_links(directory: OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut at = directory;
    for folder in folders.split('/').filter(|folder| !folder.is_empty()) {
        let folder_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = rustix::fs::openat(&at, folder, folder_flags, Mode::empty())?;
    }
    rustix::fs::openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn reads_accounts_as_the_image_means_them() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("passwd.real"), "inside").unwrap();
        symlink("/passwd.real", root.path().join("etc/passwd")).unwrap();
        assert_eq!(read_within(root.path(), "etc/passwd").unwrap(), "inside");
        assert_eq!(read_within(root.path(), "etc/group").unwrap(), "");
    }

    #[test]
    fn without_openat2_files_are_read_and_links_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), "inside").unwrap();
        symlink("/etc/hostname", root.path().join("etc/group")).unwrap();
        symlink("etc", root.path().join("linked")).unwrap();
        let open = |path| {
            let directory = std::fs::File::open(root.path()).unwrap();
            open_without_links(directory.into(), path, OFlags::RDONLY).map(File::from)
        };
        let mut text = String::new();
        open("etc/passwd").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        assert_eq!(open("etc/group").unwrap_err(), Errno::LOOP);
        assert_eq!(open("linked/passwd").unwrap_err(), Errno::NOTDIR);
        assert_eq!(open("etc/shadow").unwrap_err(), Errno::NOENT);
    }
}
