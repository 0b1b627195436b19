//! The host's part: what it does is in the name that it is asked for.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread,
    time::Duration,
};

use egress::{
    Protocol,
    wire::{DatagramHead, Reply, Request, Status},
};

/// The host, and the servers that it leads to.
#[derive(Debug)]
pub(crate) struct Host;

/// Starts everything; it ends with the process.
pub(crate) fn start(socket: &Path) -> Host {
    let listener = UnixListener::bind(socket).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let resolver = crate::resolver::start(&socket.with_extension("root"));
    let servers = (tcp.local_addr().unwrap(), udp.local_addr().unwrap(), resolver);
    thread::spawn(move || tcp.incoming().flatten().for_each(|stream| drop(thread::spawn(|| serve(stream)))));
    thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            drop(udp.send_to(&buffer[..length], from));
        }
    });
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream, servers));
        }
    });
    Host
}

/// TCP, UDP, and the resolver that is asked by TLS and HTTPS.
type Servers = (std::net::SocketAddr, std::net::SocketAddr, std::net::SocketAddr);

/// Sends back what comes; a web server if it is asked as one.
fn serve(mut stream: TcpStream) {
    let mut buffer = vec![0; 65_536];
    let mut is_first = true;
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        let bytes = &buffer[..length];
        if is_first && bytes.starts_with(b"GET ") {
            let page = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\npage!\n";
            drop(stream.write_all(page.as_bytes()));
            return;
        }
        is_first = false;
        if stream.write_all(bytes).is_err() {
            return;
        }
    }
}

fn answer(mut stream: UnixStream, servers: Servers) {
    let Ok(request) = read_request(&mut stream) else { return };
    let Request::Connect { protocol, destination, port, .. } = request else {
        reply(&mut stream, Status::Connected);
        drop(questions(stream));
        return;
    };
    let text = destination.to_string();
    if text == "192.0.2.53" && matches!(port, 443 | 853) {
        let server = TcpStream::connect(servers.2).unwrap();
        reply(&mut stream, Status::Connected);
        return carry(stream, server);
    }
    match text.split('.').next().unwrap_or_default() {
        "garbage" => return drop(stream.write_all(&[b'?'; 4096])),
        "hangs-up" => return,
        "never" => loop {
            thread::park();
        },
        _ => {}
    }
    let status = match text.split('.').next().unwrap_or_default() {
        "echo" => Status::Connected,
        "refused" => Status::Refused,
        "silent" => Status::TimedOut,
        "no-network" => Status::NetworkUnreachable,
        "no-host" => Status::HostUnreachable,
        "denied" => Status::Denied,
        "nobody" => Status::NameNotFound,
        _ => Status::Failed,
    };
    match (status, protocol) {
        (Status::Connected, Protocol::Tcp) => {
            let server = TcpStream::connect(servers.0).unwrap();
            reply(&mut stream, status);
            carry(stream, server);
        }
        (Status::Connected, Protocol::Udp) => {
            reply(&mut stream, status);
            drop(datagrams(stream, servers));
        }
        _ => reply(&mut stream, status),
    }
}

fn read_request(stream: &mut UnixStream) -> io::Result<Request> {
    let mut bytes = Vec::new();
    loop {
        let missing = Request::missing(&bytes).map_err(io::Error::other)?;
        if missing == 0 {
            return Request::decode(&bytes).map_err(io::Error::other);
        }
        let start = bytes.len();
        bytes.resize(start + missing, 0);
        stream.read_exact(&mut bytes[start..])?;
    }
}

fn reply(stream: &mut UnixStream, status: Status) {
    let address = match status {
        Status::Connected => Some("203.0.113.7".parse().unwrap()),
        Status::Denied => Some("10.0.0.7".parse().unwrap()),
        _ => None,
    };
    drop(stream.write_all(&Reply { status, address }.encode()));
}

fn carry(enclave: UnixStream, server: TcpStream) {
    let (mut from, mut to) = (enclave.try_clone().unwrap(), server.try_clone().unwrap());
    let there = thread::spawn(move || {
        drop(io::copy(&mut from, &mut to));
        drop(to.shutdown(Shutdown::Write));
    });
    let (mut from, mut to) = (server, enclave);
    drop(io::copy(&mut from, &mut to));
    drop(to.shutdown(Shutdown::Write));
    drop(there.join());
}

fn datagrams(mut enclave: UnixStream, servers: Servers) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(servers.1)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let (back, mut out) = (socket.try_clone()?, enclave.try_clone()?);
    thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while let Ok(length) = back.recv(&mut buffer) {
            let head = DatagramHead::Datagram(length).encode().unwrap();
            if out.write_all(&[&head[..], &buffer[..length]].concat()).is_err() {
                return;
            }
        }
    });
    loop {
        let mut head = [0; 2];
        enclave.read_exact(&mut head)?;
        let Ok(DatagramHead::Datagram(length)) = DatagramHead::decode(head) else { return Ok(()) };
        let mut payload = vec![0; length];
        enclave.read_exact(&mut payload)?;
        if payload == b"close" {
            enclave.write_all(&DatagramHead::PortUnreachable.encode().unwrap())?;
        } else {
            socket.send(&payload)?;
        }
    }
}

/// One text for every question, and, for names that begin with `forged`, the answer to another question; always with an
/// address that nobody asked for.
pub(crate) fn answer_to(question: &[u8], text: &[u8]) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let mut reply = [&question[..2], &[0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0], &question[12..end]].concat();
    if question[13..].starts_with(b"forged") {
        reply[13] = b'F' + 1;
    }
    reply.extend(b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x3c\x00");
    reply.push(u8::try_from(text.len()).unwrap());
    reply.extend(text);
    reply.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xa9\xfe\xa9\xfe");
    reply
}

/// Answers the questions of one stream.
fn questions(mut enclave: UnixStream) -> io::Result<()> {
    loop {
        let mut head = [0; 2];
        enclave.read_exact(&mut head)?;
        let mut question = vec![0; u16::from_be_bytes(head).into()];
        enclave.read_exact(&mut question)?;
        let reply = answer_to(&question, b"\x05hello");
        enclave.write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes())?;
        enclave.write_all(&reply)?;
    }
}
