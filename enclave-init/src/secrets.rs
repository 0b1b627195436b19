//! The secrets of services: which are missing, and where the given ones lie.
//!
//! A secret is a file that its service alone can read, under [`DIRECTORY`] in memory, never on the host's disk. The
//! service finds the directory in `CREDENTIALS_DIRECTORY`, as systemd's `LoadCredential=` has it. Operators give them
//! through the control channel ([`crate::private`]).

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use crate::{private::SecretState, services::Unit, supervisor::UnitId};

/// Below it, one directory a service.
pub(crate) const DIRECTORY: &str = "/run/glasshouse/secrets";

/// The variable that tells a service where its secrets are (`systemd.exec(5)`).
const VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// What a new value is called until it is whole. No secret's name begins with a dot.
const PARTIAL: &str = ".partial";

/// Why a secret was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GiveError {
    #[error("no service of the image has a secret {0:?}")]
    Unknown(String),
    #[error("cannot keep the secret: {0}")]
    Io(#[from] io::Error),
}

/// All secrets of all services.
#[derive(Debug)]
pub(crate) struct Secrets {
    directory: PathBuf,
    services: Vec<Wanting>,
}

/// A service that has secrets.
#[derive(Debug)]
struct Wanting {
    unit: UnitId,
    service: String,
    uid: u32,
    gid: u32,
    /// Names, and whether they are given.
    secrets: Vec<(String, bool)>,
}

/// The variable by which `service` finds its secrets below [`DIRECTORY`].
pub(crate) fn variable(service: &str) -> (OsString, OsString) {
    (VARIABLE.into(), Path::new(DIRECTORY).join(service).into())
}

impl Secrets {
    /// None is given yet. `directory` is made when the first one is.
    pub(crate) fn new(directory: &Path, units: &[Unit]) -> Self {
        let wanting = |(index, unit): (usize, &Unit)| {
            let identity = unit.launch.confinement.as_ref()?;
            (!unit.spec.secrets.is_empty()).then(|| Wanting {
                unit: UnitId(index),
                service: unit.spec.name.clone(),
                uid: identity.uid,
                gid: identity.gid,
                secrets: unit.spec.secrets.iter().map(|name| (name.clone(), false)).collect(),
            })
        };
        let services = units.iter().enumerate().filter_map(wanting).collect();
        Self { directory: directory.to_owned(), services }
    }

    /// Every secret of every service.
    pub(crate) fn list(&self) -> Vec<SecretState> {
        let of = |wanting: &Wanting| {
            let state = |(secret, given): &(String, bool)| SecretState {
                secret: secret.clone(),
                service: wanting.service.clone(),
                given: *given,
            };
            wanting.secrets.iter().map(state).collect::<Vec<_>>()
        };
        self.services.iter().flat_map(of).collect()
    }

    /// Gives every service that has a secret of this name its value, in place of an earlier one. Returns the services that
    /// now have all.
    ///
    /// # Errors
    /// [`GiveError`]; then each service has the value it had before, or this one, whole.
    pub(crate) fn give(&mut self, name: &str, value: &[u8]) -> Result<Vec<UnitId>, GiveError> {
        let Self { directory, services } = self;
        let mut complete = Vec::new();
        let mut known = false;
        for wanting in services {
            let Some(index) = wanting.secrets.iter().position(|(secret, _)| secret == name) else { continue };
            known = true;
            wanting.write(directory, name, value)?;
            wanting.secrets[index].1 = true;
            if wanting.secrets.iter().all(|(_, given)| *given) {
                complete.push(wanting.unit);
            }
        }
        if known { Ok(complete) } else { Err(GiveError::Unknown(name.to_owned())) }
    }
}

impl Wanting {
    fn write(&self, directory: &Path, name: &str, value: &[u8]) -> io::Result<()> {
        let directory = open_directory(directory, 0o711)?;
        // The service can read and list, and neither it nor who shares its user can change anything.
        let own = open_directory(&held(&directory).join(&self.service), 0o750)?;
        fchown(&own, None, Some(self.gid))?;
        let own = held(&own);
        let partial = own.join(PARTIAL);
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = self.write_new(&partial, value).and_then(|()| fs::rename(&partial, own.join(name)));
        if written.is_err() {
            // What is half there is nobody's secret.
            let _ = fs::remove_file(&partial);
        }
        written
    }

    fn write_new(&self, path: &Path, value: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
        file.write_all(value)?;
        fchown(&file, Some(self.uid), Some(self.gid))
    }
}

/// Makes the directory if it is not there, and opens it; a link in its place is refused. A service that runs as root can
/// change what lies above, and its links mean something else to init than within its own root.
fn open_directory(path: &Path, mode: u32) -> io::Result<File> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    // The mode above is subject to the umask.
    directory.set_permissions(Permissions::from_mode(mode))?;
    Ok(directory)
}

/// A path to an open directory, whatever becomes of its name.
fn held(directory: &File) -> PathBuf {
    format!("/proc/self/fd/{}", directory.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn secrets(directory: &Path) -> Secrets {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let wanting = |unit, service: &str, names: &[&str]| Wanting {
            unit: UnitId(unit),
            service: service.to_owned(),
            uid,
            gid,
            secrets: names.iter().map(|name| ((*name).to_owned(), false)).collect(),
        };
        let services = vec![wanting(1, "db", &["token"]), wanting(2, "app", &["key", "token"])];
        Secrets { directory: directory.join("secrets"), services }
    }

    #[test]
    fn a_service_is_complete_when_it_has_all_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let mut secrets = secrets(dir.path());
        assert!(secrets.list().iter().all(|state| !state.given) && secrets.list().len() == 3);
        assert_eq!(secrets.give("token", b"t\n\0").unwrap(), [UnitId(1)]);
        assert_eq!(secrets.give("key", b"").unwrap(), [UnitId(2)]);
        assert!(secrets.list().iter().all(|state| state.given));
        for service in ["db", "app"] {
            let path = dir.path().join("secrets").join(service).join("token");
            assert_eq!(fs::read(&path).unwrap(), b"t\n\0");
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o400);
        }
        assert!(!dir.path().join("secrets/db/key").exists(), "a service has its own secrets only");
    }

    #[test]
    fn a_later_value_takes_the_place_of_the_earlier() {
        let dir = tempfile::tempdir().unwrap();
        let mut secrets = secrets(dir.path());
        secrets.give("token", b"first").unwrap();
        assert_eq!(secrets.give("token", b"2").unwrap(), [UnitId(1)]);
        let own = dir.path().join("secrets/db");
        assert_eq!(fs::read(own.join("token")).unwrap(), b"2");
        assert_eq!(fs::read_dir(own).unwrap().count(), 1, "nothing else is left");
    }

    /// A service that runs as root could otherwise have init write wherever its link leads outside its root.
    #[test]
    fn a_link_in_the_place_of_a_directory_is_refused() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let link = dir.path().join("secrets");
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        assert!(matches!(secrets(dir.path()).give("token", b"x"), Err(GiveError::Io(_))));
        fs::remove_file(&link).unwrap();
        fs::create_dir(&link).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), link.join("db")).unwrap();
        assert!(matches!(secrets(dir.path()).give("token", b"x"), Err(GiveError::Io(_))));
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    /// A name that came from outside is never a path.
    #[test]
    fn a_secret_that_no_service_has_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["other", "", "../token", ".partial"] {
            let refused = secrets(dir.path()).give(name, b"x").unwrap_err();
            assert!(matches!(refused, GiveError::Unknown(_)), "{name}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
