//! The `rbuilds` program: arguments, output and exit status around [`rbuilds::inspect`],
//! [`rbuilds::diff`] and [`rbuilds::verify`].

#![forbid(unsafe_code)]

mod cli;
mod signing_cli;

use std::{
    fmt::Display,
    io::{self, BufWriter, ErrorKind, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use rbuilds::{
    BuildInput, InspectOptions, Limits, Network, PartError, Project, ProjectError, RegistryOptions, Step,
    Verification, diff, inspect,
};
use serde::Serialize;

use crate::cli::{Cli, Command, VerifyArgs};

/// The images differ.
const DIFFERENT: u8 = 1;
/// A mistake in the manifest.
const USAGE: u8 = 2;
/// There is no answer.
const FAILED: u8 = 3;

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "rbuilds: {error:#}");
            ExitCode::from(if is_mistake(&error) { USAGE } else { FAILED })
        }
    }
}

/// Whether the manifest, or what it or the command line names, has to be another one.
fn is_mistake(error: &anyhow::Error) -> bool {
    error.is::<ProjectError>()
        || error.downcast_ref::<PartError>().is_some_and(PartError::is_mistake)
        || error.downcast_ref::<rbuilds::Error>().is_some_and(rbuilds::Error::is_mistake)
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Inspect(args) => {
            let options = InspectOptions { files: args.files, top: args.top, limits: Limits::default() };
            print(&inspect(&args.image, &options)?, args.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Measure(args) => signing_cli::measure(&args),
        Command::Sign(args) => signing_cli::sign(&args),
        Command::VerifySignature(args) => signing_cli::verify_signature(&args),
        Command::Diff(args) => {
            let diff = diff(&args.a, &args.b, &Limits::default())?;
            print(&diff, args.json)?;
            Ok(if diff.identical { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
        }
        Command::Verify(args) => {
            let verification = rebuild(&args)?;
            print(&verification, args.json)?;
            Ok(if verification.reproduced { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
        }
        Command::Completions { shell } => print_all(&manual::completions(Cli::command(), shell)),
        Command::Man => print_all(&manual::page(&Cli::command())),
    }
}

/// Builds the image again, in a folder that is gone afterwards unless the result is to be kept.
fn rebuild(args: &VerifyArgs) -> Result<Verification> {
    let mut project = Project::open(&args.manifest)?;
    if let Some(archive) = &args.archive {
        project.take_archive(archive)?;
    }
    let folder = tempfile::tempdir().context("cannot make a temporary folder: set TMPDIR")?;
    let output = args.keep.clone().unwrap_or_else(|| folder.path().join("rebuilt.eif"));
    let network = if args.offline { Network::Offline } else { Network::Missing };
    let input = BuildInput {
        manifest: &project.manifest,
        base_dir: &project.base_dir,
        guest_binary: &rbuilds::find_guest_binary(args.enclave.as_deref())?,
        kernel: project.kernel(args.kernel.clone())?,
        output: &output,
        limits: Limits::default(),
        registry: RegistryOptions { network, ..RegistryOptions::default() },
        build_time: rbuilds::source_date_epoch()?,
        signer: None,
    };
    Ok(rbuilds::verify(&args.image, &input, &progress)?)
}

fn progress(step: Step<'_>) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(stderr, "{step}");
    }
}

/// Prints a text of many lines. A closed pipe is a normal end of whoever reads.
fn print_all(text: &[u8]) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(ExitCode::SUCCESS),
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
