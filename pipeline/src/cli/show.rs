//! What is shown. An enclave's words are not trusted to be harmless to a terminal where they are no program's output.

use std::{
    io::{self, Write},
    pin::Pin,
    task::{Context, Poll},
};

use clap::CommandFactory;
use serde::Serialize;
use serde_json::Value;
use tokio::io::AsyncWrite;

use super::{Args, Failure};
use crate::{
    reply::Exit,
    request::{Program, Request},
    trace::{
        chain::{Chain, read_entries},
        entry::{Ending, Entry, Event},
    },
};

pub(super) const SERVICE_COLUMNS: &[&str] = &["service", "state", "run"];
pub(super) const SECRET_COLUMNS: &[&str] = &["secret", "service", "given"];
pub(super) const RUN_COLUMNS: &[&str] = &["id", "state", "status", "operator", "command"];

/// One of this program's outputs.
pub(super) struct Output(Box<dyn AsyncWrite + Unpin + Send>);

impl Output {
    pub(super) fn stdout() -> Self {
        Self(Box::new(tokio::io::stdout()))
    }

    pub(super) fn stderr() -> Self {
        Self(Box::new(tokio::io::stderr()))
    }
}

impl AsyncWrite for Output {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Prints a line on standard output.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    print(format!("{text}\n").as_bytes())
}

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // A closed pipe is a normal end.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::channel(error)),
        _ => Ok(()),
    }
}

/// Says something beside the results.
pub(super) fn note(text: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "pipeline: {text}");
}

pub(super) fn failure(failure: &Failure) {
    note(&clean(&chain(failure)));
}

/// An error and its causes, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Without what could rewrite a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints JSON lines from an enclave, as they are or as a table.
pub(super) fn list(lines: &[u8], json: bool, columns: &[&str]) -> Result<(), Failure> {
    let mut rows = vec![columns.iter().map(ToString::to_string).collect::<Vec<_>>()];
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let value: Value = serde_json::from_slice(line).map_err(Failure::channel)?;
        if json {
            // Written anew, so that it is JSON and one line whatever came.
            self::line(&value.to_string())?;
        }
        let cell = |name: &&str| match &value[*name] {
            Value::Null => "-".to_owned(),
            Value::String(text) => clean(text),
            other => other.to_string(),
        };
        rows.push(columns.iter().map(cell).collect());
    }
    if !json {
        table(&rows)?;
    }
    Ok(())
}

fn table(rows: &[Vec<String>]) -> Result<(), Failure> {
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let pad = width(column).unwrap_or(0);
            if column + 1 == row.len() { cell.clone() } else { format!("{cell:pad$}  ") }
        });
        line(cells.collect::<String>().trim_end())?;
    }
    Ok(())
}

/// An entry as `transcript --json` prints it.
#[derive(Debug, Serialize)]
struct Shown {
    /// The entry's number.
    number: u64,
    /// When, by a clock that the enclave's host sets: milliseconds since 1970.
    time_ms: u64,
    /// `open`, `close` or `restart`.
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verb: Option<&'static str>,
    /// The request for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    /// The number of the entry that opened the session.
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ending: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// In hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

impl Shown {
    fn of(entry: &Entry) -> Self {
        let empty = Self {
            number: entry.number,
            time_ms: entry.time_ms,
            event: "restart",
            operator: None,
            key: None,
            verb: None,
            request: None,
            session: None,
            ending: None,
            files: None,
            bytes: None,
            digest: None,
        };
        match &entry.event {
            Event::Open { operator, key, request } => {
                let request = Request::decode(request).ok();
                Self {
                    event: "open",
                    operator: Some(operator.clone()),
                    key: Some(key.clone()),
                    verb: request.as_ref().map(Request::verb),
                    request: request.as_ref().map(readable),
                    ..empty
                }
            }
            Event::Close { session, ending, files, bytes, digest } => Self {
                event: "close",
                session: Some(*session),
                ending: Some(ended(ending)),
                files: Some(*files),
                bytes: Some(*bytes),
                digest: digest.map(|digest| digest.iter().map(|byte| format!("{byte:02x}")).collect()),
                ..empty
            },
            Event::Restart => empty,
        }
    }

