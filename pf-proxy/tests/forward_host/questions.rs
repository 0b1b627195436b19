//! DNS questions that go through.

use std::{fs, net::SocketAddr};

use tokio::net::{TcpListener, UdpSocket};

use super::*;

fn question(id: u8, name: &str) -> Vec<u8> {
    let mut message = vec![id, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 16, 0, 1]);
    message
}

/// Answers every question with itself and `extra`, truncated where it came as a datagram and the name says so; the
/// datagrams come after forged ones.
async fn server() -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let addr = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1024];
        while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            let mut forged = answer.clone();
            forged[0] ^= 0xff;
            let _ = udp.send_to(&forged, from).await;
            if answer.windows(4).any(|part| part == b"long") {
                answer[2] |= 0x02;
            } else {
                answer.extend(b"by datagram");
            }
            let _ = udp.send_to(&answer, from).await;
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let length = stream.read_u16().await.unwrap();
            let mut answer = vec![0; length.into()];
            stream.read_exact(&mut answer).await.unwrap();
            answer[2] |= 0x80;
            answer.extend(vec![b'x'; 5000]);
            stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    addr
}

async fn start_with(server: &str, allow: &[&str]) -> (Serving, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let resolv_conf = dir.path().join("resolv.conf");
    fs::write(&resolv_conf, format!("nameserver {server}\n")).unwrap();
    let options = HostOptions { resolv_conf, ..HostOptions::default() };
    (serve(&unused_address(), guard(allow), options, None).await, dir)
}

async fn put(stream: &mut Stream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, message].concat()).await.unwrap();
}

async fn answer(stream: &mut Stream) -> Vec<u8> {
    let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut message = vec![0; length.into()];
    timeout(PATIENCE, stream.read_exact(&mut message)).await.unwrap().unwrap();
    message
}

#[tokio::test]
async fn answers_come_from_the_hosts_own_servers() {
    let server = server().await;
    let (host, _dir) = start_with(&server.to_string(), &["*.example:443"]).await;
    let (mut stream, reply) = ask(&host, &Request::Resolve).await;
    assert_eq!(reply, Reply { status: Status::Connected, address: None });

    put(&mut stream, &question(1, "a.example")).await;
    let short = answer(&mut stream).await;
    assert_eq!(short[0], 1);
    assert!(short.ends_with(b"by datagram"));

    put(&mut stream, &question(2, "long.example")).await;
    let long = answer(&mut stream).await;
    assert_eq!((long[0], long.len()), (2, question(2, "long.example").len() + 5000));
}

#[tokio::test]
async fn questions_about_names_that_are_not_allowed_are_refused() {
    let server = server().await;
    let (host, _dir) = start_with(&server.to_string(), &["*.example:443"]).await;
    let (mut stream, _) = ask(&host, &Request::Resolve).await;
    put(&mut stream, &question(3, "secret.elsewhere.test")).await;
    let refused = answer(&mut stream).await;
    assert_eq!((refused[0], refused[3] & 0x0f), (3, 5));
}

#[tokio::test]
async fn without_a_server_the_answer_is_a_failure() {
    let closed = deaf().await;
    let addr = closed.local_addr().unwrap();
    let (host, _dir) = start_with(&addr.to_string(), &["*.example:443"]).await;
    let (mut stream, _) = ask(&host, &Request::Resolve).await;
    put(&mut stream, &question(4, "a.example")).await;
    let failed = answer(&mut stream).await;
    assert_eq!((failed[0], failed[3] & 0x0f), (4, 2));
    put(&mut stream, &[0xee; 12]).await;
    assert_eq!(answer(&mut stream).await[3] & 0x0f, 1);
}
