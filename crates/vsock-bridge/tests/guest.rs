//! The bridge between real sockets and a real guest: QEMU's `nitro-enclave` machine, a Linux kernel, and
//! `examples/guest.rs` as its only program.
//!
//! Each test boots a machine of its own, which takes a few seconds. They need `GLASSHOUSE_QEMU` (the program),
//! `GLASSHOUSE_KERNEL` (a bzImage) and `GLASSHOUSE_BRIDGE_GUEST` (see that example), and say so where they are not set.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use pattern::{Pattern, SEED_BYTES};
use vm::{PATIENCE, Vm, check, line, patient};

#[path = "support/pattern.rs"]
mod pattern;
#[path = "support/ports.rs"]
mod ports;
#[path = "support/vm.rs"]
mod vm;

/// Of the size that another bridge was seen to lose parts of.
const LARGE_BYTES: usize = 5_000_000;

/// A port of the host that tests listen on.
const HOST_PORT: u32 = 7000;

/// Something that should take no time has this long on a busy machine: less than a guest waits for an answer that does
/// not come (2 s), and than the bridge does (5 s).
const PROMPT: Duration = Duration::from_millis(1500);

/// Sends a pattern in writes of `chunk` bytes.
fn send(stream: &mut impl Write, seed: u64, length: usize, chunk: usize) -> std::io::Result<()> {
    let pattern = Pattern::new(seed);
    stream.write_all(&pattern.seed())?;
    let mut sent = 0;
    while sent < length {
        let count = chunk.min(length - sent);
        stream.write_all(pattern.at(sent, count))?;
        sent += count;
    }
    Ok(())
}

/// What [`ports::SOURCE`] and [`ports::DUPLEX`] read first.
fn request(seed: u64, length: usize, chunk: usize) -> Vec<u8> {
    [seed, length as u64, chunk as u64].into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Sends a pattern through an echo and gives the verdict on what comes back.
fn echo(mut stream: UnixStream, seed: u64, length: usize) -> String {
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        send(&mut writer, seed, length, 50_000).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let verdict = check(&mut stream);
    sender.join().unwrap();
    verdict
}

fn intact(length: usize) -> String {
    format!("{length} intact")
}

#[test]
fn a_large_echo_comes_back_whole() {
    let Some(vm) = Vm::boot() else { return };
    assert_eq!(echo(vm.connect(ports::ECHO), 1, LARGE_BYTES), intact(LARGE_BYTES));
}

#[test]
fn the_guest_answers_after_the_hosts_data_has_ended() {
    let Some(vm) = Vm::boot() else { return };
    for length in [0, 1, LARGE_BYTES] {
        let mut stream = vm.connect(ports::SINK);
        send(&mut stream, 2, length, 1 << 18).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(line(stream), intact(length));
    }
}

#[test]
fn the_host_answers_after_the_guests_data_has_ended() {
    let Some(mut vm) = Vm::boot() else { return };
    let listener = vm.listen(HOST_PORT);
    for length in [0, 65_536, LARGE_BYTES] {
        let uds = vm.uds();
        let command = format!("upload {HOST_PORT} {length}\n");
        let guest = thread::spawn(move || {
            let mut control = vm::connect(&uds, ports::CONTROL).unwrap();
            control.write_all(command.as_bytes()).unwrap();
            line(control)
        });
        let mut stream = vm.accept(&listener);
        assert_eq!(check(&mut stream), intact(length));
        send(&mut stream, 3, 100_000, 1000).unwrap();
        drop(stream);
        assert_eq!(guest.join().unwrap(), intact(100_000));
    }
}

#[test]
fn writes_of_the_guest_larger_than_a_packet_arrive_whole() {
    let Some(vm) = Vm::boot() else { return };
    for chunk in [1 << 18, 65_537, 40_000, 4096] {
        let mut stream = vm.connect(ports::SOURCE);
        stream.write_all(&request(4, LARGE_BYTES, chunk)).unwrap();
        assert_eq!(check(&mut stream), intact(LARGE_BYTES), "writes of {chunk} bytes");
    }
}

#[test]
fn bytes_right_behind_the_greeting_reach_the_guest() {
    let Some(vm) = Vm::boot() else { return };
    let mut stream = patient(UnixStream::connect(vm.uds()).unwrap());
    let mut segment = format!("CONNECT {}\n", ports::SOURCE).into_bytes();
    segment.extend(request(5, 1000, 100));
    stream.write_all(&segment).unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"OK 5003\n");
    assert_eq!(check(&mut stream), intact(1000));
}

