//! What asks a running `glasshouse run` to end.

use std::{fs, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::output;

/// Requests to end: Ctrl-C, what `glasshouse stop` sends, and a terminal that is closed.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` in the foreground under `nohup`.
    hangup: Option<Signal>,
    /// Has no terminal that could be closed.
    background: bool,
}

impl Signals {
    pub(crate) fn listen(background: bool) -> io::Result<Self> {
        let hangup = if !background && ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) };
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup, background })
    }

    /// Waits for the next request. Cancel safe.
    pub(crate) async fn recv(&mut self) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return,
                _ = self.terminate.recv() => return,
                () = hangup(&mut self.hangup) => {
                    if !self.background {
                        return;
                    }
                    output::say("SIGHUP: nothing to read again, the ports are those of the command line and of the image");
                }
            }
        }
    }
}

async fn hangup(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether whoever started this process wants it to go on without its terminal.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    is_hangup_in(&status)
}

/// Whether the first signal is among the ignored ones of `/proc/PID/status`.
fn is_hangup_in(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    ignored.unwrap_or_default() & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_recognised() {
        assert!(is_hangup_in(
            "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n"
        ));
        assert!(!is_hangup_in(
            "SigBlk:\t0000000000000001\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000000001\n"
        ));
        assert!(!is_hangup_in(""));
    }
}
