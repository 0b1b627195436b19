//! A server and a client in one process, a line between them that can be cut, and trees to compare.
#![allow(dead_code, reason = "not every test program uses all of it")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use pipeline::{
    frame::{FrameReader, FrameWriter, Kind},
    request::{RecvDir, RecvFile, Request, SendDir, SendFile},
    serve::{Done, ServeError, Session, Verbs},
    transfer::{
        Excludes, Meter, Outcome, Place, ReceiveOptions, RemotePath, Source, Target, TransferVerbs,
        client::{ClientError, download, upload},
        local_directory, local_file,
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex},
    task::JoinHandle,
};

/// Longer than any step takes on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The line between client and server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Line {
    /// Blocks of this many bytes.
    Pieces(usize),
    /// Cut when so many bytes went from the client to the server.
    CutUp(usize),
    /// Cut when so many bytes went from the server to the client.
    CutDown(usize),
    /// Still when so many bytes went from the client to the server, until [`Record::go_on`].
    Hold(usize),
}

/// What went over the line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) up: Vec<u8>,
    pub(crate) down: Vec<u8>,
    /// Set to let a line that is still go on.
    pub(crate) go_on: bool,
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

pub(crate) fn reach(paths: &[&str]) -> Vec<RemotePath> {
    paths.iter().map(|path| RemotePath::parse(path.as_bytes()).unwrap()).collect()
}

/// Serves one request as the server does.
pub(crate) async fn serve<S>(stream: S, root: PathBuf, reach: Vec<RemotePath>) -> Result<Done, ServeError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let mut input = FrameReader::new(Box::new(reader) as Box<_>);
    let first = input.next().await?.expect("a client asks for something");
    assert_eq!(first.kind, Kind::Request);
    let request = Request::decode(&first.payload).expect("tests ask well");
    let output = FrameWriter::new(Box::new(writer) as Box<_>);
    let mut session = Session { request, root, reach, input, output };
    let done = TransferVerbs::new(PATIENCE).serve(&mut session).await?;
    session.output.send(Kind::Exit, &done.exit.encode()).await?;
    session.output.flush().await?;
    Ok(done)
}

pub(crate) type Serving = JoinHandle<Result<Done, ServeError>>;

/// A connection to a server whose root is `root`.
pub(crate) fn connect(
    root: &Path,
    allowed: &[&str],
    line: Line,
) -> (DuplexStream, Serving, Arc<Mutex<Record>>) {
    let piece = if let Line::Pieces(piece) = line { piece } else { 64 << 10 };
    let (client, near) = duplex(piece);
    let (far, server) = duplex(piece);
    let record = Arc::<Mutex<Record>>::default();
    tokio::spawn(relay(near, far, line, Arc::clone(&record)));
    let serving = tokio::spawn(serve(server, root.to_owned(), reach(allowed)));
    (client, serving, record)
}

