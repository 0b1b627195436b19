//! An open channel as a byte stream.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffer::{BUFFER_RECORDS, Buffer};
use crate::{Content, Established, MAX_PLAINTEXT_BYTES, Opener, RecordError, Sealer, record_length};

/// An open channel.
///
/// Reading gives end of file only when the peer has said that it sends nothing more; a stream that just ends is an error
/// ([`io::ErrorKind::UnexpectedEof`]), so nobody can cut a session short unnoticed. `shutdown` says so to the peer and
/// closes the writing half alone. What was written has left for sure after a `flush`.
///
/// One write takes up to 256 KiB, and is sealed and handed to the stream as one. Buffers are held only while bytes are in
/// them: an idle session takes a few kilobytes.
#[derive(Debug)]
pub struct Session<S> {
    stream: S,
    sealer: Sealer,
    opener: Opener,
    incoming: Incoming,
    outgoing: Buffer,
    /// Whether the end was sealed: nothing can be written any more.
    ended: bool,
}

#[derive(Debug)]
struct Incoming {
    /// Data opened before the session began, delivered up to the position.
    early: (Vec<u8>, usize),
    /// Records as they came; the first may be opened already.
    buffer: Buffer,
    /// Part of the first record that is opened and not delivered yet.
    opened: Range<usize>,
    /// Length of the first record if it is opened, else 0.
    record: usize,
    /// Records kept while the buffer is not: the beginning of one that is not complete.
    kept: Vec<u8>,
    end: Option<End>,
}

/// Why nothing more can be read.
#[derive(Debug, Clone, Copy)]
enum End {
    Closed,
    Broken(RecordError),
}

impl<S> Session<S> {
    pub(super) fn new(stream: S, established: Established) -> Self {
        let Established { sealer, opener, plaintext, records } = established;
        let incoming = Incoming {
            early: (plaintext, 0),
            buffer: Buffer::default(),
            opened: 0..0,
            record: 0,
            kept: records,
            end: None,
        };
        Session { stream, sealer, opener, incoming, outgoing: Buffer::default(), ended: false }
    }

    /// The stream below.
    pub fn stream(&self) -> &S {
        &self.stream
    }
}

impl Incoming {
    /// Copies what is there to `buf`, opening records as long as there are whole ones and there is room.
    fn deliver(&mut self, opener: &mut Opener, buf: &mut ReadBuf<'_>) {
        let (early, position) = &mut self.early;
        if *position < early.len() {
            let part = &early[*position..];
            let count = part.len().min(buf.remaining());
            buf.put_slice(&part[..count]);
            *position += count;
            if *position == early.len() {
                self.early = (Vec::new(), 0);
            }
        }
        if self.buffer.is_empty() && !self.kept.is_empty() {
            self.restore();
        }
        while buf.remaining() > 0 {
            if self.open_through(opener, buf) {
                continue;
            }
            if !self.open_next(opener) {
                break;
            }
            let count = self.opened.len().min(buf.remaining());
            buf.put_slice(&self.buffer.bytes()[self.opened.start..self.opened.start + count]);
            self.opened.start += count;
        }
        self.finish_record();
        self.buffer.release();
    }

    /// Opens the next record straight into `buf`, which saves a copy. Not if it is not there, or `buf` too small for it.
    fn open_through(&mut self, opener: &mut Opener, buf: &mut ReadBuf<'_>) -> bool {
        if !self.opened.is_empty() || self.end.is_some() {
            return false;
        }
        self.finish_record();
        let Ok(Some(length)) = record_length(self.buffer.bytes()) else { return false };
        let room = Opener::room(length);
        if buf.remaining() < room {
            return false;
        }
        let out = buf.initialize_unfilled_to(room);
        self.record = length;
        match opener.open_into(&self.buffer.bytes()[..length], out) {
            Ok(Content::Data(range)) => buf.advance(range.len()),
            Ok(Content::Closed) => self.end = Some(End::Closed),
            Err(error) => self.end = Some(End::Broken(error)),
        }
        true
    }

    /// Whether there is data that is opened, perhaps only now.
    fn open_next(&mut self, opener: &mut Opener) -> bool {
        loop {
            if !self.opened.is_empty() {
                return true;
            }
            self.finish_record();
            if self.end.is_some() {
                return false;
            }
            let opened = match record_length(self.buffer.bytes()) {
                Ok(None) => return false,
                Ok(Some(length)) => {
                    self.record = length;
                    opener.open(&mut self.buffer.bytes_mut()[..length])
                }
                Err(error) => Err(error),
            };
            match opened {
                Ok(Content::Data(range)) => self.opened = range,
                Ok(Content::Closed) => self.end = Some(End::Closed),
                Err(error) => self.end = Some(End::Broken(error)),
            }
        }
    }

