//! What is known on this machine of the enclaves that run, or ran: one folder each.
//!
//! An enclave's folder is claimed by locking the file `lock` in it; the supervisor holds the lock as long as it lives, so
//! whether an enclave runs is a question to the kernel, not to a file that a killed process left behind. Everything
//! else in the folder can be thrown away by whoever gets the lock.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::{cli::BackendKind, exit::Usage, paths, publish::Publish};

/// Longest path of an enclave's folder: sockets below it must fit the 107 bytes of a Unix address.
const MAX_FOLDER_BYTES: usize = 90;

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
    /// Where it is in its life: the member `status`, and `code` when it has exited.
    #[serde(flatten)]
    pub(crate) status: Status,
}

/// Where an enclave is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub(crate) enum Status {
    /// Not every service has been ready yet.
    Starting,
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
        Ok(Self(paths::state().join(name)))
    }

    /// All there are, by name.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let root = paths::state();
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
        if matches!(instance.status, Status::Starting | Status::Ready) && !self.is_held()? {
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
        let context = || format!("making {}", self.0.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).with_context(context)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.0.join("lock"))
            .with_context(context)?;
        let name = self.0.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(crate::Refusal(format!(
                    "an enclave called {name} is running: `glasshouse stop {name}`, or give this one another --name"
                ))
                .into());
            }
            Err(e) => return Err(e).with_context(context),
        }
        let claimed = Claimed { folder: self, _lock: lock };
        claimed.clear(&["lock"])?;
        Ok(claimed)
    }
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
            return self.clear(&["lock", "instance.json", "events.jsonl", "console.log", "supervisor.log"]);
        }
        fs::remove_dir_all(self.path()).with_context(|| format!("removing {}", self.path().display()))
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
