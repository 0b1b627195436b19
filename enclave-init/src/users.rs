//! What an image says of its users: as whom its programs run.
//!
//! Init asks it for services, the control channel for what operators run, so that both mean the same by a user's name.

use std::{
    fs::File,
    io::{self, Read},
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
    let file = match rustix::fs::openat2(directory, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(String::new()),
        Err(errno) => return Err(errno.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_ACCOUNTS_BYTES).read_to_end(&mut bytes)?;
    // Names that are not UTF-8 cannot be in a manifest.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
}
