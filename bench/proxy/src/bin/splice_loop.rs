//! The least that a proxy can do: two threads a connection, each a blocking loop of splice through a 64 KiB pipe.
//!
//! Usage: splice_loop tcp:PORT|unix:PATH tcp:PORT|unix:PATH
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;

use rustix::net::{Shutdown, shutdown};
use rustix::pipe::{SpliceFlags, pipe, splice};

const PIPE_BYTES: usize = 64 * 1024;

fn main() {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let target = words[1].clone();
    match words[0].split_once(':').expect("an address") {
        ("tcp", port) => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse().expect("a port"))).expect("bound");
            for stream in listener.incoming() {
                let stream = stream.expect("accepted");
                stream.set_nodelay(true).expect("TCP");
                carry(stream.into(), &target);
            }
        }
        (_, path) => {
            for stream in UnixListener::bind(path).expect("bound").incoming() {
                carry(stream.expect("accepted").into(), &target);
            }
        }
    }
}

fn carry(front: OwnedFd, target: &str) {
    let back: OwnedFd = match target.split_once(':').expect("an address") {
        ("tcp", port) => {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse().expect("a port"))).expect("connected");
            stream.set_nodelay(true).expect("TCP");
            stream.into()
        }
        (_, path) => UnixStream::connect(path).expect("connected").into(),
    };
    let (front, back) = (Arc::new(front), Arc::new(back));
    let (other_front, other_back) = (Arc::clone(&front), Arc::clone(&back));
    thread::spawn(move || pump(&front, &back));
    thread::spawn(move || pump(&other_back, &other_front));
}

fn pump(from: &OwnedFd, to: &OwnedFd) {
    let (output, input) = pipe().expect("a pipe");
    while let Ok(count @ 1..) = splice(from, None, &input, None, PIPE_BYTES, SpliceFlags::MOVE) {
        let mut left = count;
        while left > 0 {
            match splice(&output, None, to, None, left, SpliceFlags::MOVE) {
                Ok(count @ 1..) => left -= count,
                _ => return,
            }
        }
    }
    let _ = shutdown(to, Shutdown::Write);
}
