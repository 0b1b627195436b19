//! The command line: of the `pipeline` program, of the applet with the same name, and of whatever composes it.

mod args;
mod config;
mod connect;
mod keys;
mod listen;
mod operate;
mod own_keys;
mod secret;
mod show;
mod terminal;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches};

use crate::reply::{Code, Refusal};

pub use args::{
    Args, Client, Command, ListenArgs, RunArgs, Secrets, Services, SetSecret, SettingArgs, ShellArgs,
};
pub use listen::listen;
pub use operate::operate;

/// Why the program itself failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It was called in a way that means nothing.
    #[error("{0}")]
    Usage(String),
    /// The enclave refuses what was asked.
    #[error("{0}")]
    Refused(Refusal),
    /// There is no enclave, or not the one expected, or the channel failed.
    #[error(transparent)]
    Channel(Box<dyn std::error::Error + Send + Sync>),
}

impl Failure {
    fn channel(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Channel(error.into())
    }

    /// What went wrong, with its causes, on one line.
    pub fn line(&self) -> String {
        show::chain(self)
    }

    fn code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Channel(_) => 3,
        }
    }

    /// The exit status of `run` and `shell` when not the program but this one failed, as shells and container engines have it.
    pub fn code_of_run(&self) -> u8 {
        match self {
            Self::Refused(Refusal { code: Code::NotFound, .. }) => 127,
            Self::Refused(Refusal { code: Code::CannotStart, .. }) => 126,
            _ => 125,
        }
    }
}

impl From<crate::client::ClientError> for Failure {
    fn from(error: crate::client::ClientError) -> Self {
        match error {
            crate::client::ClientError::Refused(refusal) => Self::Refused(refusal),
            other => Self::channel(other),
        }
    }
}

/// Parses the words of the command line, the first of them the program's name, and does what they say.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match Args::command().try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // A closed pipe is a normal end.
            let _ = error.print();
            return code.into();
        }
    };
    match Args::from_arg_matches(&matches) {
        Ok(args) => run(args).into(),
        Err(error) => {
            let _ = error.print();
            ExitCode::from(2)
        }
    }
}

/// Does what the arguments say, and returns the exit status.
pub fn run(args: Args) -> u8 {
    let runs = matches!(args.command, Command::Run(_) | Command::Shell(_));
    let outcome = match args.command {
        Command::Listen(listening) => return listen(listening),
        Command::Completions { shell } => show::completions(shell),
        Command::Man => show::man(),
        command => operate(&args.client, command),
    };
    outcome.unwrap_or_else(|failure| {
        show::failure(&failure);
        if runs { failure.code_of_run() } else { failure.code() }
    })
}
