//! Every way in which an image is refused, by the reason it is refused for.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::Cursor;

use common::small_image;
use eif::{Eif, HEADER_BYTES, MAX_SECTIONS, ReadError, SectionKind};

const COUNT_AT: usize = 26;
const OFFSETS_AT: usize = 28;
const SIZES_AT: usize = OFFSETS_AT + 8 * MAX_SECTIONS;
const KERNEL_HEADER_AT: usize = 548;
/// The small image's sections in their order, with their headers.
const KERNEL_BYTES: usize = 12 + 6;
const CMDLINE_BYTES: usize = 12 + 13;

fn image() -> Vec<u8> {
    small_image().write(None).0
}

fn refused(bytes: &[u8]) -> ReadError {
    Eif::open(Cursor::new(bytes)).map(drop).unwrap_err()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn changed(at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = image();
    put(&mut bytes, at, value);
    bytes
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// An image of these sections in this order, with a right checksum: what no writer here makes.
fn assembled(sections: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = image();
    bytes.truncate(548);
    bytes[COUNT_AT..544].fill(0);
    put(&mut bytes, COUNT_AT, &u16::try_from(sections.len()).unwrap().to_be_bytes());
    for (index, (kind, data)) in sections.iter().enumerate() {
        let (offset, size) = ((bytes.len() as u64).to_be_bytes(), (data.len() as u64).to_be_bytes());
        put(&mut bytes, OFFSETS_AT + 8 * index, &offset);
        put(&mut bytes, SIZES_AT + 8 * index, &size);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(size);
        bytes.extend(*data);
    }
    if let ReadError::Crc { computed, .. } = refused(&bytes) {
        put(&mut bytes, 544, &computed.to_be_bytes());
    }
    bytes
}

/// Opens an assembled image; unlike `refused`, succeeding is fine.
fn reassembled(sections: &[(u16, &[u8])]) -> Result<Eif<Cursor<Vec<u8>>>, ReadError> {
    Eif::open(Cursor::new(assembled(sections)))
}

const KERNEL: (u16, &[u8]) = (1, b"k");
const CMDLINE: (u16, &[u8]) = (2, b"c");
const RAMDISK: (u16, &[u8]) = (3, b"r");
const SIGNATURE: (u16, &[u8]) = (4, b"s");
const METADATA: (u16, &[u8]) = (5, b"m");

#[test]
fn an_image_shorter_than_its_header() {
    for length in [0, 1, 547] {
        assert!(
            matches!(refused(&image()[..length]), ReadError::TooShort { found } if found == length as u64)
        );
    }
}

#[test]
fn a_file_that_is_no_image() {
    assert!(matches!(refused(&changed(0, b"\x7fELF")), ReadError::Magic { found: [0x7f, b'E', b'L', b'F'] }));
}

#[test]
fn versions_before_the_checksum_and_after_ours() {
    for version in [0, 1, 5, u16::MAX] {
        let bytes = changed(4, &version.to_be_bytes());
        assert!(matches!(refused(&bytes), ReadError::Version { found } if found == version));
    }
    // Versions 2 and 3 have the same layout.
    for version in [2_u16, 3] {
        assert!(matches!(refused(&changed(4, &version.to_be_bytes())), ReadError::Crc { .. }));
    }
}

#[test]
fn absurd_section_counts() {
    assert!(matches!(refused(&changed(COUNT_AT, &[0, 33])), ReadError::SectionCount { found: 33 }));
    assert!(matches!(refused(&changed(COUNT_AT, &[0xff; 2])), ReadError::SectionCount { found: 0xffff }));
    assert!(matches!(
        refused(&changed(COUNT_AT, &[0, 6])),
        ReadError::SectionOffset { index: 5, found: 0, .. }
    ));
    assert!(matches!(refused(&changed(COUNT_AT, &[0, 4])), ReadError::UnusedEntry { index: 4, .. }));
}

#[test]
fn sections_that_overlap_leave_a_gap_or_are_unsorted() {
    let (first, second) = (HEADER_BYTES, HEADER_BYTES + KERNEL_BYTES as u64);
    for found in [0, first, second - 1, second + 1, u64::MAX] {
        let error = refused(&changed(OFFSETS_AT + 8, &found.to_be_bytes()));
        match error {
            ReadError::SectionOffset { index: 1, expected, found: reported } => {
                assert_eq!((expected, reported), (second, found));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_section_that_its_two_headers_give_different_sizes() {
    let bytes = changed(SIZES_AT, &7_u64.to_be_bytes());
    assert!(matches!(
        refused(&bytes),
        ReadError::SectionSize { index: 0, kind: SectionKind::Kernel, table: 7, found: 6 }
    ));
}

#[test]
fn sizes_beyond_the_file_allocate_nothing() {
    for size in [1 << 20, 1 << 62, u64::MAX] {
        let mut bytes = changed(SIZES_AT, &size.to_be_bytes());
        put(&mut bytes, KERNEL_HEADER_AT + 4, &size.to_be_bytes());
        let available = bytes.len() as u64 - HEADER_BYTES;
        match refused(&bytes) {
            ReadError::Truncated { index: 0, offset: HEADER_BYTES, needed, available: found } => {
                assert_eq!((needed, found), (size.saturating_add(12), available));
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn every_truncation_within_the_sections() {
    let bytes = image();
    for length in 548..bytes.len() {
        assert!(matches!(refused(&bytes[..length]), ReadError::Truncated { .. }), "{length}");
    }
}

#[test]
fn bytes_behind_the_last_section() {
    let mut bytes = image();
    let end = bytes.len() as u64;
    bytes.push(0);
    assert!(
        matches!(refused(&bytes), ReadError::TrailingBytes { offset, length } if (offset, length) == (end, end + 1))
    );
}

#[test]
fn sections_of_unknown_kind() {
    for kind in [0_u16, 6, 0x0100] {
        let bytes = changed(KERNEL_HEADER_AT, &kind.to_be_bytes());
        assert!(
            matches!(refused(&bytes), ReadError::Kind { index: 0, offset: HEADER_BYTES, found } if found == kind)
        );
    }
}

#[test]
fn sections_out_of_order_or_too_many() {
    let order = |sections: &[(u16, &[u8])]| match reassembled(sections).map(drop) {
        Err(ReadError::Order { index, kind }) => (index, kind),
        other => panic!("{other:?}"),
    };
    assert_eq!(order(&[CMDLINE, KERNEL, RAMDISK]), (0, SectionKind::Cmdline));
    assert_eq!(order(&[KERNEL, RAMDISK, CMDLINE]), (1, SectionKind::Ramdisk));
    assert_eq!(order(&[KERNEL, CMDLINE, RAMDISK, KERNEL]), (3, SectionKind::Kernel));
    assert_eq!(order(&[KERNEL, CMDLINE, CMDLINE, RAMDISK]), (2, SectionKind::Cmdline));
    assert_eq!(order(&[KERNEL, CMDLINE, METADATA, METADATA, RAMDISK]), (3, SectionKind::Metadata));
    assert_eq!(order(&[KERNEL, CMDLINE, RAMDISK, SIGNATURE, SIGNATURE]), (4, SectionKind::Signature));
}

#[test]
fn images_without_a_part_they_cannot_boot_without() {
    let missing = |sections: &[(u16, &[u8])]| match reassembled(sections).map(drop) {
        Err(ReadError::Missing { kind }) => kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(missing(&[METADATA]), SectionKind::Kernel);
    assert_eq!(missing(&[KERNEL, METADATA]), SectionKind::Cmdline);
    assert_eq!(missing(&[KERNEL, CMDLINE]), SectionKind::Ramdisk);
}

#[test]
fn any_single_damaged_byte() {
    let bytes = image();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        refused(&damaged);
    }
    let last = bytes.len() - 1;
    assert!(
        matches!(refused(&changed(last, b"?")), ReadError::Crc { stored, .. } if stored == u32::from_be_bytes(bytes[544..548].try_into().unwrap()))
    );
}

#[test]
fn a_command_line_that_is_not_text_and_metadata_that_is_not_json() {
    let mut image = reassembled(&[KERNEL, (2, b"\xff"), METADATA, RAMDISK, SIGNATURE]).unwrap();
    assert!(matches!(image.cmdline(), Err(ReadError::CmdlineNotUtf8(_))));
    assert!(matches!(image.metadata(), Err(ReadError::Metadata(_))));
    assert!(matches!(image.signature(), Err(ReadError::Signature(_))));
    assert!(matches!(image.measure(), Err(ReadError::Signature(_))), "PCR8 cannot be known");
}

#[test]
fn sections_too_long_to_be_read_whole() {
    let long = vec![b' '; 1024 * 1024 + 1];
    let mut image = reassembled(&[KERNEL, (2, &long), (5, &long), RAMDISK, (4, &long)]).unwrap();
    let limit = |error: ReadError| match error {
        ReadError::TooLarge { kind, found, limit } => (kind, found, limit),
        other => panic!("{other}"),
    };
    assert_eq!(limit(image.cmdline().unwrap_err()), (SectionKind::Cmdline, 0x10_0001, 0x1_0000));
    assert_eq!(limit(image.metadata().unwrap_err()), (SectionKind::Metadata, 0x10_0001, 0x10_0000));
    assert_eq!(limit(image.signature().unwrap_err()), (SectionKind::Signature, 0x10_0001, 0x4_0000));
}

/// AWS's tool that replaces the signature of a signed image enters the new signature's offset but not its length in the
/// header's table (aws-nitro-enclaves-image-format 0.8.1), and ECDSA signatures differ in encoded length nearly every
/// time. Such images are in use, and boot.
#[test]
fn a_signature_replaced_by_aws_tools_is_no_reason_to_refuse() {
    let mut bytes = small_image().write(Some(&common::signer())).0;
    let size_at = SIZES_AT + 8 * 5;
    let size = u64_at(&bytes, size_at);
    put(&mut bytes, size_at, &(size - 2).to_be_bytes());
    let ReadError::Crc { computed, .. } = refused(&bytes) else {
        panic!("the table is covered by the checksum")
    };
    put(&mut bytes, 544, &computed.to_be_bytes());
    let mut image = Eif::open(Cursor::new(bytes)).unwrap();
    assert_eq!(image.sections()[5].size, size);
    image.verify_signature().unwrap();
}

#[test]
fn the_sections_are_where_these_tests_think() {
    let bytes = image();
    assert_eq!(u64_at(&bytes, OFFSETS_AT), HEADER_BYTES);
    assert_eq!(u64_at(&bytes, OFFSETS_AT + 16), HEADER_BYTES + (KERNEL_BYTES + CMDLINE_BYTES) as u64);
    assert!(reassembled(&[KERNEL, CMDLINE, METADATA, RAMDISK, RAMDISK, SIGNATURE]).is_ok());
}
