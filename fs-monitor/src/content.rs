//! Reads an open file once and computes every digest of it in the same pass.
//!
//! Plain reads into one buffer: mapped memory would turn a file that is cut short meanwhile into a signal.

use std::os::fd::BorrowedFd;

use aws_lc_rs::digest::{Context, SHA3_512, SHA256};
use manifest::DigestKind;
use rustix::{
    fs::{SeekFrom, Statx},
    io::Errno,
};

use crate::state::{Digests, Unread};

/// Bytes read at a time: few enough to be in the processor's own cache when they are hashed.
const BUFFER_BYTES: usize = 64 * 1024;

/// What the buffer's beginning is a multiple of. Allocators like to begin 16 bytes behind a page, and there the kernel copies at a
/// third of its speed.
const PAGE_BYTES: usize = 4096;

/// Files smaller than this are read to their end without looking for holes.
const SPARSE_FROM_BYTES: u64 = 1024 * 1024;

/// Most bytes of holes that are hashed in one file: a few seconds of one core. A file with more is recorded without
/// digests, so that an empty file of any apparent size cannot occupy the monitor.
pub const MAX_HOLE_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Which digests are computed beside BLAKE3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DigestSet {
    /// SHA-256.
    pub sha256: bool,
    /// SHA3-512.
    pub sha3_512: bool,
}

impl DigestSet {
    /// The set that a manifest asks for.
    pub fn of(kinds: &[DigestKind]) -> Self {
        Self { sha256: kinds.contains(&DigestKind::Sha256), sha3_512: kinds.contains(&DigestKind::Sha3_512) }
    }
}

/// Several digests of one stream of bytes.
pub(crate) struct Hasher {
    blake3: blake3::Hasher,
    sha256: Option<Context>,
    sha3_512: Option<Context>,
}

impl Hasher {
    pub(crate) fn new(set: DigestSet) -> Self {
        Self {
            blake3: blake3::Hasher::new(),
            sha256: set.sha256.then(|| Context::new(&SHA256)),
            sha3_512: set.sha3_512.then(|| Context::new(&SHA3_512)),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        if let Some(context) = &mut self.sha256 {
            context.update(bytes);
        }
        if let Some(context) = &mut self.sha3_512 {
            context.update(bytes);
        }
    }

    pub(crate) fn finish(self) -> Digests {
        let sha256 = self
            .sha256
            .map(|context| context.finish().as_ref().try_into().expect("a SHA-256 digest has 32 bytes"));
        let sha3_512 = self.sha3_512.map(|context| {
            Box::new(context.finish().as_ref().try_into().expect("a SHA3-512 digest has 64 bytes"))
        });
        Digests { blake3: *self.blake3.finalize().as_bytes(), sha256, sha3_512 }
    }
}

/// Reads files; one for each thread, since it owns the buffer.
#[derive(Debug)]
pub struct Reader {
    set: DigestSet,
    memory: Vec<u8>,
    /// Where in `memory` the buffer begins.
    start: usize,
    /// Most bytes of holes that are hashed in one file.
    max_hole_bytes: u64,
}

impl Reader {
    /// A reader for these digests.
    pub fn new(set: DigestSet) -> Self {
        let memory = vec![0; BUFFER_BYTES + PAGE_BYTES];
        let start = memory.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        Self { set, memory, start, max_hole_bytes: MAX_HOLE_BYTES }
    }

    fn buffer(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..).and_then(|rest| rest.get_mut(..BUFFER_BYTES)).unwrap_or_default()
    }

    /// The digests that it computes.
    pub fn digest_set(&self) -> DigestSet {
        self.set
    }

    /// Hashes all of an open file, of which the kernel said `stat` a moment ago.
    ///
    /// A file that grows meanwhile is read to at most the size in `stat` and one buffer more: whoever compares stamps
    /// finds out.
    ///
    /// # Errors
    /// Why the content cannot be known.
    pub fn digest(&mut self, file: BorrowedFd<'_>, stat: &Statx) -> Result<Digests, Unread> {
        let allocated = stat.stx_blocks.saturating_mul(512);
        let mut hasher = Hasher::new(self.set);
        if stat.stx_size >= SPARSE_FROM_BYTES && allocated < stat.stx_size {
            self.read_sparse(file, stat.stx_size, &mut hasher)?;
        } else {
            self.read_all(file, stat.stx_size, &mut hasher)?;
        }
        Ok(hasher.finish())
    }

    fn read_all(&mut self, file: BorrowedFd<'_>, size: u64, hasher: &mut Hasher) -> Result<(), Unread> {
        let mut total: u64 = 0;
        loop {
            let buffer = self.buffer();
            let count = read(file, buffer)?;
            if count == 0 || total > size {
                return Ok(());
            }
            hasher.update(buffer.get(..count).unwrap_or_default());
            total = total.saturating_add(count as u64);
            // The end of a file that did not grow needs no further read, unless it is one that says no size.
            if total == size {
                return Ok(());
            }
        }
    }

