use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::*;

struct Board {
    dir: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Board {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let board = Switchboard::bind(&dir.path().join("vsock")).await.unwrap();
        let task = tokio::spawn(async move {
            let _ = board.run().await;
        });
        Self { dir, task }
    }

    async fn guest(&self, port: Port) -> Listener {
        Listener::bind(&Addr::Unix(Switchboard::guest_path(self.dir.path(), port))).await.unwrap()
    }

    async fn connect(&self, port: Port) -> Result<Stream, ConnectError> {
        let addr = Addr::Hybrid { path: self.dir.path().join("vsock"), port };
        Stream::connect(&addr, HANDSHAKE_TIMEOUT).await
    }

    /// A client that writes its own first bytes; what comes back until the end.
    async fn answer_to(&self, first: &[u8]) -> Vec<u8> {
        let mut client = UnixStream::connect(self.dir.path().join("vsock")).await.unwrap();
        client.write_all(first).await.unwrap();
        let mut answer = Vec::new();
        match client.read_to_end(&mut answer).await {
            // Closed with bytes of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            outcome => assert_eq!(outcome.unwrap(), answer.len()),
        }
        answer
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn connects_to_the_guest_that_listens_on_the_port() {
    let board = Board::start().await;
    let guest = board.guest(Port(5005)).await;
    let (host, guest) = tokio::join!(board.connect(Port(5005)), guest.accept());
    let (mut host, mut guest) = (host.unwrap(), guest.unwrap().0);
    host.write_all(b"ping").await.unwrap();
    host.shutdown().await.unwrap();
    let mut received = Vec::new();
    guest.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"ping");
    guest.write_all(b"pong").await.unwrap();
    drop(guest);
    let mut received = Vec::new();
    host.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"pong");
}

#[tokio::test]
async fn bytes_behind_the_line_reach_the_guest() {
    let board = Board::start().await;
    let guest = board.guest(Port(7)).await;
    let mut client = UnixStream::connect(board.dir.path().join("vsock")).await.unwrap();
    client.write_all(b"CONNECT 7\nearly").await.unwrap();
    let mut early = [0; 5];
    guest.accept().await.unwrap().0.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
}

#[tokio::test]
async fn refused_port_closes_without_an_answer() {
    let board = Board::start().await;
    assert!(matches!(board.connect(Port(1)).await, Err(ConnectError::Refused { .. })));
    assert_eq!(board.answer_to(b"CONNECT 1\n").await, b"");
}

#[tokio::test]
async fn endless_or_malformed_line_is_refused_and_others_are_served() {
    let board = Board::start().await;
    let guest = board.guest(Port(2)).await;
    assert_eq!(board.answer_to(&[b'9'; 1000]).await, b"");
    assert_eq!(board.answer_to(b"GET / HTTP/1.1\r\n").await, b"");
    assert_eq!(board.answer_to(b"CONNECT ../2\n").await, b"");
    let (host, _guest) = tokio::join!(board.connect(Port(2)), guest.accept());
    host.unwrap();
}

#[tokio::test(start_paused = true)]
async fn silent_client_is_dropped() {
    let (near, mut far) = crate::pair();
    let start = tokio::time::Instant::now();
    let error = serve(near, Path::new("/nowhere")).await.unwrap_err();
    assert!(matches!(error, ServeError::Silent));
    assert_eq!(start.elapsed(), HANDSHAKE_TIMEOUT);
    assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
}

/// On the local backend the guest's root user can write to this folder. A link there that leads to a socket of the host,
/// the container engine's say, would have opened that socket to whoever reaches a published port.
#[tokio::test]
async fn link_in_the_place_of_a_socket_is_not_followed() {
    let board = Board::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let secret = Listener::bind(&Addr::Unix(elsewhere.path().join("engine"))).await.unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("engine"), board.dir.path().join("guest_80")).unwrap();
    assert!(matches!(board.connect(Port(80)).await, Err(ConnectError::Refused { .. })));
    // Nor is the guest's own switch in the place of the board's.
    let linked = elsewhere.path().join("vsock");
    std::os::unix::fs::symlink(board.dir.path().join("vsock"), &linked).unwrap();
    let outcome = Stream::connect(&Addr::Hybrid { path: linked, port: Port(80) }, HANDSHAKE_TIMEOUT).await;
    assert!(matches!(outcome, Err(ConnectError::Io { .. })), "{outcome:?}");
    let nobody = tokio::time::timeout(Duration::from_millis(50), secret.accept()).await;
    assert!(nobody.is_err(), "the host's socket was spoken to");
}
