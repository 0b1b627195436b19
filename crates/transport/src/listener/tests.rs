use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::coalesce::Coalesced;

const SOON: Duration = Duration::from_secs(60);

fn unix(dir: &tempfile::TempDir, name: &str) -> Addr {
    Addr::Unix(dir.path().join(name))
}

async fn connected(addr: &Addr) -> (Stream, Stream) {
    let listener = Listener::bind(addr).await.unwrap();
    let (client, server) = tokio::join!(Stream::connect(listener.local_addr(), SOON), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

/// One side ends its half; the other reads all of it and the end, and can still send.
async fn half_close_is_exact<A, B>(mut a: A, mut b: B)
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    a.write_all(b"question").await.unwrap();
    a.shutdown().await.unwrap();
    let mut question = Vec::new();
    b.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    b.write_all(b"answer").await.unwrap();
    b.shutdown().await.unwrap();
    let mut answer = Vec::new();
    a.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
}

#[tokio::test]
async fn every_kind_connects_and_half_closes() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [unix(&dir, "s"), Addr::Tcp("127.0.0.1:0".into()), Addr::Memory("half-close".into())];
    for addr in kinds {
        let (client, server) = connected(&addr).await;
        half_close_is_exact(client, server).await;
    }
    let (a, b) = crate::pair();
    half_close_is_exact(a, b).await;
    let (a, b) = tokio::net::UnixStream::pair().unwrap();
    half_close_is_exact(Coalesced::new(a), Coalesced::new(b)).await;
}

#[tokio::test]
async fn hybrid_listener_is_a_unix_socket_named_after_the_port() {
    let dir = tempfile::tempdir().unwrap();
    let addr = Addr::Hybrid { path: dir.path().join("vsock"), port: Port(9000) };
    let listener = Listener::bind(&addr).await.unwrap();
    assert_eq!(listener.local_addr(), &addr);
    let seen_by_guest = unix(&dir, "vsock_9000");
    let (guest, host) = tokio::join!(Stream::connect(&seen_by_guest, SOON), listener.accept());
    half_close_is_exact(guest.unwrap(), host.unwrap().0).await;
}

#[tokio::test]
async fn left_over_socket_file_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let addr = unix(&dir, "s");
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap());
    assert!(dir.path().join("s").exists());
    connected(&addr).await;
}

#[tokio::test]
async fn live_socket_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    for addr in [unix(&dir, "s"), Addr::Tcp("127.0.0.1:0".into()), Addr::Memory("live".into())] {
        let first = Listener::bind(&addr).await.unwrap();
        let second = Listener::bind(first.local_addr()).await;
        assert!(matches!(second, Err(BindError::InUse { .. })), "{second:?}");
    }
    let addr = unix(&dir, "s");
    let first = Listener::bind(&addr).await.unwrap();
    Listener::bind(&addr).await.unwrap_err();
    let client = Stream::connect(&addr, SOON);
    assert!(tokio::join!(client, first.accept()).0.is_ok());
}

#[tokio::test]
async fn other_file_in_the_way_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("s"), "precious").unwrap();
    let refused = Listener::bind(&unix(&dir, "s")).await;
    assert!(matches!(refused, Err(BindError::NotASocket { .. })), "{refused:?}");
    assert_eq!(std::fs::read(dir.path().join("s")).unwrap(), b"precious");
}

#[tokio::test]
async fn socket_file_goes_with_its_listener_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = Listener::bind(&unix(&dir, "s")).await.unwrap();
    drop(listener);
    assert!(!path.exists());
    let listener = Listener::bind(&unix(&dir, "s")).await.unwrap();
    std::fs::rename(&path, dir.path().join("moved")).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists());
}

#[tokio::test]
async fn name_in_memory_is_free_again() {
    let addr = Addr::Memory("again".into());
    drop(Listener::bind(&addr).await.unwrap());
    connected(&addr).await;
}

#[tokio::test]
async fn missing_folder_and_long_path_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["none/s".to_owned(), "x".repeat(120)] {
        let refused = Listener::bind(&unix(&dir, &name)).await;
        assert!(matches!(refused, Err(BindError::Io { .. })), "{refused:?}");
    }
}

/// Daemons whose accept loop just went on after an error wrote the same line as fast as they could once the descriptor
/// limit was reached, since the listener stays readable.
#[test]
fn exhaustion_is_told_from_a_lost_connection_and_from_a_broken_listener() {
    let class = |errno: Errno| AcceptFailure::of(&errno.into());
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
        assert_eq!(class(errno), AcceptFailure::Exhausted, "{errno}");
    }
    for errno in [Errno::CONNABORTED, Errno::INTR, Errno::PROTO, Errno::HOSTUNREACH] {
        assert_eq!(class(errno), AcceptFailure::OfOneConnection, "{errno}");
    }
    for errno in [Errno::BADF, Errno::INVAL, Errno::NOTSOCK] {
        assert_eq!(class(errno), AcceptFailure::Fatal, "{errno}");
    }
}
