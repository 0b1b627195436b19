//! Any file system is read or refused, without taking more than it is told to.
#![no_main]

use std::io::{self, Read};

use erofs::{ReadError, Reader, WalkLimits};
use libfuzzer_sys::fuzz_target;

/// What is read of a file: compressed ones may hold 500 times what they take.
const MAX_FILE_BYTES: u64 = 4 << 20;

fuzz_target!(|bytes: &[u8]| {
    // Inputs grow behind the first block, so its length and features are put in.
    let mut image = bytes.to_vec();
    image.resize(image.len().next_multiple_of(4096).max(4096), 0);
    let blocks = u32::try_from(image.len() / 4096).unwrap_or_default();
    image[1024..1028].copy_from_slice(&0xe0f5_e1e2_u32.to_le_bytes());
    image[1032..1036].copy_from_slice(&2_u32.to_le_bytes());
    image[1036..1038].copy_from_slice(&[12, 0]);
    image[1060..1064].copy_from_slice(&blocks.to_le_bytes());
    image[1104..1110].copy_from_slice(&[3, 0, 0, 0, 1, 0]);
    let reader = Reader::open(&image[..], image.len() as u64).expect("the superblock is in order");
    let limits = WalkLimits { entries: 2000, name_bytes: 1 << 20 };
    let mut files = 0;
    let _: Result<(), ReadError> = reader.walk(limits, |node| {
        let _ = reader.xattrs(&node.inode);
        let _ = reader.symlink(&node.inode);
        files += 1;
        if files < 20
            && let Ok(file) = reader.file(&node.inode)
        {
            let _ = io::copy(&mut file.take(MAX_FILE_BYTES), &mut io::sink());
        }
        Ok(())
    });
});
