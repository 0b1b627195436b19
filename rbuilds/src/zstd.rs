//! Reads all frames of a Zstandard stream (RFC 8878), of which the decoder underneath reads one.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

/// A Zstandard frame's magic number, as it stands in a file (RFC 8878, section 3.1.1).
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The last three bytes of a skippable frame's magic number; the first is 0x50 to 0x5f (RFC 8878, section 3.1.2).
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Decompresses as it is read. A window over 128 MiB, the reference decoder's own limit, is refused.
pub(crate) struct ZstdReader<R> {
    source: R,
    decoder: FrameDecoder,
}

impl<R: BufRead> ZstdReader<R> {
    /// Whether a file that begins so is a Zstandard stream.
    pub(crate) fn recognises(start: &[u8]) -> bool {
        let skippable = |s: &[u8]| matches!(s, [0x50..=0x5f, rest @ ..] if rest.starts_with(&SKIPPABLE));
        start.starts_with(&MAGIC) || skippable(start)
    }

    pub(crate) fn new(source: R) -> Self {
        Self { source, decoder: FrameDecoder::new() }
    }

    pub(crate) fn into_inner(self) -> R {
        self.source
    }

    /// Goes to the next frame that has content. False at the end of the source.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => self.skip(u64::from(length))?,
                Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e)),
            }
        }
        Ok(false)
    }

    fn skip(&mut self, len: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.source).take(len), &mut io::sink())?;
        if skipped < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.decoder.can_collect() == 0 {
            if self.decoder.is_finished() {
                if !self.next_frame()? {
                    return Ok(0);
                }
            } else {
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            }
        }
        self.decoder.read(buf)
    }
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn unpack(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        ZstdReader::new(bytes).read_to_end(&mut out)?;
        Ok(out)
    }

    /// Registries hold "zstd:chunked" layers, which are many frames with skippable ones between them. A decoder that
    /// stops after the first gives a short layer without an error.
    #[test]
    fn reads_all_frames_and_skips_the_skippable() {
        let frame = |text: &[u8]| compress_to_vec(text, CompressionLevel::Fastest);
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        let stream = [&skippable[..], &frame(b"one"), &skippable, &frame(b""), &frame(b"two")].concat();
        assert!(ZstdReader::<&[u8]>::recognises(&stream));
        assert_eq!(unpack(&stream).unwrap(), b"onetwo");
    }

    #[test]
    fn refuses_what_is_cut_short_or_followed_by_garbage() {
        let frame = compress_to_vec(&b"some text that is long enough"[..], CompressionLevel::Fastest);
        for len in 1..frame.len() {
            assert!(unpack(&frame[..len]).is_err(), "{len}");
        }
        assert!(unpack(&[&frame[..], b"garbage"].concat()).is_err());
        assert!(unpack(&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1]).is_err());
    }
}
