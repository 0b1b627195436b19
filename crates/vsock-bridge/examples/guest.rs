//! The guest of `tests/guest.rs`: the only program in a virtual machine, its PID 1. It is of no use anywhere else, and
//! must not run anywhere else: it speaks to CID 3.
//!
//! ```sh
//! cargo rustc -p glasshouse-vsock-bridge --example guest -- -C target-feature=+crt-static
//! cp target/debug/examples/guest target/bridge-guest    # cargo test would replace it by an unbootable one
//! export GLASSHOUSE_BRIDGE_GUEST=$PWD/target/bridge-guest
//! ```

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::system::{RebootCommand, reboot};
use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

use pattern::{Checker, MAX_CHUNK_BYTES, Pattern};

#[path = "../tests/support/pattern.rs"]
mod pattern;
#[path = "../tests/support/ports.rs"]
#[allow(dead_code, reason = "some are the test's alone")]
mod ports;

type Outcome = Result<(), Box<dyn Error>>;

/// The host, as an enclave knows it.
const PARENT_CID: u32 = 3;

/// How long [`ports::SLOW`] reads nothing.
const SLOWNESS: Duration = Duration::from_millis(1500);

fn main() {
    if std::process::id() != 1 {
        eprintln!("guest: to be booted, not run");
        return;
    }
    if let Err(error) = run() {
        eprintln!("guest: {error}");
    }
    // Init must not return: the kernel would panic, which looks like a crash.
    let _ = reboot(RebootCommand::Restart);
}

fn run() -> Outcome {
    setrlimit(Resource::Nofile, Rlimit { current: Some(4096), maximum: Some(4096) })?;
    serve(ports::ECHO, echo)?;
    serve(ports::SINK, sink)?;
    serve(ports::SOURCE, source)?;
    serve(ports::STALL, |_| {
        loop {
            thread::sleep(Duration::from_secs(3600));
        }
    })?;
    serve(ports::SLOW, |stream| {
        thread::sleep(SLOWNESS);
        sink(stream)
    })?;
    serve(ports::DUPLEX, duplex)?;
    serve(ports::CONTROL, control)?;
    heartbeat()?;
    eprintln!("guest: up");
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

/// Serves a port in threads of its own, one more per connection.
fn serve(port: u32, service: fn(VsockStream) -> Outcome) -> Outcome {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port)?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let outcome = stream.map_err(Into::into).and_then(service);
                if let Err(error) = outcome {
                    eprintln!("guest: port {port}: {error}");
                }
            });
        }
    });
    Ok(())
}

fn connect(port: u32) -> std::io::Result<VsockStream> {
    VsockStream::connect_with_cid_port(PARENT_CID, port)
}

fn heartbeat() -> Outcome {
    let mut stream = connect(ports::HEARTBEAT)?;
    stream.write_all(&[ports::HEARTBEAT_BYTE])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer != [ports::HEARTBEAT_BYTE] {
        return Err("wrong answer to the heartbeat".into());
    }
    Ok(())
}

fn echo(mut stream: VsockStream) -> Outcome {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count])?;
    }
}

fn sink(mut stream: VsockStream) -> Outcome {
    let verdict = check(&mut stream)?;
    writeln!(stream, "{verdict}")?;
    Ok(())
}

fn check(stream: &mut impl Read) -> Result<String, Box<dyn Error>> {
    let mut checker = Checker::default();
    let mut buffer = vec![0; MAX_CHUNK_BYTES];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(checker.verdict());
        }
        checker.take(&buffer[..count]);
    }
}

fn source(mut stream: VsockStream) -> Outcome {
    let (seed, length, chunk) = request(&mut stream)?;
    send(&mut stream, seed, length, chunk)
}

fn request(stream: &mut impl Read) -> Result<(u64, usize, usize), Box<dyn Error>> {
    let mut numbers = [[0; 8]; 3];
    for number in &mut numbers {
        stream.read_exact(number)?;
    }
    let [seed, length, chunk] = numbers.map(u64::from_le_bytes);
    Ok((seed, length.try_into()?, chunk.try_into()?))
}

