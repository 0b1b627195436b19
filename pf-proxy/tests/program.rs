//! The program as a supervisor sees it: readiness, signals, exit codes.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

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
    let supervisor = UnixDatagram::bind(dir.join("notify")).unwrap();
    supervisor.set_read_timeout(Some(PATIENCE)).unwrap();
    let command = program(&["reverse", "--route", route]).env("NOTIFY_SOCKET", dir.join("notify")).spawn();
    let running = Running(command.unwrap());
    let mut message = [0; 32];
    let length = supervisor.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1");
    running
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
