//! Connections through a reverse proxy, over real sockets of this machine.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::future::Future;
use std::time::Duration;

use pf_proxy::{Options, Reverse, Route, Summary};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use transport::hybrid::Switchboard;
use transport::{Addr, Listener, Port, Stream};

const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("took too long")
}

fn tcp() -> Addr {
    Addr::Tcp("127.0.0.1:0".into())
}

fn unix(dir: &tempfile::TempDir, name: &str) -> Addr {
    Addr::Unix(dir.path().join(name))
}

/// A proxy with one route, running.
struct Proxy {
    addr: Addr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Summary>,
}

impl Proxy {
    async fn start(listen: Addr, target: Addr, options: Options) -> Self {
        let proxy = Reverse::bind(&[Route { listen, target }], &options).unwrap();
        let addr = proxy.local_addrs().remove(0);
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            proxy.run(stopped).await.unwrap()
        });
        Self { addr, stop, running }
    }

    async fn connect(&self) -> Stream {
        Stream::connect(&self.addr, PATIENCE).await.unwrap()
    }

    async fn stop(self) -> Summary {
        self.stop.send(()).unwrap();
        soon(self.running).await.unwrap()
    }
}

/// Answers each connection, once its request has ended, with the request backwards.
fn mirror(listener: Listener) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut serving = JoinSet::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            serving.spawn(async move {
                let mut request = Vec::new();
                stream.read_to_end(&mut request).await.unwrap();
                request.reverse();
                stream.write_all(&request).await.unwrap();
            });
        }
    })
}

fn request(length: usize, salt: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i * 7 + salt) % 253).unwrap()).collect()
}

/// Sends a request, half-closes, and checks the whole answer.
async fn ask(mut stream: Stream, request: Vec<u8>) {
    stream.write_all(&request).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    answer.reverse();
    assert!(answer == request, "{} of {} bytes", answer.len(), request.len());
}

#[tokio::test]
async fn carries_both_ways_and_half_closes_between_all_kinds() {
    let dir = tempfile::tempdir().unwrap();
    let pairs = [
        (tcp(), unix(&dir, "t1")),
        (unix(&dir, "l2"), tcp()),
        (tcp(), tcp()),
        (unix(&dir, "l4"), unix(&dir, "t4")),
        (Addr::Hybrid { path: dir.path().join("vsock"), port: Port(9) }, unix(&dir, "t6")),
    ];
    for (listen, target) in pairs {
        let target = Listener::bind(&target).await.unwrap();
        let proxy = Proxy::start(listen.clone(), target.local_addr().clone(), Options::default()).await;
        let serving = mirror(target);
        let client = match listen {
            Addr::Hybrid { .. } => Stream::connect(&unix(&dir, "vsock_9"), PATIENCE).await.unwrap(),
            _ => proxy.connect().await,
        };
        ask(client, request(300_000, 1)).await;
        assert_eq!(proxy.stop().await, Summary { completed: 1, ..Summary::default() });
        serving.abort();
    }
}

#[tokio::test]
async fn reaches_a_guest_through_its_switchboard() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vsock");
    let board = Switchboard::bind(&path).await.unwrap();
    let board = tokio::spawn(async move { board.run().await.map(|never| match never {}) });
    let guest = Addr::Unix(Switchboard::guest_path(dir.path(), Port(8080)));
    let serving = mirror(Listener::bind(&guest).await.unwrap());
    let proxy = Proxy::start(tcp(), Addr::Hybrid { path, port: Port(8080) }, Options::default()).await;
    ask(proxy.connect().await, request(300_000, 2)).await;
    assert_eq!(proxy.stop().await.completed, 1);
    serving.abort();
    board.abort();
}

#[tokio::test]
async fn refused_target_closes_the_client_and_later_clients_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let target = unix(&dir, "target");
    let proxy = Proxy::start(tcp(), target.clone(), Options::default()).await;
    for _ in 0..3 {
        let mut refused = proxy.connect().await;
        assert_eq!(soon(refused.read(&mut [0])).await.unwrap(), 0);
    }
    let serving = mirror(Listener::bind(&target).await.unwrap());
    ask(proxy.connect().await, request(1000, 3)).await;
    assert_eq!(proxy.stop().await, Summary { completed: 1, failed: 3, aborted: 0 });
    serving.abort();
}

