//! The verbs that move files, as people type them: arguments, what they mean for both sides, and a bar while they wait.
//!
//! Whoever has the command line opens what is local with [`TransferCommand::prepare`], then a connection, and then
//! [`Prepared::run`]s the transfer on it.

mod show;

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, IsTerminal},
    os::{
        fd::AsFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand, ValueHint};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Excludes, Meter, Place, ReceiveOptions, Source, Target, TransferError,
    client::{ClientError, download, upload},
    local_directory, local_file,
};
use crate::{
    reply::{Code, Refusal},
    request::{RecvDir, RecvFile, Request, SendDir, SendFile},
};
use show::Show;

/// After how long without a byte the client gives up.
const IDLE: Duration = Duration::from_secs(60);
/// The mode of a file that comes from standard input, unless another is given.
const STREAM_MODE: u32 = 0o644;

/// The verbs that move files.
#[derive(Clone, Debug, Subcommand)]
pub enum TransferCommand {
    /// Send a file into the enclave
    SendFile(SendFileArgs),
    /// Receive a file from the enclave
    RecvFile(RecvFileArgs),
    /// Send a directory and what is in it into the enclave
    SendDir(SendDirArgs),
    /// Receive a directory and what is in it from the enclave
    RecvDir(RecvDirArgs),
}

/// Arguments of `send-file`.
#[derive(Clone, Debug, Args)]
pub struct SendFileArgs {
    /// The file, or "-" for standard input
    #[arg(value_hint = ValueHint::FilePath, required_unless_present = "localpath")]
    local: Option<PathBuf>,
    /// Its absolute path in the enclave; with a "/" at its end, the directory it goes into
    #[arg(value_hint = ValueHint::Other, required_unless_present = "remotepath")]
    remote: Option<OsString>,
    /// The same as LOCAL
    #[arg(long, value_name = "LOCAL", conflicts_with = "local", requires = "remotepath")]
    localpath: Option<PathBuf>,
    /// The same as REMOTE
    #[arg(long, value_name = "REMOTE", conflicts_with = "remote", requires = "localpath")]
    remotepath: Option<OsString>,
    /// Its permissions in the enclave, in octal, in place of those it has here
    #[arg(long, value_parser = octal)]
    mode: Option<u32>,
    #[command(flatten)]
    how: How,
}

/// Arguments of `recv-file`.
#[derive(Clone, Debug, Args)]
pub struct RecvFileArgs {
    /// The file's absolute path in the enclave
    #[arg(value_hint = ValueHint::Other, required_unless_present = "remotepath")]
    remote: Option<OsString>,
    /// Where it goes: a path, a directory that is there, or "-" for standard output [default: .]
    #[arg(value_hint = ValueHint::AnyPath)]
    local: Option<PathBuf>,
    /// The same as LOCAL
    #[arg(long, value_name = "LOCAL", conflicts_with = "local", requires = "remotepath")]
    localpath: Option<PathBuf>,
    /// The same as REMOTE
    #[arg(long, value_name = "REMOTE", conflicts_with = "remote", requires = "localpath")]
    remotepath: Option<OsString>,
    #[command(flatten)]
    receive: Receive,
    #[command(flatten)]
    how: How,
}

