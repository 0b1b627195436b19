//! Setting a bridge up and taking it down, without a virtual machine.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use vsock_bridge::{Bridge, Config, Error};

const PATIENCE: Duration = Duration::from_secs(60);

fn config(dir: &Path) -> Config {
    Config { vhost_socket: dir.join("vhost"), uds: dir.join("vm"), guest_cid: 4 }
}

#[test]
fn sockets_exist_from_bind_to_the_end_of_the_bridge() {
    let dir = tempfile::tempdir().unwrap();
    let bridge = Bridge::bind(config(dir.path())).unwrap();
    assert!(dir.path().join("vhost").exists() && dir.path().join("vm").exists());
    let handle = bridge.spawn().unwrap();
    assert!(!handle.is_finished());
    handle.stop();
    handle.wait().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_dropped_bridge_or_handle_leaves_no_files() {
    let dir = tempfile::tempdir().unwrap();
    drop(Bridge::bind(config(dir.path())).unwrap());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    drop(Bridge::bind(config(dir.path())).unwrap().spawn().unwrap());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_frontend_that_leaves_ends_the_bridge() {
    let dir = tempfile::tempdir().unwrap();
    let handle = Bridge::bind(config(dir.path())).unwrap().spawn().unwrap();
    drop(UnixStream::connect(dir.path().join("vhost")).unwrap());
    handle.wait().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_connected_bridge_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let handle = Bridge::bind(config(dir.path())).unwrap().spawn().unwrap();
    let mut frontend = UnixStream::connect(dir.path().join("vhost")).unwrap();
    frontend.set_read_timeout(Some(PATIENCE)).unwrap();
    handle.stop();
    handle.wait().unwrap();
    assert_eq!(frontend.read(&mut [0]).unwrap_or_default(), 0);
}

#[test]
fn clients_are_refused_while_no_driver_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let _handle = Bridge::bind(config(dir.path())).unwrap().spawn().unwrap();
    let _frontend = UnixStream::connect(dir.path().join("vhost")).unwrap();
    for line in ["CONNECT 5000\n", "nonsense\n"] {
        let mut client = UnixStream::connect(dir.path().join("vm")).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(line.as_bytes()).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_or_default(), 0, "{line:?}");
    }
}

#[test]
fn a_client_that_sends_its_greeting_byte_by_byte_or_never_ends_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let _handle = Bridge::bind(config(dir.path())).unwrap().spawn().unwrap();
    let _frontend = UnixStream::connect(dir.path().join("vhost")).unwrap();
    let mut silent = UnixStream::connect(dir.path().join("vm")).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let is_answered_at_once = || {
        let mut slow = UnixStream::connect(dir.path().join("vm")).unwrap();
        slow.set_read_timeout(Some(PATIENCE)).unwrap();
        for byte in b"CONNECT 5000" {
            slow.write_all(&[*byte]).unwrap();
        }
        let start = Instant::now();
        slow.write_all(b"\n").unwrap();
        assert_eq!(slow.read(&mut [0]).unwrap(), 0);
        start.elapsed() < Duration::from_secs(4)
    };
    // The machine may stand still once, or twice.
    assert!((0..5).any(|_| is_answered_at_once()), "the line was complete");
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
    let dir = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(dir.path().join("vm")).unwrap());
    assert!(dir.path().join("vm").exists(), "left behind");
    let first = Bridge::bind(config(dir.path())).unwrap();
    let second = Bridge::bind(config(dir.path()));
    assert!(matches!(second, Err(Error::InUse { path }) if path == dir.path().join("vm")));
    assert!(dir.path().join("vm").exists(), "a failed attempt must not remove what is another's");
    drop(first);
    std::fs::write(dir.path().join("vhost"), "precious").unwrap();
    let third = Bridge::bind(config(dir.path()));
    assert!(matches!(third, Err(Error::InUse { path }) if path == dir.path().join("vhost")));
    assert_eq!(std::fs::read(dir.path().join("vhost")).unwrap(), b"precious");
    assert!(!dir.path().join("vm").exists());
}

#[test]
fn impossible_configurations_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for cid in [0, 1, 2, 3, u32::MAX] {
        let outcome = Bridge::bind(Config { guest_cid: cid, ..config(dir.path()) });
        assert!(matches!(outcome, Err(Error::ReservedCid { cid: refused }) if refused == cid));
    }
    let long = dir.path().join("x".repeat(97));
    let outcome = Bridge::bind(Config { uds: long.clone(), ..config(dir.path()) });
    assert!(matches!(outcome, Err(Error::PathTooLong { path, .. }) if path == long));
    let missing = Config { vhost_socket: dir.path().join("no/such/dir"), ..config(dir.path()) };
    assert!(matches!(Bridge::bind(missing), Err(Error::Bind { .. })));
}
