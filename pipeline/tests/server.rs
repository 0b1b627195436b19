//! The server as one that listens: what its documents state, and who cannot take the place of others.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

#[path = "sessions/world.rs"]
#[expect(dead_code, reason = "the other tests use all of it")]
mod world;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use attestation::{
    Document, Sha256,
    binding::{Ledger, Statement},
};
use channel::io::{ClientConfig, OpenError};
use pipeline::{
    Limits,
    server::{self, ServerConfig},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use world::{World, application, operator};

/// A server that listens, until it is dropped.
struct Server {
    world: World,
    folder: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(ledger: Option<PathBuf>, limits: Limits) -> Self {
        let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
        let config = ServerConfig {
            listen: transport::Addr::Unix(folder.path().join("control")),
            module: world.module.clone(),
            operators: vec![operator(&["exec"])],
            state: folder.path().join("state"),
            application: application(),
            init: None,
            ledger,
            limits,
        };
        let (ready, listening) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let ready = || ready.send(()).unwrap();
            server::run(config, ready, std::future::pending()).await.unwrap();
        });
        listening.await.unwrap();
        Self { world, folder, task }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("control")).await.unwrap()
    }

    /// What the server's document states, for a client that has seen enough then.
    async fn statement(&self) -> Result<Statement, OpenError> {
        let mut document = None;
        let look = |evidence: &channel::Evidence| {
            document = Some(evidence.document.clone());
            Err::<(), _>(io::Error::other("that is all"))
        };
        let config = ClientConfig { deadline: Duration::from_secs(60), ..ClientConfig::default() };
        let ended = channel::io::connect(self.connect().await, config, look).await.unwrap_err();
        let document = Document::decode(&document.ok_or(ended)?).unwrap();
        Ok(Statement::decode(&document.user_data.unwrap()).unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A ledger that answers every request for its checkpoint with `answer`.
fn ledger(socket: &Path, answer: &'static str) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            assert!(request.starts_with(b"GET /v1/checkpoint HTTP/1.1\r\n"));
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len());
            stream.write_all([head.as_bytes(), answer.as_bytes()].concat().as_slice()).await.unwrap();
        }
    })
}

const CHECKPOINT: &str = concat!(
    r#"{"ledger_key":"00","log_root":"0101010101010101010101010101010101010101010101010101010101010101","#,
    r#""map_root":"0202020202020202020202020202020202020202020202020202020202020202","note":"n","origin":"o","#,
    r#""size":7,"time":1,"vrf_key":"0303030303030303030303030303030303030303030303030303030303030303"}"#
);

#[tokio::test]
async fn documents_state_the_ledger_where_there_is_one() {
    let server = Server::start(None, Limits::default()).await;
    let statement = server.statement().await.unwrap();
    assert!(statement.ledger().is_none() && statement.control_head().is_some());

    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("ledger.sock");
    let answering = ledger(&socket, CHECKPOINT);
    let server = Server::start(Some(socket), Limits::default()).await;
    let statement = server.statement().await.unwrap();
    let digest = |byte| Sha256([byte; 32]);
    let expected = Ledger { vrf_key: [3; 32], size: 7, log_root: digest(1), map_root: digest(2) };
    assert_eq!(statement.ledger(), Some(&expected));
    assert!(statement.control_head().is_some());
    answering.abort();
}

/// A statement without the ledger says that the enclave keeps none. Whoever could silence the ledger for a moment would
/// have had such a document.
#[tokio::test]
async fn without_its_ledger_a_server_has_no_document() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("ledger.sock");
    let server = Server::start(Some(socket.clone()), Limits::default()).await;
    let refused = |error: OpenError| {
        let refusal = channel::Refusal::NoEvidence;
        assert!(
            matches!(error, OpenError::Channel(channel::Error::Refused { refusal: found, .. }) if found == refusal)
        );
    };
    refused(server.statement().await.unwrap_err());
    let answering = ledger(&socket, r#"{"size":7}"#);
    refused(server.statement().await.unwrap_err());
    answering.abort();
}

/// One place for handshakes, taken by who says nothing, hangs up, or says what is no TLS.
#[tokio::test]
async fn who_says_nothing_or_hangs_up_takes_nobodys_place() {
    let limits = Limits { handshakes: 1, handshake: Duration::from_secs(2), ..Limits::default() };
    let server = Server::start(None, limits).await;
    let mut silent = server.connect().await;
    drop(server.connect().await);
    server.connect().await.write_all(&[0xff; 100]).await.unwrap();
    // Who comes then is served as soon as the place is free, which takes no longer than one of them may take.
    let mut patient = Err(OpenError::Ended);
    for _ in 0..20 {
        patient = server.statement().await;
        if patient.is_ok() {
            break;
        }
    }
    assert!(patient.is_ok(), "{patient:?}");
    let mut said = Vec::new();
    // The silent one was hung up on.
    tokio::time::timeout(Duration::from_secs(60), silent.read_to_end(&mut said)).await.unwrap().unwrap();
    assert!(server.world.is_unentered());
}
