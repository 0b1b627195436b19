//! The content of one file on its way in: every length checked before it counts, the digest before the file does.

use std::io::Write;

use super::{
    content::{ZEROS, hash_zeros},
    entry::Digest,
    error::TransferError,
    meter::Meter,
    partial::Partial,
    wire::Wire,
};
use crate::frame::Kind;

/// Where the bytes go.
pub(crate) enum Sink<'a> {
    File(&'a mut Partial),
    Stream(&'a mut (dyn Write + Send)),
}

/// One file that is coming.
pub(crate) struct Inflow<'a> {
    pub(crate) wire: &'a mut Wire,
    pub(crate) meter: &'a Meter,
    pub(crate) path: &'a [u8],
    /// The size that was announced.
    pub(crate) size: Option<u64>,
    /// Most bytes that this side takes.
    pub(crate) allowed: u64,
    pub(crate) position: u64,
}

impl Inflow<'_> {
    /// Takes data and holes until the digest comes, and compares it.
    pub(crate) fn take(
        &mut self,
        sink: &mut Sink<'_>,
        from: u64,
        mut hasher: blake3::Hasher,
    ) -> Result<Digest, TransferError> {
        self.position = from;
        if self.size.is_some_and(|size| size > self.allowed) {
            return Err(self.too_much());
        }
        loop {
            let head = self.wire.incoming.head()?;
            match head.kind {
                Kind::Data => self.data(sink, head.length, &mut hasher)?,
                Kind::Hole => {
                    let length = u64::from_be_bytes(self.wire.incoming.fixed(head)?);
                    self.hole(sink, length, &mut hasher)?;
                }
                Kind::Digest => {
                    let theirs: Digest = self.wire.incoming.fixed(head)?;
                    return self.check(theirs, &hasher);
                }
                _ => return Err(TransferError::Protocol("a frame that does not belong into a file")),
            }
        }
    }

    fn data(
        &mut self,
        sink: &mut Sink<'_>,
        length: usize,
        hasher: &mut blake3::Hasher,
    ) -> Result<(), TransferError> {
        self.advance(length as u64)?;
        let mut rest = length;
        while rest > 0 {
            let piece = self.wire.incoming.piece(rest)?;
            hasher.update(piece);
            let written = match sink {
                Sink::File(partial) => partial.write(piece).map_err(std::io::Error::from),
                Sink::Stream(stream) => stream.write_all(piece),
            };
            written.map_err(|error| TransferError::io(self.path, "write it", error))?;
            rest -= piece.len();
        }
        self.meter.add_bytes(length as u64);
        Ok(())
    }

    fn hole(
        &mut self,
        sink: &mut Sink<'_>,
        length: u64,
        hasher: &mut blake3::Hasher,
    ) -> Result<(), TransferError> {
        self.advance(length)?;
        match sink {
            Sink::File(partial) => partial.hole(length).map_err(std::io::Error::from),
            Sink::Stream(stream) => write_zeros(stream, length),
        }
        .map_err(|error| TransferError::io(self.path, "write it", error))?;
        hash_zeros(hasher, length, &self.wire.outgoing.beat);
        self.meter.add_bytes(length);
        Ok(())
    }

    fn advance(&mut self, length: u64) -> Result<(), TransferError> {
        let end = self.position.checked_add(length).filter(|_| length > 0);
        let end =
            end.ok_or(TransferError::Protocol("a stretch of no bytes, or of more than there can be"))?;
        if self.size.is_some_and(|size| end > size) {
            return Err(TransferError::Protocol("more data than was announced"));
        }
        if end > self.allowed {
            return Err(self.too_much());
        }
        self.position = end;
        Ok(())
    }

    fn check(&self, theirs: Digest, hasher: &blake3::Hasher) -> Result<Digest, TransferError> {
        if self.size.is_some_and(|size| size != self.position) {
            return Err(TransferError::Protocol("less data than was announced"));
        }
        if hasher.finalize() != blake3::Hash::from(theirs) {
            return Err(TransferError::Digest { path: self.path.to_vec() });
        }
        Ok(theirs)
    }

    fn too_much(&self) -> TransferError {
        TransferError::Limit { path: self.path.to_vec(), limit: "more bytes than are allowed" }
    }
}

fn write_zeros(stream: &mut (dyn Write + Send), mut count: u64) -> std::io::Result<()> {
    while count > 0 {
        let now = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
        stream.write_all(&ZEROS[..now])?;
        count -= now as u64;
    }
    Ok(())
}
