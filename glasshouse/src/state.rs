//! What is known on this machine of the enclaves that run, or ran: one folder each.
//!
//! An enclave's folder is claimed by locking the file `lock` in it; the supervisor holds the lock as long as it lives, so
//! whether an enclave runs is a question to the kernel, not to a file that a killed process left behind. Everything
//! else in the folder can be thrown away by whoever gets the lock.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::{
    fs::{FlockOperation, flock},
    process::geteuid,
};
use serde::{Deserialize, Serialize};

use crate::{cli::BackendKind, exit::Usage, health::Healths, paths, publish::Publish};

/// Longest path of an enclave's folder: sockets below it must fit the 107 bytes of a Unix address.
const MAX_FOLDER_BYTES: usize = 90;

/// What is kept of an enclave that ended: what `ps --all` and `logs` read, full logs that were set aside included.
const KEPT: &[&str] = &[
    "lock",
    "instance.json",
    "events.jsonl",
    "events.jsonl.old",
    "console.log",
    "console.log.old",
    "supervisor.log",
];

/// What `ps` shows of an enclave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Instance {
    /// Its name, unique under this user.
    pub(crate) name: String,
    /// The image it runs, as an absolute path.
    pub(crate) image: PathBuf,
    /// Where it runs.
    pub(crate) backend: BackendKind,
    /// The process that watches over it.
    pub(crate) supervisor: i32,
    /// Seconds since the epoch.
    pub(crate) started: u64,
    /// Ports of this machine that lead to it, as bound.
    pub(crate) publish: Vec<Publish>,
    /// What its services last said of their health; left out if none has a health check.
    #[serde(default, skip_serializing_if = "Healths::is_empty")]
    pub(crate) health: Healths,
    /// How long a clean end may take, in seconds, from the request to the end of its supervisor.
    #[serde(default = "usual_stop_seconds")]
    pub(crate) stop_seconds: u64,
    /// The address of its control channel, if its image has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) control: Option<String>,
    /// Where it is in its life: the member `status`, and `code` when it has exited.
    #[serde(flatten)]
    pub(crate) status: Status,
}

/// For an enclave that an earlier version of this program started.
fn usual_stop_seconds() -> u64 {
    20
}

/// Where an enclave is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub(crate) enum Status {
    /// Not every service has been ready yet.
    Starting,
    /// A service waits for secrets that operators are to give.
    AwaitingSecrets,
    /// Every service has been ready.
    Ready,
    /// It ended with this status.
    Exited {
        /// The application's, 128 and the signal's number if one ended it.
        code: u8,
    },
    /// Its supervisor ended without saying how.
    Died,
}

impl Status {
    /// Whether it has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self, Self::Exited { .. } | Self::Died)
    }
}

/// An enclave's folder, seen by someone who does not own it.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

/// An enclave's folder, locked by its supervisor.
#[derive(Debug)]
pub(crate) struct Claimed {
    folder: Folder,
    _lock: File,
}

impl Folder {
    /// The folder of the enclave called `name`, whether it is there or not.
    pub(crate) fn of(name: &str) -> Result<Self> {
        if !manifest::is_valid_name(name) {
            return Err(
                Usage(format!("{name:?} is not a name: 1 to 63 lower-case letters, digits and `-`")).into()
            );
        }
        let root = paths::state();
        check_private(&root)?;
        Ok(Self(root.join(name)))
    }

