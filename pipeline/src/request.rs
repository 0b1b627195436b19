//! Requests: what an operator asks for, in one canonical encoding.
//!
//! A request is a CBOR map (RFC 8949, deterministic as in its section 4.2.1) with unsigned integers as keys.
//! [`Request::decode`] accepts exactly the bytes that [`Request::encode`] makes, so the transcript, which keeps these
//! bytes, says one thing in one way only.
//!
//! Spec: `docs/spec/pipeline.md`, with vectors in `docs/spec/vectors/pipeline-requests.json`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod fields;
#[cfg(test)]
mod tests;

use std::num::NonZeroU64;

use crate::frame::MAX_CONTROL_BYTES;
use fields::Fields;

/// The version that this module writes and reads.
pub const VERSION: u64 = 1;

/// Longest encoded request, in bytes.
pub const MAX_REQUEST_BYTES: usize = MAX_CONTROL_BYTES;

/// Most words, variables or patterns of one list.
pub const MAX_LIST_ITEMS: usize = 4096;

/// Longest path, as the kernel has it (`PATH_MAX`), in bytes.
pub const MAX_PATH_BYTES: usize = 4096;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// Run a program.
    Run(Run),
    /// Run a shell on a terminal.
    Shell(Shell),
    /// Take a file from the client.
    SendFile(SendFile),
    /// Give the client a file.
    RecvFile(RecvFile),
    /// Take a directory and what is in it from the client.
    SendDir(SendDir),
    /// Give the client a directory and what is in it.
    RecvDir(RecvDir),
    /// List the services that init runs.
    Services,
    /// Have init end a service and start it again.
    ServiceRestart {
        /// Its name.
        service: String,
    },
    /// What a service has printed last.
    ServiceLogs {
        /// Its name.
        service: String,
    },
    /// What became of the runs without a waiting client.
    Status {
        /// Of one run; `None` asks for all.
        id: Option<RunId>,
    },
    /// What a run without a waiting client has printed last.
    Logs {
        /// Of which run.
        id: RunId,
        /// Go on until it ends.
        follow: bool,
    },
    /// Signal a run without a waiting client.
    Kill {
        /// Which run.
        id: RunId,
        /// The signal's number, 1 to 64.
        signal: u8,
    },
    /// List the secrets of services, and which are given.
    Secrets,
    /// Give services the value of a secret, which follows as input.
    SecretSet {
        /// The secret's name.
        secret: String,
    },
    /// The transcript of all sessions, from one entry on.
    Transcript {
        /// The number of the first entry that is wanted; entries count from 1.
        from: u64,
    },
    /// Let nobody in any more, and have the hardware say that nobody was.
    Seal,
}

/// The number of a run, given by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which program.
    pub program: Program,
    /// As whom, where and with what.
    pub setting: Setting,
    /// After how many milliseconds it is ended with everything that it started.
    pub timeout_ms: Option<NonZeroU64>,
    /// Give it a terminal of this kind instead of pipes.
    pub terminal: Option<Terminal>,
    /// Answer with its number and let it run on without this client.
    pub no_wait: bool,
}

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// A program and its arguments, at least the program; none of them holds a NUL byte. Without a `/` it is looked up in
    /// the enclave's `PATH`.
    Words(Vec<Vec<u8>>),
    /// A command line for `/bin/sh -c`.
    Script(Vec<u8>),
}

/// A shell to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shell {
    /// A program and its arguments; `None` is the user's shell.
    pub program: Option<Program>,
    /// As whom, where and with what.
    pub setting: Setting,
    /// The client's terminal.
    pub terminal: Terminal,
}

/// As whom, where and with what a program is run. What is not said is the server's to choose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Variables beside those that the server gives, each `NAME=value`, in this order.
    pub env: Vec<Vec<u8>>,
    /// The directory it starts in, absolute.
    pub cwd: Option<Vec<u8>>,
    /// `name`, `uid`, `name:group` or `uid:gid`.
    pub user: Option<String>,
}

/// A terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// What becomes `TERM`: printable ASCII.
    pub term: String,
    /// Its size.
    pub size: WindowSize,
}

/// The size of a terminal in characters. In a frame: two 16-bit big-endian integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

