//! The command line: of the `fs-monitor` program, and of the applet with the same name.

use std::{io, process};

use clap::{Parser, Subcommand};

use crate::scan::{ScanArgs, ScanError, scan};

/// Records every change of the files it watches, and proves what they are and were.
#[derive(Debug, Parser)]
#[command(name = "fs-monitor", version, after_help = EXIT_CODES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  scan: something could not be read
  2  bad arguments, or a path that is not there
  4  cannot go on";

#[derive(Debug, Subcommand)]
enum Command {
    /// Hash everything in a directory and print it
    Scan(ScanArgs),
}

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitCode {
    /// What was asked is done.
    Done = 0,
    /// Not everything could be read.
    Incomplete = 1,
    /// Arguments that make no sense.
    Usage = 2,
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
        Command::Scan(args) => run_scan(&args),
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