    /// All there are, by name.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let root = paths::state();
        check_private(&root)?;
        let entries = match fs::read_dir(&root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e).with_context(|| format!("reading {}", root.display())),
        };
        let mut folders = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| format!("reading {}", root.display()))?;
            if entry.file_name().to_str().is_some_and(manifest::is_valid_name) {
                folders.push(Self(entry.path()));
            }
        }
        folders.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(folders)
    }

    /// What the enclave's services wrote, one event a line.
    pub(crate) fn events(&self) -> PathBuf {
        self.0.join("events.jsonl")
    }

    /// What its supervisor had to say once nobody listened.
    pub(crate) fn supervisor_log(&self) -> PathBuf {
        self.0.join("supervisor.log")
    }

    /// What the enclave's kernel and init wrote.
    pub(crate) fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// What is known of the enclave; `None` when nothing is.
    pub(crate) fn instance(&self) -> Result<Option<Instance>> {
        let path = self.0.join("instance.json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("reading {}", path.display())),
        };
        let mut instance: Instance =
            serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
        if instance.status.is_alive() && !self.is_held()? {
            instance.status = Status::Died;
        }
        Ok(Some(instance))
    }

    /// Whether a supervisor lives.
    pub(crate) fn is_held(&self) -> Result<bool> {
        let path = self.0.join("lock");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e).with_context(|| format!("opening {}", path.display())),
        };
        // A shared lock, given back at once: two who ask at the same time do not take each other for a supervisor.
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(e) => Err(e).with_context(|| format!("locking {}", path.display())),
        }
    }

    /// Takes the folder for an enclave that is about to start, and empties it of what an earlier one left.
    pub(crate) fn claim(self) -> Result<Claimed> {
        if self.0.as_os_str().len() > MAX_FOLDER_BYTES {
            bail!(
                "{} is too long a path for sockets: set GLASSHOUSE_STATE to a shorter folder",
                self.0.display()
            );
        }
        let lock = loop {
            if let Some(lock) = self.lock()? {
                break lock;
            }
        };
        let claimed = Claimed { folder: self, _lock: lock };
        claimed.clear(&["lock"])?;
        Ok(claimed)
    }

    /// Makes the folder and locks it. `None` when an enclave that ended took the folder away meanwhile.
    fn lock(&self) -> Result<Option<File>> {
        let context = || format!("making {}", self.0.display());
        match DirBuilder::new().recursive(true).mode(0o700).create(&self.0) {
            // It was there, and was taken away before it could be looked at.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !self.is_something_else() => {
                return Ok(None);
            }
            made => made.with_context(context)?,
        }
        if let Some(root) = self.0.parent() {
            check_private(root)?;
        }
        let path = self.0.join("lock");
        let lock = match OpenOptions::new().create(true).truncate(false).write(true).open(&path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).with_context(context),
        };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let name = self.0.file_name().unwrap_or_default().to_string_lossy();
                return Err(crate::Refusal(format!(
                    "an enclave called {name} is running: `glasshouse stop {name}`, or give this one another --name"
                ))
                .into());
            }
            Err(e) => return Err(e).with_context(context),
        }
        // A lock on a file that is no longer there keeps nobody out.
        let locked = lock.metadata().with_context(context)?;
        let is_there = fs::symlink_metadata(&path)
            .is_ok_and(|now| (now.dev(), now.ino()) == (locked.dev(), locked.ino()));
        Ok(is_there.then_some(lock))
    }

    fn is_something_else(&self) -> bool {
        fs::symlink_metadata(&self.0).is_ok_and(|found| !found.is_dir())
    }
}

/// Refuses a folder of states that somebody else could have prepared or can write to: in `/tmp` its name can be
/// guessed, and what lies in it is cleared, connected to and signalled. That it is not there is fine.
fn check_private(root: &Path) -> Result<()> {
    let found = match fs::symlink_metadata(root) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("looking at {}", root.display())),
    };
    let wrong = match (found.is_dir(), found.uid() == geteuid().as_raw(), found.mode() & 0o022) {
        (false, ..) => "is no folder",
        (_, false, _) => "belongs to another user",
        (.., 0) => return Ok(()),
        _ => "can be written by other users",
    };
    bail!(
        "{} {wrong}: remove it, or set GLASSHOUSE_STATE to a folder of your own (mode 0700)",
        root.display()
    )
}

impl Claimed {
    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(crate) fn path(&self) -> &Path {
        &self.folder.0
    }