impl WindowSize {
    /// As a frame's payload.
    pub fn to_bytes(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.columns.to_be_bytes(), self.rows.to_be_bytes());
        [a, b, c, d]
    }

    /// From a frame's payload; `None` when that has another length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, d] = <&[u8; 4]>::try_from(bytes).ok()?;
        Some(Self { columns: u16::from_be_bytes([a, b]), rows: u16::from_be_bytes([c, d]) })
    }
}

/// A file to take. Paths are bytes without NUL, at most [`MAX_PATH_BYTES`]; all are below the application's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendFile {
    /// Where it goes.
    pub path: Vec<u8>,
    /// Permissions, at most 0o7777, in place of those that its entry says.
    pub mode: Option<u32>,
    /// How many bytes will come, so that a lack of room is seen at once; `None` when nobody knows.
    pub size: Option<u64>,
    /// Go on with what an earlier attempt left.
    pub resume: bool,
}

/// A file to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecvFile {
    /// Which file.
    pub path: Vec<u8>,
    /// The client says in a [`crate::frame::Kind::Have`] frame what it has.
    pub resume: bool,
}

/// A directory to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendDir {
    /// Where it goes.
    pub path: Vec<u8>,
    /// How many bytes will come in all, so that a lack of room is seen at once; `None` when nobody knows.
    pub size: Option<u64>,
    /// Go on with what an earlier attempt left.
    pub resume: bool,
}

/// A directory to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecvDir {
    /// Which directory.
    pub path: Vec<u8>,
    /// Patterns of names to leave out.
    pub excludes: Vec<Vec<u8>>,
    /// The client says in [`crate::frame::Kind::Have`] frames what it has.
    pub resume: bool,
}

/// Why bytes are no request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Longer than [`MAX_REQUEST_BYTES`].
    #[error("the request has {found} bytes, more than the {MAX_REQUEST_BYTES} allowed")]
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// No CBOR, or not of a request's shape.
    #[error("the request is not of the form this version reads")]
    Cbor(#[from] minicbor::decode::Error),
    /// Another version.
    #[error("the request has version {found}, this program reads version {VERSION}")]
    Version {
        /// The version.
        found: u64,
    },
    /// A verb that this version does not know.
    #[error("there is no verb {found:?}")]
    UnknownVerb {
        /// The verb.
        found: String,
    },
    /// A field that the verb needs is missing.
    #[error("the request lacks its field {field}")]
    Missing {
        /// The field's name in the specification.
        field: &'static str,
    },
    /// A field's value breaks a rule.
    #[error("the request's field {field} {rule}")]
    Invalid {
        /// The field's name in the specification.
        field: &'static str,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// The same request can be written in other bytes, so these bytes are refused.
    #[error("the request is not in its canonical form")]
    NotCanonical,
}

impl Request {
    /// The verb, as it is encoded.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Shell(_) => "shell",
            Self::SendFile(_) => "send-file",
            Self::RecvFile(_) => "recv-file",
            Self::SendDir(_) => "send-dir",
            Self::RecvDir(_) => "recv-dir",
            Self::Services => "services",
            Self::ServiceRestart { .. } => "service-restart",
            Self::ServiceLogs { .. } => "service-logs",
            Self::Status { .. } => "status",
            Self::Logs { .. } => "logs",
            Self::Kill { .. } => "kill",
            Self::Secrets => "secrets",
            Self::SecretSet { .. } => "secret-set",
            Self::Transcript { .. } => "transcript",
            Self::Seal => "seal",
        }
    }

    /// The request's one encoding.
    ///
    /// # Errors
    /// [`RequestError::Invalid`] for values that no request may have, and [`RequestError::TooLong`].
    pub fn encode(&self) -> Result<Vec<u8>, RequestError> {
        self.check()?;
        let bytes = Fields::of(self).encode();
        if bytes.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::TooLong { found: bytes.len() });
        }
        Ok(bytes)
    }

    /// Decodes a request. Exactly the bytes that [`Request::encode`] makes are accepted.
    ///
    /// # Errors
    /// Whatever deviates from `docs/spec/pipeline.md`.
    pub fn decode(bytes: &[u8]) -> Result<Self, RequestError> {
        if bytes.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::TooLong { found: bytes.len() });
        }
        let request = Fields::decode(bytes)?.into_request()?;
        // Catches fields that the verb does not have, and integers and lengths that are longer than needed.
        if request.encode()? != bytes {
            return Err(RequestError::NotCanonical);
        }
        Ok(request)
    }

    fn check(&self) -> Result<(), RequestError> {
        match self {
            Self::Run(run) => {
                run.program.check()?;
                run.setting.check()?;
                run.terminal.as_ref().map_or(Ok(()), Terminal::check)?;
                rule("terminal", !(run.no_wait && run.terminal.is_some()), "needs a client that waits")
            }
            Self::Shell(shell) => {
                shell.program.as_ref().map_or(Ok(()), Program::check)?;
                shell.setting.check()?;
                shell.terminal.check()
            }
            Self::SendFile(SendFile { path, mode, .. }) => {
                check_path("path", path)?;
                rule("mode", mode.is_none_or(|mode| mode <= 0o7777), "is over 0o7777")
            }
            Self::RecvFile(RecvFile { path, .. }) | Self::SendDir(SendDir { path, .. }) => {
                check_path("path", path)
            }
            Self::RecvDir(RecvDir { path, excludes, .. }) => {
                check_path("path", path)?;
                rule("excludes", excludes.len() <= MAX_LIST_ITEMS, "has too many items")?;
                excludes.iter().try_for_each(|pattern| check_path("excludes", pattern))
            }
            Self::ServiceRestart { service } | Self::ServiceLogs { service } => rule(
                "service",
                !service.is_empty() && service.len() <= 64,
                "is empty or longer than 64 bytes",
            ),
            Self::Kill { signal, .. } => rule("signal", matches!(signal, 1..=64), "is not 1 to 64"),
            Self::Transcript { from } => rule("from", *from > 0, "is zero"),
            Self::SecretSet { secret } => {
                rule("secret", manifest::is_secret_name(secret), "is no secret's name")
            }
            Self::Services | Self::Secrets | Self::Status { .. } | Self::Logs { .. } | Self::Seal => Ok(()),
        }
    }
}

