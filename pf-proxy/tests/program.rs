//! The program as a supervisor sees it: readiness, signals, exit codes.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

const PATIENCE: Duration = Duration::from_secs(60);

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pf-proxy"));
    command.args(arguments).env_remove("NOTIFY_SOCKET").env_remove("RUST_LOG").stderr(Stdio::piped());
    command
}

/// Ends the program if the test fails before it has ended by itself.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_ready(dir: &Path, route: &str) -> Running {
    start_ready_with(dir, &["reverse", "--route", route])
}

#[test]
fn carries_connections_once_ready_and_ends_well_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = dir.path().join("listen");
    let route = format!("unix:{}=tcp://{}", listen.display(), target.local_addr().unwrap());
    let mut running = start_ready(dir.path(), &route);

    let mut client = UnixStream::connect(&listen).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"ping").unwrap();
    let (mut server, _) = target.accept().unwrap();
    let mut received = [0; 4];
    server.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"ping");
    drop((client, server));

    kill_process(Pid::from_child(&running.0), Signal::TERM).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    assert!(!listen.exists());
}

#[test]
fn exit_codes_tell_bad_arguments_from_an_address_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("tcp://{}=unix:/nowhere", taken.local_addr().unwrap());
    let code = |arguments: &[&str]| program(arguments).output().unwrap().status.code();
    assert_eq!(code(&["reverse", "--route", "nonsense"]), Some(2));
    assert_eq!(code(&["reverse"]), Some(2));
    assert_eq!(code(&["reverse", "--route", &taken]), Some(3));
    assert_eq!(code(&["--help"]), Some(0));
}

#[test]
fn named_supervisor_that_is_gone_ends_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = program(&["reverse", "--route", "tcp://127.0.0.1:0=unix:/nowhere"]);
    let output = command.env("NOTIFY_SOCKET", dir.path().join("gone")).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
}

fn start_ready_with(dir: &Path, arguments: &[&str]) -> Running {
    let supervisor = UnixDatagram::bind(dir.join("notify")).unwrap();
    supervisor.set_read_timeout(Some(PATIENCE)).unwrap();
    let running = Running(program(arguments).env("NOTIFY_SOCKET", dir.join("notify")).spawn().unwrap());
    let mut message = [0; 32];
    let length = supervisor.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1");
    running
}

/// Waits until a socket answers, or does not.
fn wait_until(path: &Path, answers: bool) {
    let start = std::time::Instant::now();
    while UnixStream::connect(path).is_ok() != answers {
        assert!(start.elapsed() < PATIENCE, "{}", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn routes_of_a_file_are_read_again_on_sighup_and_metrics_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let [config, a, b, metrics] = ["config", "a", "b", "metrics"].map(|name| dir.path().join(name));
    let write = |listen: &Path| {
        let target = target.local_addr().unwrap();
        let (metrics, listen) = (metrics.display(), listen.display());
        let text = format!(
            "metrics = \"unix:{metrics}\"\n[[route]]\nname = \"r\"\nlisten = \"unix:{listen}\"\ntarget = \"tcp://{target}\"\n"
        );
        std::fs::write(&config, text).unwrap();
    };
    write(&a);
    let mut running = start_ready_with(dir.path(), &["run", "--config", config.to_str().unwrap()]);
    let mut open = UnixStream::connect(&a).unwrap();
    let (mut served, _) = target.accept().unwrap();

    write(&b);
    let pid = Pid::from_child(&running.0);
    kill_process(pid, Signal::HUP).unwrap();
    wait_until(&b, true);
    wait_until(&a, false);
    std::fs::write(&config, "[[route]]\n").unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    open.write_all(b"still").unwrap();
    served.read_exact(&mut [0; 5]).unwrap();
    wait_until(&b, true);

    let mut collector = UnixStream::connect(&metrics).unwrap();
    collector.set_read_timeout(Some(PATIENCE)).unwrap();
    collector.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    collector.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("pf_proxy_accepted_total{route=\"r\"}"),
        "{answer}"
    );

    // With it go the connections that only asked whether somebody listens.
    drop((open, served, target));
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}

/// What the host's end replies to a request for `target`, as in 127.0.0.1:80.
fn asked(listen: &Path, target: &str) -> egress::wire::Status {
    use egress::{Destination, Protocol, wire};
    let (address, port) = target.rsplit_once(':').unwrap();
    let request = wire::Request::Connect {
        protocol: Protocol::Tcp,
        destination: Destination::Address(address.parse().unwrap()),
        port: port.parse().unwrap(),
        timeout_ms: 0,
    };
    let mut stream = UnixStream::connect(listen).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&request.encode()).unwrap();
    let mut reply = [0; wire::REPLY_BYTES];
    stream.read_exact(&mut reply).unwrap();
    wire::Reply::decode(&reply).unwrap().status
}

