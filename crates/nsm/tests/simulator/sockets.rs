//! The simulated module behind its socket.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nsm::sim::{DevelopmentRoot, ServerHandle, serve_module};
use nsm::wire::Response;
use nsm::{Error, ErrorCode, Provider};

use crate::{MODULE_ID, at_end, new_module, new_root, pcr, refusal, verify, with_nonce};

/// A module being served, with all that has to live as long.
struct Served {
    _dir: tempfile::TempDir,
    root: DevelopmentRoot,
    path: PathBuf,
    handle: ServerHandle,
}

fn served() -> Served {
    let (dir, root) = new_root();
    let path = dir.path().join("nsm");
    let listener = UnixListener::bind(&path).unwrap();
    let handle = serve_module(listener, Arc::new(new_module(&root))).unwrap();
    Served { _dir: dir, root, path, handle }
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn send(stream: &mut UnixStream, length: u32, body: &[u8]) {
    stream.write_all(&length.to_be_bytes()).unwrap();
    stream.write_all(body).unwrap();
}

fn receive(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).unwrap();
    body
}

#[test]
fn a_socket_opens_as_a_module() {
    let served = served();
    let module = nsm::open(&served.path).unwrap();
    assert_eq!(module.describe().unwrap().module_id, MODULE_ID);
    let value = module.extend_pcr(pcr(16), b"a").unwrap();
    module.lock_pcr(pcr(16)).unwrap();
    assert_eq!(refusal(module.lock_pcr(pcr(16))), ErrorCode::ReadOnlyIndex);
    assert_eq!(module.describe_pcr(pcr(16)).unwrap().value, value);
    module.lock_pcrs(20).unwrap();
    assert_eq!(module.random(300).unwrap().len(), 300);
    let document = module.attest(&with_nonce(b"fresh")).unwrap();
    assert_eq!(verify(&document, &served.root).unwrap().nonce(), Some(&b"fresh"[..]));
}

#[test]
fn one_connection_carries_many_requests_even_byte_by_byte() {
    let served = served();
    let mut stream = connect(&served.path);
    let request = nsm::wire::Request::GetRandom.encode();
    let mut frame = u32::try_from(request.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(request);
    for _ in 0..3 {
        for byte in &frame {
            stream.write_all(&[*byte]).unwrap();
        }
        let response = Response::decode(&receive(&mut stream)).unwrap();
        assert!(matches!(response, Response::GetRandom { random } if random.len() == 256));
    }
}

#[test]
fn a_frame_over_the_limit_is_refused_and_ends_the_connection() {
    let served = served();
    for length in [0x1001, u32::MAX] {
        let mut stream = connect(&served.path);
        send(&mut stream, length, b"");
        let response = Response::decode(&receive(&mut stream)).unwrap();
        assert_eq!(response, Response::Error(ErrorCode::InputTooLarge));
        assert!(at_end(&mut stream));
    }
}

#[test]
fn nonsense_is_answered_and_the_connection_goes_on() {
    let served = served();
    let mut stream = connect(&served.path);
    let largest = vec![0xff; 0x1000];
    for body in [&b""[..], b"\xff", b"\x66Reboot", &largest] {
        send(&mut stream, u32::try_from(body.len()).unwrap(), body);
        let response = Response::decode(&receive(&mut stream)).unwrap();
        assert_eq!(response, Response::Error(ErrorCode::InvalidOperation));
    }
}

#[test]
fn a_peer_that_leaves_within_a_frame_harms_nobody() {
    let served = served();
    for _ in 0..100 {
        let mut stream = connect(&served.path);
        send(&mut stream, 100, b"part");
    }
    assert!(nsm::open(&served.path).unwrap().describe().is_ok());
}

#[test]
fn silent_connections_do_not_keep_others_out_below_the_limit() {
    let served = served();
    let _silent: Vec<_> = (0..60).map(|_| connect(&served.path)).collect();
    assert!(nsm::open(&served.path).unwrap().describe().is_ok());
}

#[test]
fn connections_over_the_limit_wait_for_a_place() {
    let served = served();
    let silent: Vec<_> = (0..64).map(|_| connect(&served.path)).collect();
    let remote = nsm::Remote::with_timeout(&served.path, Duration::from_millis(200));
    assert!(matches!(remote.describe(), Err(Error::Exchange { .. })));
    drop(silent);
    assert!(nsm::open(&served.path).unwrap().describe().is_ok());
}

#[test]
fn callers_at_the_same_time_are_all_served() {
    let served = served();
    thread::scope(|scope| {
        for number in 0..16_u8 {
            let (path, root) = (&served.path, &served.root);
            scope.spawn(move || {
                let document = nsm::open(path).unwrap().attest(&with_nonce(&[number])).unwrap();
                assert_eq!(verify(&document, root).unwrap().nonce(), Some(&[number][..]));
            });
        }
    });
}

#[test]
fn a_dropped_handle_stops_the_server_and_its_connections() {
    let served = served();
    let mut open = connect(&served.path);
    send(&mut open, 1, b"\xff");
    receive(&mut open);
    let module = nsm::open(&served.path).unwrap();
    drop(served.handle);
    assert!(at_end(&mut open));
    assert!(matches!(module.describe(), Err(Error::Connect { .. })));
}
