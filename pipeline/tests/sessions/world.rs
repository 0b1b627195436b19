//! A server without a network, and a client that speaks frames by hand.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use manifest::Operator;
use nsm::{
    Pcr, PcrIndex, Provider,
    sim::{DevelopmentRoot, SimulatedNsm},
};
use pipeline::{
    Application, Limits, Sessions,
    frame::{Frame, FrameReader, FrameWriter, Kind},
    reply::{Accepted, Exit, Refusal},
    request::{Program, Request, Run, Setting, Shell, Terminal, WindowSize},
    trace::Trace,
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadHalf, WriteHalf};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

/// Bytes that a stream between client and server holds.
const PIPE_BYTES: usize = 64 << 10;

pub(crate) struct World {
    directory: tempfile::TempDir,
    pub(crate) module: Arc<SimulatedNsm>,
    pub(crate) sessions: Arc<Sessions>,
    limits: Limits,
}

/// A client of one session.
pub(crate) struct Client<S = DuplexStream> {
    pub(crate) reader: FrameReader<ReadHalf<S>>,
    pub(crate) writer: FrameWriter<WriteHalf<S>>,
    /// The server's side of the session, which ends with it.
    pub(crate) server: tokio::task::JoinHandle<()>,
}

/// All that came of a session.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) accepted: Option<Accepted>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exit: Option<Exit>,
    pub(crate) refused: Option<Refusal>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = DevelopmentRoot::load_or_create(directory.path()).unwrap();
        let module =
            Arc::new(SimulatedNsm::new(&root, "i-1234567890abcdef0-enc1234567890abcde", &[]).unwrap());
        let sessions = sessions(&directory.path().join("control"), &module, &limits, None);
        Self { directory, module, sessions, limits }
    }

    /// With an init to ask, listening at this socket.
    pub(crate) fn with_init(socket: PathBuf) -> Self {
        let mut world = Self::new();
        world.sessions = sessions(&world.control(), &world.module, &world.limits, Some(socket));
        world
    }

    /// As if the server had been ended and started again.
    pub(crate) fn restart(&mut self) {
        self.sessions = sessions(&self.control(), &self.module, &self.limits, None);
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    /// A file that is not there yet, and the words of a shell that wait for it: so a program goes on when a test says so,
    /// and not after a time.
    pub(crate) fn gate(&self) -> (PathBuf, String) {
        let file = self.directory.path().join("gate");
        let wait = format!("while [ ! -e {} ]; do sleep 0.02; done", file.display());
        (file, wait)
    }

    pub(crate) fn pcr17(&self) -> nsm::PcrState {
        self.module.describe_pcr(PcrIndex::new(17_u8).unwrap()).unwrap()
    }

    pub(crate) fn is_unentered(&self) -> bool {
        let state = self.pcr17();
        !state.locked && state.value == Pcr::ZERO
    }

    /// A session of somebody who may do everything, its request sent.
    pub(crate) async fn ask(&self, request: &Request) -> Client {
        self.ask_as(&operator(&["exec", "read:/", "seal", "services", "shell", "write:/"]), request).await
    }

    pub(crate) async fn ask_as(&self, operator: &Operator, request: &Request) -> Client {
        let mut client = self.connect(operator);
        client.send(Kind::Request, &request.encode().unwrap()).await;
        client
    }

    pub(crate) fn connect(&self, operator: &Operator) -> Client {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        self.connect_over(ours, theirs, operator)
    }

    pub(crate) fn connect_over<C, S>(&self, ours: C, theirs: S, operator: &Operator) -> Client<C>
    where
        C: AsyncRead + AsyncWrite,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sessions, operator) = (self.sessions.clone(), operator.clone());
        let server = tokio::spawn(async move { sessions.serve(theirs, &operator).await });
        let (reader, writer) = tokio::io::split(ours);
        Client { reader: FrameReader::new(reader), writer: FrameWriter::new(writer), server }
    }

    pub(crate) async fn run(&self, script: &str) -> Outcome {
        self.ask(&run(script)).await.outcome().await
    }
}

