//! Connections to an application that come from its clients' addresses: in a network namespace of the test's own, where the
//! test's program runs itself.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use pf_proxy::Options;
use pf_proxy::ingress::{Error, Ingress, ProxyHeader, RouteConfig};
use pf_proxy::metrics::Registry;
use pf_proxy::proxy_header::{self, Ends};
use transport::Addr;

const INSIDE: &str = "CLIENT_SOURCE_TEST_INSIDE";
const PATIENCE: Duration = Duration::from_secs(60);

/// The command that runs what follows in user and network namespaces of its own.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net"]);
    command
}

struct Place {
    dir: tempfile::TempDir,
    ingress: Ingress,
    v4: TcpListener,
    v6: TcpListener,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = v4.local_addr().unwrap().port();
        let v6 = TcpListener::bind(("::1", port)).unwrap();
        let target = format!("tcp://127.0.0.1:{port}").parse().unwrap();
        let plain = RouteConfig::plain(Addr::Unix(dir.path().join("in")), target);
        let routes = vec![RouteConfig { proxy_header: ProxyHeader::Source, ..plain }];
        let ingress = Ingress::start(routes, &Options::default(), Registry::default()).unwrap();
        Self { dir, ingress, v4, v6 }
    }

    /// A client of whom the proxy in front says that it is at `source`, and the application's end of its connection.
    fn client(&self, source: &str) -> (UnixStream, TcpStream, SocketAddr) {
        let source: SocketAddr = source.parse().unwrap();
        let destination = if source.is_ipv4() { "192.0.2.1:443" } else { "[2001:db8::1]:443" };
        let mut client = UnixStream::connect(self.dir.path().join("in")).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let ends = Ends { source, destination: destination.parse().unwrap() };
        client.write_all(&proxy_header::encode(Some(ends))).unwrap();
        client.write_all(b"ask").unwrap();
        let is_ipv6 = matches!(source.ip().to_canonical(), std::net::IpAddr::V6(ip) if !ip.is_loopback());
        let (application, peer) = if is_ipv6 { self.v6.accept() } else { self.v4.accept() }.unwrap();
        application.set_read_timeout(Some(PATIENCE)).unwrap();
        (client, application, peer)
    }
}

fn converse(client: &mut UnixStream, application: &mut TcpStream) {
    let mut asked = [0; 3];
    application.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"ask", "what follows the header, and nothing of it");
    application.write_all(b"answer").unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

/// What the test looks at, inside.
fn look() {
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let place = Place::new();
    for (claimed, seen) in [
        ("203.0.113.7:4000", "203.0.113.7:4000"),
        ("[2001:db8::7]:4000", "[2001:db8::7]:4000"),
        ("[::ffff:203.0.113.9]:4001", "203.0.113.9:4001"),
    ] {
        let (mut client, mut application, peer) = place.client(claimed);
        assert_eq!(peer, seen.parse().unwrap());
        converse(&mut client, &mut application);
    }
    // The port is another one if the application has a connection from it; the address is not.
    let (mut one, mut first, peer) = place.client("203.0.113.8:4000");
    assert_eq!(peer.port(), 4000);
    let (mut two, mut second, peer) = place.client("203.0.113.8:4000");
    assert_eq!(peer.ip().to_string(), "203.0.113.8");
    assert_ne!(peer.port(), 4000);
    converse(&mut two, &mut second);
    converse(&mut one, &mut first);
    // Who is said to be here is not taken for somebody who is.
    for claimed in ["127.0.0.1:4000", "[::1]:4000", "198.18.0.53:4000"] {
        let (mut client, mut application, peer) = place.client(claimed);
        assert_eq!(peer.ip().to_string(), "192.0.0.8", "{claimed}");
        converse(&mut client, &mut application);
    }
    // A second proxy, or the same one started again, finds the routes there.
    drop(place.ingress);
    converse_again();
}

fn converse_again() {
    let place = Place::new();
    let (mut client, mut application, peer) = place.client("203.0.113.7:4000");
    assert_eq!(peer.ip().to_string(), "203.0.113.7");
    converse(&mut client, &mut application);
}

#[test]
fn applications_see_connections_from_their_clients_addresses() {
    if std::env::var_os(INSIDE).is_some() {
        return look();
    }
    let may = unshare().arg("true").stderr(Stdio::null()).status();
    if !may.is_ok_and(|status| status.success()) {
        println!("skipped: connections from clients' addresses (namespaces cannot be made here)");
        return;
    }
    let mut inside = unshare();
    inside.arg(std::env::current_exe().unwrap());
    inside.args(["--exact", "applications_see_connections_from_their_clients_addresses", "--nocapture"]);
    assert!(inside.env(INSIDE, "1").status().unwrap().success());
}

#[tokio::test]
async fn only_applications_on_loopback_can_be_connected_to_from_clients_addresses() {
    let dir = tempfile::tempdir().unwrap();
    for target in ["tcp://192.0.2.1:80", "tcp://localhost:80", "unix:/x"] {
        let plain = RouteConfig::plain(Addr::Unix(dir.path().join("in")), target.parse().unwrap());
        let routes = vec![RouteConfig { proxy_header: ProxyHeader::Source, ..plain }];
        let error = Ingress::start(routes, &Options::default(), Registry::default()).unwrap_err();
        assert!(matches!(error, Error::NoSource { .. }), "{error}");
    }
}
