//! Routes with more to them than two addresses, over real sockets of this machine.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::future::Future;
use std::time::{Duration, Instant};

use pf_proxy::Options;
use pf_proxy::ingress::{Error, Ingress, NamedTarget, ProxyHeader, RouteConfig};
use pf_proxy::metrics::Registry;
use pf_proxy::proxy_header::{self, Ends};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use transport::Addr;

const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("took too long")
}

struct Place {
    dir: tempfile::TempDir,
    registry: Registry,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), registry: Registry::default() }
    }

    fn unix(&self, name: &str) -> Addr {
        Addr::Unix(self.dir.path().join(name))
    }

    fn server(&self, name: &str) -> UnixListener {
        UnixListener::bind(self.dir.path().join(name)).unwrap()
    }

    fn route(&self, target: &str) -> RouteConfig {
        let route = RouteConfig::plain("tcp://127.0.0.1:0".parse().unwrap(), self.unix(target));
        RouteConfig { name: "r".into(), ..route }
    }

    fn start(&self, route: RouteConfig) -> Ingress {
        Ingress::start(vec![route], &Options::default(), self.registry.clone()).unwrap()
    }

    fn counts(&self, line: &str) -> bool {
        self.registry.render().lines().any(|found| found == line)
    }
}

async fn connect(ingress: &Ingress) -> TcpStream {
    let Addr::Tcp(addr) = ingress.local_addrs().remove(0) else { panic!("not TCP") };
    soon(TcpStream::connect(addr)).await.unwrap()
}

async fn accept(server: &UnixListener) -> UnixStream {
    soon(server.accept()).await.unwrap().0
}

async fn is_closed(client: &mut TcpStream) -> bool {
    matches!(soon(client.read(&mut [0])).await, Ok(0) | Err(_))
}

/// A ClientHello with a server name and nothing else worth mentioning.
fn hello(name: &str) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let entry = [&[0][..], &sized(name.as_bytes())].concat();
    let extension = [&[0, 0][..], &sized(&sized(&entry))].concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &sized(&[0x13, 1]), &[1, 0], &sized(&extension)].concat();
    let message = [&[1, 0][..], &sized(&body)].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

#[tokio::test]
async fn target_is_told_who_the_client_is_before_anything_else() {
    let place = Place::new();
    let server = place.server("target");
    let ingress = place.start(RouteConfig { proxy_header: ProxyHeader::Send, ..place.route("target") });
    let mut client = connect(&ingress).await;
    // Asked now: once both sides have closed, the socket has no peer any more.
    let (source, destination) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    let mut received = Vec::new();
    soon(accept(&server).await.read_to_end(&mut received)).await.unwrap();
    let parsed = proxy_header::parse(&received).unwrap().unwrap();
    let ends = parsed.ends.unwrap();
    assert_eq!((ends.source, ends.destination), (source, destination));
    assert_eq!(&received[parsed.length..], b"hello");
}

