//! The command line: of the `fs-monitor` program, and of the applet with the same name.

mod ask;

use std::{io, process};

use clap::{Parser, Subcommand};

use self::ask::{AskArgs, PathArgs};
use crate::{
    run::{RunArgs, RunError},
    scan::{ScanArgs, ScanError, scan},
};

/// Where `fs-monitor run` answers unless it is said.
pub const DEFAULT_SOCKET: &str = "/run/glasshouse-private/ledger.sock";

/// Records every change of the files it watches, and proves what they are and were.
#[derive(Debug, Parser)]
#[command(name = "fs-monitor", version, after_help = EXIT_CODES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done; run: ended by SIGTERM or SIGINT
  1  scan: something could not be read; proof, history: not proved
  2  bad arguments, a path that is not there, or a manifest that cannot be used
  3  no running monitor to ask, or it refuses
  4  cannot go on";

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch files and keep the ledger
    Run(RunArgs),
    /// Hash everything in a directory and print it
    Scan(ScanArgs),
    /// Say what the running monitor does
    Status(AskArgs),
    /// Prove what a file is now, or that it is not, and check the proof
    Proof(PathArgs),
    /// Prove everything that was ever recorded of a file, and check the proof
    History(PathArgs),
    /// Print what is recorded of files, as it happens
    Watch(AskArgs),
    /// Have every file looked at again now
    Sweep(AskArgs),
}

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitCode {
    /// What was asked is done.
    Done = 0,
    /// Not everything could be read, or nothing was proved.
    Incomplete = 1,
    /// Arguments that make no sense.
    Usage = 2,
    /// Nobody to ask, or a refusal.
    Refused = 3,
    /// The system refuses something that is needed.
    CannotGoOn = 4,
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        (code as u8).into()
    }
}

/// Does what the arguments say. What goes wrong is logged, and told by the exit code.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    match args.command {
        Command::Run(args) => run_daemon(&args),
        Command::Scan(args) => run_scan(&args),
        Command::Status(args) => ask::status(&args),
        Command::Proof(args) => ask::proof(&args),
        Command::History(args) => ask::history(&args),
        Command::Watch(args) => ask::watch(&args),
        Command::Sweep(args) => ask::sweep(&args),
    }
}

fn run_daemon(args: &RunArgs) -> ExitCode {
    let Err(error) = crate::run::run(args) else { return ExitCode::Done };
    tracing::error!(error = &error as &dyn std::error::Error, "stopped");
    match error {
        RunError::Manifest(_)
        | RunError::NoMonitor
        | RunError::Deny
        | RunError::Nats(_)
        | RunError::Tree(_) => ExitCode::Usage,
        _ => ExitCode::CannotGoOn,
    }
}

fn run_scan(args: &ScanArgs) -> ExitCode {
    match scan(args, io::stdout().lock()) {
        Ok(summary) => {
            let crate::scan::Summary { files, bytes, others, unread } = summary;
            tracing::info!(files, bytes, others, unread, "scanned");
            if unread == 0 { ExitCode::Done } else { ExitCode::Incomplete }
        }
        // Whoever reads the list has seen enough.
        Err(ScanError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::Done,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "nothing scanned");
            match error {
                ScanError::Write(_) => ExitCode::CannotGoOn,
                _ => ExitCode::Usage,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_manifest_leaves_nothing_to_say_beside_it() {
        let parse =
            |words: &[&str]| Args::try_parse_from(["fs-monitor", "run", "--state", "s"].iter().chain(words));
        assert!(parse(&["--roots", "/a", "/b", "--base", "/x"]).is_ok());
        assert!(parse(&["--manifest", "m", "--roots", "/a"]).is_err());
    }
}
