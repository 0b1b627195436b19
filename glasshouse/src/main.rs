//! Build, run and verify programs in attested enclaves.
//!
//! This command is thin: it composes the libraries of the workspace. `image`, `state` and `paths` know what lies on this
//! machine; `run` with `enclave`, `backend` and `host` is the supervisor of one enclave; `verify` with `evidence` is the
//! relying party; the rest are one subcommand each. What it deliberately does not do: take anything an enclave reports
//! for more than a message.

#![forbid(unsafe_code)]

mod backend;
mod build;
mod cli;
mod copy;
mod dockerfile;
mod doctor;
mod enclave;
mod evidence;
mod exit;
mod health;
mod host;
mod image;
mod instances;
mod operate;
mod output;
mod paths;
mod publish;
mod published;
mod run;
mod signals;
mod signing;
mod state;
mod table;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};
use nsm::sim::DevelopmentRoot;
use tracing_subscriber::EnvFilter;

use crate::{
    cli::{Cli, Command},
    exit::{Exit, FAILED, RUN_FAILED, USAGE, Usage},
};

/// It ran and the answer is no; ends with status 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.verbose);
    let is_run = matches!(cli.command, Command::Run(_));
    match dispatch(cli.command, cli.verbose > 0) {
        Ok(exit) => exit.into(),
        Err(error) => {
            output::say(&format!("glasshouse: {error:#}"));
            let code = match error {
                _ if error.is::<Usage>() => USAGE,
                _ if error.is::<Refusal>() => 1,
                _ => FAILED,
            };
            ExitCode::from(if is_run { RUN_FAILED } else { code })
        }
    }
}

fn dispatch(command: Command, is_verbose: bool) -> Result<Exit> {
    match command {
        Command::Build(args) => build::run(&args),
        Command::Run(args) => run::run(&args, is_verbose),
        Command::Ps(args) => instances::ps(&args),
        Command::Logs(args) => instances::logs(&args),
        Command::Stop(args) => instances::stop(&args),
        Command::Exec(args) => operate::exec(args),
        Command::Shell(args) => operate::shell(args),
        Command::Cp(args) => operate::cp(args),
        Command::Secrets(args) => operate::secrets(args),
        Command::Verify(args) => verify::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::DevRoot => {
            let folder = paths::data()?;
            DevelopmentRoot::load_or_create(&folder)?;
            output::print(&folder.join("root.pem").display().to_string())?;
            Ok(Exit::Done)
        }
        Command::Completions { shell } => {
            output::print_all(&manual::completions(Cli::command(), shell))?;
            Ok(Exit::Done)
        }
        Command::Man => {
            output::print_all(&manual::page(&Cli::command()))?;
            Ok(Exit::Done)
        }
        Command::LocalEnclave(args) => {
            Ok(Exit::Application(backend::local::enter(&args.stage, &args.setup)?))
        }
    }
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // A file or a journal is no terminal.
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    log.with_writer(std::io::stderr).without_time().init();
}
