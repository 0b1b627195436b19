//! TCP connections, and what is told of those that are not made.

use tokio::net::{TcpListener, TcpSocket};

use super::*;

#[tokio::test]
async fn bytes_and_ends_go_through_both_ways() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let host = start(&["127.0.0.1:*"], &[]).await;
    let mut early = request(&format!("127.0.0.1:{port}")).encode();
    early.extend(b"hello");
    let mut stream = Stream::connect(&host.addr, PATIENCE).await.unwrap();
    // What a program sends at once may follow the request at once.
    stream.write_all(&early).await.unwrap();
    assert_eq!(reply(&mut stream).await, Reply { status: Status::Connected, address: ip("127.0.0.1") });

    let (mut served, _) = server.accept().await.unwrap();
    let mut hello = [0; 5];
    served.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    stream.shutdown().await.unwrap();
    assert_eq!(timeout(PATIENCE, served.read(&mut hello)).await.unwrap().unwrap(), 0);
    // The other half is still open.
    served.write_all(b"world").await.unwrap();
    drop(served);
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest, b"world");
}

#[tokio::test]
async fn names_are_resolved_here_and_their_families_tried_in_turns() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    // Nobody listens at the first two.
    let host =
        start(&["*:*", "127.0.0.0/8:*", "[::1]:*"], &[("a.example", &["::1", "127.0.0.2", "127.0.0.1"])])
            .await;
    assert_eq!(status(&host, &format!("a.example:{port}")).await, (Status::Connected, ip("127.0.0.1")));
    let (_, reply) = ask(&host, &resolved("b.example", "127.0.0.1", port)).await;
    assert_eq!(reply.status, Status::Connected, "a name that was resolved inside is not resolved again");
}

#[tokio::test]
async fn a_closed_port_is_refused_and_an_unknown_name_not_found() {
    // Held, and not listened at: nobody else gets the port meanwhile.
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = closed.local_addr().unwrap().port();
    let host = start(&["*:*", "127.0.0.1:*"], &[]).await;
    assert_eq!(status(&host, &format!("127.0.0.1:{port}")).await, (Status::Refused, ip("127.0.0.1")));
    assert_eq!(status(&host, "nowhere.example:443").await, (Status::NameNotFound, None));
}

#[tokio::test]
async fn the_system_resolves_when_nobody_else_does() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let host = serve(&unused_address(), guard(&["*:*", "127.0.0.1:*"]), HostOptions::default(), None).await;
    assert_eq!(status(&host, &format!("localhost:{port}")).await, (Status::Connected, ip("127.0.0.1")));
    // RFC 6761: no resolver may find it.
    let (found, _) = status(&host, "nowhere.invalid:443").await;
    assert!(matches!(found, Status::NameNotFound | Status::Failed), "{found}");
}

#[tokio::test]
async fn what_the_guard_does_not_allow_is_denied() {
    let host = start(&["a.example:443"], &[("b.example", &["192.0.2.1"])]).await;
    for target in ["b.example:443", "a.example:444", "192.0.2.1:443", "udp:a.example:443", "127.0.0.1:443"] {
        assert_eq!(status(&host, target).await.0, Status::Denied, "{target}");
    }
}
