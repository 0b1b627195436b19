//! How much memory an enclave needs to boot an image.
//!
//! Too little shows late and badly: the kernel cuts the files it unpacks short and goes on. So builders say the figure
//! and runners refuse less. It is what booting takes, by measurement (`bench/memory`); what an application takes of its
//! own comes on top, and it finds the memory that [`Held::image_bytes`] took free again.

use std::{
    collections::HashSet,
    io::{self, BufRead, BufReader, Read, Seek},
};

use eif::{
    Eif, ReadError, Section,
    cpio::{Kind, Reader},
};
use flate2::bufread::MultiGzDecoder;

use crate::{
    Limits,
    rootfs_image::IMAGE_ENTRY,
    tree::{Kind as Node, Tree},
    zstd::ZstdReader,
};

/// A page of memory on x86-64, in bytes: what the files of a ramdisk are held in once unpacked.
const PAGE_BYTES: u64 = 4096;

/// The longest target of a symbolic link, in bytes, that takes no page (Linux, `SHORT_SYMLINK_LEN` in `mm/shmem.c`).
const MAX_SHORT_TARGET_BYTES: u64 = 127;

/// What the kernel, init and the daemons of the framework take, in MiB: twice what was measured with our kernel, since
/// others are larger.
const BASE_MIB: u64 = 24;

/// Entries that every image has beside its files with content: eight in ramdisk 0, one in ramdisk 1.
pub(crate) const FRAMEWORK_ENTRIES: u64 = 9;

/// What of an image decides how much memory booting it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Length of the image in bytes: while its ramdisks are unpacked, they are held as they were loaded, too.
    pub image_bytes: u64,
    /// Pages of 4 KiB that the unpacked files fill.
    pub file_pages: u64,
    /// Files, directories, links and devices, in all ramdisks.
    pub entries: u64,
}

impl Held {
    /// Counts an entry of a ramdisk with so many bytes of content.
    pub(crate) fn add_entry(&mut self, content_bytes: u64) {
        self.entries = self.entries.saturating_add(1);
        self.file_pages = self.file_pages.saturating_add(content_bytes.div_ceil(PAGE_BYTES));
    }

    /// Counts the files of an application as they are written to a ramdisk.
    pub(crate) fn add_tree(&mut self, tree: &Tree) {
        let mut seen = HashSet::new();
        for (_, id, inode) in tree.iter() {
            match &inode.kind {
                Node::File(content) if seen.insert(id) => self.add_entry(content.len()),
                Node::Symlink(target) => self.add_symlink(target.len() as u64),
                _ => self.add_entry(0),
            }
        }
    }

    /// Counts a symbolic link of a ramdisk.
    fn add_symlink(&mut self, target_bytes: u64) {
        self.add_entry(if target_bytes > MAX_SHORT_TARGET_BYTES { PAGE_BYTES } else { 0 });
    }
}

/// The least memory, in MiB, with which the enclave boots:
///
/// 33/32 × (`image_bytes` + 2 × 4096 × the larger of `file_pages` and `entries`), rounded up, + 24 MiB
///
/// The kernel lets the root file system fill half of the memory that is left beside the loaded image, and have one entry
/// for every two pages of it (Linux, `shmem_default_max_blocks` and `shmem_default_max_inodes` in `mm/shmem.c`): hence
/// twice. It also keeps a description of every page, 1/64 of the memory: the first factor. `docs/spec/reference-values.md`.
pub fn memory_needed(held: &Held) -> u64 {
    let unpacked = held.file_pages.max(held.entries).saturating_mul(2 * PAGE_BYTES);
    let bytes = held.image_bytes.saturating_add(unpacked);
    bytes.saturating_add(bytes / 32).div_ceil(1 << 20).saturating_add(BASE_MIB)
}

