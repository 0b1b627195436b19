//! What an engine does with connections that are handed to it, over real sockets of this machine.
#![expect(clippy::unwrap_used, reason = "a step that fails fails its test")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use relay::{Cause, Direction, Engine, LinkOptions};

const PATIENCE: Duration = Duration::from_secs(60);

fn unix() -> (UnixStream, UnixStream) {
    let (outer, inner) = UnixStream::pair().unwrap();
    outer.set_read_timeout(Some(PATIENCE)).unwrap();
    (outer, inner)
}

fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let outer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    outer.set_read_timeout(Some(PATIENCE)).unwrap();
    (outer, listener.accept().unwrap().0)
}

fn options(change: impl FnOnce(&mut LinkOptions)) -> Arc<LinkOptions> {
    let mut options = LinkOptions::default();
    change(&mut options);
    Arc::new(options)
}

fn pattern(length: usize, salt: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i * 7 + i / 253 + salt) % 251).unwrap()).collect()
}

/// Sends and half-closes on a thread, reads everything on this one.
fn exchange<S: Read + Write + Send>(
    stream: &mut S,
    mut writer: S,
    sent: &[u8],
    end: impl FnOnce(&S) + Send,
) -> Vec<u8> {
    let mut received = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(sent).unwrap();
            end(&writer);
        });
        stream.read_to_end(&mut received).unwrap();
    });
    received
}

#[test]
fn megabytes_both_ways_at_once_arrive_exactly_with_and_without_the_rules_for_vsock() {
    let engine = Engine::start(1).unwrap();
    for as_vsock in [false, true] {
        let ((mut a, inner_a), (mut b, inner_b)) = (tcp(), unix());
        let relaying = engine.relay(inner_a, inner_b, &options(|options| options.as_vsock = as_vsock));
        let (forth, fro) = (pattern(9_000_001, 1), pattern(7_000_003, 2));
        let (write_a, write_b) = (a.try_clone().unwrap(), b.try_clone().unwrap());
        thread::scope(|scope| {
            let at_a =
                scope.spawn(|| exchange(&mut a, write_a, &forth, |s| s.shutdown(Shutdown::Write).unwrap()));
            let at_b = exchange(&mut b, write_b, &fro, |s| s.shutdown(Shutdown::Write).unwrap());
            assert!(at_b == forth, "{} of {} bytes", at_b.len(), forth.len());
            assert!(at_a.join().unwrap() == fro);
        });
        let report = relaying.wait();
        assert!(matches!(report.cause, Cause::Complete), "{report:?}");
        assert_eq!((report.a_to_b, report.b_to_a), (9_000_001, 7_000_003));
    }
}

#[test]
fn half_close_is_passed_on_and_the_answer_still_comes() {
    let engine = Engine::start(1).unwrap();
    let ((mut a, inner_a), (mut b, inner_b)) = (unix(), tcp());
    let relaying = engine.relay(inner_a, inner_b, &options(|_| {}));
    a.write_all(b"question").unwrap();
    a.shutdown(Shutdown::Write).unwrap();
    let mut question = Vec::new();
    b.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question");
    b.write_all(b"answer").unwrap();
    drop(b);
    let mut answer = Vec::new();
    a.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
    assert!(matches!(relaying.wait().cause, Cause::Complete));
}