    /// Says what is known of the enclave now: the file is replaced whole.
    pub(crate) fn record(&self, instance: &Instance) -> Result<()> {
        let path = self.path().join("instance.json");
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(self.path())?;
            serde_json::to_writer(&mut file, instance)?;
            file.flush()?;
            file.persist(&path)?;
            Ok(())
        };
        write().with_context(|| format!("writing {}", path.display()))
    }

    /// The enclave has ended: keeps what `ps --all` and `logs` read, or nothing.
    pub(crate) fn leave(self, keep_logs: bool) -> Result<()> {
        if keep_logs {
            return self.clear(KEPT);
        }
        self.clear(&["lock"])?;
        let remove = || -> io::Result<()> {
            fs::remove_file(self.path().join("lock"))?;
            match fs::remove_dir(self.path()) {
                // Another enclave of this name is starting and has put its own lock there, or has even ended already.
                Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {
                    Ok(())
                }
                done => done,
            }
        };
        remove().with_context(|| format!("removing {}", self.path().display()))
    }

    fn clear(&self, keep: &[&str]) -> Result<()> {
        let clear = || -> io::Result<()> {
            for entry in fs::read_dir(self.path())? {
                let entry = entry?;
                if keep.iter().any(|name| entry.file_name() == *name) {
                    continue;
                }
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        clear().with_context(|| format!("clearing {}", self.path().display()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn folder_in(root: &Path) -> Folder {
        Folder(root.join("web"))
    }

    /// `/tmp/glasshouse-1000` is a name anybody can guess. Whoever made it first could have had our user clear folders
    /// through a link, connect to his sockets, or signal a process of his choice with `glasshouse stop`.
    #[test]
    fn a_folder_that_somebody_else_prepared_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("state");
        assert!(check_private(&root).is_ok(), "it is made when needed");
        fs::create_dir(&root).unwrap();
        for (mode, fine) in [(0o700, true), (0o755, true), (0o770, false), (0o1777, false)] {
            fs::set_permissions(&root, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_private(&root).is_ok(), fine, "{mode:o}");
            assert_eq!(folder_in(&root).claim().is_ok(), fine, "{mode:o}");
        }
        let link = dir.path().join("link");
        symlink(dir.path(), &link).unwrap();
        assert!(check_private(&link).unwrap_err().to_string().contains("is no folder"));
        if geteuid().is_root() {
            std::os::unix::fs::chown(&root, Some(65534), None).unwrap();
            assert!(check_private(&root).unwrap_err().to_string().contains("another user"));
        }
    }

    #[test]
    fn one_name_is_claimed_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = folder_in(dir.path()).claim().unwrap();
        let error = folder_in(dir.path()).claim().unwrap_err();
        assert!(error.is::<crate::Refusal>(), "{error:#}");
        first.leave(false).unwrap();
        assert!(!dir.path().join("web").exists());
        folder_in(dir.path()).claim().unwrap().leave(true).unwrap();
        assert!(dir.path().join("web").exists());
    }

    /// The folder used to be removed whole, with a lock in it that a starting enclave of the same name had just taken:
    /// then two could run under one name, and one cleared the other's sockets.
    #[test]
    fn of_many_that_come_and_go_at_once_one_at_a_time_holds_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let holders = std::sync::atomic::AtomicU32::new(0);
        let claims = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let claimed = match folder_in(dir.path()).claim() {
                            Ok(claimed) => claimed,
                            Err(error) => {
                                assert!(error.is::<crate::Refusal>(), "{error:#}");
                                continue;
                            }
                        };
                        assert_eq!(holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        fs::write(claimed.path().join("mine"), "").unwrap();
                        std::thread::yield_now();
                        assert!(claimed.path().join("mine").exists());
                        holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        claims.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        claimed.leave(false).unwrap();
                    }
                });
            }
        });
        assert!(claims.into_inner() > 4);
    }
}
