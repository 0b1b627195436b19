//! Processes that somebody talks to: with pipes on all three of their standard streams, or on a terminal.
//!
//! The control channel's server calls it. A process is confined exactly as [`crate::pid1::spawn`] confines a service, and
//! leads a session of its own. Who may run what is decided there.

use std::{fs, io, os::fd::OwnedFd, process::Stdio};

use rustix::{
    fs::{Gid, Uid},
    process::{Pid, Signal},
    pty::OpenptFlags,
    termios::Winsize,
};

use crate::pid1::{Console, Launch, SpawnError, Step, pid_of, start};

/// A process just started, with this side's ends of its pipes.
#[derive(Debug)]
pub struct Piped {
    /// Its id, which is also the id of its session and process group. Whoever started it has to wait for it.
    pub pid: Pid,
    /// What is written here is its input.
    pub stdin: OwnedFd,
    /// Its output.
    pub stdout: OwnedFd,
    /// Its standard error.
    pub stderr: OwnedFd,
}

/// A process just started on a terminal.
#[derive(Debug)]
pub struct OnTerminal {
    /// As [`Piped::pid`].
    pub pid: Pid,
    /// The terminal's other side: what is written is typed, what is read is shown. Once every process has left the
    /// terminal, reading fails with `EIO`.
    pub controller: OwnedFd,
}

/// Starts a process with pipes.
///
/// # Errors
/// [`SpawnError`] says which step failed; no process is left behind then.
pub fn spawn_piped(launch: &Launch) -> Result<Piped, SpawnError> {
    let mut child = start(launch, [Stdio::piped(), Stdio::piped(), Stdio::piped()], Console::None)?;
    Ok(Piped {
        pid: pid_of(&child),
        stdin: child.stdin.take().expect("stdin was asked to be a pipe").into(),
        stdout: child.stdout.take().expect("stdout was asked to be a pipe").into(),
        stderr: child.stderr.take().expect("stderr was asked to be a pipe").into(),
    })
}

/// Starts a process on a new terminal of `columns` by `rows` characters, which controls its session.
///
/// # Errors
/// As [`spawn_piped`].
pub fn spawn_on_terminal(launch: &Launch, columns: u16, rows: u16) -> Result<OnTerminal, SpawnError> {
    let made = make_terminal(launch, columns, rows);
    let (controller, stdio) = made.map_err(|source| SpawnError { step: Step::Terminal, source })?;
    let child = start(launch, stdio, Console::Stdin)?;
    Ok(OnTerminal { pid: pid_of(&child), controller })
}

/// Both sides of a new terminal, the process's three times.
fn make_terminal(launch: &Launch, columns: u16, rows: u16) -> io::Result<(OwnedFd, [Stdio; 3])> {
    let controller = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&controller)?;
    rustix::pty::unlockpt(&controller)?;
    resize(&controller, columns, rows)?;
    // Asked for by descriptor: its name may mean another terminal, or nothing, where this process lives.
    let terminal = rustix::pty::ioctl_tiocgptpeer(
        &controller,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    if let Some(confinement) = &launch.confinement {
        // Its user may open it by name then. Where that cannot be, what the process holds is enough for most.
        let owner = (Uid::from_raw(confinement.uid), Gid::from_raw(confinement.gid));
        let _ = rustix::fs::fchown(&terminal, Some(owner.0), Some(owner.1));
    }
    let stdio =
        [Stdio::from(terminal.try_clone()?), Stdio::from(terminal.try_clone()?), Stdio::from(terminal)];
    Ok((controller, stdio))
}

/// Gives a terminal another size. Its foreground process group gets `SIGWINCH` if that changes anything.
///
/// # Errors
/// What the kernel says.
pub fn resize(controller: &OwnedFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(controller, size)?)
}

/// Sends `SIGKILL` to every process of the session that `leader` leads, whatever process groups they have made.
///
/// `leader` must not have been waited for yet: only so is its number still its own. A process that has begun a session of
/// its own is not reached.
pub fn kill_session(leader: Pid) {
    // Stops the leader and its own group from making new processes while the rest is looked for.
    let _ = rustix::process::kill_process_group(leader, Signal::KILL);
    // Twice: what was forked during the first look is found by the second.
    for _ in 0..2 {
        for process in members(leader) {
            let _ = rustix::process::kill_process(process, Signal::KILL);
        }
    }
}

