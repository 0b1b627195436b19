//! Frames: what a session's bytes are cut into.
//!
//! ```text
//! type u8 | length u32 big-endian | payload, `length` bytes
//! ```
//!
//! [`Frame::split`] is the codec and does no IO. [`FrameReader`] and [`FrameWriter`] put it on a stream; a payload is
//! neither copied on its way in nor on its way out.
//!
//! Spec: `docs/spec/pipeline.md`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes before a payload.
pub const HEADER_BYTES: usize = 5;

/// Longest payload of any frame, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// Longest request, reply and piece of a program's input or output, in bytes.
pub const MAX_CONTROL_BYTES: usize = 64 << 10;

/// What a reader asks its stream for when it does not know yet how much will come, in bytes.
const READ_BYTES: usize = 8 << 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// What the client wants: [`crate::request::Request`]. The first frame, and only the first.
    Request = 0x01,
    /// The server has admitted the request: [`crate::reply::Accepted`].
    Accepted = 0x02,
    /// The server refuses the request, or gives it up: [`crate::reply::Refusal`]. The last frame.
    Refused = 0x03,
    /// How the operation ended: [`crate::reply::Exit`]. The last frame.
    Exit = 0x04,
    /// Bytes for the program's standard input.
    Stdin = 0x10,
    /// Bytes from the program's standard output.
    Stdout = 0x11,
    /// Bytes from the program's standard error.
    Stderr = 0x12,
    /// The program's standard input ends. Empty.
    StdinEnd = 0x13,
    /// The client's terminal has another size: [`crate::request::WindowSize`].
    WindowSize = 0x14,
    /// A signal for the program: its number in one byte. 0 only says that the client is still there.
    Signal = 0x15,
    /// The client may send so many bytes of input more: a 32-bit big-endian integer.
    StdinWindow = 0x16,
    /// A file begins: its metadata.
    Entry = 0x20,
    /// Bytes of a file.
    Data = 0x21,
    /// A hole in a file: its length.
    Hole = 0x22,
    /// A file ends: its digest.
    Digest = 0x23,
    /// The transfer ends.
    End = 0x24,
    /// What the receiver has already.
    Have = 0x25,
    /// What the sender wants to know of what the receiver has.
    Ask = 0x26,
}

impl Kind {
    const ALL: [Self; 18] = [
        Self::Request,
        Self::Accepted,
        Self::Refused,
        Self::Exit,
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::StdinEnd,
        Self::WindowSize,
        Self::Signal,
        Self::StdinWindow,
        Self::Entry,
        Self::Data,
        Self::Hole,
        Self::Digest,
        Self::End,
        Self::Have,
        Self::Ask,
    ];

    /// The kind with that number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Longest payload of this kind, in bytes.
    pub fn max_payload_bytes(self) -> usize {
        match self {
            Self::StdinEnd => 0,
            Self::Signal => 1,
            Self::WindowSize | Self::StdinWindow => 4,
            Self::Data | Self::Have => MAX_PAYLOAD_BYTES,
            _ => MAX_CONTROL_BYTES,
        }
    }
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// What it carries, at most [`Kind::max_payload_bytes`].
    pub payload: Bytes,
}

/// Why bytes are no frames, or why none came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// No kind has this number.
    #[error("a frame of type {found:#04x}, which there is not")]
    UnknownKind {
        /// The number.
        found: u8,
    },
    /// The payload is longer than its kind allows.
    #[error("a frame of kind {kind:?} with {found} bytes, where at most {allowed} are allowed")]
    TooLong {
        /// The frame's kind.
        kind: Kind,
        /// Its length in bytes.
        found: usize,
        /// What is allowed, in bytes.
        allowed: usize,
    },
    /// The stream ended within a frame.
    #[error("the connection ended in the middle of a frame")]
    Truncated,
    /// The stream failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