    /// Reads data and skips holes, which are zeros.
    fn read_sparse(&mut self, file: BorrowedFd<'_>, size: u64, hasher: &mut Hasher) -> Result<(), Unread> {
        let (mut at, mut holes) = (0, 0_u64);
        while at < size {
            let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.min(size),
                Err(Errno::NXIO) => size,
                Err(errno) => return Err(Unread::from_errno(errno)),
            };
            holes = holes.saturating_add(data.saturating_sub(at));
            if holes > self.max_hole_bytes {
                return Err(Unread::Sparse);
            }
            self.zeros(data.saturating_sub(at), hasher);
            if data == size {
                return Ok(());
            }
            let end = rustix::fs::seek(file, SeekFrom::Hole(data)).map_err(Unread::from_errno)?.min(size);
            rustix::fs::seek(file, SeekFrom::Start(data)).map_err(Unread::from_errno)?;
            at = self.read_extent(file, data, end, hasher)?;
        }
        Ok(())
    }

    /// Reads from `at` to `end`; returns where it came to, which is `end`, or the size if the file ended early.
    fn read_extent(
        &mut self,
        file: BorrowedFd<'_>,
        mut at: u64,
        end: u64,
        hasher: &mut Hasher,
    ) -> Result<u64, Unread> {
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            let buffer = self.buffer();
            let count = read(file, buffer.get_mut(..wanted).unwrap_or_default())?;
            if count == 0 {
                return Err(Unread::Moving);
            }
            hasher.update(buffer.get(..count).unwrap_or_default());
            at = at.saturating_add(count as u64);
        }
        Ok(at)
    }

    fn zeros(&mut self, mut count: u64, hasher: &mut Hasher) {
        let zeros = self.buffer();
        zeros.fill(0);
        while count > 0 {
            let wanted = usize::try_from(count).unwrap_or(usize::MAX).min(zeros.len());
            hasher.update(zeros.get(..wanted).unwrap_or_default());
            count = count.saturating_sub(wanted as u64);
        }
    }
}

fn read(file: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Unread> {
    loop {
        match rustix::io::read(file, &mut *buffer) {
            Err(Errno::INTR) => {}
            outcome => return outcome.map_err(Unread::from_errno),
        }
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Seek, Write},
        os::{fd::AsFd, unix::fs::FileExt},
    };

    use rustix::fs::{AtFlags, StatxFlags};

    use super::*;

    fn stat(file: &File) -> Statx {
        rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).unwrap()
    }

    fn digest(reader: &mut Reader, file: &mut File) -> Result<Digests, Unread> {
        file.rewind().unwrap();
        let stat = stat(file);
        reader.digest(file.as_fd(), &stat)
    }

    #[test]
    fn every_digest_is_of_the_same_bytes() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        let mut reader = Reader::new(DigestSet { sha256: true, sha3_512: true });
        let digests = digest(&mut reader, &mut file).unwrap();
        // The examples of FIPS 180-4 and FIPS 202 for "abc".
        assert_eq!(
            hex::encode(digests.sha256.unwrap()),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(hex::encode(*digests.sha3_512.unwrap()).starts_with("b751850b1a57168a5693cd924b6b096e"));
        assert_eq!(digests.blake3, *blake3::hash(b"abc").as_bytes());
    }

    /// Files read to 16 bytes behind a page's beginning took three times as long.
    #[test]
    fn the_buffer_begins_at_a_page() {
        let mut reader = Reader::new(DigestSet::default());
        let buffer = reader.buffer();
        assert_eq!((buffer.as_ptr().addr() % PAGE_BYTES, buffer.len()), (0, BUFFER_BYTES));
    }

    #[test]
    fn files_around_the_buffers_size_are_read_whole() {
        let mut reader = Reader::new(DigestSet::default());
        for size in [0, 1, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            assert_eq!(
                digest(&mut reader, &mut file).unwrap().blake3,
                *blake3::hash(&bytes).as_bytes(),
                "{size}"
            );
        }
    }

    #[test]
    fn holes_are_zeros_wherever_they_lie() {
        let mut reader = Reader::new(DigestSet::default());
        for (size, written) in
            [(5 << 20, vec![0]), (5 << 20, vec![2 << 20]), (3 << 20, vec![1 << 20, 3 << 20])]
        {
            let mut file = tempfile::tempfile().unwrap();
            let mut expected = vec![0; size];
            for at in written {
                file.write_all_at(b"data", at as u64).unwrap();
                expected.resize(expected.len().max(at + 4), 0);
                expected[at..at + 4].copy_from_slice(b"data");
            }
            file.set_len(expected.len() as u64).unwrap();
            assert_eq!(digest(&mut reader, &mut file).unwrap().blake3, *blake3::hash(&expected).as_bytes());
        }
    }

    /// 100 GiB of nothing would take a minute of hashing, and 8 EiB forever.
    #[test]
    fn a_file_that_is_mostly_holes_is_not_hashed() {
        let mut reader = Reader { max_hole_bytes: 4 << 20, ..Reader::new(DigestSet::default()) };
        let mut file = tempfile::tempfile().unwrap();
        file.write_all_at(b"data", 100 << 30).unwrap();
        assert_eq!(digest(&mut reader, &mut file), Err(Unread::Sparse));
        file.set_len(4 << 20).unwrap();
        assert_eq!(
            digest(&mut reader, &mut file).unwrap().blake3,
            *blake3::hash(&vec![0; 4 << 20]).as_bytes()
        );
    }
}