    fn row(&self) -> Vec<String> {
        let what = match (&self.verb, &self.request, &self.ending) {
            (Some(_), Some(request), _) => request.clone(),
            (_, _, Some(ending)) => format!("{ending}, {} bytes", self.bytes.unwrap_or(0)),
            _ => String::new(),
        };
        let who = self.operator.clone().or(self.session.map(|session| format!("of {session}")));
        [self.number.to_string(), self.event.to_owned(), who.unwrap_or_default(), clean(&what)].to_vec()
    }
}

fn ended(ending: &Ending) -> String {
    match ending {
        Ending::Exit(Exit { signal: Some(signal), timed_out, .. }) => {
            format!("signal {signal}{}", if *timed_out { ", timed out" } else { "" })
        }
        Ending::Exit(Exit { status, .. }) => format!("status {status}"),
        Ending::Refused(code) => format!("refused ({code})"),
        Ending::Lost => "client lost".to_owned(),
    }
}

fn readable(request: &Request) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let program = |program: &Program| match program {
        Program::Words(words) => text(&words.join(&b' ')),
        Program::Script(script) => format!("sh -c {:?}", text(script)),
    };
    match request {
        Request::Run(run) => format!("run {}", program(&run.program)),
        Request::Shell(shell) => format!("shell {}", shell.program.as_ref().map(program).unwrap_or_default()),
        Request::SendFile(send) => format!("send-file {}", text(&send.path)),
        Request::RecvFile(receive) => format!("recv-file {}", text(&receive.path)),
        Request::SendDir(send) => format!("send-dir {}", text(&send.path)),
        Request::RecvDir(receive) => format!("recv-dir {}", text(&receive.path)),
        Request::ServiceRestart { service } | Request::ServiceLogs { service } => {
            format!("{} {service}", request.verb())
        }
        Request::SecretSet { secret } => format!("secret-set {secret}"),
        Request::Logs { id, .. } | Request::Kill { id, .. } | Request::Status { id: Some(id) } => {
            format!("{} {}", request.verb(), id.0)
        }
        other => other.verb().to_owned(),
    }
}

/// Checks a transcript against the head in the enclave's document, and prints it. Status 1 if they do not agree.
pub(super) fn transcript(
    bytes: &[u8],
    from: u64,
    attested: Option<[u8; 32]>,
    json: bool,
) -> Result<u8, Failure> {
    let mut chain = Chain::default();
    let mut rows = vec![["entry", "event", "who", "what"].map(str::to_owned).to_vec()];
    let mut found = attested == Some(chain.head().0);
    let mut entries = Vec::new();
    let read = read_entries(bytes, |entry| {
        let entry = if from == 1 {
            let entry = chain.push(entry).map_err(io::Error::other)?;
            found |= attested == Some(chain.head().0);
            entry
        } else {
            Entry::decode(entry).map_err(io::Error::other)?
        };
        entries.push(Shown::of(&entry));
        Ok(())
    });
    let whole = read.map_err(Failure::channel)? == bytes.len() as u64;
    for shown in &entries {
        if json {
            line(&serde_json::to_string(shown).map_err(Failure::channel)?)?;
        }
        rows.push(shown.row());
    }
    if !json {
        table(&rows)?;
    }
    if from > 1 {
        note("not checked: that takes the transcript from its first entry");
        return Ok(0);
    }
    if whole && found {
        note(&format!("the chain of {} entries agrees with the enclave's evidence", chain.count()));
        return Ok(0);
    }
    note("THE TRANSCRIPT DOES NOT AGREE WITH THE ENCLAVE'S EVIDENCE");
    Ok(1)
}

/// Prints a completion script.
pub(super) fn completions(shell: manual::Shell) -> Result<u8, Failure> {
    print(&manual::completions(Args::command(), shell)).map(|()| 0)
}

/// Prints the manual page: one, with all verbs.
pub(super) fn man() -> Result<u8, Failure> {
    print(&manual::page(&Args::command())).map(|()| 0)
}