/// What booting an image takes, read from its ramdisks. One that cannot be read as an archive counts with the length it
/// has, which is the least that it can take.
///
/// # Errors
/// [`ReadError`] when the file cannot be read.
pub fn held_by<R: Read + Seek>(eif: &mut Eif<R>, limits: &Limits) -> Result<Held, ReadError> {
    let image_bytes = eif.sections().iter().map(|s| s.offset.saturating_add(s.size)).max().unwrap_or(0);
    let mut held = Held { image_bytes, ..Held::default() };
    for section in eif.ramdisks().collect::<Vec<_>>() {
        let before = held;
        if !count(eif, &section, limits, &mut held)? {
            held = before;
            held.add_entry(section.size);
        }
    }
    Ok(held)
}

/// Adds the entries of a ramdisk. False if it is not an archive that can be read.
fn count<R: Read + Seek>(
    eif: &mut Eif<R>,
    section: &Section,
    limits: &Limits,
    held: &mut Held,
) -> Result<bool, ReadError> {
    let mut start = Vec::new();
    eif.read(section)?.take(4).read_to_end(&mut start)?;
    let mut length = section.size;
    if decompressor(&start).is_some() {
        let limit = limits.unpacked_bytes.saturating_add(1);
        match io::copy(&mut unpacked(eif, section, &start)?.take(limit), &mut io::sink()) {
            Ok(found) if found < limit => length = found,
            _ => return Ok(false),
        }
    }
    let mut archive = Reader::new(unpacked(eif, section, &start)?, length);
    loop {
        match archive.next_entry() {
            Ok(None) => return Ok(true),
            // Nothing of it is unpacked at boot.
            Ok(Some(entry)) if entry.name == IMAGE_ENTRY => {}
            Ok(Some(entry)) => match entry.kind {
                Kind::File { size, .. } => held.add_entry(size),
                Kind::Symlink { target } => held.add_symlink(target.len() as u64),
                _ => held.add_entry(0),
            },
            Err(_) => return Ok(false),
        }
    }
}

enum Decompressor {
    Gzip,
    Zstd,
}

fn decompressor(start: &[u8]) -> Option<Decompressor> {
    match start {
        [0x1f, 0x8b, ..] => Some(Decompressor::Gzip),
        start if ZstdReader::<&[u8]>::recognises(start) => Some(Decompressor::Zstd),
        _ => None,
    }
}

fn unpacked<'a, R: Read + Seek>(
    eif: &'a mut Eif<R>,
    section: &Section,
    start: &[u8],
) -> Result<Box<dyn BufRead + 'a>, ReadError> {
    let data = BufReader::new(eif.read(section)?);
    Ok(match decompressor(start) {
        None => Box::new(data),
        Some(Decompressor::Gzip) => Box::new(BufReader::new(MultiGzDecoder::new(data))),
        Some(Decompressor::Zstd) => Box::new(BufReader::new(ZstdReader::new(data))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `bench/memory` measured with the pinned kernel: never too little, and not a third too much.
    #[test]
    fn the_figure_is_above_what_boots_and_not_far() {
        let measured = [
            // (image bytes, file pages, entries, least MiB that boots)
            // 20,000 files of 100 bytes; 8 files of 8 MiB; one of 8 MiB.
            (22_214_832, 23_671, 20_036, 221),
            (84_562_330, 20_055, 25, 252),
            (25_841_108, 5_719, 18, 82),
            // Eight of 8 MiB in a file system.
            (82_909_956, 2_273, 13, 112),
        ];
        for (image_bytes, file_pages, entries, boots) in measured {
            let said = memory_needed(&Held { image_bytes, file_pages, entries });
            assert!((boots..=boots * 4 / 3).contains(&said), "{said} for {boots}");
        }
    }

    #[test]
    fn many_empty_files_count_like_as_many_pages() {
        let empty = Held { image_bytes: 0, file_pages: 0, entries: 1 << 20 };
        let full = Held { file_pages: 1 << 20, entries: 0, ..empty };
        assert_eq!(memory_needed(&empty), memory_needed(&full));
        assert_eq!(memory_needed(&empty), 8192 + 256 + BASE_MIB);
    }

    #[test]
    fn no_size_overflows() {
        let most = Held { image_bytes: u64::MAX, file_pages: u64::MAX, entries: u64::MAX };
        assert!(memory_needed(&most) >= u64::MAX >> 20);
        assert_eq!(memory_needed(&Held::default()), BASE_MIB);
    }
}