/// Arguments of `send-dir`.
#[derive(Clone, Debug, Args)]
pub struct SendDirArgs {
    /// The directory
    #[arg(value_hint = ValueHint::DirPath, required_unless_present = "localdir")]
    local: Option<PathBuf>,
    /// Its absolute path in the enclave; it is made if it is not there
    #[arg(value_hint = ValueHint::Other, required_unless_present = "remotedir")]
    remote: Option<OsString>,
    /// The same as LOCAL
    #[arg(long, value_name = "LOCAL", conflicts_with = "local", requires = "remotedir")]
    localdir: Option<PathBuf>,
    /// The same as REMOTE
    #[arg(long, value_name = "REMOTE", conflicts_with = "remote", requires = "localdir")]
    remotedir: Option<OsString>,
    /// Leave out what fits this pattern, as in a .gitignore file; may be given again
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// Arguments of `recv-dir`.
#[derive(Clone, Debug, Args)]
pub struct RecvDirArgs {
    /// The directory's absolute path in the enclave
    #[arg(value_hint = ValueHint::Other, required_unless_present = "remotedir")]
    remote: Option<OsString>,
    /// Where what is in it goes; it is made if it is not there
    #[arg(value_hint = ValueHint::DirPath, required_unless_present = "localdir")]
    local: Option<PathBuf>,
    /// The same as LOCAL
    #[arg(long, value_name = "LOCAL", conflicts_with = "local", requires = "remotedir")]
    localdir: Option<PathBuf>,
    /// The same as REMOTE
    #[arg(long, value_name = "REMOTE", conflicts_with = "remote", requires = "localdir")]
    remotedir: Option<OsString>,
    /// Leave out what fits this pattern, as in a .gitignore file; may be given again
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    #[command(flatten)]
    receive: Receive,
    #[command(flatten)]
    how: How,
}

#[derive(Clone, Copy, Debug, Args)]
struct How {
    /// Start over instead of going on with what an earlier attempt left
    #[arg(long)]
    no_resume: bool,
    /// Show no progress and no summary
    #[arg(short, long)]
    quiet: bool,
    /// Print a summary as one line of JSON, and show no progress
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Args)]
struct Receive {
    /// Keep set-user-id and set-group-id bits
    #[arg(long)]
    special_bits: bool,
    /// Have everything on the disk before the transfer counts as done
    #[arg(long)]
    fsync: bool,
    /// Take no more than this many bytes
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
}

/// A transfer whose local side is open.
#[derive(Debug)]
pub struct Prepared {
    request: Request,
    side: Side,
    show: Show,
}

#[derive(Debug)]
enum Side {
    Send(Source),
    Receive(Target, ReceiveOptions),
}

impl TransferCommand {
    /// The verb, what it moves and where to.
    pub fn words(&self) -> (&'static str, &OsStr, &OsStr) {
        fn either<'a, T: AsRef<OsStr>>(one: &'a Option<T>, other: &'a Option<T>) -> &'a OsStr {
            one.as_ref().or(other.as_ref()).map_or(OsStr::new(""), AsRef::as_ref)
        }
        match self {
            Self::SendFile(SendFileArgs { local, remote, localpath, remotepath, .. }) => {
                ("send-file", either(local, localpath), either(remote, remotepath))
            }
            Self::RecvFile(RecvFileArgs { local, remote, localpath, remotepath, .. }) => {
                ("recv-file", either(remote, remotepath), either(local, localpath))
            }
            Self::SendDir(SendDirArgs { local, remote, localdir, remotedir, .. }) => {
                ("send-dir", either(local, localdir), either(remote, remotedir))
            }
            Self::RecvDir(RecvDirArgs { local, remote, localdir, remotedir, .. }) => {
                ("recv-dir", either(remote, remotedir), either(local, localdir))
            }
        }
    }

    /// What to do about a refusal that has a simple reason, for people.
    pub(crate) fn advice(&self, refusal: &Refusal) -> Option<&'static str> {
        let is_directory = refusal.message.ends_with("is a directory, not a file");
        match (self, refusal.code) {
            (Self::SendFile(_), Code::PathRefused) if is_directory => {
                Some("with a \"/\" at the end of its path the file goes into it")
            }
            (Self::RecvFile(_), Code::PathRefused) if is_directory => {
                Some("recv-dir, or cp -r, receives directories")
            }
            (Self::RecvFile(_) | Self::RecvDir(_), Code::NotFound)
                if self.words().1.as_bytes().iter().any(|byte| b"*?[".contains(byte)) =>
            {
                Some("patterns are not expanded in an enclave: receive the directory, and --exclude the rest")
            }
            _ => None,
        }
    }

    /// Opens what is local, before anybody is asked for anything.
    ///
    /// # Errors
    /// What is not there, or not of the kind that the verb moves.
    pub fn prepare(self) -> Result<Prepared, ClientError> {
        match self {
            Self::SendFile(args) => args.prepare(),
            Self::RecvFile(args) => args.prepare(),
            Self::SendDir(args) => args.prepare(),
            Self::RecvDir(args) => args.prepare(),
        }
    }
}

