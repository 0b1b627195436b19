//! The socket at which services say that they are ready, as `sd_notify(3)` does.
//!
//! The kernel says which process sent a message; it counts for the service in whose session that process is. What
//! one service says can therefore not make another one ready.

use std::{
    fs,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::Path,
    time::Duration,
};

use rustix::{
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags},
    process::Pid,
};
use tokio::{io::Interest, net::UnixDatagram};

/// Where services find the socket, inside and outside their root directory.
pub(crate) const SOCKET_PATH: &str = "/run/glasshouse/notify";

/// Longest message, in bytes; what is longer is cut by the kernel.
const MAX_MESSAGE_BYTES: usize = 4096;

/// Pause when the system cannot give a message, for want of memory say.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The receiving end.
#[derive(Debug)]
pub(crate) struct NotifySocket(UnixDatagram);

impl NotifySocket {
    /// Listens at `path`, for every user.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let _ = fs::remove_file(path);
        let socket = UnixDatagram::bind(path)?;
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        Ok(Self(socket))
    }

    /// The next message that says `READY=1`: the leader of its sender's session.
    pub(crate) async fn ready_session(&self) -> Pid {
        loop {
            let receive = || receive(self.0.as_fd());
            let Ok((message, sender)) = self.0.async_io(Interest::READABLE, receive).await else {
                tokio::time::sleep(ERROR_PAUSE).await;
                continue;
            };
            // Whom a sender spoke for cannot be told if it is gone already, or was put here from outside.
            if says_ready(&message)
                && let Some(Ok(Some(session))) = sender.map(sys::pid1::session_leader)
            {
                return session;
            }
        }
    }
}

fn receive(socket: impl AsFd) -> io::Result<(Vec<u8>, Option<Pid>)> {
    let mut message = vec![0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // DONTWAIT: whoever calls has only been told that the socket may be readable.
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut message)], &mut control, flags)?;
    message.truncate(received.bytes);
    let sender = control.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
        _ => None,
    });
    Ok((message, sender))
}

/// Whether one of the message's assignments, one a line, is `READY=1`.
fn says_ready(message: &[u8]) -> bool {
    message.split(|b| *b == b'\n').any(|assignment| assignment == b"READY=1")
}

#[cfg(test)]
mod tests {
    use rustix::process::Signal;
    use sys::pid1::Launch;

    use super::*;

    /// More than starting this program again takes.
    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn readiness_is_one_assignment_among_others() {
        assert!(says_ready(b"READY=1"));
        assert!(says_ready(b"STATUS=up\nREADY=1\n"));
        for other in ["", "READY=0", "READY=10", "STATUS=READY=1", "XREADY=1", "READY=1 "] {
            assert!(!says_ready(other.as_bytes()), "{other}");
        }
    }

    /// Set for a process that is to behave as a service.
    const AS_SERVICE: &str = "NOTIFY_TEST_SOCKET";

    #[test]
    fn the_kernel_says_who_is_ready() {
        if let Some(path) = std::env::var_os(AS_SERVICE) {
            return say_ready(path.as_ref());
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = NotifySocket::bind(&path).unwrap();
            let service = sys::pid1::spawn(&Launch {
                program: std::env::current_exe().unwrap().into(),
                args: vec!["--exact".into(), "notify::tests::the_kernel_says_who_is_ready".into()],
                env: vec![(AS_SERVICE.into(), path.into())],
                confinement: None,
            });
            // Its outputs stay open: what it prints must not end it.
            let service = service.unwrap();
            let session = tokio::time::timeout(LIMIT, socket.ready_session()).await;
            rustix::process::kill_process(service.pid, Signal::KILL).unwrap();
            assert_eq!(session.unwrap(), service.pid);
        });
    }

    /// Stays a while: whom it spoke for can be told only while it is there.
    fn say_ready(path: &Path) {
        let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
        client.send_to(b"STATUS=loading", path).unwrap();
        client.send_to(b"READY=1", path).unwrap();
        std::thread::sleep(LIMIT);
    }
}
