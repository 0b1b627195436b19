//! The `rbuilds` program: arguments, output and exit status around [`rbuilds::inspect`] and [`rbuilds::diff`].

#![forbid(unsafe_code)]

mod cli;

use std::{
    fmt::Display,
    io::{self, BufWriter, ErrorKind, Write},
    process::ExitCode,
};

use anyhow::Result;
use clap::Parser;
use rbuilds::{InspectOptions, Limits, diff, inspect};
use serde::Serialize;

use crate::cli::{Cli, Command};

/// The images differ.
const DIFFERENT: u8 = 1;
/// There is no answer.
const FAILED: u8 = 3;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "rbuilds: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Inspect(args) => {
            let options = InspectOptions { files: args.files, top: args.top, limits: Limits::default() };
            print(&inspect(&args.image, &options)?, args.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Diff(args) => {
            let diff = diff(&args.a, &args.b, &Limits::default())?;
            print(&diff, args.json)?;
            Ok(if diff.identical { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
        }
    }
}

/// Prints a result. A closed pipe is a normal end of whoever reads.
fn print(result: &(impl Serialize + Display), as_json: bool) -> Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let write = |out: &mut BufWriter<_>| -> io::Result<()> {
        if as_json {
            serde_json::to_writer(&mut *out, result)?;
            writeln!(out)?;
        } else {
            write!(out, "{result}")?;
        }
        out.flush()
    };
    match write(&mut out) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}