impl Prepared {
    /// What the server is asked for.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Whether the same command, given again after a cut, goes on where this one stopped.
    pub fn resumes(&self) -> bool {
        match (&self.side, &self.request) {
            (Side::Send(Source::Stream { .. }) | Side::Receive(Target::Stream(_), _), _) => false,
            (_, Request::SendFile(SendFile { resume, .. }) | Request::RecvFile(RecvFile { resume, .. })) => {
                *resume
            }
            (_, Request::SendDir(SendDir { resume, .. }) | Request::RecvDir(RecvDir { resume, .. })) => {
                *resume
            }
            _ => false,
        }
    }

    /// Carries the transfer out on a connection that nothing was sent on yet, and shows how it goes.
    ///
    /// # Errors
    /// What either side says.
    pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(self, stream: &mut S) -> Result<(), ClientError> {
        let Self { request, side, show } = self;
        let meter = Meter::default();
        let transfer = async {
            match side {
                Side::Send(source) => upload(stream, &request, source, meter.clone(), IDLE).await,
                Side::Receive(target, options) => {
                    download(stream, &request, target, options, meter.clone(), IDLE).await
                }
            }
        };
        show.during(&meter, transfer).await.map(drop)
    }
}

impl SendFileArgs {
    fn prepare(self) -> Result<Prepared, ClientError> {
        let local = self.local.or(self.localpath).unwrap_or_default();
        let mut path = self.remote.or(self.remotepath).unwrap_or_default().into_vec();
        if path.ends_with(b"/")
            && !is_stream(&local)
            && let Some(name) = local.file_name()
        {
            path.extend_from_slice(name.as_bytes());
        }
        let shown = local.as_os_str().as_bytes().to_vec();
        let (source, size) = if is_stream(&local) {
            let stream = Box::new(own(&io::stdin())?);
            (Source::Stream { stream, mode: self.mode.unwrap_or(STREAM_MODE) }, None)
        } else {
            let file = local_file(&local)?;
            let size = super::allocated(&file, &shown)?;
            (Source::File { file, shown }, Some(size))
        };
        let request =
            Request::SendFile(SendFile { path, mode: self.mode, size, resume: !self.how.no_resume });
        Ok(Prepared { request, side: Side::Send(source), show: self.how.show("send-file", false) })
    }
}

impl RecvFileArgs {
    fn prepare(self) -> Result<Prepared, ClientError> {
        let path = self.remote.or(self.remotepath).unwrap_or_default().into_vec();
        let mut local = self.local.or(self.localpath).unwrap_or_else(|| PathBuf::from("."));
        let to_stream = is_stream(&local);
        let target = if to_stream {
            Target::Stream(Box::new(own(&io::stdout())?))
        } else {
            // The name is the one that this side's user typed, never one that the enclave says.
            if local.is_dir()
                && let Some(name) = Path::new(&OsString::from_vec(path.clone())).file_name()
            {
                local.push(name);
            }
            Target::File { place: Place::local(&local)?, mode: None }
        };
        let request = Request::RecvFile(RecvFile { path, resume: !self.how.no_resume });
        let side = Side::Receive(target, self.receive.options(self.how));
        Ok(Prepared { request, side, show: self.how.show("recv-file", to_stream) })
    }
}

impl SendDirArgs {
    fn prepare(self) -> Result<Prepared, ClientError> {
        let local = self.local.or(self.localdir).unwrap_or_default();
        let path = self.remote.or(self.remotedir).unwrap_or_default().into_vec();
        let excludes = Excludes::parse(&self.exclude).map_err(TransferError::from)?;
        let shown = local.as_os_str().as_bytes().to_vec();
        let source = Source::Tree { directory: local_directory(&local)?, shown, excludes };
        let request = Request::SendDir(SendDir { path, size: None, resume: !self.how.no_resume });
        Ok(Prepared { request, side: Side::Send(source), show: self.how.show("send-dir", false) })
    }
}

