//! Has a command sign: the way to keys in security modules and key services.
//!
//! The command gets the bytes to be signed on stdin and answers with the signature on stdout (`docs/spec/signing.md`). Its
//! stderr is ours, and it stays in our process group, so it may ask for a PIN at the terminal.

use std::{
    io::{self, Read, Write},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::HookError;

/// How long a signing command may take. Someone may have to find a token and touch it.
pub(super) const TIMEOUT: Duration = Duration::from_secs(300);
/// The longest answer read, in bytes; one byte more than any signature shows that it is none.
const MAX_ANSWER_BYTES: u64 = 4096;
const POLL: Duration = Duration::from_millis(20);

/// Runs `command` in `sh` and returns what it prints.
pub(super) fn run(command: &str, message: &[u8], timeout: Duration) -> Result<Vec<u8>, HookError> {
    let deadline = Instant::now() + timeout;
    let mut child =
        Command::new("sh").args(["-c", command]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let answer = talk(&mut child, message, deadline);
    if answer.is_err() {
        // It may have ended by itself meanwhile; then there is nothing to end.
        let _ = child.kill();
        let _ = child.wait();
    }
    answer
}

fn talk(child: &mut Child, message: &[u8], deadline: Instant) -> Result<Vec<u8>, HookError> {
    let mut stdin = child.stdin.take().expect("stdin was asked for as a pipe");
    match stdin.write_all(message) {
        // A command that knows what to sign from elsewhere need not read it.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e.into()),
        _ => drop(stdin),
    }
    let stdout = child.stdout.take().expect("stdout was asked for as a pipe");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut answer = Vec::new();
        let read = stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut answer);
        // Nobody waits any more when it took too long.
        let _ = sender.send(read.map(|_| answer));
    });
    let left = deadline.saturating_duration_since(Instant::now());
    let answer = receiver.recv_timeout(left).map_err(|_| HookError::TimedOut)??;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(answer),
            Some(status) => return Err(HookError::Failed { status }),
            None if Instant::now() >= deadline => return Err(HookError::TimedOut),
            None => thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_command_gets_the_bytes_and_its_output_comes_back() {
        assert_eq!(run("cat; printf .", b"\0\xffbytes", LONG).unwrap(), b"\0\xffbytes.");
    }

    #[test]
    fn a_command_need_not_read() {
        assert_eq!(run("exec <&-; printf x", &[7; 1 << 20], LONG).unwrap(), b"x");
    }

    #[test]
    fn a_command_that_fails_gives_no_signature_whatever_it_printed() {
        match run("cat; exit 3", b"x", LONG) {
            Err(HookError::Failed { status }) => assert_eq!(status.code(), Some(3)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        for hanging in ["exec sleep 600", "exec >&-; exec sleep 600"] {
            let answer = run(hanging, b"", Duration::from_millis(200));
            assert!(matches!(answer, Err(HookError::TimedOut)), "{answer:?}");
        }
    }
}