async fn relay(near: DuplexStream, far: DuplexStream, line: Line, record: Arc<Mutex<Record>>) {
    let (up, down) = match line {
        Line::Pieces(_) | Line::Hold(_) => (usize::MAX, usize::MAX),
        Line::CutUp(count) => (count, usize::MAX),
        Line::CutDown(count) => (usize::MAX, count),
    };
    let (near_in, near_out) = tokio::io::split(near);
    let (far_in, far_out) = tokio::io::split(far);
    let upward = async {
        let mut near_in = near_in;
        let mut far_out = far_out;
        if let Line::Hold(count) = line {
            let held =
                forward(&mut near_in, &mut far_out, count, |bytes| record.lock().unwrap().up.extend(bytes));
            held.await;
            while !record.lock().unwrap().go_on {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let seen = |bytes: &[u8]| record.lock().unwrap().up.extend_from_slice(bytes);
        forward(&mut near_in, &mut far_out, up, seen).await
    };
    let downward = async {
        let (mut far_in, mut near_out) = (far_in, near_out);
        let seen = |bytes: &[u8]| record.lock().unwrap().down.extend_from_slice(bytes);
        forward(&mut far_in, &mut near_out, down, seen).await
    };
    tokio::pin!(upward, downward);
    // An end in one direction leaves the other; a cut takes both.
    tokio::select! {
        cut = &mut upward => if !cut { downward.await; },
        cut = &mut downward => if !cut { upward.await; },
    }
}

/// Whether the line was cut, and did not end.
async fn forward(
    from: &mut tokio::io::ReadHalf<DuplexStream>,
    to: &mut tokio::io::WriteHalf<DuplexStream>,
    mut left: usize,
    mut seen: impl FnMut(&[u8]),
) -> bool {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if left == 0 {
            return true;
        }
        let most = left.min(buffer.len());
        let Ok(count @ 1..) = from.read(&mut buffer[..most]).await else { break };
        seen(&buffer[..count]);
        left -= count;
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // Not a failure if the other end is gone already.
    let _ = to.shutdown().await;
    false
}

/// One of the four verbs, with what it needs.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) verb: &'static str,
    pub(crate) root: PathBuf,
    pub(crate) allowed: Vec<&'static str>,
    pub(crate) local: PathBuf,
    pub(crate) remote: String,
    pub(crate) excludes: Vec<String>,
    pub(crate) resume: bool,
    pub(crate) options: ReceiveOptions,
}

impl Job {
    pub(crate) fn new(verb: &'static str, root: &Path, local: &Path, remote: &str) -> Self {
        Self {
            verb,
            root: root.to_owned(),
            allowed: vec!["/"],
            local: local.to_owned(),
            remote: remote.to_owned(),
            excludes: Vec::new(),
            resume: true,
            options: ReceiveOptions::default(),
        }
    }

    pub(crate) fn request(&self) -> Request {
        let (path, resume) = (self.remote.clone().into_bytes(), self.resume);
        match self.verb {
            "send-file" => Request::SendFile(SendFile { path, mode: None, size: None, resume }),
            "recv-file" => Request::RecvFile(RecvFile { path, resume }),
            "send-dir" => Request::SendDir(SendDir { path, size: None, resume }),
            _ => {
                let excludes = self.excludes.iter().map(|one| one.clone().into_bytes()).collect();
                Request::RecvDir(RecvDir { path, excludes, resume })
            }
        }
    }

    /// The client's side on `stream`.
    pub(crate) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        meter: Meter,
    ) -> Result<Outcome, ClientError> {
        let shown = self.local.as_os_str().as_bytes().to_vec();
        let options = ReceiveOptions { resume: self.resume, ..self.options };
        let (request, local) = (self.request(), &self.local);
        let run = async {
            match self.verb {
                "send-file" => {
                    let source = Source::File { file: local_file(local)?, shown };
                    upload(stream, &request, source, meter, PATIENCE).await
                }
                "send-dir" => {
                    let excludes = Excludes::parse(&self.excludes).expect("tests have patterns");
                    let source = Source::Tree { directory: local_directory(local)?, shown, excludes };
                    upload(stream, &request, source, meter, PATIENCE).await
                }
                "recv-file" => {
                    let target = Target::File { place: Place::local(local)?, mode: None };
                    download(stream, &request, target, options, meter, PATIENCE).await
                }
                _ => {
                    let target = Target::Tree(Place::local(local)?);
                    download(stream, &request, target, options, meter, PATIENCE).await
                }
            }
        };
        tokio::time::timeout(PATIENCE, run).await.expect("a transfer ends")
    }

    /// Both sides.
    pub(crate) async fn run(&self, line: Line) -> Ran {
        let (mut stream, serving, record) = connect(&self.root, &self.allowed, line);
        let meter = Meter::default();
        let client = self.ask(&mut stream, meter.clone()).await;
        drop(stream);
        let server = tokio::time::timeout(PATIENCE, serving).await.expect("a server ends").unwrap();
        let record = record.lock().unwrap().clone();
        Ran { client, server, meter, record }
    }
}