fn send(stream: &mut impl Write, seed: u64, length: usize, chunk: usize) -> Outcome {
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

fn duplex(mut stream: VsockStream) -> Outcome {
    let (seed, length, chunk) = request(&mut stream)?;
    let mut writer = stream.try_clone()?;
    let sender =
        thread::spawn(move || send(&mut writer, seed, length, chunk).map_err(|error| error.to_string()));
    let verdict = check(&mut stream)?;
    sender.join().map_err(|_| "the sender panicked")??;
    writeln!(stream, "{verdict}")?;
    Ok(())
}

fn control(mut stream: VsockStream) -> Outcome {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let command = words.next().unwrap_or_default();
    let numbers: Vec<u32> = words.map(str::parse).collect::<Result<_, _>>()?;
    let answer = match (command, numbers.as_slice()) {
        ("dial", [port]) => dial(*port),
        ("upload", [port, length]) => upload(*port, *length as usize)?,
        ("abandon", [port, length]) => abandon(*port, *length as usize)?,
        ("deaf", [port]) => deaf(*port)?,
        ("fan", [port, count, length]) => fan(*port, *count, *length as usize),
        ("reboot", []) => {
            let _ = reboot(RebootCommand::Restart);
            "still here".to_owned()
        }
        _ => return Err(format!("what is {line:?}?").into()),
    };
    writeln!(stream, "{answer}")?;
    Ok(())
}

/// Connects and says what came of it and after how many milliseconds.
fn dial(port: u32) -> String {
    let start = Instant::now();
    let outcome = match connect(port) {
        Ok(_) => "connected".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    };
    format!("{outcome} {}", start.elapsed().as_millis())
}

/// Sends a pattern in the largest writes there are, ends that direction, and says what came the other way after that.
fn upload(port: u32, length: usize) -> Result<String, Box<dyn Error>> {
    let mut stream = connect(port)?;
    send(&mut stream, u64::from(port), length, MAX_CHUNK_BYTES)?;
    stream.shutdown(Shutdown::Write)?;
    check(&mut stream)
}

/// Sends a pattern and closes at once.
fn abandon(port: u32, length: usize) -> Result<String, Box<dyn Error>> {
    send(&mut connect(port)?, u64::from(port), length, MAX_CHUNK_BYTES)?;
    Ok("abandoned".to_owned())
}

/// Says that it will not receive, then sends a word and waits for the host to close.
fn deaf(port: u32) -> Result<String, Box<dyn Error>> {
    let mut stream = connect(port)?;
    stream.shutdown(Shutdown::Read)?;
    thread::sleep(Duration::from_millis(200));
    stream.write_all(b"word")?;
    Ok("spoken".to_owned())
}

/// Makes many connections to an echo service of the host at once, and says how many got their own bytes back.
fn fan(port: u32, count: u32, length: usize) -> String {
    let workers: Vec<_> = (0..count).map(|seed| thread::spawn(move || fan_one(port, seed, length))).collect();
    let outcomes: Vec<Result<(), String>> = workers
        .into_iter()
        .map(|worker| worker.join().unwrap_or_else(|_| Err("panicked".to_owned())))
        .collect();
    let good = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    match outcomes.into_iter().find_map(Result::err) {
        None => format!("all {count}"),
        Some(error) => format!("{good} of {count}: {error}"),
    }
}

fn fan_one(port: u32, seed: u32, length: usize) -> Result<(), String> {
    let mut stream = connect(port).map_err(|error| error.to_string())?;
    let mut writer = stream.try_clone().map_err(|error| error.to_string())?;
    let sender = thread::spawn(move || {
        let outcome = send(&mut writer, u64::from(seed), length, 50_000).map_err(|error| error.to_string());
        outcome.and_then(|()| writer.shutdown(Shutdown::Write).map_err(|error| error.to_string()))
    });
    let verdict = check(&mut stream).map_err(|error| error.to_string())?;
    sender.join().map_err(|_| "the sender panicked".to_owned())??;
    if verdict == format!("{length} intact") { Ok(()) } else { Err(verdict) }
}