/// The bytes before a payload of `length` bytes.
///
/// # Panics
/// When `length` is over [`MAX_PAYLOAD_BYTES`].
pub fn header(kind: Kind, length: usize) -> [u8; HEADER_BYTES] {
    assert!(length <= kind.max_payload_bytes(), "a frame of kind {kind:?} has at most so many bytes");
    let [a, b, c, d] = u32::try_from(length).expect("MAX_PAYLOAD_BYTES fits 32 bits").to_be_bytes();
    [kind as u8, a, b, c, d]
}

/// Kind and payload length of the frame that begins `bytes`; `None` when its header is not there yet.
pub(crate) fn parse_header(bytes: &[u8]) -> Result<Option<(Kind, usize)>, FrameError> {
    let Some(&[kind, a, b, c, d]) = bytes.first_chunk() else { return Ok(None) };
    let kind = Kind::from_byte(kind).ok_or(FrameError::UnknownKind { found: kind })?;
    let found = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let allowed = kind.max_payload_bytes();
    if found > allowed {
        return Err(FrameError::TooLong { kind, found, allowed });
    }
    Ok(Some((kind, found)))
}

impl Frame {
    /// Takes the first frame off `bytes`; `None` when it is not there yet as a whole. The payload is not copied.
    ///
    /// # Errors
    /// [`FrameError::UnknownKind`] and [`FrameError::TooLong`], as soon as the header is there.
    pub fn split(bytes: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some((kind, length)) = parse_header(bytes)? else { return Ok(None) };
        if bytes.len().saturating_sub(HEADER_BYTES) < length {
            return Ok(None);
        }
        bytes.advance(HEADER_BYTES);
        Ok(Some(Self { kind, payload: bytes.split_to(length).freeze() }))
    }

    /// How many bytes more have to come, at least, before [`Frame::split`] can take one off `bytes`.
    fn missing(bytes: &[u8]) -> Result<usize, FrameError> {
        let whole = match parse_header(bytes)? {
            Some((_, length)) => HEADER_BYTES.saturating_add(length),
            None => HEADER_BYTES,
        };
        Ok(whole.saturating_sub(bytes.len()))
    }
}

/// Reads frames from a stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, buffer: BytesMut::new() }
    }

    /// The stream, and what was read of it but belongs to no frame that was returned yet: for those who go on with the
    /// bytes themselves.
    pub(crate) fn parts(&mut self) -> (&mut R, &mut BytesMut) {
        (&mut self.inner, &mut self.buffer)
    }

    /// The next frame; `None` when the stream ended after a whole one. Can be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// Whatever is no frame, an end in the middle of one, and what the stream says.
    pub async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(frame) = Frame::split(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            let missing = Frame::missing(&self.buffer)?;
            self.buffer.reserve(missing.max(READ_BYTES));
            if self.inner.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
            }
        }
    }
}

