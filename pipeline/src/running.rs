//! Which programs run, kept on file: a server that was killed could not end those of its sessions, so the next one does.
//!
//! One file for each session of processes, named after its leader's number and holding its start time, in the directory
//! of the server's trace, which no program of an operator or of the application can reach.

use std::{fs, io, path::PathBuf, sync::Arc};

use rustix::process::Pid;
use sys::session;

/// The directory, in that of the trace.
const DIRECTORY: &str = "running";

/// Where it is kept which programs run.
#[derive(Debug)]
pub(crate) struct Running(PathBuf);

/// The file of one session of processes, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Note(PathBuf);

impl Drop for Note {
    fn drop(&mut self) {
        // If it cannot be removed, the next server finds that nobody has that number and start time any more.
        let _ = fs::remove_file(&self.0);
    }
}

impl Running {
    /// Ends what an earlier server has left running, and makes a place for notes.
    ///
    /// # Errors
    /// When there can be no such directory.
    pub(crate) fn open(state: &std::path::Path) -> io::Result<Arc<Self>> {
        let directory = state.join(DIRECTORY);
        fs::create_dir_all(&directory)?;
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if let Some((leader, started)) = read(&path) {
                tracing::info!(leader = leader.as_raw_pid(), "ending what an earlier server started");
                session::kill_leftover(leader, started);
            }
            fs::remove_file(&path)?;
        }
        Ok(Arc::new(Self(directory)))
    }

    /// Notes a session of processes. `None` if it has ended meanwhile, or there is no room for the note.
    pub(crate) fn note(&self, leader: Pid) -> Option<Note> {
        let started = session::start_time(leader)?;
        let note = Note(self.0.join(leader.as_raw_pid().to_string()));
        match fs::write(&note.0, started.to_string()) {
            Ok(()) => Some(note),
            Err(error) => {
                tracing::warn!(%error, "if this server is killed, a program of its is not");
                None
            }
        }
    }
}

fn read(path: &std::path::Path) -> Option<(Pid, u64)> {
    let leader = Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?)?;
    Some((leader, fs::read_to_string(path).ok()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_next_server_ends_what_was_noted_and_nothing_else() {
        let state = tempfile::tempdir().unwrap();
        let running = Running::open(state.path()).unwrap();
        let start = || {
            let launch = sys::pid1::Launch {
                program: "/bin/sleep".into(),
                args: vec!["600".into()],
                env: Vec::new(),
                confinement: None,
            };
            session::spawn_piped(&launch).unwrap()
        };
        let (noted, released, other) = (start(), start(), start());
        std::mem::forget(running.note(noted.pid).unwrap());
        drop(running.note(released.pid).unwrap());
        // As if the number had gone to another process since.
        fs::write(state.path().join(DIRECTORY).join(other.pid.as_raw_pid().to_string()), "1").unwrap();
        fs::write(state.path().join(DIRECTORY).join("nonsense"), "x").unwrap();
        drop(Running::open(state.path()).unwrap());
        let wait = |pid| {
            let (_, status) =
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
            status.terminating_signal()
        };
        assert_eq!(wait(noted.pid), Some(9));
        assert_eq!(fs::read_dir(state.path().join(DIRECTORY)).unwrap().count(), 0);
        for alive in [released.pid, other.pid] {
            let asked =
                Command::new("kill").args(["-TERM", &alive.as_raw_pid().to_string()]).status().unwrap();
            assert!(asked.success());
            assert_eq!(wait(alive), Some(15), "it was left alone");
        }
    }
}