/// Does the same to a session that an earlier process of ours started and nobody of ours can wait for. `started` is what
/// [`start_time`] said of its leader: who has that number and began at another time is left alone.
pub fn kill_leftover(leader: Pid, started: u64) {
    // A leader that is gone may have left others; as long as there are any, nobody else gets its number.
    if start_time(leader).is_none_or(|found| found == started) {
        kill_session(leader);
    }
}

/// When a process began, in the kernel's ticks since the boot: with its number, what tells it from all others.
pub fn start_time(pid: Pid) -> Option<u64> {
    stat_word(pid, 19)?.parse().ok()
}

/// The processes of a session that are not its leader, as far as `/proc` tells.
fn members(leader: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?))
        .filter(|pid| *pid != leader && session_of(*pid) == Some(leader))
        .collect()
}

/// The session of a process. Taken from `/proc`, because `getsid(2)` answers for a process's number, which may be another
/// process's by then, just as well.
fn session_of(pid: Pid) -> Option<Pid> {
    Pid::from_raw(stat_word(pid, 3)?.parse().ok()?)
}

/// A word of `/proc/PID/stat` (proc_pid_stat(5)), counted from the third, the state.
fn stat_word(pid: Pid, index: usize) -> Option<String> {
    let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    // The program's name stands in parentheses and may hold any byte, parentheses too.
    let after_name = &stat[stat.iter().rposition(|byte| *byte == b')')? + 1..];
    let text = std::str::from_utf8(after_name).ok()?;
    text.split_ascii_whitespace().nth(index).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, io::Write};

    use rustix::process::{WaitOptions, WaitStatus, waitpid};

    use super::*;

    fn shell(script: &str) -> Launch {
        Launch {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            confinement: None,
        }
    }

    fn wait(pid: Pid) -> WaitStatus {
        waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap().1
    }

    /// Everything shown until all have left the terminal.
    fn shown(controller: OwnedFd) -> String {
        let mut file = File::from(controller);
        let (mut text, mut buffer) = (Vec::new(), [0; 1024]);
        while let Ok(count) = file.read(&mut buffer) {
            text.extend(&buffer[..count]);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn pipes_carry_all_three_streams() {
        let process = spawn_piped(&shell("read x; echo out $x; echo err $x >&2; exit 3")).unwrap();
        File::from(process.stdin).write_all(b"word\n").unwrap();
        let read = |fd: OwnedFd| io::read_to_string(File::from(fd)).unwrap();
        assert_eq!((read(process.stdout), read(process.stderr)), ("out word\n".into(), "err word\n".into()));
        assert_eq!(wait(process.pid).exit_status(), Some(3));
    }

    #[test]
    fn a_terminal_controls_its_session_and_has_the_size_asked_for() {
        let process =
            spawn_on_terminal(&shell("tty <&0 >/dev/null && stty size </dev/tty"), 100, 40).unwrap();
        assert_eq!(shown(process.controller).trim(), "40 100");
        assert!(wait(process.pid).exit_status() == Some(0));
    }

    /// A shell with job control gives every job a process group; killing the shell's own left them running.
    #[test]
    fn a_session_dies_with_all_its_process_groups() {
        let script = "set -m; sleep 300 & sleep 300 & echo $! ready; wait";
        let process = spawn_piped(&shell(script)).unwrap();
        let mut line = [0; 64];
        let count = File::from(process.stdout.try_clone().unwrap()).read(&mut line).unwrap();
        let text = String::from_utf8_lossy(&line[..count]).into_owned();
        assert!(text.ends_with("ready\n"), "{text}");
        assert_eq!(members(process.pid).len(), 2);
        kill_session(process.pid);
        // The pipe ends when its last holder has: both sleeps are gone.
        assert_eq!(io::read_to_string(File::from(process.stdout)).unwrap(), "");
        assert_eq!(wait(process.pid).terminating_signal(), Some(9));
    }
}