#[test]
fn rules_of_the_hosts_end_are_read_again_on_sighup_and_its_metrics_are_served() {
    use egress::wire::Status;
    let dir = tempfile::tempdir().unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = server.local_addr().unwrap().to_string();
    let [rules, listen, metrics] = ["rules.toml", "listen", "metrics"].map(|name| dir.path().join(name));
    let write = |rule: &str| {
        let manifest = "name = \"x\"\nimage.rootfs = \"r\"\napp.command = [\"/x\"]\n";
        std::fs::write(&rules, format!("{manifest}[egress]\nallow = [\"{rule}\"]\n")).unwrap();
    };
    write("192.0.2.1:80");
    let unix = |path: &Path| format!("unix:{}", path.display());
    let (at, told) = (unix(&listen), unix(&metrics));
    let words = ["forward-host", "-v", &at, "--manifest", rules.to_str().unwrap(), "--metrics", &told];
    let mut running = start_ready_with(dir.path(), &words);
    assert_eq!(asked(&listen, &target), Status::Denied);
    let pid = Pid::from_child(&running.0);
    write(&target);
    kill_process(pid, Signal::HUP).unwrap();
    let start = std::time::Instant::now();
    while asked(&listen, &target) != Status::Connected {
        assert!(start.elapsed() < PATIENCE, "the new rules are not asked");
        std::thread::sleep(Duration::from_millis(10));
    }
    write("nonsense");
    kill_process(pid, Signal::HUP).unwrap();
    assert_eq!(asked(&listen, &target), Status::Connected);

    let mut collector = UnixStream::connect(&metrics).unwrap();
    collector.set_read_timeout(Some(PATIENCE)).unwrap();
    collector.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    collector.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("pf_proxy_egress_replies_total{status=\"connected\"} 2"), "{answer}");
    assert!(answer.contains("pf_proxy_egress_replies_total{status=\"denied-by-host\"} "), "{answer}");
    drop(server);
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}

#[test]
fn sigterm_waits_for_open_connections_and_only_so_long() {
    for (drain, is_left_open) in [("600", false), ("1", true)] {
        let dir = tempfile::tempdir().unwrap();
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = dir.path().join("listen");
        let route = format!("unix:{}=tcp://{}", listen.display(), target.local_addr().unwrap());
        let mut running = start_ready_with(dir.path(), &["reverse", "--drain", drain, "--route", &route]);
        let mut client = UnixStream::connect(&listen).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut served, _) = target.accept().unwrap();
        kill_process(Pid::from_child(&running.0), Signal::TERM).unwrap();
        wait_until(&listen, false);
        if !is_left_open {
            served.write_all(b"late").unwrap();
            client.read_exact(&mut [0; 4]).unwrap();
            drop((client, served, target));
            assert_eq!(running.0.wait().unwrap().code(), Some(0));
            continue;
        }
        assert_eq!(running.0.wait().unwrap().code(), Some(0));
        assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    }
}

/// With no descriptor left a proxy elsewhere spun in accept, and never served again.
#[test]
fn exhausted_descriptors_stop_nobody_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = dir.path().join("listen");
    let route = format!("unix:{}=tcp://{}", listen.display(), target.local_addr().unwrap());
    let running = start_ready(dir.path(), &route);
    let few = Rlimit { current: Some(40), maximum: Some(40) };
    prlimit(Some(Pid::from_child(&running.0)), Resource::Nofile, few).unwrap();

    // More than it has descriptors for: some are carried, some are closed, and some wait in the queue.
    let crowd: Vec<_> = (0..60).map(|_| UnixStream::connect(&listen).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(300));
    drop(crowd);
    let start = std::time::Instant::now();
    target.set_nonblocking(true).unwrap();
    let is_served = || {
        let mut client = UnixStream::connect(&listen).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        client.write_all(b"ping").is_ok() && {
            std::thread::sleep(Duration::from_millis(50));
            let mut answered = false;
            // The crowd's connections are first in the queue, and are at their end.
            while let Ok((mut server, _)) = target.accept() {
                server.set_nonblocking(false).unwrap();
                server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                answered |= server.read_exact(&mut [0; 4]).is_ok() && server.write_all(b"pong").is_ok();
            }
            answered && client.read_exact(&mut [0; 4]).is_ok()
        }
    };
    while !is_served() {
        assert!(start.elapsed() < PATIENCE, "never served again");
    }
}

#[test]
fn datagrams_are_carried_between_two_processes() {
    let [outer, inner] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let between = format!("unix:{}", inner.path().join("guest").display());
    let program = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let inside = format!("{between}=udp://{}", program.local_addr().unwrap());
    let _inside = start_ready_with(inner.path(), &["reverse", "--datagrams", &inside]);
    // An address that is this process's own, so that the port is nobody else's.
    let [.., high, low] = std::process::id().to_be_bytes();
    let listen = std::net::SocketAddr::from(([127, 91, high, low], 4433));
    let outside = format!("udp://{listen}={between}");
    let _outside = start_ready_with(outer.path(), &["reverse", "--datagrams", &outside]);

    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    program.set_read_timeout(Some(PATIENCE)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"ping", listen).unwrap();
    let mut received = [0; 8];
    let (length, proxy) = program.recv_from(&mut received).unwrap();
    assert_eq!(&received[..length], b"ping");
    program.send_to(b"pong", proxy).unwrap();
    let (length, from) = client.recv_from(&mut received).unwrap();
    assert_eq!((&received[..length], from), (&b"pong"[..], listen));
}