fn sessions(
    control: &std::path::Path,
    module: &Arc<SimulatedNsm>,
    limits: &Limits,
    init: Option<PathBuf>,
) -> Arc<Sessions> {
    let trace = Arc::new(Trace::open(control, module.clone()));
    Arc::new(Sessions::new(application(), trace, limits.clone(), init, Vec::new()))
}

/// This machine, without confinement: tests need no privilege.
pub(crate) fn application() -> Application {
    Application {
        root: "/".into(),
        confined: false,
        env: vec![("LC_ALL".into(), "C".into())],
        workdir: "/".into(),
        user: "0".into(),
    }
}

pub(crate) fn operator(may: &[&str]) -> Operator {
    let may = may.iter().map(|text| text.parse().unwrap()).collect();
    Operator { key: KEY.parse().unwrap(), may, name: "alice".into() }
}

pub(crate) fn run_of(script: &str) -> Run {
    Run {
        program: Program::Script(script.into()),
        setting: Setting::default(),
        timeout_ms: None,
        terminal: None,
        no_wait: false,
    }
}

pub(crate) fn run(script: &str) -> Request {
    Request::Run(run_of(script))
}

pub(crate) fn shell(script: &str, columns: u16, rows: u16) -> Request {
    Request::Shell(Shell {
        program: Some(Program::Script(script.into())),
        setting: Setting::default(),
        terminal: Terminal { term: "xterm".into(), size: WindowSize { columns, rows } },
    })
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) async fn send(&mut self, kind: Kind, payload: &[u8]) {
        self.writer.send(kind, payload).await.unwrap();
        self.writer.flush().await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let next = tokio::time::timeout(Duration::from_secs(60), self.reader.next()).await;
        next.expect("the server answers").unwrap()
    }

    /// Reads output until it contains `text`.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            let frame = self.next().await.unwrap_or_else(|| panic!("ended before {text:?}, after {seen:?}"));
            assert!(!matches!(frame.kind, Kind::Exit | Kind::Refused), "{frame:?} after {seen:?}");
            if matches!(frame.kind, Kind::Stdout | Kind::Stderr) {
                seen.push_str(&String::from_utf8_lossy(&frame.payload));
            }
        }
        seen
    }

    /// Reads to the end of the session.
    pub(crate) async fn outcome(self) -> Outcome {
        // The writing side stays open until then: a client that hangs up ends its program.
        let outcome = outcome(self.reader).await;
        drop(self.writer);
        outcome
    }
}

/// Reads to the end of a session.
pub(crate) async fn outcome<S: AsyncRead + AsyncWrite + Unpin>(
    mut reader: FrameReader<ReadHalf<S>>,
) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(60), reader.next()).await;
        let Some(Frame { kind, payload }) = next.expect("the server answers").unwrap() else {
            return outcome;
        };
        {
            assert!(outcome.exit.is_none() && outcome.refused.is_none(), "{kind:?} after the last frame");
            match kind {
                Kind::Accepted => outcome.accepted = Some(Accepted::decode(&payload).unwrap()),
                Kind::Stdout => outcome.stdout.extend(&payload),
                Kind::Stderr => outcome.stderr.extend(&payload),
                Kind::Exit => outcome.exit = Some(Exit::decode(&payload).unwrap()),
                Kind::Refused => outcome.refused = Some(Refusal::decode(&payload).unwrap()),
                Kind::StdinWindow => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

impl Outcome {
    pub(crate) fn status(&self) -> u8 {
        self.exit.unwrap_or_else(|| panic!("{self:?}")).status
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    pub(crate) fn code(&self) -> pipeline::reply::Code {
        self.refused.as_ref().unwrap_or_else(|| panic!("{self:?}")).code
    }
}

/// A word that only one test's processes have on their command line.
pub(crate) fn marker() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}0{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// How many processes have `marker` on their command line.
pub(crate) fn processes_with(marker: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap();
    let command =
        |entry: std::io::Result<std::fs::DirEntry>| std::fs::read(entry.ok()?.path().join("cmdline")).ok();
    entries.filter_map(command).filter(|line| String::from_utf8_lossy(line).contains(marker)).count()
}

/// Waits until `holds`; fails after a minute.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come about");
}