/// A Unix stream that is closed with data unread gives its peer an error where the end should be.
#[test]
fn a_guest_that_leaves_data_unread_ends_its_stream_properly() {
    let Some(vm) = Vm::boot() else { return };
    for _ in 0..3 {
        let mut stream = vm.connect(ports::SOURCE);
        stream.write_all(&request(9, LARGE_BYTES, 1 << 18)).unwrap();
        // More than the guest takes without reading.
        let mut writer = fill(stream.try_clone().unwrap());
        assert_eq!(check(&mut stream), intact(LARGE_BYTES));
        assert_eq!(writer.write(&[0]).unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}

#[test]
fn ports_where_nobody_listens_are_refused_at_once_in_both_directions() {
    let Some(vm) = Vm::boot() else { return };
    let from_the_host = || {
        let start = Instant::now();
        assert!(vm.try_connect(ports::NOBODY).is_none());
        start.elapsed()
    };
    let from_the_guest = || {
        let answer = vm.command(&format!("dial {}", ports::NOBODY));
        let (outcome, millis) = answer.split_once(' ').unwrap();
        assert_eq!(outcome, "ConnectionReset");
        Duration::from_millis(millis.parse().unwrap())
    };
    // A machine that is busy may stand still for longer; it does not do so every time.
    assert!((0..10).any(|_| from_the_host() < PROMPT), "the host waits");
    assert!((0..10).any(|_| from_the_guest() < PROMPT), "the guest waits");
}

#[test]
fn hundreds_of_connections_from_the_host_at_once() {
    let Some(vm) = Vm::boot() else { return };
    // More than the guest's listener has room for before its program gets to accept them.
    let (count, length) = (200, 30_000);
    let workers: Vec<_> = (0..count)
        .map(|seed| {
            let uds = vm.uds();
            thread::spawn(move || echo(vm::connect(&uds, ports::ECHO).expect("refused"), seed, length))
        })
        .collect();
    for worker in workers {
        assert_eq!(worker.join().unwrap(), intact(length));
    }
}

#[test]
fn hundreds_of_connections_from_the_guest_at_once() {
    let Some(mut vm) = Vm::boot() else { return };
    let (count, length) = (200, 30_000);
    let listener = vm.listen(HOST_PORT);
    let uds = vm.uds();
    let guest = thread::spawn(move || {
        let mut control = vm::connect(&uds, ports::CONTROL).unwrap();
        control.write_all(format!("fan {HOST_PORT} {count} {length}\n").as_bytes()).unwrap();
        line(control)
    });
    for _ in 0..count {
        let mut stream = vm.accept(&listener);
        thread::spawn(move || {
            let mut writer = stream.try_clone().unwrap();
            std::io::copy(&mut stream, &mut writer).unwrap();
        });
    }
    assert_eq!(guest.join().unwrap(), format!("all {count}"));
}

#[test]
fn a_thousand_connections_stay_open_side_by_side() {
    let Some(vm) = Vm::boot() else { return };
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let idle: Vec<UnixStream> = (0..1100).map(|_| vm.connect(ports::STALL)).collect();
    assert_eq!(echo(vm.connect(ports::ECHO), 8, 100_000), intact(100_000));
    for mut stream in idle {
        stream.set_nonblocking(true).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "still open");
    }
}

#[test]
fn full_queues_both_ways_do_not_wait_for_each_other() {
    let Some(vm) = Vm::boot() else { return };
    let workers: Vec<_> = (0..4).map(|seed| (seed, vm.connect(ports::DUPLEX))).collect();
    let workers: Vec<_> =
        workers.into_iter().map(|(seed, stream)| thread::spawn(move || duplex(stream, seed))).collect();
    for worker in workers {
        worker.join().unwrap();
    }
}

fn duplex(mut stream: UnixStream, seed: u64) {
    stream.write_all(&request(seed, LARGE_BYTES, 1 << 18)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        send(&mut writer, seed + 100, LARGE_BYTES, 1 << 18).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let verdict = check(&mut (&mut stream).take((SEED_BYTES + LARGE_BYTES) as u64));
    assert_eq!(verdict, intact(LARGE_BYTES));
    sender.join().unwrap();
    assert_eq!(line(stream), intact(LARGE_BYTES));
}

#[test]
fn stalled_connections_hold_up_nobody_else() {
    let Some(vm) = Vm::boot() else { return };
    let stalled: Vec<UnixStream> = (0..20).map(|_| fill(vm.connect(ports::STALL))).collect();
    let unread: Vec<UnixStream> = (0..20)
        .map(|seed| {
            let mut stream = vm.connect(ports::SOURCE);
            stream.write_all(&request(seed, LARGE_BYTES, 1 << 18)).unwrap();
            stream
        })
        .collect();
    assert_eq!(echo(vm.connect(ports::ECHO), 6, LARGE_BYTES), intact(LARGE_BYTES));
    drop(stalled);
    for mut stream in unread {
        assert_eq!(check(&mut stream), intact(LARGE_BYTES), "what waited is not lost");
    }
}

/// Writes until there is no room left.
fn fill(mut stream: UnixStream) -> UnixStream {
    stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut filled = 0;
    loop {
        match stream.write(&[0; 4096]) {
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return stream,
            Err(error) => panic!("after {filled} bytes: {error}"),
        }
    }
}

/// Linux 6.12.92 began to count the overhead of each packet that waits to be read, and reset a connection on which too
/// many small ones did: a reader that was slow for a moment lost a peer that did nothing wrong. Later kernels merge
/// such packets first. This one must, or the bridge has to.
#[test]
fn small_writes_survive_a_slow_reader() {
    let Some(vm) = Vm::boot() else { return };
    for chunk in [1, 100, 128, 200, 300, 1000] {
        let length = 400 * chunk.max(250);
        let mut stream = vm.connect(ports::SLOW);
        send_one_by_one(&mut stream, 7, length, chunk);
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(line(stream), intact(length), "writes of {chunk} bytes\n{}", vm.console());
    }
}

/// Sends a pattern so slowly that the bridge gets to see the first writes one at a time.
fn send_one_by_one(stream: &mut UnixStream, seed: u64, length: usize, chunk: usize) {
    let pattern = Pattern::new(seed);
    stream.write_all(&pattern.seed()).unwrap();
    let start = Instant::now();
    let mut sent = 0;
    while sent < length {
        let count = chunk.min(length - sent);
        stream.write_all(pattern.at(sent, count)).unwrap();
        sent += count;
        if start.elapsed() < Duration::from_millis(1200) {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

#[test]
fn what_the_guest_wrote_before_it_closed_arrives() {
    let Some(mut vm) = Vm::boot() else { return };
    let listener = vm.listen(HOST_PORT);
    let uds = vm.uds();
    let guest = thread::spawn(move || {
        let mut control = vm::connect(&uds, ports::CONTROL).unwrap();
        control.write_all(format!("abandon {HOST_PORT} 400000\n").as_bytes()).unwrap();
        line(control)
    });
    let mut stream = vm.accept(&listener);
    assert_eq!(guest.join().unwrap(), "abandoned", "it has closed before anything is read");
    assert_eq!(check(&mut stream), intact(400_000));
}

#[test]
fn a_guest_that_will_not_receive_can_still_send_and_the_host_is_told() {
    let Some(mut vm) = Vm::boot() else { return };
    let listener = vm.listen(HOST_PORT);
    let uds = vm.uds();
    let guest = thread::spawn(move || {
        let mut control = vm::connect(&uds, ports::CONTROL).unwrap();
        control.write_all(format!("deaf {HOST_PORT}\n").as_bytes()).unwrap();
        line(control)
    });
    let mut stream = vm.accept(&listener);
    let start = Instant::now();
    let error = loop {
        if let Err(error) = stream.write_all(b"?") {
            break error;
        }
        assert!(start.elapsed() < PATIENCE, "the host may write for ever");
        thread::sleep(Duration::from_millis(1));
    };
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    let mut word = String::new();
    stream.read_to_string(&mut word).unwrap();
    assert_eq!((word.as_str(), guest.join().unwrap().as_str()), ("word", "spoken"));
}

#[test]
fn the_bridge_ends_with_qemu_and_leaves_nothing_behind() {
    let Some(mut vm) = Vm::boot() else { return };
    let mut open = vm.connect(ports::ECHO);
    let mut control = vm.connect(ports::CONTROL);
    control.write_all(b"reboot\n").unwrap();
    vm.wait_for_exit();
    assert_eq!(open.read(&mut [0]).unwrap_or_default(), 0, "open connections end");
    let start = Instant::now();
    while !vm.bridge.is_finished() {
        assert!(start.elapsed() < PATIENCE, "the bridge does not end");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(vm.sockets(), ["vm_9000"], "the listener of the test's own is all that is left");
}

#[test]
fn a_bridge_that_is_stopped_leaves_a_running_guest() {
    let Some(mut vm) = Vm::boot() else { return };
    let mut open = vm.connect(ports::ECHO);
    vm.bridge.stop();
    assert_eq!(open.read(&mut [0]).unwrap_or_default(), 0);
    let start = Instant::now();
    while !vm.bridge.is_finished() {
        assert!(start.elapsed() < PATIENCE, "the bridge does not stop");
        thread::sleep(Duration::from_millis(5));
    }
    assert!(vm.qemu.try_wait().unwrap().is_none());
}