    /// Drops the first record if everything in it is delivered.
    fn finish_record(&mut self) {
        if self.opened.is_empty() {
            self.buffer.consume(std::mem::take(&mut self.record));
        }
    }

    /// Puts what is kept back into a large buffer.
    fn restore(&mut self) {
        self.buffer.hold(&self.kept);
        self.kept = Vec::new();
    }

    /// Nothing comes: gives the large buffer back, and keeps the beginning of a record in as much memory as it takes.
    fn rest(&mut self) {
        let count = self.buffer.bytes().len();
        self.kept = self.buffer.bytes().to_vec();
        self.buffer.consume(count);
        self.buffer.release();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Session<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Session { stream, opener, incoming, .. } = &mut *self;
        let before = buf.filled().len();
        loop {
            incoming.deliver(opener, buf);
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match incoming.end {
                Some(End::Closed) => return Poll::Ready(Ok(())),
                Some(End::Broken(error)) => return Poll::Ready(Err(broken(error))),
                None => {}
            }
            let mut room = ReadBuf::new(incoming.buffer.landing());
            match Pin::new(&mut *stream).poll_read(cx, &mut room) {
                Poll::Ready(Ok(())) => {
                    let count = room.filled().len();
                    if count == 0 {
                        incoming.rest();
                        return Poll::Ready(Err(cut_short()));
                    }
                    incoming.buffer.fill(count);
                }
                other => {
                    incoming.rest();
                    return other;
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Session<S> {
    /// Hands what is sealed to the stream.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, self.outgoing.bytes()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.outgoing.consume(count),
            }
        }
        self.outgoing.release();
        Poll::Ready(Ok(()))
    }

    /// Makes one record of `plaintext`.
    fn seal(&mut self, plaintext: &[u8]) -> io::Result<()> {
        let length = self.sealer.seal(plaintext, self.outgoing.room()).map_err(broken)?;
        self.outgoing.fill(length);
        Ok(())
    }

    /// Seals as much of `slices` as the buffer, which is empty, takes; small slices together.
    fn seal_slices(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut gathered: Vec<u8> = Vec::new();
        let mut taken = 0;
        let mut records = 0;
        for slice in slices {
            let mut rest = &slice[..];
            while !rest.is_empty() && records < BUFFER_RECORDS {
                let count = rest.len().min(MAX_PLAINTEXT_BYTES - gathered.len());
                let (part, later) = rest.split_at(count);
                rest = later;
                taken += count;
                if count == MAX_PLAINTEXT_BYTES {
                    self.seal(part)?;
                    records += 1;
                    continue;
                }
                gathered.extend_from_slice(part);
                if gathered.len() == MAX_PLAINTEXT_BYTES {
                    self.seal(&gathered)?;
                    gathered.clear();
                    records += 1;
                }
            }
        }
        if !gathered.is_empty() {
            self.seal(&gathered)?;
        }
        Ok(taken)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Session<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_drain(cx))?;
        if this.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let taken = buf.len().min(BUFFER_RECORDS * MAX_PLAINTEXT_BYTES);
        for plaintext in buf[..taken].chunks(MAX_PLAINTEXT_BYTES) {
            this.seal(plaintext)?;
        }
        sent(this.poll_drain(cx), taken)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_drain(cx))?;
        if this.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let taken = this.seal_slices(bufs)?;
        sent(this.poll_drain(cx), taken)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_drain(cx))?;
        if !this.ended {
            this.ended = true;
            let length = this.sealer.seal_close(this.outgoing.room()).map_err(broken)?;
            this.outgoing.fill(length);
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

/// What was sealed counts as written, whether or not the stream has taken all of it yet.
fn sent(drained: Poll<io::Result<()>>, taken: usize) -> Poll<io::Result<usize>> {
    match drained {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        _ => Poll::Ready(Ok(taken)),
    }
}

fn broken(error: RecordError) -> io::Error {
    let kind = match error {
        RecordError::Alert { .. } => io::ErrorKind::ConnectionAborted,
        _ => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the peer's stream ended without saying so")
}

#[cfg(test)]
mod tests;
