//! A process whose parent is killed while it starts. It has no test harness: whoever unshares a PID namespace cannot make
//! threads any more, and the harness makes them.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::{
    env, io,
    io::{Read, Write},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use sys::namespace::kill_with_parent;

/// Says that the process below is the parent.
const PARENT: &str = "ORPHAN_TEST_PARENT";

fn main() {
    if env::var_os(PARENT).is_some() {
        return parent();
    }
    orphan_ends(Command::new(env::current_exe().unwrap()));
    // Where the child is the first of a PID namespace, its parent has no id for it: it ran on, as an enclave that nobody
    // had, whenever a start was given up at the wrong moment.
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--pid"]).arg(env::current_exe().unwrap());
    orphan_ends(unshare);
}

/// Starts a child that says so before it asks for its parent's end to be its own, and goes on when its input ends.
#[expect(clippy::zombie_processes, reason = "this process is killed")]
fn parent() {
    let mut command = Command::new("echo");
    let wait = || {
        io::stdout().write_all(b"\n")?;
        io::stdin().read_to_end(&mut Vec::new()).map(drop)
    };
    // SAFETY: this process has one thread, so that the child may do what it likes.
    unsafe { command.pre_exec(wait) };
    kill_with_parent(&mut command).unwrap().spawn().unwrap();
}

/// Kills the parent that `command` starts when its child has begun, and waits for the child's end, which comes before it
/// becomes `echo`: it has the parent's standard output.
fn orphan_ends(mut command: Command) {
    let mut parent = command.env(PARENT, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = parent.stdout.take().unwrap();
    output.read_exact(&mut [0; 1]).unwrap();
    parent.kill().unwrap();
    // Closes its input, too.
    parent.wait().unwrap();
    let mut said = Vec::new();
    output.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"", "the child lives");
}
