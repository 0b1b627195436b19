//! Telling the supervisor that a daemon is ready: the sd_notify(3) protocol.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The environment variable that names the supervisor's datagram socket.
const SOCKET_VARIABLE: &str = "NOTIFY_SOCKET";

/// Says `READY=1` to the supervisor, if there is one. Call it when every listener is bound.
///
/// # Errors
/// When `NOTIFY_SOCKET` is set and the message cannot be sent there. The supervisor will not believe the daemon is up,
/// so this deserves more than a log line.
pub fn ready() -> io::Result<()> {
    match env::var_os(SOCKET_VARIABLE) {
        Some(socket) if !socket.is_empty() => send(&socket, b"READY=1"),
        _ => Ok(()),
    }
}

/// `socket` is a path, or `@` and an abstract name.
fn send(socket: &OsStr, message: &[u8]) -> io::Result<()> {
    let addr = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message, &addr).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_arrives_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("glasshouse-notify-{}", std::process::id());
        let at_path = UnixDatagram::bind(&path).unwrap();
        let at_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(path.as_os_str(), b"READY=1").unwrap();
        send(OsStr::new(&format!("@{name}")), b"READY=1").unwrap();
        for receiver in [at_path, at_name] {
            let mut message = [0; 64];
            let length = receiver.recv(&mut message).unwrap();
            assert_eq!(&message[..length], b"READY=1");
        }
    }

    #[test]
    fn absent_supervisor_is_an_error_when_it_was_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(send(dir.path().join("nobody").as_os_str(), b"READY=1").is_err());
    }
}
