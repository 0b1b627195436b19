//! Runs a command of the user's that gets something on its stdin and answers on its stdout, and does not wait for ever.
//!
//! Its stderr is ours, and it stays in our process group, so it may ask for a PIN at the terminal. What it answers is
//! for the caller to judge.

use std::{
    io::{self, Read, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(20);

/// How a command ended, and what it said before.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: ExitStatus,
    /// The beginning of its stdout, as much as was to be read.
    pub(crate) stdout: Vec<u8>,
}

/// Runs `command`. `None` if it took longer than `timeout` and was ended.
///
/// # Errors
/// When it cannot be started or not be talked to.
pub(crate) fn hold(
    command: &mut Command,
    input: &[u8],
    most_bytes: u64,
    timeout: Duration,
) -> io::Result<Option<Answer>> {
    let deadline = Instant::now() + timeout;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let answer = talk(&mut child, input, most_bytes, deadline);
    if !matches!(answer, Ok(Some(_))) {
        // It may have ended by itself meanwhile; then there is nothing to end.
        let _ = child.kill();
        let _ = child.wait();
    }
    answer
}

fn talk(child: &mut Child, input: &[u8], most_bytes: u64, deadline: Instant) -> io::Result<Option<Answer>> {
    let mut stdin = child.stdin.take().expect("stdin was asked for as a pipe");
    match stdin.write_all(input) {
        // A command that knows what it is asked need not read it.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
        _ => drop(stdin),
    }
    let stdout = child.stdout.take().expect("stdout was asked for as a pipe");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // Nobody waits any more when it took too long.
        let _ = sender.send(read_beginning(stdout, most_bytes));
    });
    let left = deadline.saturating_duration_since(Instant::now());
    let Ok(stdout) = receiver.recv_timeout(left) else { return Ok(None) };
    let stdout = stdout?;
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(Answer { status, stdout })),
            None if Instant::now() >= deadline => return Ok(None),
            None => thread::sleep(POLL),
        }
    }
}

/// The first bytes of an answer. The rest is read and forgotten: a command whose pipe closes under it would be ended by
/// a signal or not, as the race goes, and its exit status would say nothing about itself.
fn read_beginning(mut stdout: impl Read, most_bytes: u64) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    stdout.by_ref().take(most_bytes).read_to_end(&mut answer)?;
    io::copy(&mut stdout, &mut io::sink())?;
    Ok(answer)
}
