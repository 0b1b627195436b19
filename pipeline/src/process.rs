//! A program that an operator runs: started, signalled, waited for, and never left behind.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};
use sys::{
    pid1::{Launch, SpawnError, Step},
    session,
};
use tokio::io::unix::AsyncFd;

use crate::{
    descriptor::{Descriptor, watch},
    reply::{Code, Exit, Refusal},
    request::WindowSize,
    running::{Note, Running},
};

/// The leader of a session of processes. When it is dropped, every process of the session is killed, and the leader is
/// waited for.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// Taken when the process has been waited for.
    pidfd: Option<AsyncFd<OwnedFd>>,
    /// For the next server, if this one is killed.
    note: Option<Note>,
}

/// A program just started.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) process: Process,
    /// What is written here is its input.
    pub(crate) stdin: Arc<Descriptor>,
    pub(crate) stdout: Arc<Descriptor>,
    /// Not on a terminal, where both outputs are one.
    pub(crate) stderr: Option<Arc<Descriptor>>,
    /// The terminal's controlling side, if it has one.
    pub(crate) terminal: Option<Arc<Descriptor>>,
}

/// Starts a program, on a terminal if it has a size, and notes it in `running`.
pub(crate) async fn start(
    launch: Launch,
    terminal: Option<WindowSize>,
    running: Option<&Running>,
) -> Result<Program, Refusal> {
    let program = launch.program.to_string_lossy().into_owned();
    let started = match terminal {
        // Forking and executing block for as long as the file system takes.
        None => tokio::task::spawn_blocking(move || session::spawn_piped(&launch).map(Started::Piped)).await,
        Some(WindowSize { columns, rows }) => {
            let spawn = move || session::spawn_on_terminal(&launch, columns, rows).map(Started::OnTerminal);
            tokio::task::spawn_blocking(spawn).await
        }
    };
    let refused = |code, error: &dyn std::fmt::Display| {
        Refusal::new(code, format!("cannot start {program:?}: {error}"))
    };
    let failed = |error: &dyn std::fmt::Display| refused(Code::CannotStart, error);
    match started {
        Ok(Ok(started)) => {
            let mut program = started.watch().map_err(|error| failed(&error))?;
            program.process.note = running.and_then(|running| running.note(program.process.pid));
            Ok(program)
        }
        Ok(Err(SpawnError { step, source })) => {
            let is_missing = matches!(step, Step::Exec) && source.kind() == io::ErrorKind::NotFound;
            let error = SpawnError { step, source: io::Error::from(source.kind()) };
            let code = if is_missing { Code::NotFound } else { Code::CannotStart };
            Err(refused(code, &format!("{error}: {source}")))
        }
        Err(error) => Err(failed(&error)),
    }
}

enum Started {
    Piped(session::Piped),
    OnTerminal(session::OnTerminal),
}

impl Started {
    fn watch(self) -> io::Result<Program> {
        let watched = |fd| Descriptor::new(fd).map(Arc::new);
        match self {
            Self::Piped(session::Piped { pid, stdin, stdout, stderr }) => {
                let process = Process::watch(pid)?;
                let (stdin, stdout, stderr) = (watched(stdin)?, watched(stdout)?, Some(watched(stderr)?));
                Ok(Program { process, stdin, stdout, stderr, terminal: None })
            }
            Self::OnTerminal(session::OnTerminal { pid, controller }) => {
                let process = Process::watch(pid)?;
                let both = watched(controller)?;
                Ok(Program {
                    process,
                    stdin: both.clone(),
                    stdout: both.clone(),
                    stderr: None,
                    terminal: Some(both),
                })
            }
        }
    }
}

impl Process {
    fn watch(pid: Pid) -> io::Result<Self> {
        let watched =
            rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from).and_then(watch);
        match watched {
            Ok(pidfd) => Ok(Self { pid, pidfd: Some(pidfd), note: None }),
            Err(error) => {
                session::kill_session(pid);
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
                Err(error)
            }
        }
    }

    /// Waits until the leader has ended. It stays a zombie, and its number its own, until [`Process::reap`].
    pub(crate) async fn ended(&self) -> io::Result<()> {
        match &self.pidfd {
            Some(pidfd) => pidfd.readable().await.map(|mut guard| guard.retain_ready()),
            None => Ok(()),
        }
    }

    /// Signals the leader's process group.
    pub(crate) fn signal(&self, number: u8) {
        if self.pidfd.is_some() {
            // It may have ended already.
            let _ = sys::pid1::signal_group(self.pid, number);
        }
    }

    /// Kills what is left of the leader's process group.
    pub(crate) fn kill_group(&self) {
        self.signal(9);
    }

    /// Kills every process of the session.
    pub(crate) fn kill_session(&self) {
        if self.pidfd.is_some() {
            session::kill_session(self.pid);
        }
    }

    /// Takes the status of an ended leader.
    pub(crate) async fn reap(&mut self) -> io::Result<Exit> {
        self.ended().await?;
        let Some(pidfd) = self.pidfd.take() else { return Err(io::ErrorKind::NotFound.into()) };
        wait(&pidfd)
    }
}

fn wait(pidfd: &AsyncFd<OwnedFd>) -> io::Result<Exit> {
    let status = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED)?;
    let status = status.ok_or(io::ErrorKind::WouldBlock)?;
    let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (_, Some(signal)) => {
            let signal = byte(signal);
            Exit { status: signal.saturating_add(128), signal: Some(signal), timed_out: false }
        }
        (code, None) => Exit { status: code.map_or(0, byte), ..Exit::default() },
    })
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_session();
        let Some(pidfd) = self.pidfd.take() else { return };
        let note = self.note.take();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                let _ = pidfd.readable().await;
                let _ = wait(&pidfd);
                drop(note);
            })),
            // Killed it is, so this is short.
            Err(_) => drop(wait(&pidfd)),
        }
    }
}
