//! What init and its services say: one copy for the host, one for the console.
//!
//! Nothing here waits for anybody: the host's copy goes to the bounded [`Outbox`], the console's is lost when the
//! console is slow.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{BTreeMap, VecDeque},
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    time::{Duration, Instant},
};

use rustix::fs::OFlags;
use tokio::sync::Notify;

use crate::{
    event::{Event, Exit, Level, Line, Outcome, ServiceState},
    outbox::{Batch, EGRESS_BYTES, LOG_BYTES, Outbox, STATE_BYTES},
};

/// Takes every event of the enclave.
#[derive(Debug)]
pub(crate) struct Journal {
    started: Instant,
    outbox: RefCell<Outbox>,
    changed: Notify,
    closed: Cell<bool>,
    console: OnceCell<File>,
    /// What each service has printed last, by its name.
    tails: RefCell<BTreeMap<String, VecDeque<u8>>>,
}

/// What is kept of each service's output for the control channel, in bytes.
pub(crate) const TAIL_BYTES: usize = 64 * 1024;

impl Journal {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            outbox: RefCell::new(Outbox::new(LOG_BYTES, EGRESS_BYTES, STATE_BYTES)),
            changed: Notify::new(),
            closed: Cell::new(false),
            console: OnceCell::new(),
            tails: RefCell::default(),
        }
    }

    /// Copies what follows to `/dev/console`, if there is one.
    pub(crate) fn open_console(&self) {
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        if let Ok(console) = OpenOptions::new().write(true).custom_flags(flags).open("/dev/console") {
            let _ = self.console.set(console);
        }
    }

    /// Time since init started.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn record(&self, mut event: Event) {
        shorten(&mut event);
        self.print(&event);
        if let Event::Log { service, line, .. } = &event {
            self.keep(service, line);
        }
        let at_ms = u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX);
        self.outbox.borrow_mut().push(at_ms, event);
        self.changed.notify_one();
    }

    /// Puts a line behind what is kept of its service's output, and lets go of whole lines before it.
    fn keep(&self, service: &str, line: &Line) {
        let mut tails = self.tails.borrow_mut();
        if !tails.contains_key(service) {
            tails.insert(service.to_owned(), VecDeque::new());
        }
        let tail = tails.get_mut(service).expect("it was just put there");
        tail.extend(&line.bytes);
        if !line.continues {
            tail.push_back(b'\n');
        }
        if tail.len() > TAIL_BYTES {
            let over = tail.len() - TAIL_BYTES;
            let end_of_line = tail.iter().skip(over).position(|byte| *byte == b'\n');
            tail.drain(..over + end_of_line.map_or(0, |at| at + 1));
        }
    }

    /// What a service has printed last, at most [`TAIL_BYTES`]; `None` if nothing.
    pub(crate) fn tail(&self, service: &str) -> Option<Vec<u8>> {
        self.tails.borrow().get(service).map(|tail| tail.iter().copied().collect())
    }

    pub(crate) fn info(&self, text: impl Into<String>) {
        self.record(Event::Message { level: Level::Info, text: text.into() });
    }

    pub(crate) fn warn(&self, text: impl Into<String>) {
        self.record(Event::Message { level: Level::Warn, text: text.into() });
    }

    pub(crate) fn error(&self, text: impl Into<String>) {
        self.record(Event::Message { level: Level::Error, text: text.into() });
    }

    /// Records the last event.
    pub(crate) fn close(&self, exit: Exit) {
        self.record(Event::Exit(exit));
        self.closed.set(true);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Takes the oldest events for the host.
    pub(crate) fn take(&self, max_bytes: usize) -> Batch {
        self.outbox.borrow_mut().take(max_bytes)
    }

    /// Waits until something was recorded since the last wait.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn print(&self, event: &Event) {
        let (Some(mut console), Some((who, text))) = (self.console.get(), readable(event)) else { return };
        // A console that cannot take it now does not get it.
        let _ = console.write(format!("[{who}] {}\n", printable(&text)).as_bytes());
    }
}

/// An error and its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Longest text of init's own in one event, in bytes: with every character escaped it still fits one event's line.
const MAX_TEXT_BYTES: usize = 8 * 1024;

/// Cuts texts that quote the manifest, which may be long.
fn shorten(event: &mut Event) {
    let (Event::Message { text, .. } | Event::Service { state: ServiceState::Failed { reason: text }, .. }) =
        event
    else {
        return;
    };
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        text.push('\u{2026}');
    }
}

/// Who says what, for people at the console.
fn readable(event: &Event) -> Option<(&str, String)> {
    let init = |text: String| Some(("init", text));
    match event {
        Event::Log { service, line, .. } => {
            Some((service, String::from_utf8_lossy(&line.bytes).into_owned()))
        }
        Event::Message { text, .. } => init(text.clone()),
        Event::Measured { name, manifest_sha384 } => init(format!("{name}: manifest {manifest_sha384}")),
        Event::Ready => init("every service is ready".into()),
        Event::Exit(exit) => init(format!("the enclave ends with status {} ({:?})", exit.code, exit.cause)),
        Event::Service { service, run, state } => {
            init(format!("{service} (run {run}): {}", readable_state(state)))
        }
        Event::Boot { .. }
        | Event::Health { .. }
        | Event::Egress(_)
        | Event::Dropped { .. }
        | Event::Unknown => None,
    }
}

fn readable_state(state: &ServiceState) -> String {
    match state {
        ServiceState::AwaitingSecrets { secrets } => format!("waits for secrets: {}", secrets.join(", ")),
        ServiceState::Starting => "starting".into(),
        ServiceState::Ready => "ready".into(),
        ServiceState::NotReady { timeout_s } => format!("not ready after {timeout_s} s, killing it"),
        ServiceState::Failed { reason } => format!("not started: {reason}"),
        ServiceState::Exited(Outcome::Code(code)) => format!("exited with status {code}"),
        ServiceState::Exited(Outcome::Signal(signal)) => format!("ended by signal {signal}"),
        ServiceState::Restarting { delay_ms } => format!("starts again in {delay_ms} ms"),
    }
}

/// Without control characters, which could rewrite what an operator's terminal shows.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_console_gets_no_escape_sequences() {
        assert_eq!(printable("a\x1b[2J\tb\u{9b}c"), "a\u{fffd}[2J\tb\u{fffd}c");
    }

    /// A service whose program had a name of 100 kB once made an event that no host accepts: the host hung up, init sent
    /// it again, and nothing after it ever arrived, the enclave's end included.
    #[test]
    fn no_event_is_longer_than_a_host_accepts() {
        let long = "\u{1}\u{20ac}".repeat(100_000);
        let journal = Journal::new();
        journal.warn(long.clone());
        let state = ServiceState::Failed { reason: long };
        journal.record(Event::Service { service: "a".repeat(63), run: u32::MAX, state });
        let batch = journal.take(usize::MAX);
        let lines: Vec<_> = batch.pending().split_inclusive(|b| *b == b'\n').collect();
        assert_eq!(lines.len(), 2);
        for line in lines {
            crate::event::Record::from_line(line).unwrap();
        }
    }
}
