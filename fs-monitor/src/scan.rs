//! `fs-monitor scan`: what is in a tree now, for people and scripts. Needs no daemon and keeps nothing.

use std::{
    io::{self, BufWriter, Write},
    os::{fd::BorrowedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde_json::{Map, Value, json};

use crate::{
    content::DigestSet,
    patterns::Patterns,
    state::{Content, Kind, State},
    tree::{Tree, TreeError, text},
    walk::{Found, Visitor, walk},
};

/// What to scan.
#[derive(Debug, Clone, clap::Args)]
pub struct ScanArgs {
    /// The directory or file
    pub path: PathBuf,
    /// Print each file as a line of JSON
    #[arg(long)]
    pub json: bool,
    /// What is left out, as a line of a .gitignore file at the top; may be given more than once
    #[arg(long, value_name = "PATTERN")]
    pub ignore: Vec<String>,
    /// Digests beside BLAKE3, shown by --json
    #[arg(long, value_name = "DIGEST", value_enum)]
    pub digest: Vec<Digest>,
    /// How many files are read at a time [default: one for each processor]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// A digest beside BLAKE3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Digest {
    /// SHA-256.
    Sha256,
    /// SHA3-512.
    #[value(name = "sha3-512")]
    Sha3_512,
}

/// Why nothing was scanned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// The path cannot be used.
    #[error("cannot find {}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The tree cannot be opened.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// What was found cannot be written.
    #[error("cannot write what was found")]
    Write(#[source] io::Error),
}

/// What a scan found, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Everything else.
    pub others: u64,
    /// What could not be read.
    pub unread: u64,
}

/// How many threads hash, unless it is said: one for each processor.
pub(crate) fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Scans and prints, ascending by path.
///
/// # Errors
/// When the path is not there, or `out` takes no more.
pub fn scan(args: &ScanArgs, out: impl Write) -> Result<Summary, ScanError> {
    let (base, root) = place(&args.path)?;
    let tree = Tree::open(&base, &[root], Patterns::new(&args.ignore).map_err(TreeError::from)?)?;
    let set = DigestSet {
        sha256: args.digest.contains(&Digest::Sha256),
        sha3_512: args.digest.contains(&Digest::Sha3_512),
    };
    let all = Collect(Mutex::default());
    let Ok(()) = walk(&tree, set, args.threads.unwrap_or_else(default_threads), &all);
    let mut files = all.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    print(&files, args.json, BufWriter::new(out)).map_err(ScanError::Write)?;
    Ok(summary(&files))
}

/// A directory is scanned as `/`, so that patterns are relative to it; a file as itself in its directory.
fn place(path: &Path) -> Result<(PathBuf, Vec<u8>), ScanError> {
    let path_error = |source| ScanError::Path { path: path.to_owned(), source };
    let full = std::fs::canonicalize(path).map_err(path_error)?;
    if full.is_dir() {
        return Ok((full, b"/".to_vec()));
    }
    let name = full.file_name().map(|name| [b"/", name.as_bytes()].concat());
    let parent = full.parent().map(Path::to_owned);
    parent.zip(name).ok_or_else(|| path_error(io::ErrorKind::NotFound.into()))
}

struct Collect(Mutex<Vec<Found>>);

impl Visitor for Collect {
    type Error = std::convert::Infallible;

    fn enter(&self, _: BorrowedFd<'_>, _: &[u8]) -> Result<(), Self::Error> {
        Ok(())
    }

    fn found(&self, files: Vec<Found>) -> Result<(), Self::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(files);
        Ok(())
    }
}

fn summary(files: &[Found]) -> Summary {
    let mut summary = Summary::default();
    for Found { state, .. } in files {
        match state.kind {
            Kind::File => {
                summary.files += 1;
                summary.bytes = summary.bytes.saturating_add(state.size);
            }
            _ => summary.others += 1,
        }
        summary.unread += u64::from(matches!(state.content, Content::Unread(_)));
    }
    summary
}

fn print(files: &[Found], as_json: bool, mut out: impl Write) -> io::Result<()> {
    for Found { path, state, .. } in files {
        if as_json {
            let mut members = members(state);
            members.insert("path".to_owned(), text(path).into());
            serde_json::to_writer(&mut out, &members)?;
            writeln!(out)?;
        } else {
            let State { mode, uid, gid, size, .. } = state;
            writeln!(out, "{:64} {mode:04o} {uid}:{gid} {size:>12} {}", what(state), text(path))?;
        }
    }
    out.flush()
}

/// The digest, or what stands in its place.
fn what(state: &State) -> String {
    match &state.content {
        Content::Digests(digests) => hex::encode(digests.blake3),
        Content::Target(target) => format!("-> {}", text(target)),
        Content::None => state.kind.name().to_owned(),
        Content::Unread(why) => format!("unread: {}", why.name()),
    }
}

/// The members of a state in JSON; those that a file does not have are left out.
pub fn members(state: &State) -> Map<String, Value> {
    let mut members = Map::new();
    let mut add = |name: &str, value: Value| members.insert(name.to_owned(), value);
    add("kind", state.kind.name().into());
    add("mode", state.mode.into());
    add("uid", state.uid.into());
    add("gid", state.gid.into());
    add("size", state.size.into());
    if matches!(state.kind, Kind::File | Kind::Symlink) {
        add("mtime", state.mtime.into());
    }
    if let Some((major, minor)) = state.device {
        add("device", json!([major, minor]));
    }
    match &state.content {
        Content::Digests(digests) => {
            add("blake3", hex::encode(digests.blake3).into());
            if let Some(sha256) = digests.sha256 {
                add("sha256", hex::encode(sha256).into());
            }
            if let Some(sha3_512) = &digests.sha3_512 {
                add("sha3_512", hex::encode(**sha3_512).into());
            }
        }
        Content::Target(target) => drop(add("target", text(target).into())),
        Content::Unread(why) => drop(add("unread", why.name().into())),
        Content::None => {}
    }
    members
}
