//! How a command of `glasshouse` ends.

/// The exit codes that every subcommand shares; `--help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Yes, or done.
    Done,
    /// It ran and the answer is no.
    No,
    /// The status of the application that ran.
    Application(u8),
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::No => Self::from(1),
            Exit::Application(status) => Self::from(status),
        }
    }
}

/// A mistake of the caller's, as opposed to a failure of ours: ends with status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// An error with what it came from, as the caller's mistake if it is one.
pub(crate) fn told(is_mistake: bool, error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    if is_mistake { Usage(format!("{error:#}")).into() } else { error }
}

/// Exit status of a usage or configuration mistake.
pub(crate) const USAGE: u8 = 2;
/// Exit status when glasshouse itself failed.
pub(crate) const FAILED: u8 = 3;
/// Exit status of `run` when glasshouse itself failed, so that it cannot be taken for the application's.
pub(crate) const RUN_FAILED: u8 = 125;
