//! Archives made readable anywhere and again: decompressed into a file, or left where they are if they are not compressed.
//!
//! Decompressing is what most of a build's first half goes into, and one stream of it cannot use two processors. So it
//! has a thread to itself: another one hashes what comes out and writes it. The chunks go round between the two, and no
//! more memory than theirs is taken.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use aws_lc_rs::digest::{Context, SHA256};

use crate::{
    Digest,
    content::{Content, ContentReader},
    digest::{HashingReader, drain},
    error::LayerError,
    intake::Room,
    stream::{Bounded, Decompressor, LimitReached},
};

/// Bytes read at once from the compressed file.
const BUFFER_BYTES: usize = 128 << 10;
/// The pieces in which unpacked bytes are handed on.
const CHUNK_BYTES: usize = 256 << 10;
/// How many of them there are.
const CHUNKS: usize = 6;

/// An archive that was read from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Unpacked {
    pub(crate) archive: Content,
    pub(crate) archive_digest: Digest,
    /// Of the file as it was given.
    pub(crate) blob_digest: Digest,
    /// Whether the archive lies in a file of its own.
    pub(crate) is_copy: bool,
}

/// Why an archive could not be unpacked, and the digest of the file that should hold it: a wrong one explains the rest.
#[derive(Debug)]
pub(crate) struct UnpackFailure {
    pub(crate) error: LayerError,
    pub(crate) blob_digest: Option<Digest>,
}

impl From<LayerError> for UnpackFailure {
    fn from(error: LayerError) -> Self {
        Self { error, blob_digest: None }
    }
}

/// Unpacks `blob` into the file that `create` makes, if it is compressed.
pub(crate) fn unpack(
    blob: &Content,
    room: &Room,
    create: impl FnOnce() -> io::Result<File>,
) -> Result<Unpacked, UnpackFailure> {
    let source =
        BufReader::with_capacity(BUFFER_BYTES, HashingReader::new(blob.open().map_err(LayerError::Damaged)?));
    let source = Decompressor::detect(source).map_err(LayerError::Damaged)?;
    if source.is_none() {
        return take_as_it_is(blob, room);
    }
    let file = create().map_err(LayerError::Spool)?;
    let mut source = Bounded::new(source, room);
    let copied = copy(&mut source, &file, room);
    let blob_digest = rest_digest(source.into_inner().into_blob()).map_err(LayerError::Damaged)?;
    match copied {
        Ok((archive_digest, bytes)) => {
            let archive = Content::slice(Arc::new(file), 0, bytes);
            Ok(Unpacked { archive, archive_digest, blob_digest, is_copy: true })
        }
        Err(error) => Err(UnpackFailure { error, blob_digest: Some(blob_digest) }),
    }
}

/// Reads an archive that is not compressed, to know its digest.
fn take_as_it_is(archive: &Content, room: &Room) -> Result<Unpacked, UnpackFailure> {
    let digest = digest_of(archive).map_err(LayerError::Damaged)?;
    if !room.take(archive.len()) {
        let error = LayerError::UnpackedTooLarge { limit: room.limit() };
        return Err(UnpackFailure { error, blob_digest: Some(digest) });
    }
    Ok(Unpacked { archive: archive.clone(), archive_digest: digest, blob_digest: digest, is_copy: false })
}

/// The digest of a content.
pub(crate) fn digest_of(content: &Content) -> io::Result<Digest> {
    rest_digest(BufReader::with_capacity(CHUNK_BYTES, HashingReader::new(content.open()?)))
}

/// Reads what is left and gives the digest of all.
fn rest_digest(mut source: BufReader<HashingReader<ContentReader>>) -> io::Result<Digest> {
    drain(&mut source)?;
    Ok(source.into_inner().digest())
}

