//! Published UDP ports: clients at one end, a program at the other, a Unix socket between the ends.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::{net::SocketAddr, path::Path, time::Duration};

use pf_proxy::{
    datagrams::{Inside, Outside, OutsideConfig},
    metrics::Registry,
};
use tokio::{net::UdpSocket, time::timeout};
use transport::Addr;

const PATIENCE: Duration = Duration::from_secs(60);

/// A program that answers each datagram with the port it came from, and what was in it.
async fn start_program() -> SocketAddr {
    start_program_at("127.0.0.1:0".parse().unwrap()).await
}

async fn start_program_at(address: SocketAddr) -> SocketAddr {
    let socket = UdpSocket::bind(address).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let answer = [&client.port().to_be_bytes()[..], &buffer[..length]].concat();
            // What is as long as a datagram can be has no room for the port.
            let answer = if answer.len() > 65_507 { &answer[2..] } else { &answer[..] };
            let _ = socket.send_to(answer, client).await;
        }
    });
    address
}

fn between(dir: &Path) -> Addr {
    Addr::Unix(dir.join("guest_65979"))
}

async fn start_inside(dir: &Path, program: SocketAddr) {
    tokio::spawn(Inside::bind(&between(dir), program).await.unwrap().run());
}

fn start_outside(dir: &Path, max_per_source: Option<u32>, registry: &Registry) -> SocketAddr {
    let plain = OutsideConfig::plain("127.0.0.1:0".parse().unwrap(), between(dir));
    let outside =
        Outside::bind(OutsideConfig { max_per_source, name: "port".into(), ..plain }, registry).unwrap();
    let address = outside.local_addr();
    tokio::spawn(outside.run());
    address
}

async fn client(of: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(of).await.unwrap();
    socket
}

/// Sends until there is an answer to this very datagram, as everybody does who has only UDP.
async fn ask(client: &UdpSocket, question: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 65_535];
    let asked = async {
        loop {
            client.send(question).await.unwrap();
            let answer = timeout(Duration::from_secs(1), client.recv(&mut buffer)).await;
            if let Ok(Ok(length)) = answer
                && buffer[..length].ends_with(question)
            {
                return buffer[..length].to_vec();
            }
        }
    };
    timeout(PATIENCE, asked).await.unwrap()
}

#[tokio::test]
async fn each_client_is_another_one_to_the_program() {
    let dir = tempfile::tempdir().unwrap();
    start_inside(dir.path(), start_program().await).await;
    let port = start_outside(dir.path(), None, &Registry::default());
    let (first, second) = (client(port).await, client(port).await);
    let seen = [ask(&first, b"one").await, ask(&second, b"two").await, ask(&first, b"three").await];
    assert_eq!(seen[0][2..], *b"one");
    assert_eq!(seen[1][2..], *b"two");
    assert_ne!(seen[0][..2], seen[1][..2]);
    assert_eq!(seen[0][..2], seen[2][..2], "a client is the same for as long as it is not silent");
}

#[tokio::test]
async fn the_longest_datagram_and_the_empty_one_arrive() {
    let dir = tempfile::tempdir().unwrap();
    start_inside(dir.path(), start_program().await).await;
    let port = start_outside(dir.path(), None, &Registry::default());
    let longest: Vec<u8> = (0..65_507_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    assert_eq!(ask(&client(port).await, &longest).await, longest);
    assert_eq!(ask(&client(port).await, b"").await.len(), 2);
}

#[tokio::test]
async fn an_enclave_that_is_not_there_yet_loses_datagrams_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::default();
    let client = client(start_outside(dir.path(), None, &registry)).await;
    client.send(b"too early").await.unwrap();
    until(&registry, "pf_proxy_accepted_total{route=\"port\"} 1").await;
    start_inside(dir.path(), start_program().await).await;
    assert_eq!(ask(&client, b"in time").await[2..], *b"in time");
}

#[tokio::test]
async fn a_program_that_is_not_there_yet_is_reached_when_it_is() {
    let dir = tempfile::tempdir().unwrap();
    // An address that is this process's own, so that the port is nobody else's.
    let [.., high, low] = std::process::id().to_be_bytes();
    let program = SocketAddr::from(([127, 92, high, low], 4433));
    start_inside(dir.path(), program).await;
    let registry = Registry::default();
    let client = client(start_outside(dir.path(), None, &registry)).await;
    for _ in 0..3 {
        client.send(b"too early").await.unwrap();
    }
    until(&registry, "pf_proxy_accepted_total{route=\"port\"} 1").await;
    start_program_at(program).await;
    assert_eq!(ask(&client, b"in time").await[2..], *b"in time");
}

#[tokio::test]
async fn one_address_has_no_more_clients_than_it_may() {
    let dir = tempfile::tempdir().unwrap();
    start_inside(dir.path(), start_program().await).await;
    let registry = Registry::default();
    let port = start_outside(dir.path(), Some(1), &registry);
    let (first, second) = (client(port).await, client(port).await);
    ask(&first, b"one").await;
    second.send(b"two").await.unwrap();
    until(&registry, "pf_proxy_refused_total{route=\"port\",reason=\"source_limit\"} 1").await;
    ask(&first, b"three").await;
    let shown = registry.render();
    assert!(shown.contains("pf_proxy_accepted_total{route=\"port\"} 1"), "{shown}");
}

/// Waits until the registry has this line.
async fn until(registry: &Registry, line: &str) {
    let seen = async {
        while !registry.render().lines().any(|shown| shown == line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("no {line}\n{}", registry.render()));
}
