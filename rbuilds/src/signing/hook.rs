//! Has a command sign: the way to keys in security modules and key services.
//!
//! The command gets the bytes to be signed on stdin and answers with the signature on stdout (`docs/spec/signing.md`). Its
//! stderr is ours, and it stays in our process group, so it may ask for a PIN at the terminal.

use std::{process::Command, time::Duration};

use super::HookError;
use crate::dialogue::hold;

/// How long a signing command may take. Someone may have to find a token and touch it.
pub(super) const TIMEOUT: Duration = Duration::from_secs(300);
/// The longest answer read, in bytes; one byte more than any signature shows that it is none.
const MAX_ANSWER_BYTES: u64 = 4096;

/// Runs `command` in `sh` and returns what it prints.
pub(super) fn run(command: &str, message: &[u8], timeout: Duration) -> Result<Vec<u8>, HookError> {
    let answer = hold(Command::new("sh").args(["-c", command]), message, MAX_ANSWER_BYTES, timeout)?;
    match answer {
        Some(answer) if answer.status.success() => Ok(answer.stdout),
        Some(answer) => Err(HookError::Failed { status: answer.status }),
        None => Err(HookError::TimedOut),
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
