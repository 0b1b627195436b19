//! This side's terminal: raw while a shell runs, and as it was afterwards, however that ends.

use std::{
    fs::OpenOptions,
    io::{self, BufRead, BufReader, Write},
    path::Path,
};

use rustix::termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    client::Act,
    request::{Terminal, WindowSize},
};

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

/// Signals to this program become acts on the other. The task ends when one is meant for this program, with the status that
/// this leaves: a hangup, the third interrupt, and on a terminal, where keys make no signals, whatever ends programs.
pub(super) fn acts(on_terminal: bool) -> io::Result<(mpsc::Receiver<Act>, tokio::task::JoinHandle<u8>)> {
    let (sender, acts) = mpsc::channel(16);
    let mut window = signal(SignalKind::window_change())?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (mut hangup, mut quit) = (signal(SignalKind::hangup())?, signal(SignalKind::quit())?);
    let task = tokio::spawn(async move {
        let mut interrupts = 0;
        loop {
            let signal = tokio::select! {
                _ = window.recv() => {
                    if let Some(size) = size().filter(|_| on_terminal) && sender.send(Act::Resize(size)).await.is_err() {
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

/// Asks the person at the terminal for a line, without showing it.
pub(super) fn ask_hidden(prompt: &str) -> io::Result<channel::ssh::Passphrase> {
    let mut terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    terminal.write_all(prompt.as_bytes())?;
    let saved = tcgetattr(&terminal)?;
    let mut silent = saved.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
    let mut line = channel::ssh::Passphrase::new(String::new());
    let read = BufReader::new(&terminal).read_line(&mut line);
    let _ = tcsetattr(&terminal, OptionalActions::Flush, &saved);
    let _ = writeln!(terminal);
    if read? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let length = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(length);
    Ok(line)
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
