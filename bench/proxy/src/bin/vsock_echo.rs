//! Sends back what comes, one thread a connection: plain, by vsock port 7001, the same by 7002 with no write over 31 KiB, and by TCP
//! 127.0.0.1:7000, where a published port of an enclave leads.
use std::os::fd::OwnedFd;
use std::thread;

use rustix::net::{RecvFlags, SendFlags, Shutdown, accept, recv, send, shutdown};
use transport::ListenSocket;

fn main() {
    let bind = |text: &str| ListenSocket::bind(&text.parse().expect("an address")).expect("bound");
    let (whole, halves, tcp) = (bind("vsock://any:7001"), bind("vsock://any:7002"), bind("tcp://127.0.0.1:7000"));
    thread::spawn(move || serve(&halves, 31 * 1024));
    thread::spawn(move || serve(&tcp, 64 * 1024));
    serve(&whole, 64 * 1024);
}

fn serve(listener: &ListenSocket, size: usize) {
    rustix::io::ioctl_fionbio(listener, false).expect("a socket");
    loop {
        let client = accept(listener).expect("accepted");
        thread::spawn(move || echo(&client, size));
    }
}

fn echo(client: &OwnedFd, size: usize) {
    let mut buffer = vec![0; size];
    while let Ok((count @ 1.., _)) = recv(client, &mut buffer[..], RecvFlags::empty()) {
        let mut left = &buffer[..count];
        while !left.is_empty() {
            let Ok(sent) = send(client, left, SendFlags::NOSIGNAL) else { return };
            left = &left[sent..];
        }
    }
    let _ = shutdown(client, Shutdown::Write);
}
