//! This side's terminal: raw while a shell runs, and as it was afterwards, however that ends.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
};

use rustix::{
    process::{Signal, getpid, kill_process},
    termios::{
        LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr,
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use zeroize::Zeroizing;

use crate::{
    client::Act,
    request::{Terminal, WindowSize},
};

/// Longest line of a terminal that waits for its end (`N_TTY_BUF_SIZE` of Linux), in bytes.
const MAX_LINE_BYTES: usize = 4096;

/// The terminal on standard input in raw mode, until this is dropped.
#[derive(Debug)]
pub(super) struct Raw(Termios);

impl Raw {
    /// `None` where standard input is no terminal.
    pub(super) fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        let saved = tcgetattr(&stdin)?;
        let mut raw = saved.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self(saved)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// The kind and size of this side's terminal; something usual where there is none.
pub(super) fn terminal() -> Terminal {
    let usable =
        |term: &String| (1..=64).contains(&term.len()) && term.bytes().all(|byte| byte.is_ascii_graphic());
    let term = std::env::var("TERM").ok().filter(usable).unwrap_or_else(|| "xterm".to_owned());
    Terminal { term, size: size().unwrap_or(WindowSize { columns: 80, rows: 24 }) }
}

fn size() -> Option<WindowSize> {
    let found = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).ok()?;
    (found.ws_col > 0 && found.ws_row > 0).then_some(WindowSize { columns: found.ws_col, rows: found.ws_row })
}

/// Signals to this program become acts on the other. On a terminal its size is the first of them, as it is now: it may have changed
/// while a passphrase was typed, or the enclave was waited for. The task ends when one is meant for this program, with the status that
/// this leaves: a hangup, the third interrupt, and on a terminal, where keys make no signals, whatever ends programs.
pub(super) fn acts(on_terminal: bool) -> io::Result<(mpsc::Receiver<Act>, tokio::task::JoinHandle<u8>)> {
    let (sender, acts) = mpsc::channel(16);
    let mut window = signal(SignalKind::window_change())?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (mut hangup, mut quit) = (signal(SignalKind::hangup())?, signal(SignalKind::quit())?);
    let resize = move || size().filter(|_| on_terminal).map(Act::Resize);
    // There is room for it.
    let _ = resize().map(|act| sender.try_send(act));
    let task = tokio::spawn(async move {
        let mut interrupts = 0;
        loop {
            let signal = tokio::select! {
                _ = window.recv() => {
                    if let Some(act) = resize() && sender.send(act).await.is_err() {
                        return std::future::pending().await;
                    }
                    continue;
                }
                _ = interrupt.recv() => 2,
                _ = terminate.recv() => 15,
                _ = hangup.recv() => 1,
                _ = quit.recv() => 3,
            };
            interrupts += u8::from(signal == 2);
            if on_terminal || signal == 1 || interrupts == 3 {
                return 128 + signal;
            }
            if sender.send(Act::Signal(signal)).await.is_err() {
                return std::future::pending().await;
            }
        }
    });
    Ok((acts, task))
}

/// Asks the person at the terminal for a key's passphrase, without showing it.
pub(super) fn passphrase(path: &Path) -> Option<channel::ssh::Passphrase> {
    ask_hidden(&format!("Passphrase of {}: ", path.display())).ok()
}

/// Asks the person at the terminal for a line, without showing it. Ctrl-C ends this program, and leaves the terminal as it was.
pub(super) fn ask_hidden(prompt: &str) -> io::Result<channel::ssh::Passphrase> {
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    let saved = tcgetattr(&terminal)?;
    let mut silent = saved.clone();
    // Not a signal, which would end this program while nothing is shown, but the end of the line.
    silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    let interrupt = saved.special_codes[SpecialCodeIndex::VINTR];
    silent.special_codes[SpecialCodeIndex::VEOL] = interrupt;
    // Before anybody is asked, so that nothing that is typed then is shown or lost.
    tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
    let read = terminal.write_all(prompt.as_bytes()).and_then(|()| line(&mut terminal, interrupt));
    let _ = tcsetattr(&terminal, OptionalActions::Flush, &saved);
    let _ = writeln!(terminal);
    let Some(line) = read? else {
        let _ = kill_process(getpid(), Signal::INT);
        return Err(io::ErrorKind::Interrupted.into());
    };
    let text = std::str::from_utf8(&line).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(channel::ssh::Passphrase::new(text.to_owned()))
}

/// One line from a terminal, without its end; `None` if it was interrupted.
fn line(terminal: &mut File, interrupt: u8) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // A terminal has no longer lines, so this never moves and leaves no copy.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE_BYTES));
    loop {
        let mut byte = [0];
        match terminal.read(&mut byte)? {
            0 if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => return Ok(Some(line)),
            _ if byte[0] == interrupt && interrupt != 0 => return Ok(None),
            _ if matches!(byte[0], b'\n' | b'\r') => return Ok(Some(line)),
            _ if line.len() == MAX_LINE_BYTES => return Err(io::ErrorKind::InvalidData.into()),
            _ => line.push(byte[0]),
        }
    }
}

/// A signal by its number, or its name with or without `SIG`.
pub(super) fn signal_number(text: &str) -> Result<u8, String> {
    const NAMES: [(&str, u8); 12] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ABRT", 6),
        ("KILL", 9),
        ("USR1", 10),
        ("USR2", 12),
        ("ALRM", 14),
        ("TERM", 15),
        ("CONT", 18),
        ("STOP", 19),
        ("WINCH", 28),
    ];
    if let Ok(number @ 1..=64) = text.parse() {
        return Ok(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let found = NAMES.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, number)| *number)
        .ok_or_else(|| format!("{text:?} is no signal: a number from 1 to 64, or a name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [("9", 9), ("TERM", 15), ("sigint", 2), ("64", 64)] {
            assert_eq!(signal_number(text), Ok(number));
        }
        for text in ["", "0", "65", "-9", "SIG", "KILLER"] {
            assert!(signal_number(text).is_err(), "{text}");
        }
    }
}
