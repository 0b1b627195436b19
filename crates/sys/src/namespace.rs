//! Starting a process in Linux namespaces of its own.
//!
//! The `local` backend of `glasshouse run` calls it. What is mounted inside is decided there.

use std::{io, os::unix::process::CommandExt, process::Command};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pipe::{PipeFlags, pipe_with},
    process::{Signal, getpid, getppid, set_parent_process_death_signal},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Moves the calling process into new user, mount, network, UTS, IPC and cgroup namespaces, and its future children into
/// a new PID namespace. The user namespace has no mappings yet: the process's parent writes them.
///
/// # Errors
/// `EINVAL` when the process has more than one thread; `EPERM`, `ENOSPC` or `EUSERS` when the kernel's settings forbid user
/// namespaces (see `user_namespaces(7)`).
pub fn unshare_all() -> io::Result<()> {
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWCGROUP;
    // SAFETY: what makes `unshare` unsafe is a descriptor table shared no more (CLONE_FILES), which is not asked for.
    unsafe { unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Has the kernel kill the calling process with `SIGKILL` when the thread that started it ends. Entering a user namespace
/// undoes it, so it is asked for again there.
///
/// # Errors
/// Those of `prctl(2)`; none is known for a valid signal.
pub fn die_with_parent() -> io::Result<()> {
    Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Has the process that `command` starts die when the thread that starts it ends.
///
/// # Errors
/// Those of `pipe(2)`.
pub fn kill_with_parent(command: &mut Command) -> io::Result<&mut Command> {
    // The parent may have ended before the call takes effect. Then the process has another parent, which shows in its id
    // unless that is outside the process's PID namespace and has none; and nobody has the other end of this pipe, which
    // the last thread of a parent closes before its children are told of its end.
    let parent = getpid();
    let (lives, held) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut held = Some(held);
    let arm = move || {
        // The copy that the fork made; the parent's own lives as long as `command`.
        drop(held.take());
        die_with_parent()?;
        let hung_up = &mut [PollFd::new(&lives, PollFlags::empty())];
        if getppid().is_some_and(|now| now != parent) || poll(hung_up, Some(&Timespec::default()))? != 0 {
            // Nobody is there to be told why.
            // SAFETY: it ends the process, and nothing else of it runs.
            unsafe { libc::_exit(1) };
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes a few system calls and allocates nothing.
    Ok(unsafe { command.pre_exec(arm) })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        process::{Command, Stdio},
    };

    use super::*;

    /// A supervisor that is killed must leave no process behind. `sh` stands for it: it is started with
    /// [`kill_with_parent`] by a thread that ends, and takes its end of the pipe with it.
    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        let mut child = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("60").stdout(Stdio::piped());
            kill_with_parent(&mut command).unwrap().spawn().unwrap()
        })
        .join()
        .unwrap();
        let mut rest = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }

    /// The test's own process has several threads, so the kernel refuses.
    #[test]
    fn a_process_with_threads_cannot_enter_a_user_namespace() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || ended.recv());
        assert_eq!(unshare_all().unwrap_err().raw_os_error(), Some(rustix::io::Errno::INVAL.raw_os_error()));
        drop(end);
        assert!(other.join().unwrap().is_err());
    }
}
