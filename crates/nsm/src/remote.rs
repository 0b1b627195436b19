//! A module somebody simulates behind a Unix socket.
//!
//! Specified in `docs/spec/nsm-socket.md`, section "Module socket". Each call has a connection of its own: a module that
//! was restarted, or a call that timed out, then leaves nothing behind to be out of step with, and no request is ever
//! sent twice.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::error::Error;
use crate::frame::{FrameError, read_frame, write_frame};
use crate::provider::Transact;
use crate::wire::{MAX_RESPONSE_BYTES, Request, Response};

/// How long a call waits for the module to accept, to read and to answer, each.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Client of a simulated module.
#[derive(Debug, Clone)]
pub struct Remote {
    path: PathBuf,
    timeout: Duration,
}

impl Remote {
    /// The module that listens, or will, on the Unix socket `path`. A call waits up to 10 seconds for each step.
    pub fn new(path: &Path) -> Self {
        Self::with_timeout(path, DEFAULT_TIMEOUT)
    }

    /// As [`Remote::new`], but waiting up to `timeout` (over zero) for each step.
    pub fn with_timeout(path: &Path, timeout: Duration) -> Self {
        Self { path: path.into(), timeout }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // Set before connecting: on a Unix socket the send timeout also bounds the wait for a place in the backlog.
        set_socket_timeout(&socket, Timeout::Send, Some(self.timeout))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(self.timeout))?;
        connect(&socket, &SocketAddrUnix::new(&self.path)?)?;
        Ok(UnixStream::from(socket))
    }

    fn exchange(&self, request: &[u8]) -> Result<Vec<u8>, Error> {
        let mut stream =
            self.connect().map_err(|source| Error::Connect { path: self.path.clone(), source })?;
        write_frame(&mut stream, request)
            .and_then(|()| read_frame(&mut stream, MAX_RESPONSE_BYTES))
            .and_then(|frame| frame.ok_or(FrameError::Closed))
            .map_err(|source| Error::Exchange { path: self.path.clone(), source })
    }
}

impl Transact for Remote {
    fn transact(&self, request: &Request) -> Result<Response, Error> {
        let response = self.exchange(&request.encode_within_limit()?)?;
        Ok(Response::decode(&response)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;
    use crate::provider::Provider;

    /// Long enough for a peer that does answer, on however busy a machine.
    const PATIENT: Duration = Duration::from_secs(30);

    /// A socket whose peer does `behave` to the first connection.
    fn peer(
        timeout: Duration,
        behave: impl FnOnce(UnixStream) + Send + 'static,
    ) -> (tempfile::TempDir, Remote) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nsm");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || behave(listener.accept().unwrap().0));
        (dir, Remote::with_timeout(&path, timeout))
    }

    fn exchange_error(remote: &Remote) -> FrameError {
        match remote.describe().unwrap_err() {
            Error::Exchange { source, .. } => source,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_module_that_is_gone_is_a_connect_error() {
        let dir = tempfile::tempdir().unwrap();
        let remote = Remote::new(&dir.path().join("nsm"));
        let error = remote.describe().unwrap_err();
        assert!(
            matches!(&error, Error::Connect { source, .. } if source.kind() == io::ErrorKind::NotFound),
            "{error:?}"
        );
    }

    #[test]
    fn a_module_that_keeps_still_times_out() {
        let (_dir, remote) = peer(Duration::from_millis(100), |stream| {
            thread::sleep(PATIENT);
            drop(stream);
        });
        assert!(matches!(exchange_error(&remote), FrameError::TimedOut));
    }

    #[test]
    fn a_module_that_hangs_up_is_no_answer() {
        let (_dir, remote) = peer(PATIENT, |mut stream| {
            read_frame(&mut stream, 4096).unwrap();
        });
        assert!(matches!(exchange_error(&remote), FrameError::Closed));
    }

    #[test]
    fn an_answer_over_the_limit_is_refused() {
        let (_dir, remote) = peer(PATIENT, |mut stream| {
            read_frame(&mut stream, 4096).unwrap();
            write_frame(&mut stream, &vec![0; MAX_RESPONSE_BYTES + 1]).unwrap();
        });
        assert!(matches!(exchange_error(&remote), FrameError::TooLarge { .. }));
    }

    #[test]
    fn an_answer_that_is_no_cbor_is_a_response_error() {
        let (_dir, remote) = peer(PATIENT, |mut stream| {
            read_frame(&mut stream, 4096).unwrap();
            write_frame(&mut stream, &[0xff]).unwrap();
        });
        assert!(matches!(remote.describe(), Err(Error::Response(_))));
    }
}
