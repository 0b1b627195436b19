//! What it costs to wake a sleeping process: one byte goes back and forth between two processes, which do nothing else.
//!
//! Usage: wakeup ROUNDS      prints microseconds for one way, median: by blocking reads, and by epoll as proxies wait
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

fn main() {
    let word = std::env::args().nth(1).expect("a number of rounds");
    if word == "answer" {
        return answer();
    }
    let rounds = word.parse().expect("a number");
    println!("{:.1} {:.1}", measure("blocking", rounds), measure("epoll", rounds));
}

fn measure(way: &str, rounds: usize) -> f64 {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program)
        .args(["answer", way])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .expect("a second process");
    let mut end = End::new(ours, way);
    let mut taken: Vec<_> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            end.send();
            assert!(end.receive());
            start.elapsed()
        })
        .collect();
    drop(end);
    child.wait().expect("a child");
    taken.sort_unstable();
    taken[rounds / 2].as_secs_f64() * 1e6 / 2.0
}

fn answer() {
    let way = std::env::args().nth(2).expect("a way to wait");
    let stdin = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned().expect("a socket");
    let mut end = End::new(stdin.into(), &way);
    while end.receive() {
        end.send();
    }
}

struct End {
    stream: UnixStream,
    epoll: Option<OwnedFd>,
}

impl End {
    fn new(stream: UnixStream, way: &str) -> Self {
        let epoll = (way == "epoll").then(|| {
            let epoll = epoll::create(CreateFlags::CLOEXEC).expect("epoll");
            epoll::add(&epoll, &stream, EventData::new_u64(0), EventFlags::IN | EventFlags::ET).expect("registered");
            epoll
        });
        Self { stream, epoll }
    }

    fn send(&mut self) {
        self.stream.write_all(b"x").expect("sent");
    }

    /// Whether there was a byte and not the end.
    fn receive(&mut self) -> bool {
        if let Some(epoll) = &self.epoll {
            let mut events = Vec::with_capacity(1);
            while epoll::wait(epoll, spare_capacity(&mut events), None).is_err() {}
        }
        matches!(self.stream.read(&mut [0]), Ok(1))
    }
}
