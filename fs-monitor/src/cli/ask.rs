//! Commands that ask a running monitor.

use std::{
    ffi::OsString,
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

use ledger::{FileNow, VerifyError};
use serde_json::Value;

use super::{DEFAULT_SOCKET, ExitCode};
use crate::{
    api::{answers, query::encode},
    client::{Client, ClientError, Now},
    tree::text,
};

/// Which monitor.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AskArgs {
    /// Where it answers
    #[arg(long, value_name = "SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which file of which monitor.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PathArgs {
    /// The file, absolute, as the application sees it
    pub path: OsString,
    #[command(flatten)]
    ask: AskArgs,
    /// Write the proof there too
    #[arg(long, short, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the monitor's proof proves nothing")]
    Proof(#[from] VerifyError),
    #[error("cannot write")]
    Write(#[from] io::Error),
}

pub(super) fn status(args: &AskArgs) -> ExitCode {
    ask(async {
        let status: Value = Client::new(&args.socket).json("/v1/status").await?;
        Ok(show(&status, args.json)?)
    })
}

pub(super) fn sweep(args: &AskArgs) -> ExitCode {
    ask(async {
        let status = Client::new(&args.socket).sweep().await?;
        Ok(show(&status, args.json)?)
    })
}

pub(super) fn watch(args: &AskArgs) -> ExitCode {
    ask(async {
        let each = |kind: &str, data: &str| {
            let mut out = io::stdout().lock();
            let value: Value = serde_json::from_str(data).unwrap_or_default();
            let shown = match kind {
                _ if args.json => writeln!(out, "{data}"),
                "missed" => writeln!(out, "... {value} more"),
                _ => writeln!(out, "{} {}", line(&value), value["path"].as_str().unwrap_or_default()),
            };
            shown.and_then(|()| out.flush()).is_ok()
        };
        Ok(Client::new(&args.socket).events("/v1/changes", each).await?)
    })
}

pub(super) fn proof(args: &PathArgs) -> ExitCode {
    ask(async {
        let path = args.path.as_bytes();
        let (now, proof) = args.fetch("proof").await?;
        let value = match now.anchor()?.verify_file(path, &proof)? {
            FileNow::Recorded(observation) => answers::record(path, &observation),
            FileNow::Never => serde_json::json!({"path": text(path), "what": "never"}),
        };
        args.save(&proof)?;
        print_records(&[value], args.ask.json)?;
        Ok(writeln!(io::stderr(), "proved for a ledger of {} entries", now.size)?)
    })
}

pub(super) fn history(args: &PathArgs) -> ExitCode {
    ask(async {
        let path = args.path.as_bytes();
        let (now, proof) = args.fetch("history").await?;
        let history = now.anchor()?.verify_history(path, &proof)?;
        let values: Vec<Value> =
            history.iter().map(|observation| answers::record(path, observation)).collect();
        args.save(&proof)?;
        print_records(&values, args.ask.json)?;
        let count = values.len();
        Ok(writeln!(io::stderr(), "{count} records, proved to be all in a ledger of {} entries", now.size)?)
    })
}

impl PathArgs {
    /// A proof and the checkpoint that it is for.
    async fn fetch(&self, what: &str) -> Result<(Now, Vec<u8>), AskError> {
        let client = Client::new(&self.ask.socket);
        let now: Now = client.json("/v1/checkpoint").await?;
        let path = encode(self.path.as_bytes());
        let proof = client.get(&format!("/v1/file/{what}?path={path}&at={}", now.size)).await?;
        Ok((now, proof.to_vec()))
    }

    fn save(&self, proof: &[u8]) -> io::Result<()> {
        self.out.as_ref().map_or(Ok(()), |out| std::fs::write(out, proof))
    }
}

fn print_records(records: &[Value], as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for record in records {
        match as_json {
            true => writeln!(out, "{record}")?,
            false => writeln!(out, "{}", line(record))?,
        }
    }
    out.flush()
}

/// A record for people.
fn line(record: &Value) -> String {
    let member = |name: &str| match &record[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let what = member("what");
    match what.as_str() {
        "never" => "nothing was ever recorded of this path".to_owned(),
        "removed" => format!("{:>8} {:8} removed", member("index"), member("cause")),
        _ => {
            let mode = record["mode"].as_u64().unwrap_or(0);
            let content = match &record["target"] {
                Value::String(target) => format!("-> {target}"),
                _ => member("blake3"),
            };
            let head = format!("{:>8} {:8} {}", member("index"), member("cause"), member("kind"));
            format!("{head} {mode:04o} {}:{} {} {content}", member("uid"), member("gid"), member("size"))
        }
    }
}

fn show(status: &Value, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        return writeln!(out, "{status}");
    }
    for (name, value) in status.as_object().into_iter().flatten() {
        match value {
            Value::String(text) => writeln!(out, "{name:10} {text}")?,
            other => writeln!(out, "{name:10} {other}")?,
        }
    }
    out.flush()
}

/// An error with what it came from: for a person, not for a log.
fn told(error: &AskError) -> String {
    let sources = std::iter::successors(std::error::Error::source(error), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

fn ask(work: impl Future<Output = Result<(), AskError>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(AskError::Write(error)),
    };
    let Err(error) = outcome else { return ExitCode::Done };
    eprintln!("fs-monitor: {}", told(&error));
    match error {
        AskError::Client(_) => ExitCode::Refused,
        AskError::Proof(_) => ExitCode::Incomplete,
        AskError::Write(_) => ExitCode::CannotGoOn,
    }
}
