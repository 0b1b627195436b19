//! What the programs in the namespaces do.

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use egress::{Policy, Rule};
use pf_proxy::transparent::{Config, Transparent};
use transport::Addr;

const LIMIT: Duration = Duration::from_secs(60);

const ALLOW: [&str; 9] = [
    "echo.test:1-1000",
    "*.test:443",
    "udp:echo.test:443",
    "udp:refused.test:443",
    "forged.test:443",
    "192.0.2.0/24:443",
    "[2001:db8::]/32:443",
    "198.18.0.0/15:443",
    "[fd67:6c61:7373::]/48:443",
];

/// Starts the way out, then plays `part`.
pub(crate) fn with_way_out(part: fn()) {
    sys::pid1::raise_loopback().unwrap();
    let rules = |texts: &[&str]| texts.iter().map(|text| text.parse::<Rule>().unwrap()).collect::<Vec<_>>();
    let config = Config {
        policy: Policy::compile(&rules(&ALLOW), &rules(&["bad.test:*"]), &[]).unwrap(),
        dns: resolver_of_this_part(),
        dns_roots: resolvers_root(),
        host: Addr::Unix(host()),
        tun: "/dev/net/tun".into(),
        device: "egress0".into(),
        max_connections: 4096,
        ledger: None,
    };
    let (ready, is_ready) = mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let way_out = Transparent::set_up(config).unwrap();
            ready.send(()).unwrap();
            way_out.run(async { drop(stopped.await) }).await.unwrap();
        });
    });
    is_ready.recv_timeout(LIMIT).unwrap();
    part();
    // With its end every record is written.
    drop(stop);
    serving.join().unwrap();
}

fn host() -> PathBuf {
    std::env::var_os(super::HOST).unwrap().into()
}

/// By what way questions go outside: the part's name says it.
fn resolver_of_this_part() -> manifest::Dns {
    let part = std::env::var(super::PART).unwrap();
    let over = |word| part.contains(word);
    let text = if over("over_tls") {
        "tls:192.0.2.53#dns.test"
    } else if over("over_https") {
        "https:192.0.2.53#dns.test"
    } else {
        "host"
    };
    text.parse().unwrap()
}

/// The root of the resolver outside, which the host's part wrote beside its socket.
fn resolvers_root() -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(std::fs::read(host().with_extension("root")).unwrap().into()).unwrap();
    roots
}

/// The addresses of a name at a port, by the system's resolver.
fn resolve(name: &str, port: u16) -> Vec<SocketAddr> {
    (name, port).to_socket_addrs().unwrap_or_else(|error| panic!("{name}: {error}")).collect()
}