/// Copies to the end. Gives digest and length.
fn copy(source: &mut impl Read, file: &File, room: &Room) -> Result<(Digest, u64), LayerError> {
    let (to_keeper, chunks) = sync_channel(CHUNKS);
    let (to_reader, empty) = channel();
    for _ in 0..CHUNKS {
        // Both ends are here.
        let _ = to_reader.send(vec![0; CHUNK_BYTES]);
    }
    let mut bytes = 0;
    let (read, kept) = thread::scope(|scope| {
        let keeper = scope.spawn(move || keep(file, &chunks, &to_reader));
        let read = read_all(source, &empty, to_keeper, &mut bytes);
        (read, keeper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let digest = kept.map_err(|error| {
        room.give_back(bytes);
        LayerError::Spool(error)
    })?;
    match read {
        Ok(()) => Ok((digest, bytes)),
        Err(e) if LimitReached::is(&e) => Err(LayerError::UnpackedTooLarge { limit: room.limit() }),
        Err(e) => Err(LayerError::Damaged(e)),
    }
}

/// A chunk and how much of it is filled.
type Filled = (Vec<u8>, usize);

/// Fills chunks until the source ends or the keeper has given up, which its own result tells.
fn read_all(
    source: &mut impl Read,
    empty: &Receiver<Vec<u8>>,
    to_keeper: SyncSender<Filled>,
    bytes: &mut u64,
) -> io::Result<()> {
    while let Ok(mut chunk) = empty.recv() {
        let filled = fill(source, &mut chunk)?;
        *bytes += filled as u64;
        if filled == 0 || to_keeper.send((chunk, filled)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Reads until the chunk is full or the source ends.
fn fill(source: &mut impl Read, chunk: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(room) = chunk.get_mut(filled..).filter(|room| !room.is_empty()) {
        match source.read(room) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Hashes and writes what comes.
fn keep(mut file: &File, chunks: &Receiver<Filled>, to_reader: &Sender<Vec<u8>>) -> io::Result<Digest> {
    let mut hash = Context::new(&SHA256);
    for (chunk, filled) in chunks {
        let bytes = chunk.get(..filled).unwrap_or_default();
        file.write_all(bytes)?;
        hash.update(bytes);
        // At the source's end nobody wants it any more.
        let _ = to_reader.send(chunk);
    }
    Ok(Digest::from_output(&hash.finish()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn stored(bytes: &[u8]) -> Content {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Content::slice(Arc::new(file), 0, bytes.len() as u64)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn bytes_of(content: &Content) -> Vec<u8> {
        let mut bytes = Vec::new();
        content.open().unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn gives_what_was_compressed_and_both_digests() {
        for len in [0, 1, CHUNK_BYTES, CHUNKS * CHUNK_BYTES + 1, 3 * CHUNKS * CHUNK_BYTES] {
            let bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let packed = gzip(&bytes);
            let room = Room::new(len as u64);
            let unpacked = unpack(&stored(&packed), &room, tempfile::tempfile).unwrap();
            assert!(unpacked.is_copy);
            assert_eq!(bytes_of(&unpacked.archive), bytes);
            assert_eq!(unpacked.archive_digest, Digest::of(&bytes));
            assert_eq!(unpacked.blob_digest, Digest::of(&packed));
            assert!(!room.take(1), "what was unpacked was counted");
        }
    }

    #[test]
    fn leaves_what_is_not_compressed_where_it_is() {
        let never = || unreachable!("nothing has to be unpacked");
        let unpacked = unpack(&stored(b"plain"), &Room::new(5), never).unwrap();
        assert!(!unpacked.is_copy);
        assert_eq!(
            (unpacked.archive_digest, unpacked.blob_digest),
            (Digest::of(b"plain"), Digest::of(b"plain"))
        );
        let failure = unpack(&stored(b"plain"), &Room::new(4), never).unwrap_err();
        assert!(matches!(failure.error, LayerError::UnpackedTooLarge { limit: 4 }));
    }

    #[test]
    fn a_failure_still_tells_the_digest_of_the_file() {
        let packed = gzip(&vec![0; 4 * CHUNK_BYTES]);
        let failure =
            unpack(&stored(&packed), &Room::new(CHUNK_BYTES as u64), tempfile::tempfile).unwrap_err();
        assert!(matches!(failure.error, LayerError::UnpackedTooLarge { .. }));
        assert_eq!(failure.blob_digest, Some(Digest::of(&packed)));
        let cut = &packed[..packed.len() - 9];
        let failure = unpack(&stored(cut), &Room::new(u64::MAX), tempfile::tempfile).unwrap_err();
        assert!(matches!(failure.error, LayerError::Damaged(_)));
        assert_eq!(failure.blob_digest, Some(Digest::of(cut)));
    }

    #[test]
    fn a_file_that_takes_nothing_is_a_failure_and_gives_its_room_back() {
        let room = Room::new(4 * CHUNK_BYTES as u64);
        let packed = stored(&gzip(&vec![0; 4 * CHUNK_BYTES]));
        let failure = unpack(&packed, &room, || File::open("/dev/null")).unwrap_err();
        assert!(matches!(failure.error, LayerError::Spool(_)));
        assert!(room.take(4 * CHUNK_BYTES as u64));
    }
}