/// Writes frames to a stream.
#[derive(Debug)]
pub struct FrameWriter<W> {
    inner: W,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner }
    }

    /// The stream, for those who write whole frames themselves.
    pub(crate) fn stream(&mut self) -> &mut W {
        &mut self.inner
    }

    /// Writes one frame. It may wait in the stream's own buffer until [`FrameWriter::flush`].
    ///
    /// Must not be dropped before it is done: half a frame would be left on the stream.
    ///
    /// # Errors
    /// What the stream says.
    ///
    /// # Panics
    /// When `payload` is longer than [`Kind::max_payload_bytes`].
    pub async fn send(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let header = header(kind, payload.len());
        let mut slices = [IoSlice::new(&header), IoSlice::new(payload)];
        let mut left = &mut slices[..];
        // Empty slices count as written.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match self.inner.write_vectored(left).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => IoSlice::advance_slices(&mut left, written),
            }
        }
        Ok(())
    }

    /// Has everything that was written leave this process.
    ///
    /// # Errors
    /// What the stream says.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.inner.flush().await
    }

    /// Flushes, and says that no more will come.
    ///
    /// # Errors
    /// What the stream says.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.inner.shutdown().await
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(frames: &[Frame]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend(header(frame.kind, frame.payload.len()));
            bytes.extend(&frame.payload);
        }
        bytes
    }

    fn frame() -> impl Strategy<Value = Frame> {
        (0..Kind::ALL.len(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(kind, mut bytes)| {
            let kind = Kind::ALL[kind];
            bytes.truncate(kind.max_payload_bytes());
            Frame { kind, payload: bytes.into() }
        })
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn every_kind_has_a_number_of_its_own() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_byte(kind as u8), Some(kind));
        }
        assert_eq!((0..=u8::MAX).filter_map(Kind::from_byte).count(), Kind::ALL.len());
    }

    #[test]
    fn a_length_is_refused_before_anything_is_waited_for() {
        for (bytes, allowed) in [
            ([0x21, 0xff, 0xff, 0xff, 0xff], MAX_PAYLOAD_BYTES),
            ([0x21, 0x00, 0x10, 0x00, 0x01], MAX_PAYLOAD_BYTES),
            ([0x10, 0x00, 0x01, 0x00, 0x01], MAX_CONTROL_BYTES),
            ([0x13, 0x00, 0x00, 0x00, 0x01], 0),
        ] {
            let refused = Frame::split(&mut BytesMut::from(&bytes[..])).unwrap_err();
            assert!(matches!(refused, FrameError::TooLong { allowed: a, .. } if a == allowed), "{refused}");
        }
        let refused = Frame::split(&mut BytesMut::from(&[0xff, 0, 0, 0, 0][..])).unwrap_err();
        assert!(matches!(refused, FrameError::UnknownKind { found: 0xff }));
    }

    #[test]
    fn an_end_within_a_frame_is_not_an_end() {
        let bytes = encode(&[Frame { kind: Kind::Stdout, payload: Bytes::from_static(b"abc") }]);
        for cut in 1..bytes.len() {
            let mut reader = FrameReader::new(&bytes[..cut]);
            assert!(matches!(block_on(reader.next()), Err(FrameError::Truncated)), "{cut}");
        }
        assert!(matches!(block_on(FrameReader::new(&[][..]).next()), Ok(None)));
    }

    #[test]
    fn the_longest_frame_passes() {
        let payload = vec![7; MAX_PAYLOAD_BYTES];
        let mut bytes = Vec::new();
        block_on(FrameWriter::new(&mut bytes).send(Kind::Data, &payload)).unwrap();
        let read = block_on(FrameReader::new(&bytes[..]).next()).unwrap().unwrap();
        assert_eq!((read.kind, &read.payload[..]), (Kind::Data, &payload[..]));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting(
            frames in prop::collection::vec(frame(), 0..8),
            cuts in prop::collection::vec(1_usize..64, 1..40),
        ) {
            let bytes = encode(&frames);
            let (mut buffer, mut found, mut at) = (BytesMut::new(), Vec::new(), 0);
            for cut in cuts.iter().cycle() {
                let end = bytes.len().min(at + cut);
                buffer.extend_from_slice(&bytes[at..end]);
                at = end;
                while let Some(frame) = Frame::split(&mut buffer).unwrap() {
                    found.push(frame);
                }
                if at == bytes.len() {
                    break;
                }
            }
            prop_assert_eq!(found, frames);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn what_is_written_is_read(frames in prop::collection::vec(frame(), 0..8)) {
            let mut bytes = Vec::new();
            block_on(async {
                let mut writer = FrameWriter::new(&mut bytes);
                for frame in &frames {
                    writer.send(frame.kind, &frame.payload).await.unwrap();
                }
            });
            prop_assert_eq!(&bytes, &encode(&frames));
            let mut reader = FrameReader::new(&bytes[..]);
            for frame in frames {
                prop_assert_eq!(block_on(reader.next()).unwrap(), Some(frame));
            }
            prop_assert!(block_on(reader.next()).unwrap().is_none());
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let mut reader = FrameReader::new(&bytes[..]);
            block_on(async { while let Ok(Some(_)) = reader.next().await {} });
        }
    }
}