impl Program {
    fn check(&self) -> Result<(), RequestError> {
        match self {
            Self::Words(words) => {
                rule("argv", words.first().is_some_and(|word| !word.is_empty()), "has no program")?;
                rule("argv", words.len() <= MAX_LIST_ITEMS, "has too many items")?;
                rule("argv", words.iter().all(|word| is_clean(word)), "holds a NUL byte")
            }
            Self::Script(script) => rule("script", is_clean(script), "holds a NUL byte"),
        }
    }
}

impl Setting {
    fn check(&self) -> Result<(), RequestError> {
        rule("env", self.env.len() <= MAX_LIST_ITEMS, "has too many items")?;
        let named =
            |variable: &Vec<u8>| variable.iter().position(|byte| *byte == b'=').is_some_and(|at| at > 0);
        rule("env", self.env.iter().all(|v| named(v) && is_clean(v)), "is not NAME=value without NUL bytes")?;
        if let Some(cwd) = &self.cwd {
            check_path("cwd", cwd)?;
            rule("cwd", cwd.starts_with(b"/"), "is not absolute")?;
        }
        let user = self.user.as_ref();
        rule(
            "user",
            user.is_none_or(|user| !user.is_empty() && user.len() <= 256 && !user.contains('\0')),
            "is no user",
        )
    }
}

impl Terminal {
    fn check(&self) -> Result<(), RequestError> {
        let plain = self.term.bytes().all(|byte| byte.is_ascii_graphic());
        rule(
            "terminal",
            plain && (1..=64).contains(&self.term.len()),
            "is not a name of 1 to 64 printable characters",
        )
    }
}

fn check_path(field: &'static str, path: &[u8]) -> Result<(), RequestError> {
    rule(field, !path.is_empty() && path.len() <= MAX_PATH_BYTES, "is empty or longer than 4096 bytes")?;
    rule(field, is_clean(path), "holds a NUL byte")
}

fn is_clean(bytes: &[u8]) -> bool {
    !bytes.contains(&0)
}

fn rule(field: &'static str, holds: bool, rule: &'static str) -> Result<(), RequestError> {
    if holds { Ok(()) } else { Err(RequestError::Invalid { field, rule }) }
}
