//! Sends back what comes, one thread a connection: plain, by vsock port 7001, the same by 7002 with no write over 31 KiB, and by TCP
//! 127.0.0.1:7000, where a published port of an enclave leads. Port 7003 leads there too, by two threads for each connection that do
//! nothing but read and write: what crossing the loopback costs whoever does it.
use std::os::fd::OwnedFd;
use std::thread;

use rustix::net::{RecvFlags, SendFlags, Shutdown, accept, recv, send, shutdown};
use transport::ListenSocket;

fn main() {
    let bind = |text: &str| ListenSocket::bind(&text.parse().expect("an address")).expect("bound");
    let (whole, halves, tcp) = (bind("vsock://any:7001"), bind("vsock://any:7002"), bind("tcp://127.0.0.1:7000"));
    let bare = bind("vsock://any:7003");
    thread::spawn(move || serve(&halves, |client| carry(client, client, 31 * 1024)));
    thread::spawn(move || serve(&tcp, |client| carry(client, client, 64 * 1024)));
    thread::spawn(move || serve(&bare, relay));
    serve(&whole, |client| carry(client, client, 64 * 1024));
}

fn serve(listener: &ListenSocket, with: fn(&OwnedFd)) {
    rustix::io::ioctl_fionbio(listener, false).expect("a socket");
    loop {
        let client = accept(listener).expect("accepted");
        thread::spawn(move || with(&client));
    }
}

/// To the echo on TCP and back, with no write over 31 KiB to the vsock, as reads of 62 KiB have it in `pf-proxy`.
fn relay(client: &OwnedFd) {
    let target = OwnedFd::from(std::net::TcpStream::connect("127.0.0.1:7000").expect("connected"));
    thread::scope(|scope| {
        scope.spawn(|| carry(client, &target, 62 * 1024));
        carry(&target, client, 31 * 1024);
    });
}

fn carry(from: &OwnedFd, to: &OwnedFd, size: usize) {
    let mut buffer = vec![0; size];
    while let Ok((count @ 1.., _)) = recv(from, &mut buffer[..], RecvFlags::empty()) {
        let mut left = &buffer[..count];
        while !left.is_empty() {
            let Ok(sent) = send(to, left, SendFlags::NOSIGNAL) else { return };
            left = &left[sent..];
        }
    }
    let _ = shutdown(to, Shutdown::Write);
}
