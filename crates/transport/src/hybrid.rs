//! Hybrid vsock: a guest's vsock ports behind Unix sockets of the host.
//!
//! The protocol is specified in `docs/spec/hybrid-vsock.md`. This module has its two lines as codec, the
//! connecting side, and the [`Switchboard`] that plays the virtual machine monitor for guests without one.
//! Listening needs nothing of its own: it is a plain Unix socket at `<path>_<port>`.

mod line;
mod switchboard;

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::Port;
pub use line::{LineError, MAX_LINE_BYTES};
pub use switchboard::{HANDSHAKE_TIMEOUT, MAX_CONNECTIONS, Switchboard};

/// What went wrong before a hybrid stream carried its first byte.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The other side closed. From a monitor it means that nobody listens on the port.
    #[error("closed during the handshake")]
    Closed,
    /// The other side sent something else.
    #[error("bad handshake line")]
    Line(#[from] LineError),
    /// Reading or writing failed.
    #[error("handshake interrupted")]
    Io(#[from] io::Error),
}

/// What to send on a fresh connection to ask for `port`.
pub fn request_line(port: Port) -> Vec<u8> {
    line::connect(port)
}

/// Looks for the answer at the start of what has come since. `None` while it is not all there; then its length, after
/// which the stream belongs to the guest's listener.
///
/// # Errors
/// [`LineError`] when something else came.
pub fn find_answer(received: &[u8]) -> Result<Option<usize>, LineError> {
    let Some(end) = received.iter().take(MAX_LINE_BYTES).position(|byte| *byte == b'\n') else {
        return if received.len() < MAX_LINE_BYTES { Ok(None) } else { Err(LineError::TooLong) };
    };
    let length = end + 1;
    line::parse_ok(received.get(..length).unwrap_or(received))?;
    Ok(Some(length))
}

/// Asks for `port` on a fresh connection. Afterwards the stream belongs to the guest's listener.
pub(crate) async fn request<S>(stream: &mut S, port: Port) -> Result<(), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let sent = stream.write_all(&line::connect(port)).await;
    // A monitor that refuses may close before it has read all of the line.
    match sent {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(HandshakeError::Closed),
        outcome => outcome?,
    }
    // The number that comes back is the monitor's own affair: Firecracker sends its source port.
    line::parse_ok(&read_line(stream).await?)?;
    Ok(())
}

/// Reads up to and including the next newline and not a byte more: what follows is the application's.
async fn read_line<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Vec<u8>, HandshakeError> {
    let mut line = Vec::with_capacity(MAX_LINE_BYTES);
    while line.last() != Some(&b'\n') {
        if line.len() == MAX_LINE_BYTES {
            return Err(LineError::TooLong.into());
        }
        match stream.read_u8().await {
            Ok(byte) => line.push(byte),
            Err(error) if is_end(&error) => return Err(HandshakeError::Closed),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(line)
}

/// A refusal reaches us as end of file, or as a reset if our line was still unread.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_found_once_it_is_whole() {
        assert_eq!(find_answer(b"OK 10"), Ok(None));
        assert_eq!(find_answer(b"OK 10\nhello\n"), Ok(Some(6)));
        assert!(matches!(find_answer(b"KO 10\n"), Err(LineError::Malformed { .. })));
        assert_eq!(find_answer(&[b'9'; MAX_LINE_BYTES]), Err(LineError::TooLong));
    }

    #[tokio::test]
    async fn line_is_read_up_to_its_newline_or_its_limit() {
        let mut input: &[u8] = b"CONNECT 5\nrest";
        assert_eq!(read_line(&mut input).await.unwrap(), b"CONNECT 5\n");
        assert_eq!(input, b"rest");
        let mut endless: &[u8] = &[b'9'; 1000];
        assert!(matches!(read_line(&mut endless).await, Err(HandshakeError::Line(LineError::TooLong))));
        assert_eq!(endless.len(), 1000 - MAX_LINE_BYTES);
        let mut cut: &[u8] = b"CONN";
        assert!(matches!(read_line(&mut cut).await, Err(HandshakeError::Closed)));
    }
}
