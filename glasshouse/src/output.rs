//! What people see: results on stdout, everything else on stderr.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, ErrorKind, IsTerminal, Write},
    path::Path,
    time::Duration,
};

use anyhow::Result;
use enclave_init::event::{Event, Health, Level, Outcome, Record, ServiceState};

use rustix::stdio::{dup2_stderr, dup2_stdout};

use crate::{publish, run::READY_LINE, state::Instance};

/// Prints one result line. A closed pipe is a normal end of whoever reads.
pub(crate) fn print(line: &str) -> Result<()> {
    print_bytes(line.as_bytes())
}

/// Prints one result line of any bytes.
pub(crate) fn print_bytes(line: &[u8]) -> Result<()> {
    print_all(&[line, b"\n"].concat())
}

/// Prints this and nothing else. A closed pipe is a normal end of whoever reads.
pub(crate) fn print_all(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    let done = out.write_all(bytes).and_then(|()| out.flush());
    match done {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// Says something to the person at the terminal.
pub(crate) fn say(line: &str) {
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(io::stderr(), "{}", printable(line));
}

/// Text without control characters other than tabs and line ends. What an enclave or a server says could otherwise
/// rewrite what a terminal shows, up to a refusal that reads as its opposite.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let is_harmful = |c: char| c.is_control() && !matches!(c, '\t' | '\n');
    if !text.contains(is_harmful) {
        return text.into();
    }
    text.chars().map(|c| if is_harmful(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Prints a line of a service: as it is for a program that reads it, as [`printable`] text for a terminal.
pub(crate) fn print_service(line: &[u8]) -> Result<()> {
    if io::stdout().is_terminal() {
        return print(&printable(&String::from_utf8_lossy(line)));
    }
    print_bytes(line)
}

/// How a running enclave is shown.
#[derive(Debug)]
pub(crate) struct Output {
    /// Whether the foreground half of `--detach` listens, or nobody will.
    background: bool,
    is_verbose: bool,
    is_released: bool,
}

impl Output {
    /// For a person who watches: everything the services write, and if `is_verbose` the framework's programs too.
    pub(crate) fn attached(is_verbose: bool) -> Self {
        Self { background: false, is_verbose, is_released: false }
    }

    /// For the foreground half of `--detach`: what leads to readiness or failure.
    pub(crate) fn background(is_verbose: bool) -> Self {
        Self { background: true, is_verbose, is_released: false }
    }

    /// Whether this is the half of `--detach` that stays.
    pub(crate) fn is_background(&self) -> bool {
        self.background
    }

    /// Shows an event.
    pub(crate) fn record(&mut self, record: &Record) -> Result<()> {
        if !self.is_verbose && is_detail(record) {
            return Ok(());
        }
        match describe(record) {
            Some(Line::Service(line)) if !self.background => print_service(&line)?,
            Some(Line::Service(line)) if !self.is_released => say(&String::from_utf8_lossy(&line)),
            Some(Line::Framework(line)) if !self.background || !self.is_released => say(&line),
            Some(Line::Egress(line)) if !self.background && is_refused(record) => say(&line),
            _ => {}
        }
        Ok(())
    }

    /// The enclave is ready.
    pub(crate) fn ready(&mut self, instance: &Instance, after: Duration, log: &Path) -> Result<()> {
        say(&format!("{} is ready after {:.2} s", instance.name, after.as_secs_f64()));
        for port in &instance.publish {
            let number = publish::number(port.enclave, port.protocol);
            say(&format!("  {} leads to the enclave's port {number}", port.host));
        }
        self.release(log)
    }

    /// Nobody has to wait any longer. In the background, what is said from now on goes to the file `log`.
    pub(crate) fn release(&mut self, log: &Path) -> Result<()> {
        if !self.background || self.is_released {
            return Ok(());
        }
        self.is_released = true;
        // The foreground half has heard everything once both outputs are closed.
        print(READY_LINE)?;
        let log = File::create(log)?;
        dup2_stderr(&log)?;
        Ok(dup2_stdout(&log)?)
    }

    /// The enclave has ended.
    pub(crate) fn ended(&mut self, name: &str, code: u8) {
        if !self.background || !self.is_released {
            say(&format!("{name} ended with status {code}"));
        }
    }
}

/// Who watches wants to know what was refused; of every connection, `glasshouse logs` tells.
fn is_refused(record: &Record) -> bool {
    let Event::Egress(record) = &record.event else { return false };
    matches!(record.outcome, egress::Outcome::Denied | egress::Outcome::Asked(egress::wire::Status::Denied))
}

/// Whether one of the framework's programs says what is no trouble: whom it let in, for example. To who watches an
/// application that is noise; `glasshouse logs` has it all.
fn is_detail(record: &Record) -> bool {
    // No name in a manifest begins like theirs.
    let Event::Log { service, line, .. } = &record.event else { return false };
    let levels: [&[u8]; 3] = [b" INFO ", b"DEBUG ", b"TRACE "];
    service.starts_with('@') && levels.iter().any(|level| line.bytes.starts_with(level))
}

/// A line for people.
pub(crate) enum Line {
    /// A service wrote it: `SERVICE | LINE`.
    Service(Vec<u8>),
    /// Init says it.
    Framework(String),
    /// What became of a connection: `egress | ...`.
    Egress(String),
}

/// An event as a line, if people care.
pub(crate) fn describe(record: &Record) -> Option<Line> {
    let text = match &record.event {
        Event::Log { service, line, .. } => {
            let mut bytes = format!("{service} | ").into_bytes();
            bytes.extend_from_slice(&line.bytes);
            return Some(Line::Service(bytes));
        }
        Event::Message { level: Level::Info, .. } => return None,
        Event::Message { text, .. } => text.clone(),
        Event::Service { service, state, .. } => match state {
            ServiceState::AwaitingSecrets { secrets } => format!(
                "{service} waits for secrets ({}); give them with `glasshouse secrets set`",
                secrets.join(", ")
            ),
            ServiceState::Ready => format!("{service} is ready"),
            ServiceState::NotReady { timeout_s } => format!("{service} was not ready within {timeout_s} s"),
            ServiceState::Failed { reason } => format!("{service} could not be started: {reason}"),
            ServiceState::Exited(Outcome::Code(code)) => format!("{service} exited with status {code}"),
            ServiceState::Exited(Outcome::Signal(number)) => {
                format!("{service} was ended by signal {number}")
            }
            ServiceState::Restarting { delay_ms } => format!("{service} is started again in {delay_ms} ms"),
            ServiceState::Starting => return None,
        },
        Event::Health { service, health: Health::Healthy, .. } => format!("{service} is healthy"),
        Event::Health { service, health: Health::Unhealthy { reason, output }, .. } => {
            format!("{service} is unhealthy: its health check failed: {reason}: {output}")
        }
        Event::Egress(record) => return Some(Line::Egress(format!("egress | {record}"))),
        Event::Dropped { count } => format!("{count} log lines were dropped: the host read too slowly"),
        _ => return None,
    };
    Some(Line::Framework(printable(&text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use enclave_init::event::Line as Written;

    #[test]
    fn text_for_a_terminal_has_no_escape_sequences() {
        assert_eq!(printable("one\n\ttwo \u{e9}"), "one\n\ttwo \u{e9}");
        assert_eq!(printable("a\x1b[2Jb\rc\u{9b}d"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d");
    }

    #[test]
    fn what_the_frameworks_programs_do_without_trouble_is_a_detail() {
        let log = |service: &str, text: &[u8]| {
            let line = Written { bytes: text.to_vec(), continues: false };
            let stream = enclave_init::event::LogStream::Stderr;
            Record { seq: 1, at_ms: 0, event: Event::Log { service: service.to_owned(), stream, line } }
        };
        assert!(is_detail(&log("@pipeline", b" INFO pipeline::session: admitted")));
        assert!(!is_detail(&log("@pipeline", b" WARN pipeline::session: refused")));
        assert!(!is_detail(&log("@pipeline", b"thread 'main' panicked")));
        assert!(!is_detail(&log("web", b" INFO web: ready")));
    }

    /// Messages of init are shown without a service's name before them. An enclave hostile to its host could have moved
    /// the cursor with one and written over what stood above it.
    #[test]
    fn messages_of_an_enclave_are_printable_and_log_lines_are_kept_for_programs() {
        let record = |event| Record { seq: 1, at_ms: 0, event };
        let message = Event::Message { level: Level::Warn, text: "\x1b[1Aready".to_owned() };
        let Some(Line::Framework(text)) = describe(&record(message)) else { panic!("a line of init") };
        assert_eq!(text, "\u{fffd}[1Aready");
        let line = Written { bytes: b"\x1b[31mred".to_vec(), continues: false };
        let log =
            Event::Log { service: "web".to_owned(), stream: enclave_init::event::LogStream::Stdout, line };
        let Some(Line::Service(bytes)) = describe(&record(log)) else { panic!("a line of a service") };
        assert_eq!(bytes, b"web | \x1b[31mred");
    }
}