#[tokio::test]
async fn header_of_a_proxy_in_front_is_taken_off_however_it_comes() {
    let place = Place::new();
    let server = place.server("target");
    let ingress = place.start(RouteConfig { proxy_header: ProxyHeader::Accept, ..place.route("target") });
    let mut client = connect(&ingress).await;
    client.set_nodelay(true).unwrap();
    for byte in [proxy_header::encode(None), b"hello".to_vec()].concat() {
        client.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut received = [0; 5];
    soon(accept(&server).await.read_exact(&mut received)).await.unwrap();
    assert_eq!(&received, b"hello");

    let mut other = connect(&ingress).await;
    other.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(is_closed(&mut other).await);
}

/// What the enclave does where the host tells who the client is, for several applications on one port.
#[tokio::test]
async fn header_of_a_proxy_in_front_is_passed_on_with_the_name_behind_it_looked_at() {
    let place = Place::new();
    let (default, one) = (place.server("default"), place.server("one"));
    let named = vec![NamedTarget { pattern: "one.example".parse().unwrap(), target: place.unix("one") }];
    let ingress =
        place.start(RouteConfig { proxy_header: ProxyHeader::Pass, named, ..place.route("default") });
    for (name, server) in [("one.example", &one), ("two.example", &default)] {
        let mut client = connect(&ingress).await;
        let sent = [proxy_header::encode(None), hello(name)].concat();
        client.write_all(&sent).await.unwrap();
        let mut received = vec![0; sent.len()];
        soon(accept(server).await.read_exact(&mut received)).await.unwrap();
        assert!(received == sent, "{name}");
    }
    let mut without = connect(&ingress).await;
    without.write_all(&hello("one.example")).await.unwrap();
    assert!(is_closed(&mut without).await, "a target that expects a header gets one");
}

/// A client that sends a byte now and then could hold its place for ever.
#[tokio::test]
async fn client_that_sends_its_header_byte_by_byte_for_ever_is_cut() {
    let place = Place::new();
    let timeout = Duration::from_millis(300);
    let route =
        RouteConfig { proxy_header: ProxyHeader::Accept, header_timeout: timeout, ..place.route("none") };
    let ingress = place.start(route);
    let start = Instant::now();
    let (mut reader, mut writer) = connect(&ingress).await.into_split();
    let dripping = tokio::spawn(async move {
        for byte in b"\r\n\r\n\0\r\nQUIT\n".iter().cycle() {
            tokio::time::sleep(timeout / 5).await;
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    });
    let ended = soon(reader.read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)) && start.elapsed() >= timeout);
    dripping.abort();
    soon(async {
        while !place.counts("pf_proxy_ended_total{route=\"r\",cause=\"header_timeout\"} 1") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn server_name_chooses_the_application_and_the_message_arrives_untouched() {
    let place = Place::new();
    let servers = [place.server("default"), place.server("one"), place.server("all")];
    let named =
        |pattern: &str, target| NamedTarget { pattern: pattern.parse().unwrap(), target: place.unix(target) };
    let named = vec![named("one.example.org", "one"), named("*.example.org", "all")];
    let ingress = place.start(RouteConfig { named, ..place.route("default") });
    let asked = [("one.example.org", 1), ("ONE.example.org", 1), ("two.example.org", 2), ("example.org", 0)];
    for (name, index) in asked {
        let mut client = connect(&ingress).await;
        let message = hello(name);
        let (first, second) = message.split_at(20);
        client.write_all(first).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        client.write_all(second).await.unwrap();
        let mut received = vec![0; message.len()];
        soon(accept(&servers[index]).await.read_exact(&mut received)).await.unwrap();
        assert!(received == message, "{name}");
    }
    let mut plain = connect(&ingress).await;
    plain.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    accept(&servers[0]).await;
}

#[tokio::test]
async fn name_without_a_target_is_refused_where_there_is_no_default() {
    let place = Place::new();
    let named = vec![NamedTarget { pattern: "a.example".parse().unwrap(), target: place.unix("a") }];
    let ingress = place.start(RouteConfig { named, target: None, ..place.route("a") });
    let mut client = connect(&ingress).await;
    client.write_all(&hello("b.example")).await.unwrap();
    assert!(is_closed(&mut client).await);
}

#[tokio::test]
async fn one_source_has_only_so_many_connections_and_gets_places_back() {
    let place = Place::new();
    let server = place.server("target");
    let ingress = place.start(RouteConfig { max_per_source: Some(2), ..place.route("target") });
    let first = connect(&ingress).await;
    let first_served = accept(&server).await;
    let _second = connect(&ingress).await;
    let _second_served = accept(&server).await;
    assert!(is_closed(&mut connect(&ingress).await).await);
    assert!(place.counts("pf_proxy_refused_total{route=\"r\",reason=\"source_limit\"} 1"));
    drop((first, first_served));
    let again = async {
        loop {
            let mut client = connect(&ingress).await;
            let attempt = tokio::time::timeout(Duration::from_millis(100), client.read(&mut [0])).await;
            if attempt.is_err() {
                return;
            }
        }
    };
    soon(again).await;
}

/// Who begins with a header that names this client, and what else it says.
async fn named(front: &std::path::Path, client: &str) -> UnixStream {
    let mut stream = soon(UnixStream::connect(front)).await.unwrap();
    let ends = Ends { source: client.parse().unwrap(), destination: "198.51.100.1:443".parse().unwrap() };
    // Who is refused may be closed before this is taken.
    let _ = stream.write_all(&[proxy_header::encode(Some(ends)), b"hi".to_vec()].concat()).await;
    stream
}

/// Whether it got through to the application, which answers whoever does.
async fn is_served(client: &mut UnixStream) -> bool {
    matches!(soon(client.read(&mut [0])).await, Ok(1))
}

/// Connections by vsock have no address of their own, as those by a Unix socket, and all look alike.
#[tokio::test]
async fn clients_behind_a_host_are_counted_by_the_address_that_their_header_names() {
    for proxy_header in [ProxyHeader::Accept, ProxyHeader::Pass] {
        let place = Place::new();
        let server = place.server("target");
        let answering = tokio::spawn(async move {
            loop {
                let mut client = server.accept().await.unwrap().0;
                tokio::spawn(async move {
                    let _ = client.write_all(b"!").await;
                    // Until the client leaves.
                    while !matches!(client.read(&mut [0; 64]).await, Ok(0) | Err(_)) {}
                });
            }
        });
        let (listen, front) = (place.unix("front"), place.dir.path().join("front"));
        let route = RouteConfig { listen, max_per_source: Some(1), proxy_header, ..place.route("target") };
        let ingress = place.start(route);

        let mut first = named(&front, "203.0.113.1:1000").await;
        assert!(is_served(&mut first).await);
        assert!(!is_served(&mut named(&front, "203.0.113.1:1001").await).await, "the same client");
        assert!(place.counts("pf_proxy_refused_total{route=\"r\",reason=\"source_limit\"} 1"));
        let mut other = named(&front, "203.0.113.2:1000").await;
        assert!(is_served(&mut other).await, "another client");
        let mut six = named(&front, "[2001:db8::1]:1000").await;
        assert!(is_served(&mut six).await, "another client");
        assert!(!is_served(&mut named(&front, "[2001:db8::2]:1000").await).await, "of the same /64");

        drop(first);
        let again = async { while !is_served(&mut named(&front, "203.0.113.1:1002").await).await {} };
        soon(again).await;
        drop((other, six, ingress));
        answering.abort();
    }
}

/// A load balancer has one address, and its clients have theirs.
#[tokio::test]
async fn proxy_in_front_is_not_taken_for_its_clients() {
    let place = Place::new();
    let server = place.server("target");
    let accept_header = RouteConfig { proxy_header: ProxyHeader::Accept, ..place.route("target") };
    let ingress = place.start(RouteConfig { max_per_source: Some(1), ..accept_header });
    let mut open = Vec::new();
    for number in 1..=3 {
        let mut client = connect(&ingress).await;
        let source = format!("203.0.113.{number}:1000").parse().unwrap();
        let ends = Ends { source, destination: "198.51.100.1:443".parse().unwrap() };
        client.write_all(&proxy_header::encode(Some(ends))).await.unwrap();
        open.push((client, accept(&server).await));
    }
    assert!(place.counts("pf_proxy_refused_total{route=\"r\",reason=\"source_limit\"} 0"));
}

#[tokio::test]
async fn reload_exchanges_targets_and_keeps_listeners_and_connections() {
    let place = Place::new();
    let (old, new, more) = (place.server("old"), place.server("new"), place.server("more"));
    let mut ingress = place.start(place.route("old"));
    let addrs = ingress.local_addrs();
    let mut before = connect(&ingress).await;
    let mut before_served = accept(&old).await;

    let second = RouteConfig::plain(place.unix("listen"), place.unix("more"));
    ingress.reload(vec![second.clone(), place.route("new")]).unwrap();
    assert_eq!(ingress.local_addrs()[1], addrs[0]);
    before.write_all(b"still").await.unwrap();
    soon(before_served.read_exact(&mut [0; 5])).await.unwrap();
    let Addr::Tcp(addr) = &addrs[0] else { panic!("not TCP") };
    let _after = soon(TcpStream::connect(addr)).await.unwrap();
    accept(&new).await;
    let _on_unix = UnixStream::connect(place.dir.path().join("listen")).await.unwrap();
    accept(&more).await;

    // One that cannot be served changes nothing.
    let taken = RouteConfig::plain(place.unix("old"), place.unix("more"));
    assert!(matches!(ingress.reload(vec![taken]), Err(Error::Bind(_))));
    let round = RouteConfig::plain(place.unix("x"), place.unix("x"));
    assert!(matches!(ingress.reload(vec![round]), Err(Error::Loop { .. })));
    let _same = soon(TcpStream::connect(addr)).await.unwrap();
    accept(&new).await;

    ingress.reload(vec![second]).unwrap();
    soon(async {
        while TcpStream::connect(addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    before.write_all(b"lives").await.unwrap();
    soon(before_served.read_exact(&mut [0; 5])).await.unwrap();
}

#[tokio::test]
async fn bytes_and_open_connections_are_counted_while_they_last() {
    let place = Place::new();
    let server = place.server("target");
    let ingress = place.start(place.route("target"));
    let mut client = connect(&ingress).await;
    let mut served = accept(&server).await;
    client.write_all(&[1; 1000]).await.unwrap();
    soon(served.read_exact(&mut [0; 1000])).await.unwrap();
    soon(async {
        while !place.counts("pf_proxy_bytes_total{route=\"r\",to=\"target\"} 1000") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(place.counts("pf_proxy_connections{route=\"r\"} 1"));
    drop((client, served));
    assert_eq!(soon(ingress.drain()).await.aborted, 0);
    assert!(place.counts("pf_proxy_connections{route=\"r\"} 0"));
    assert!(place.counts("pf_proxy_dial_seconds_count{route=\"r\"} 1"));
    assert!(place.counts("pf_proxy_ended_total{route=\"r\",cause=\"complete\"} 1"));
}

#[tokio::test]
async fn routes_that_lead_nowhere_from_here_are_refused() {
    let place = Place::new();
    let error = |route| Ingress::start(vec![route], &Options::default(), Registry::default()).unwrap_err();
    let memory = RouteConfig::plain(place.unix("a"), Addr::Memory("m".into()));
    assert!(matches!(error(memory), Error::NoTarget { .. }));
    let twice =
        vec![place.route("x"); 2].into_iter().map(|route| RouteConfig { listen: place.unix("b"), ..route });
    let outcome = Ingress::start(twice.collect(), &Options::default(), Registry::default());
    assert!(matches!(outcome, Err(Error::Twice { .. })));
}