/// A stream that was cut looked like a whole one: the proxy turned the reset into an orderly end.
#[test]
fn reset_arrives_as_a_reset() {
    let engine = Engine::start(1).unwrap();
    let ((mut a, inner_a), (mut b, inner_b)) = (tcp(), tcp());
    let relaying = engine.relay(inner_a, inner_b, &options(|_| {}));
    a.write_all(b"half of a mess").unwrap();
    let mut received = [0; 14];
    b.read_exact(&mut received).unwrap();
    rustix::net::sockopt::set_socket_linger(&a, Some(Duration::ZERO)).unwrap();
    drop(a);
    assert_eq!(b.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(matches!(relaying.wait().cause, Cause::Read { direction: Direction::AToB, .. }));
}

#[test]
fn early_answer_of_a_server_that_stops_reading_reaches_the_client() {
    let engine = Engine::start(1).unwrap();
    let ((mut a, inner_a), (mut b, inner_b)) = (tcp(), unix());
    let relaying =
        engine.relay(inner_a, inner_b, &options(|options| options.linger = Duration::from_secs(2)));
    b.write_all(b"too large").unwrap();
    drop(b);
    let mut answer = Vec::new();
    let mut writer = a.try_clone().unwrap();
    let sending = thread::spawn(move || while writer.write_all(&[0; 65536]).is_ok() {});
    a.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"too large");
    // Closing is noticed by the sender, who would go on for ever.
    drop(a);
    let report = relaying.wait();
    assert!(matches!(report.cause, Cause::Write { direction: Direction::AToB, .. }), "{report:?}");
    sending.join().unwrap();
}

#[test]
fn silence_ends_a_connection_after_the_idle_timeout_and_bytes_put_it_off() {
    let engine = Engine::start(1).unwrap();
    let ((mut a, inner_a), (mut b, inner_b)) = (unix(), unix());
    // A machine that stands still for a moment must not be what silences it.
    let idle = Duration::from_secs(3);
    let relaying = engine.relay(inner_a, inner_b, &options(|options| options.idle = Some(idle)));
    let start = Instant::now();
    for _ in 0..4 {
        thread::sleep(idle / 4);
        a.write_all(b"x").unwrap();
        b.read_exact(&mut [0]).unwrap();
    }
    let report = relaying.wait();
    assert!(matches!(report.cause, Cause::Idle), "{report:?}");
    assert!(start.elapsed() >= idle * 2);
    assert_eq!(b.read(&mut [0]).unwrap(), 0);
}

#[test]
fn half_open_connection_without_an_answer_is_ended() {
    let engine = Engine::start(1).unwrap();
    let ((a, inner_a), (mut b, inner_b)) = (unix(), tcp());
    let patience = Duration::from_millis(100);
    let relaying = engine.relay(inner_a, inner_b, &options(|options| options.half_open = Some(patience)));
    a.shutdown(Shutdown::Write).unwrap();
    assert_eq!(b.read(&mut [0]).unwrap(), 0);
    assert!(matches!(relaying.wait().cause, Cause::HalfOpen));
}

#[test]
fn dropping_the_engine_ends_what_it_carries() {
    let engine = Engine::start(2).unwrap();
    let ((mut a, inner_a), (_b, inner_b)) = (unix(), unix());
    let relaying = engine.relay(inner_a, inner_b, &options(|_| {}));
    drop(engine);
    assert!(matches!(relaying.wait().cause, Cause::Stopped));
    assert_eq!(a.read(&mut [0]).unwrap(), 0);
}

#[tokio::test]
async fn report_is_a_future() {
    let engine = Engine::start(1).unwrap();
    let ((mut a, inner_a), (b, inner_b)) = (unix(), unix());
    let relaying = engine.relay(inner_a, inner_b, &options(|_| {}));
    a.write_all(b"12345").unwrap();
    drop(a);
    drop(b);
    let report = tokio::time::timeout(PATIENCE, relaying).await.unwrap();
    assert_eq!(report.b_to_a, 0);
}

/// Both transmit queues full was a deadlock elsewhere.
#[test]
fn both_sides_may_write_without_reading_until_everything_is_full() {
    let engine = Engine::start(1).unwrap();
    for as_vsock in [false, true] {
        let ((mut a, inner_a), (mut b, inner_b)) = (unix(), unix());
        let _relaying = engine.relay(inner_a, inner_b, &options(|options| options.as_vsock = as_vsock));
        let fill = |stream: &mut UnixStream| {
            stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let mut sent = 0;
            while let Ok(count) = stream.write(&[5; 10_000]) {
                sent += count;
            }
            sent
        };
        let (from_a, from_b) = (fill(&mut a), fill(&mut b));
        let drain = |stream: &mut UnixStream, count: usize| stream.read_exact(&mut vec![0; count]).unwrap();
        drain(&mut b, from_a);
        drain(&mut a, from_b);
    }
}