pub(crate) struct Ran {
    pub(crate) client: Result<Outcome, ClientError>,
    pub(crate) server: Result<Done, ServeError>,
    pub(crate) meter: Meter,
    pub(crate) record: Record,
}

impl Ran {
    /// Both sides agree that it was done.
    pub(crate) fn done(self) -> Self {
        let outcome = self.client.as_ref().unwrap_or_else(|error| panic!("client: {error}"));
        let done = self.server.as_ref().unwrap_or_else(|error| panic!("server: {error}"));
        assert_eq!(done.digest, Some(outcome.content.unwrap_or(outcome.total.digest)));
        self
    }

    pub(crate) fn refused(self) -> String {
        match self.client {
            Ok(_) => panic!("it was done"),
            Err(error) => error.to_string(),
        }
    }
}

/// Offsets behind every frame of `bytes`.
pub(crate) fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let (mut at, mut found) = (0, Vec::new());
    while let Some(head) = bytes.get(at..at + 5) {
        at += 5 + u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        found.push(at);
    }
    found
}

/// Everything that a transfer carries of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) mode: u32,
    pub(crate) mtime: (i64, i64),
    pub(crate) what: What,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// Content, and the first of its names.
    File(Vec<u8>, PathBuf),
    Directory,
    Link(PathBuf),
    Other,
}

impl std::fmt::Debug for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(content, first) => write!(f, "{} bytes, first {first:?}", content.len()),
            Self::Directory => f.write_str("directory"),
            Self::Link(target) => write!(f, "-> {target:?}"),
            Self::Other => f.write_str("other"),
        }
    }
}

/// A tree as `lstat` sees it, by path below `root`; the root's is empty.
pub(crate) fn survey(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut found = BTreeMap::new();
    look(root, Path::new(""), &mut found);
    let mut first = BTreeMap::new();
    for (path, seen) in &mut found {
        if let What::File(_, name) = &mut seen.what {
            let inode = fs::symlink_metadata(below(root, path)).unwrap().ino();
            *name = first.entry(inode).or_insert_with(|| path.clone()).clone();
        }
    }
    found
}

/// `Path::join` puts a `/` at the end of a path that an empty one is joined to.
fn below(root: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() { root.to_owned() } else { root.join(path) }
}

fn look(root: &Path, relative: &Path, found: &mut BTreeMap<PathBuf, Seen>) {
    let path = below(root, relative);
    let metadata = fs::symlink_metadata(&path).unwrap();
    let kind = metadata.file_type();
    let what = if kind.is_file() {
        What::File(fs::read(&path).unwrap(), PathBuf::new())
    } else if kind.is_dir() {
        for entry in fs::read_dir(&path).unwrap() {
            look(root, &relative.join(entry.unwrap().file_name()), found);
        }
        What::Directory
    } else if kind.is_symlink() {
        What::Link(fs::read_link(&path).unwrap())
    } else {
        assert!(kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device());
        What::Other
    };
    let mode = if kind.is_symlink() { 0 } else { metadata.permissions().mode() & 0o7777 };
    let seen = Seen { mode, mtime: (metadata.mtime(), metadata.mtime_nsec()), what };
    found.insert(relative.to_owned(), seen);
}

/// Names of unfinished files anywhere below `root`.
pub(crate) fn partials(root: &Path) -> Vec<PathBuf> {
    let is_partial = |path: &PathBuf| path.to_string_lossy().contains(".glasshouse-");
    survey(root).into_keys().filter(is_partial).collect()
}

/// Bytes that look like nothing, the same every time.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..length).map(|_| random.next().to_le_bytes()[0]).collect()
}

/// xorshift64*: enough to vary tests, and repeatable.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next()).unwrap() % end
    }
}

pub(crate) fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
