//! Clients and servers for measuring proxies; both are one thread with epoll.
//!
//! Usage: load sink|echo PORT
//!        load send PORT MIB               one stream of 256 KiB writes; prints seconds
//!        load rr PORT CONNECTIONS SECONDS BYTES    requests and answers; prints requests a second, p50 and p99 in us
//!        load conn PORT AT_ONCE SECONDS   connections of one byte there and back; prints the same and failures
//!        load idle PORT CONNECTIONS       one byte there and back on each, then waits for the end of its input
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with, sockopt};

fn main() {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let number = |index: usize| words[index].parse::<u64>().expect("a number");
    let port = u16::try_from(number(1)).expect("a port");
    match words[0].as_str() {
        "sink" => sink(port),
        "echo" => echo(port),
        "send" => send_bulk(port, number(2)),
        "rr" => rr(port, number(2), Duration::from_secs(number(3)), number(4) as usize),
        "conn" => conn(port, number(2), Duration::from_secs(number(3))),
        "idle" => idle(port, number(2)),
        other => panic!("{other}: unknown"),
    }
}

fn here(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn sink(port: u16) {
    let mut buffer = vec![0; 256 * 1024];
    for stream in TcpListener::bind(here(port)).expect("bound").incoming() {
        let mut stream = stream.expect("accepted");
        while let Ok(1..) = stream.read(&mut buffer) {}
    }
}

fn send_bulk(port: u16, mib: u64) {
    let mut stream = TcpStream::connect(here(port)).expect("connected");
    let chunk = vec![7; 256 * 1024];
    let start = Instant::now();
    for _ in 0..mib * 4 {
        stream.write_all(&chunk).expect("sent");
    }
    stream.shutdown(std::net::Shutdown::Write).expect("open");
    assert_eq!(stream.read(&mut [0]).expect("ended"), 0);
    println!("{}", start.elapsed().as_secs_f64());
}

/// Epoll, and what it has said last.
struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    fn new() -> Self {
        Self { epoll: epoll::create(CreateFlags::CLOEXEC).expect("epoll"), events: Vec::with_capacity(256) }
    }

    fn add(&self, socket: &OwnedFd, key: u64, flags: EventFlags) {
        epoll::add(&self.epoll, socket, EventData::new_u64(key), flags).expect("registered");
    }

    fn wait(&mut self) -> Vec<(u64, EventFlags)> {
        self.events.clear();
        let timeout = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("epoll: {error}"),
        }
        self.events.iter().map(|event| (event.data.u64(), event.flags)).collect()
    }
}

fn echo(port: u16) {
    let listener = OwnedFd::from(TcpListener::bind(here(port)).expect("bound"));
    rustix::io::ioctl_fionbio(&listener, true).expect("a socket");
    rustix::net::listen(&listener, 4096).expect("listening");
    sockopt::set_tcp_nodelay(&listener, true).expect("TCP");
    let mut poll = Poll::new();
    poll.add(&listener, u64::MAX, EventFlags::IN);
    let mut clients: Vec<Option<OwnedFd>> = Vec::new();
    let mut free = Vec::new();
    let mut buffer = vec![0; 65536];
    loop {
        for (key, _) in poll.wait() {
            if key == u64::MAX {
                while let Ok(client) = rustix::net::accept_with(&listener, SocketFlags::NONBLOCK) {
                    let index = free.pop().unwrap_or_else(|| {
                        clients.push(None);
                        clients.len() - 1
                    });
                    poll.add(&client, index as u64, EventFlags::IN);
                    clients[index] = Some(client);
                }
                continue;
            }
            let Some(client) = &clients[key as usize] else { continue };
            match recv(client, &mut buffer[..], RecvFlags::empty()) {
                Ok((count @ 1.., _)) => {
                    let _ = send(client, &buffer[..count], SendFlags::NOSIGNAL);
                }
                Err(Errno::AGAIN) => {}
                _ => {
                    clients[key as usize] = None;
                    free.push(key as usize);
                }
            }
        }
    }
}

fn report(count: usize, seconds: f64, mut latencies: Vec<Duration>, failures: u64) {
    latencies.sort_unstable();
    let at = |part: f64| latencies.get((latencies.len() as f64 * part) as usize).map_or(0.0, Duration::as_secs_f64) * 1e6;
    println!("{:.0} {:.1} {:.1} {failures}", count as f64 / seconds, at(0.5), at(0.99));
}

fn rr(port: u16, connections: u64, duration: Duration, size: usize) {
    let request = vec![1; size];
    let mut poll = Poll::new();
    let mut state: Vec<_> = (0..connections)
        .map(|key| {
            let stream = TcpStream::connect(here(port)).expect("connected");
            stream.set_nodelay(true).expect("TCP");
            let socket = OwnedFd::from(stream);
            rustix::io::ioctl_fionbio(&socket, true).expect("a socket");
            poll.add(&socket, key, EventFlags::IN);
            (socket, 0, Instant::now())
        })
        .collect();
    let start = Instant::now();
    for (socket, _, sent) in &mut state {
        *sent = Instant::now();
        send(&*socket, &request, SendFlags::NOSIGNAL).expect("sent");
    }
    let mut latencies = Vec::new();
    let mut buffer = vec![0; size];
    while start.elapsed() < duration {
        for (key, _) in poll.wait() {
            let (socket, received, sent) = &mut state[key as usize];
            match recv(&*socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((count @ 1.., _)) => *received += count,
                Err(Errno::AGAIN) => continue,
                other => panic!("cut off: {other:?}"),
            }
            if *received >= size {
                *received = 0;
                latencies.push(sent.elapsed());
                *sent = Instant::now();
                send(&*socket, &request, SendFlags::NOSIGNAL).expect("sent");
            }
        }
    }
    report(latencies.len(), start.elapsed().as_secs_f64(), latencies, 0);
}

fn open(port: u16) -> OwnedFd {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket");
    match connect(&socket, &here(port)) {
        Ok(()) | Err(Errno::INPROGRESS) => socket,
        Err(error) => panic!("connecting: {error}"),
    }
}

fn conn(port: u16, at_once: u64, duration: Duration) {
    let mut poll = Poll::new();
    let start = Instant::now();
    let begin = |poll: &Poll, key: u64| {
        let socket = open(port);
        poll.add(&socket, key, EventFlags::OUT | EventFlags::IN | EventFlags::ET);
        (socket, false, Instant::now())
    };
    let mut state: Vec<_> = (0..at_once).map(|key| begin(&poll, key)).collect();
    let (mut latencies, mut failures) = (Vec::new(), 0);
    while start.elapsed() < duration {
        for (key, flags) in poll.wait() {
            let (socket, has_sent, began) = &mut state[key as usize];
            if !*has_sent && flags.contains(EventFlags::OUT) && send(&*socket, b"x", SendFlags::NOSIGNAL).is_ok() {
                *has_sent = true;
            }
            match recv(&*socket, &mut [0; 8][..], RecvFlags::empty()) {
                Ok((1.., _)) => latencies.push(began.elapsed()),
                Err(Errno::AGAIN) => continue,
                _ => failures += 1,
            }
            state[key as usize] = begin(&poll, key);
        }
    }
    report(latencies.len(), start.elapsed().as_secs_f64(), latencies, failures);
}

fn idle(port: u16, connections: u64) {
    let mut held = Vec::new();
    for _ in 0..connections {
        let mut stream = TcpStream::connect(here(port)).expect("connected");
        stream.write_all(b"x").expect("sent");
        stream.read_exact(&mut [0]).expect("answered");
        held.push(stream);
    }
    println!("ready");
    let _ = std::io::stdin().read(&mut [0]);
}