#[tokio::test]
async fn silent_target_is_given_up_after_the_connect_timeout() {
    let dir = tempfile::tempdir().unwrap();
    // A socket that takes the connection and never answers CONNECT.
    let _mute = Listener::bind(&unix(&dir, "vsock")).await.unwrap();
    let target = Addr::Hybrid { path: dir.path().join("vsock"), port: Port(1) };
    let options = Options { connect_timeout: Duration::from_millis(100), ..Options::default() };
    let proxy = Proxy::start(tcp(), target, options).await;
    assert_eq!(soon(proxy.connect().await.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(proxy.stop().await.failed, 1);
}

/// A proxy with four workers made thirty concurrent calls wait for each other for seconds.
#[tokio::test]
async fn two_hundred_parallel_connections_each_get_their_own_answer() {
    allow_descriptors();
    let dir = tempfile::tempdir().unwrap();
    let target = Listener::bind(&unix(&dir, "target")).await.unwrap();
    let proxy = Proxy::start(tcp(), target.local_addr().clone(), Options::default()).await;
    let serving = mirror(target);
    let mut clients = JoinSet::new();
    for salt in 0..200 {
        clients.spawn(ask(proxy.connect().await, request(20_000 + salt, salt)));
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert_eq!(proxy.stop().await, Summary { completed: 200, ..Summary::default() });
    serving.abort();
}

#[tokio::test]
async fn client_that_closes_in_the_middle_of_a_message_ends_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    let target = Listener::bind(&unix(&dir, "target")).await.unwrap();
    let proxy = Proxy::start(tcp(), target.local_addr().clone(), Options::default()).await;
    let mut client = proxy.connect().await;
    client.write_all(b"half of a mess").await.unwrap();
    let (mut server, _) = soon(target.accept()).await.unwrap();
    drop(client);
    let mut received = Vec::new();
    soon(server.read_to_end(&mut received)).await.unwrap();
    assert_eq!(received, b"half of a mess");
    drop(server);
    assert_eq!(proxy.stop().await.aborted, 0);
}

#[tokio::test]
async fn server_that_closes_in_the_middle_of_an_answer_ends_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let target = Listener::bind(&unix(&dir, "target")).await.unwrap();
    let proxy = Proxy::start(tcp(), target.local_addr().clone(), Options::default()).await;
    let mut client = proxy.connect().await;
    let (mut server, _) = soon(target.accept()).await.unwrap();
    server.write_all(b"half of an ans").await.unwrap();
    drop(server);
    let mut received = Vec::new();
    soon(client.read_to_end(&mut received)).await.unwrap();
    assert_eq!(received, b"half of an ans");
    drop(client);
    assert_eq!(proxy.stop().await.aborted, 0);
}

#[tokio::test]
async fn idle_connections_and_one_that_does_not_read_stop_nobody() {
    allow_descriptors();
    let dir = tempfile::tempdir().unwrap();
    let target = Listener::bind(&unix(&dir, "target")).await.unwrap();
    let options = Options { grace: Duration::ZERO, ..Options::default() };
    let proxy = Proxy::start(tcp(), target.local_addr().clone(), options).await;
    let mut idle = Vec::new();
    for _ in 0..300 {
        let (client, server) = tokio::join!(proxy.connect(), soon(target.accept()));
        idle.push((client, server.unwrap().0));
    }
    let deaf = &mut idle[0].1;
    // Until no more fits anywhere, however much that is.
    let some = vec![0; 1 << 20];
    let stuck = async {
        while tokio::time::timeout(Duration::from_millis(200), deaf.write_all(&some)).await.is_ok() {}
    };
    soon(stuck).await;
    let serving = mirror(target);
    ask(proxy.connect().await, request(100_000, 4)).await;
    assert_eq!(proxy.stop().await, Summary { completed: 1, failed: 0, aborted: 300 });
    serving.abort();
}

#[tokio::test]
async fn connection_beyond_the_limit_waits_for_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let target = Listener::bind(&unix(&dir, "target")).await.unwrap();
    let options = Options { max_connections: 2, ..Options::default() };
    let proxy = Proxy::start(tcp(), target.local_addr().clone(), options).await;
    let first = proxy.connect().await;
    let first_served = soon(target.accept()).await.unwrap().0;
    let second = proxy.connect().await;
    let second_served = soon(target.accept()).await.unwrap().0;
    let mut third = proxy.connect().await;
    third.write_all(b"x").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), target.accept()).await.is_err());
    drop((first, first_served));
    let (mut third_served, _) = soon(target.accept()).await.unwrap();
    assert_eq!(soon(third_served.read_u8()).await.unwrap(), b'x');
    drop((second, second_served, third, third_served));
    assert_eq!(proxy.stop().await.aborted, 0);
}

#[tokio::test]
async fn shutdown_refuses_new_connections_and_lets_open_ones_finish() {
    let dir = tempfile::tempdir().unwrap();
    let target = Listener::bind(&tcp()).await.unwrap();
    let listen = unix(&dir, "listen");
    let proxy = Proxy::start(listen.clone(), target.local_addr().clone(), Options::default()).await;
    let mut client = proxy.connect().await;
    client.write_all(b"before").await.unwrap();
    let (mut server, _) = soon(target.accept()).await.unwrap();
    let stopping = tokio::spawn(proxy.stop());
    // Not by connecting: who is let in before the listener closes would be open until the end.
    soon(async {
        while dir.path().join("listen").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert!(Stream::connect(&listen, PATIENCE).await.is_err());
    client.write_all(b" and after").await.unwrap();
    client.shutdown().await.unwrap();
    let mut received = Vec::new();
    soon(server.read_to_end(&mut received)).await.unwrap();
    assert_eq!(received, b"before and after");
    drop(server);
    let summary = soon(stopping).await.unwrap();
    assert_eq!((summary.aborted, summary.completed >= 1), (0, true), "{summary:?}");
}

#[tokio::test]
async fn address_in_use_is_an_error_and_leaves_nothing_bound() {
    let dir = tempfile::tempdir().unwrap();
    let taken = Listener::bind(&tcp()).await.unwrap();
    let route = |listen: &Addr| Route { listen: listen.clone(), target: unix(&dir, "none") };
    let first = unix(&dir, "first");
    let error = Reverse::bind(&[route(&first), route(taken.local_addr())], &Options::default()).unwrap_err();
    assert!(matches!(error, pf_proxy::Error::Bind(transport::BindError::InUse { .. })), "{error:?}");
    assert!(!dir.path().join("first").exists());
}

/// Client, proxy and server of each connection are this one process.
fn allow_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}
