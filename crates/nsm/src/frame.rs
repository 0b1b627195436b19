//! Frames on a stream socket: a length of four bytes, big-endian, then that many bytes.
//!
//! Specified in `docs/spec/nsm-socket.md`, section "Frames".

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::{self, Read, Write};

/// Why a frame did not come or go.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The peer announced more than this side takes; nothing of it was read.
    #[error("the peer announced a frame of {found} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Announced length in bytes.
        found: u32,
        /// The limit in bytes.
        limit: usize,
    },
    /// The peer closed the connection within a frame.
    #[error("the peer closed the connection within a frame")]
    Truncated,
    /// The peer closed the connection where a frame was due.
    #[error("the peer closed the connection without an answer")]
    Closed,
    /// No bytes came, or none were taken, for too long.
    #[error("the peer kept still for too long")]
    TimedOut,
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[source] io::Error),
}

/// Reads one frame of at most `limit` bytes; `None` when the peer closed the connection before it began one.
///
/// # Errors
/// See [`FrameError`]. After an error the stream is out of step and of no further use.
pub(crate) fn read_frame(stream: &mut impl Read, limit: usize) -> Result<Option<Vec<u8>>, FrameError> {
    let mut length = [0; 4];
    // The first byte by itself tells a peer that left from one that broke off.
    let (first, rest) = length.split_at_mut(1);
    match stream.read_exact(first).map_err(classify) {
        Err(FrameError::Truncated) => return Ok(None),
        other => other?,
    }
    stream.read_exact(rest).map_err(classify)?;
    let found = u32::from_be_bytes(length);
    if usize::try_from(found).map_or(true, |found| found > limit) {
        return Err(FrameError::TooLarge { found, limit });
    }
    let mut body = Vec::new();
    stream.take(found.into()).read_to_end(&mut body).map_err(classify)?;
    if u32::try_from(body.len()) != Ok(found) {
        return Err(FrameError::Truncated);
    }
    Ok(Some(body))
}

/// Writes one frame with a single write where the socket takes it whole.
///
/// # Errors
/// See [`FrameError`].
///
/// # Panics
/// When `body` is 4 GiB or longer; every caller's limits are far below.
pub(crate) fn write_frame(stream: &mut impl Write, body: &[u8]) -> Result<(), FrameError> {
    let length = u32::try_from(body.len()).expect("frames are far below 4 GiB");
    let frame = [&length.to_be_bytes(), body].concat();
    stream.write_all(&frame).map_err(classify)
}

fn classify(error: io::Error) -> FrameError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => FrameError::Truncated,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => FrameError::TimedOut,
        _ => FrameError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, body).unwrap();
        bytes
    }

    #[test]
    fn frames_come_back_one_by_one() {
        let bytes = [frame(b"one"), frame(b""), frame(b"three")].concat();
        let mut stream = bytes.as_slice();
        for expected in [Some(&b"one"[..]), Some(b""), Some(b"three"), None] {
            assert_eq!(read_frame(&mut stream, 5).unwrap().as_deref(), expected);
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_it_is_read() {
        let mut stream = &[0xff, 0xff, 0xff, 0xff][..];
        let refused = read_frame(&mut stream, 4096);
        assert!(matches!(refused, Err(FrameError::TooLarge { found: u32::MAX, limit: 4096 })));
    }

    #[test]
    fn a_frame_cut_anywhere_is_truncated() {
        let whole = frame(b"body");
        for end in 1..whole.len() {
            let mut stream = whole.get(..end).unwrap();
            let refused = read_frame(&mut stream, 16);
            assert!(matches!(refused, Err(FrameError::Truncated)), "cut at {end}");
        }
    }
}