impl RecvDirArgs {
    fn prepare(self) -> Result<Prepared, ClientError> {
        let local = self.local.or(self.localdir).unwrap_or_default();
        let path = self.remote.or(self.remotedir).unwrap_or_default().into_vec();
        // Refused here already, with the same words.
        Excludes::parse(&self.exclude).map_err(TransferError::from)?;
        let excludes = self.exclude.into_iter().map(String::into_bytes).collect();
        let request = Request::RecvDir(RecvDir { path, excludes, resume: !self.how.no_resume });
        let side = Side::Receive(Target::Tree(Place::local(&local)?), self.receive.options(self.how));
        Ok(Prepared { request, side, show: self.how.show("recv-dir", false) })
    }
}

impl How {
    fn show(self, verb: &'static str, to_stdout: bool) -> Show {
        Show {
            verb,
            json: self.json,
            summary: !self.quiet && !self.json,
            bar: !self.quiet && !self.json && io::stderr().is_terminal(),
            to_stdout,
        }
    }
}

impl Receive {
    fn options(self, how: How) -> ReceiveOptions {
        ReceiveOptions {
            resume: !how.no_resume,
            special_bits: self.special_bits,
            durable: self.fsync,
            max_bytes: self.max_bytes.unwrap_or(u64::MAX),
            ..ReceiveOptions::default()
        }
    }
}

fn is_stream(local: &Path) -> bool {
    local == Path::new("-")
}

/// A stream of this process without the buffers that the standard library puts before it.
fn own(stream: &impl AsFd) -> Result<File, TransferError> {
    let own = stream.as_fd().try_clone_to_owned();
    own.map(File::from).map_err(|error| TransferError::io(b"-", "open it", error))
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("expected up to four octal digits, as in 0640".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(subcommand)]
        command: TransferCommand,
    }

    fn prepared(words: &[&str]) -> Result<Prepared, String> {
        let words = std::iter::once("pipeline").chain(words.iter().copied());
        let program = Program::try_parse_from(words).map_err(|error| error.to_string())?;
        program.command.prepare().map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_are_in_the_order_of_the_verb() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"abc").unwrap();
        let (file, folder) = (file.to_str().unwrap(), folder.path().to_str().unwrap());
        let path = |words: &[&str]| match prepared(words).unwrap().request {
            Request::SendFile(SendFile { path, .. })
            | Request::RecvFile(RecvFile { path, .. })
            | Request::SendDir(SendDir { path, .. })
            | Request::RecvDir(RecvDir { path, .. }) => String::from_utf8(path).unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(path(&["send-file", file, "/srv/x"]), "/srv/x");
        assert_eq!(path(&["send-file", file, "/srv/"]), "/srv/file");
        assert_eq!(path(&["send-file", "--localpath", file, "--remotepath", "/srv/x"]), "/srv/x");
        assert_eq!(path(&["recv-file", "/srv/x", folder]), "/srv/x");
        assert_eq!(path(&["recv-file", "--remotepath", "/srv/x", "--localpath", folder]), "/srv/x");
        assert_eq!(path(&["send-dir", folder, "/srv/x"]), "/srv/x");
        assert_eq!(path(&["recv-dir", "/srv/x", folder]), "/srv/x");
        assert_eq!(path(&["recv-dir", "--remotedir", "/srv/x", "--localdir", folder]), "/srv/x");
    }

    #[test]
    fn what_is_local_is_looked_at_before_anybody_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_str().unwrap();
        let refused = |words: &[&str]| prepared(words).unwrap_err();
        assert!(refused(&["send-file", folder, "/x"]).contains("is a directory, not a file"));
        assert!(refused(&["send-file", &format!("{folder}/none"), "/x"]).contains("No such file"));
        assert!(refused(&["recv-file", "/x", &format!("{folder}/none/x")]).contains("No such file"));
        assert!(refused(&["send-dir", &format!("{folder}/none"), "/x"]).contains("No such file"));
        assert!(refused(&["recv-dir", "/x", folder, "--exclude", "[z-a]"]).contains("not a pattern"));
        assert!(refused(&["send-file", folder, "/x", "--mode", "999"]).contains("octal"));
        assert!(refused(&["send-file", folder]).contains("REMOTE"));
    }
}