fn of_version(name: &str, port: u16, v6: bool) -> SocketAddr {
    let found = resolve(name, port);
    found.iter().copied().find(|a| a.is_ipv6() == v6).unwrap_or_else(|| panic!("{name}: {found:?}"))
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

fn errno(address: SocketAddr) -> i32 {
    TcpStream::connect(address).expect_err("nobody is there").raw_os_error().unwrap()
}

const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;
const ENETUNREACH: i32 = 101;
const EACCES: i32 = 13;

pub(crate) fn a_program_is_told_what_became_of_its_connection() {
    for v6 in [false, true] {
        let forbidden = if v6 { EACCES } else { EHOSTUNREACH };
        for (name, expected) in [
            ("refused.test", ECONNREFUSED),
            ("no-network.test", ENETUNREACH),
            ("no-host.test", EHOSTUNREACH),
            ("nobody.test", EHOSTUNREACH),
            // A host that does not do its part is no network.
            ("garbage.test", ENETUNREACH),
            ("hangs-up.test", ENETUNREACH),
            ("denied.test", forbidden),
        ] {
            assert_eq!(errno(of_version(name, 443, v6)), expected, "{name}, IPv6: {v6}");
        }
        // Of the policy's own: a port and an address that no rule allows.
        assert_eq!(errno(of_version("echo.test", 5000, v6)), forbidden);
        let other: IpAddr = if v6 { "2001:db9::1" } else { "203.0.113.1" }.parse().unwrap();
        assert_eq!(errno((other, 443).into()), forbidden);
    }
    assert_eq!(errno("169.254.169.254:80".parse().unwrap()), EHOSTUNREACH);
}

pub(crate) fn nobody_who_answers_is_a_timeout() {
    std::fs::write("/proc/sys/net/ipv4/tcp_syn_retries", "1").unwrap();
    for v6 in [false, true] {
        for name in ["silent.test", "never.test"] {
            assert_eq!(errno(of_version(name, 443, v6)), ETIMEDOUT, "{name}");
        }
    }
    // Those who wait keep nobody else waiting.
    drop(connect(of_version("echo.test", 443, false)));
}

/// Bytes that differ everywhere, so that what is lost, doubled or moved shows.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend((state >> 16).to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

pub(crate) fn bytes_arrive_exactly_and_an_end_is_passed_on() {
    for v6 in [false, true] {
        let sent = bytes(7, 32 << 20);
        let mut stream = connect(of_version("echo.test", 443, v6));
        let (mut writer, expected) = (stream.try_clone().unwrap(), sent.clone());
        let writing = thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            // The server ends when it has read the end; it is heard to the last byte after that.
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        writing.join().unwrap();
        assert_eq!(received.len(), expected.len());
        assert!(received == expected);
    }
}

pub(crate) fn a_thousand_connections_at_once() {
    let address = of_version("echo.test", 443, false);
    // The host outside has six descriptors for each.
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let count = 1000.min(usize::try_from(most / 8).unwrap());
    let mut open: Vec<_> = (0..count).map(|_| connect(address)).collect();
    for (i, stream) in open.iter_mut().enumerate() {
        stream.write_all(&bytes(i as u64, 100)).unwrap();
    }
    for (i, stream) in open.iter_mut().enumerate() {
        let mut received = [0; 100];
        stream.read_exact(&mut received).unwrap();
        assert!(received[..] == bytes(i as u64, 100), "{i}");
    }
    drop(open);
    // The table has room again, and ports are not mistaken for those before.
    for i in 0..200 {
        let mut stream = connect(address);
        stream.write_all(&bytes(i, 50)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert!(received == bytes(i, 50), "{i}");
    }
}

/// The rules of this test allow all of these addresses; they are nobody's all the same.
pub(crate) fn addresses_that_were_never_resolved_lead_nowhere() {
    assert_eq!(errno("198.19.255.7:443".parse().unwrap()), EHOSTUNREACH);
    assert_eq!(errno("198.18.0.2:443".parse().unwrap()), EHOSTUNREACH);
    assert_eq!(errno("198.18.128.0:443".parse().unwrap()), EHOSTUNREACH);
    assert_eq!(errno("[fd67:6c61:7373:1::ffff]:443".parse().unwrap()), EACCES);
    // What the rules allow by address is asked for, and the host here knows no addresses.
    assert_eq!(errno("192.0.2.1:443".parse().unwrap()), EHOSTUNREACH);
    // Dialling the proxy itself: its listeners take nobody that it did not let through.
    let listening = listeners();
    assert!(listening.len() == 2, "{listening:?}");
    for address in listening {
        let mut stream = connect(address);
        stream.write_all(b"to nobody").unwrap_or_default();
        let mut received = Vec::new();
        let outcome = stream.read_to_end(&mut received);
        assert!(received.is_empty(), "{address}: {outcome:?}");
    }
}

/// Where this process listens by TCP, as the kernel tells.
fn listeners() -> Vec<SocketAddr> {
    let ss = Command::new("ss").args(["-Hltn"]).output().unwrap();
    let text = String::from_utf8(ss.stdout).unwrap();
    text.lines().map(|line| line.split_whitespace().nth(3).unwrap().parse().unwrap()).collect()
}

fn udp(address: SocketAddr) -> UdpSocket {
    let any = if address.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

pub(crate) fn datagrams_of_every_size_come_back() {
    for v6 in [false, true] {
        let socket = udp(of_version("echo.test", 443, v6));
        let largest = if v6 { 1452 } else { 1472 };
        for length in [0, 1, 2, 3, 512, 1200, 1350, 1451, largest] {
            let sent = bytes(length as u64, length);
            socket.send(&sent).unwrap();
            let mut received = [0; 2000];
            let count = socket.recv(&mut received).unwrap();
            assert!(received[..count] == sent, "{length}");
        }
        // Many in a row, as QUIC sends them before it hears of losses (RFC 9002, section 7.2, has 10). More at once than the
        // sockets on the way have room for would measure their buffers. Some may be lost, none may be changed.
        let mut back = 0;
        let mut sent = HashSet::new();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        for burst in 0..20 {
            for i in 0..10 {
                let payload = bytes(1000 + 10 * burst + i, 1350);
                socket.send(&payload).unwrap();
                sent.insert(payload);
            }
            let mut received = [0; 2000];
            // Once nothing comes any more, the rest of a burst is lost, or late and counted with the next.
            for _ in 0..10 {
                let Ok(count) = socket.recv(&mut received) else { break };
                assert!(sent.contains(&received[..count]));
                back += 1;
            }
        }
        assert!(back >= 100, "{back} of 200 came back");
    }
}

pub(crate) fn datagrams_that_are_not_allowed_are_answered() {
    let told = |address: SocketAddr, payload: &[u8]| {
        let socket = udp(address);
        socket.send(payload).unwrap();
        socket.recv(&mut [0; 10]).expect_err("nobody answers").raw_os_error().unwrap()
    };
    assert_eq!(told(of_version("echo.test", 80, false), b"x"), EHOSTUNREACH);
    assert_eq!(told(of_version("echo.test", 80, true), b"x"), EACCES);
    assert_eq!(told(of_version("refused.test", 443, false), b"x"), ECONNREFUSED);
    // The host says that nobody is at the port.
    assert_eq!(told(of_version("echo.test", 443, true), b"close"), ECONNREFUSED);
}

pub(crate) fn names_are_answered_by_policy() {
    for name in ["echo.test", "ECHO.Test", "echo.test.", "any.thing.test"] {
        let found = resolve(name, 443);
        assert!(
            found.iter().any(SocketAddr::is_ipv4) && found.iter().any(SocketAddr::is_ipv6),
            "{name}: {found:?}"
        );
    }
    assert_eq!(resolve("echo.test", 1), resolve("Echo.TEST", 1));
    for name in ["example.org", "test", "bad.test", "echo.test.example.org"] {
        let error = (name, 443).to_socket_addrs().expect_err(name).to_string();
        assert!(error.contains("Name or service not known"), "{name}: {error}");
    }
    assert!(resolve("localhost", 1)[0].ip().is_loopback());
}

pub(crate) fn questions_go_over_tls() {
    other_records(b"\x06sealed");
}

pub(crate) fn questions_go_over_https() {
    other_records(b"\x06sealed");
}

pub(crate) fn other_records_are_asked_for_outside() {
    other_records(b"\x05hello");
}

/// With the text that whoever is asked outside gives for answer.
fn other_records(text: &[u8]) {
    let ask = |name: &str, kind: u16, tcp: bool| {
        let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            question.push(u8::try_from(label.len()).unwrap());
            question.extend(label.as_bytes());
        }
        question.push(0);
        question.extend(kind.to_be_bytes());
        question.extend([0, 1]);
        if tcp {
            let mut stream = connect("198.18.0.53:53".parse().unwrap());
            stream.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(&question).unwrap();
            let mut head = [0; 2];
            stream.read_exact(&mut head).unwrap();
            let mut answer = vec![0; u16::from_be_bytes(head).into()];
            stream.read_exact(&mut answer).unwrap();
            return answer;
        }
        let socket = udp("[fd67:6c61:7373::53]:53".parse().unwrap());
        socket.send(&question).unwrap();
        let mut answer = [0; 1500];
        let length = socket.recv(&mut answer).unwrap();
        answer[..length].to_vec()
    };
    const TXT: u16 = 16;
    for tcp in [false, true] {
        let answer = ask("echo.test", TXT, tcp);
        assert_eq!((answer[3] & 15, &answer[4..8]), (0, &[0, 1, 0, 1][..]), "{answer:?}");
        assert!(answer.ends_with(text), "{answer:?}");
        // Not a word of the address that came with it.
        assert!(!answer.windows(4).any(|part| part == [169, 254, 169, 254]));
        assert_eq!(ask("_sip._tcp.echo.test", TXT, tcp)[3] & 15, 0);
        assert_eq!(ask("example.org", TXT, tcp)[3] & 15, 3);
        // The host answered another question.
        assert_eq!(ask("forged.test", TXT, tcp)[3] & 15, 2);
        // An address is never the host's to tell.
        let answer = ask("forged.test", 1, tcp);
        assert_eq!((answer[3] & 15, answer[7], answer[answer.len() - 4]), (0, 1, 198));
    }
}

/// Their records go to standard output, which the test outside reads.
pub(crate) fn connections_of_every_kind() {
    // The harness has begun a line.
    println!();
    let mut stream = connect(of_version("echo.test", 443, false));
    stream.write_all(b"12345").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert_eq!(errno(of_version("refused.test", 443, false)), ECONNREFUSED);
    assert_eq!(errno(of_version("denied.test", 443, false)), EHOSTUNREACH);
    assert_eq!(errno("203.0.113.9:443".parse().unwrap()), EHOSTUNREACH);
    assert!(("evil.example", 443).to_socket_addrs().is_err());
}

pub(crate) fn a_program_off_the_shelf_fetches_a_page() {
    for version in ["-4", "-6"] {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "30", version, "http://echo.test:80/"])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "page!\n",
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let output =
        Command::new("curl").args(["-sS", "--max-time", "30", "http://example.org/"]).output().unwrap();
    // "Could not resolve host".
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
}
