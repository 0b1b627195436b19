//! Writer and reader against each other, and the reader against what no writer here makes.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

fn file(name: &str, size: u64, link: Option<HardLink>) -> Entry {
    Entry { name: name.into(), permissions: 0o644, uid: 0, gid: 0, kind: Kind::File { size, link } }
}

fn directory(name: &str) -> Entry {
    Entry { name: name.into(), permissions: 0o755, uid: 0, gid: 0, kind: Kind::Directory }
}

fn archive(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, content) in entries {
        writer.file(entry, &mut content.as_slice()).unwrap();
    }
    writer.finish().unwrap()
}

fn entries(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, ReadError> {
    let mut reader = Reader::new(bytes, bytes.len() as u64);
    let mut all = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        all.push((entry, content));
    }
    Ok(all)
}

fn write_error(entry: Entry, content: &[u8]) -> WriteError {
    Writer::new(Vec::new()).file(&entry, &mut Cursor::new(content)).unwrap_err()
}

#[test]
fn an_archive_is_byte_for_byte_what_the_format_says() {
    let bytes = archive(&[(file("a/b", 5, None), b"hello".to_vec())]);
    let mut expected =
        b"07070100000001000081a4000000000000000000000001000000000000000500000000000000000000000000000000\
        0000000400000000a/b\0\0\0hello\0\0\0"
            .to_vec();
    expected.extend(
        b"0707010000000000000000000000000000000000000001000000000000000000000000000000000000000000000000\
        0000000b00000000TRAILER!!!\0\0\0\0",
    );
    assert_eq!(bytes.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[test]
fn an_entry_tells_its_time_and_where_its_content_starts() {
    let mut bytes = archive(&[(file("a/b", 5, None), b"hello".to_vec()), (directory("c"), vec![])]);
    bytes[6 + 5 * 8..][..8].copy_from_slice(b"0000002a");
    let mut reader = Reader::new(bytes.as_slice(), bytes.len() as u64);
    reader.next_entry().unwrap();
    assert_eq!((reader.modified(), reader.position()), (42, 116));
    reader.next_entry().unwrap();
    assert_eq!(reader.modified(), 0);
}

#[test]
fn names_of_one_file_share_an_inode_and_the_last_has_the_content() {
    let link = Some(HardLink { group: 77, names: 2 });
    let bytes = archive(&[
        (file("one", 0, link), vec![]),
        (file("between", 1, None), b"x".to_vec()),
        (file("two", 3, link), b"abc".to_vec()),
    ]);
    let read = entries(&bytes).unwrap();
    let same = Some(HardLink { group: 1, names: 2 });
    assert_eq!(read[0].0.kind, Kind::File { size: 0, link: same });
    assert_eq!(read[1].0.kind, Kind::File { size: 1, link: None });
    assert_eq!(read[2], (file("two", 3, same), b"abc".to_vec()));
}

#[test]
fn refuses_hard_links_that_do_not_add_up() {
    let link = |names| Some(HardLink { group: 1, names });
    assert!(matches!(write_error(file("a", 0, link(1)), b""), WriteError::Link { .. }));
    assert!(matches!(write_error(file("early", 1, link(2)), b"x"), WriteError::Link { .. }));

    let mut writer = Writer::new(Vec::new());
    writer.entry(&file("a", 0, link(3))).unwrap();
    assert!(matches!(writer.entry(&file("b", 0, link(2))), Err(WriteError::Link { .. })));

    let mut writer = Writer::new(Vec::new());
    writer.entry(&file("a", 0, link(3))).unwrap();
    match writer.finish().unwrap_err() {
        WriteError::MissingLinks { group: 1, expected: 3, found: 1 } => {}
        other => panic!("{other}"),
    }
}

#[test]
fn a_file_of_4_gib_is_refused_with_its_name_and_the_limit() {
    let error = write_error(file("model.bin", 1 << 32, None), b"").to_string();
    assert!(
        error.contains("model.bin") && error.contains("4294967296") && error.contains("4 GiB"),
        "{error}"
    );
}

#[test]
fn content_of_another_length_than_announced_is_an_error() {
    for (announced, content) in [(3, "ab"), (3, "abcd"), (0, "x")] {
        let error = write_error(file("f", announced, None), content.as_bytes());
        assert!(
            matches!(error, WriteError::ContentLength { expected, .. } if expected == announced),
            "{error}"
        );
    }
    assert!(matches!(write_error(directory("d"), b"x"), WriteError::ContentLength { expected: 0, .. }));
}

#[test]
fn refuses_names_that_the_kernel_would_skip_or_misread() {
    assert!(matches!(write_error(directory(""), b""), WriteError::PathLength { found: 0, .. }));
    assert!(matches!(
        write_error(directory(&"n".repeat(4096)), b""),
        WriteError::PathLength { found: 4096, .. }
    ));
    assert!(matches!(write_error(directory("a\0b"), b""), WriteError::PathNul { .. }));
    assert!(matches!(write_error(directory("TRAILER!!!"), b""), WriteError::ReservedName));
    let link = Entry { kind: Kind::Symlink { target: vec![b't'; 4096] }, ..directory("l") };
    assert!(matches!(write_error(link, b""), WriteError::PathLength { found: 4096, .. }));
    let odd = Entry { permissions: 0o100_644, ..directory("d") };
    assert!(matches!(write_error(odd, b""), WriteError::Permissions { .. }));
    let longest = directory(&"n".repeat(4095));
    assert_eq!(entries(&archive(&[(longest.clone(), vec![])])).unwrap()[0].0, longest);
}

#[test]
fn reads_archives_that_follow_each_other_with_zeros_between_and_behind() {
    let link = Some(HardLink { group: 0, names: 2 });
    let first = archive(&[(file("a", 0, link), vec![]), (file("b", 1, link), b"1".to_vec())]);
    let mut bytes = first.clone();
    bytes.extend([0; 512]);
    bytes.extend(&first);
    bytes.extend([0; 8]);
    let read = entries(&bytes).unwrap();
    let groups: Vec<_> = read
        .iter()
        .map(|(entry, _)| match entry.kind {
            Kind::File { link: Some(link), .. } => link.group,
            _ => panic!("{entry:?}"),
        })
        .collect();
    assert_eq!(groups, [1, 1, (1 << 32) + 1, (1 << 32) + 1], "another archive's inode 1 is another file");
}

#[test]
fn content_nobody_reads_is_skipped() {
    let bytes = archive(&[(file("a", 7, None), b"skipped".to_vec()), (directory("d"), vec![])]);
    let mut reader = Reader::new(bytes.as_slice(), bytes.len() as u64);
    reader.next_entry().unwrap();
    reader.read_exact(&mut [0; 2]).unwrap();
    assert_eq!(reader.next_entry().unwrap().unwrap(), directory("d"));
    assert_eq!(reader.next_entry().unwrap(), None);
}

#[test]
fn every_truncation_is_refused() {
    let bytes = archive(&[(file("a", 5, None), b"hello".to_vec()), (directory("d"), vec![])]);
    for length in 0..bytes.len() {
        assert!(entries(&bytes[..length]).is_err(), "{length}");
        // The caller may also be wrong about the length.
        let mut short = Reader::new(&bytes[..length], bytes.len() as u64);
        let outcome = std::iter::from_fn(|| short.next_entry().transpose()).find_map(Result::err);
        assert!(outcome.is_some(), "{length}");
    }
}

/// Puts `digits` in place of number `index` in the first header.
fn with_number(mut bytes: Vec<u8>, index: usize, digits: &[u8; 8]) -> Vec<u8> {
    bytes[6 + 8 * index..14 + 8 * index].copy_from_slice(digits);
    bytes
}

#[test]
fn each_malformed_header_is_refused_for_its_own_reason() {
    let good = || archive(&[(file("a", 5, None), b"hello".to_vec())]);
    let mut gzip = good();
    gzip[..2].copy_from_slice(&[0x1f, 0x8b]);
    let refused = |bytes: Vec<u8>| entries(&bytes).unwrap_err();
    assert!(matches!(refused(gzip), ReadError::Magic { at: 0, .. }));
    assert!(matches!(refused(with_number(good(), 1, b"0000xyz4")), ReadError::Number { at: 0, index: 1 }));
    assert!(matches!(refused(with_number(good(), 1, b"000001a4")), ReadError::Mode { .. }));
    assert!(matches!(
        refused(with_number(good(), 1, b"000041ed")),
        ReadError::UnexpectedContent { found: 5, .. }
    ));
    assert!(matches!(
        refused(with_number(good(), 6, b"fffffff0")),
        ReadError::Truncated { needed: 0xffff_fff0, .. }
    ));
    assert!(matches!(
        refused(with_number(good(), 11, b"ffffffff")),
        ReadError::NameLength { found: u32::MAX, .. }
    ));
    assert!(matches!(refused(with_number(good(), 11, b"00000001")), ReadError::NameLength { found: 1, .. }));
    let mut unended = good();
    unended[111] = b'x';
    assert!(matches!(refused(unended), ReadError::Name { .. }));
    let mut padded = good();
    padded[112 + 5] = 1;
    assert!(matches!(refused(padded), ReadError::Padding { at: 117 }));
    let mut followed = good();
    followed.extend(b"more");
    assert!(matches!(refused(followed), ReadError::Truncated { .. }));
}

/// Unpacks with the tool that others use, where there is one.
#[test]
fn cpio_unpacks_what_was_written() {
    let link = Some(HardLink { group: 5, names: 2 });
    let symlink = Entry { kind: Kind::Symlink { target: b"dir/one".to_vec() }, ..directory("link") };
    let bytes = archive(&[
        (directory("dir"), vec![]),
        (file("dir/one", 0, link), vec![]),
        (file("dir/two", 6, link), b"twins\n".to_vec()),
        (symlink, vec![]),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let spawned = Command::new("cpio")
        .args(["-i", "--quiet", "--no-absolute-filenames"])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else {
        println!("skipped: cpio is not installed");
        return;
    };
    std::io::copy(&mut bytes.as_slice(), &mut child.stdin.take().unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
    for name in ["dir/one", "dir/two", "link"] {
        assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"twins\n", "{name}");
    }
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1..=255_u8, 1..40).prop_filter("the trailer's name", |name| name != TRAILER)
}

fn device() -> impl Strategy<Value = Device> {
    any::<(u32, u32)>().prop_map(|(major, minor)| Device { major, minor })
}

/// An entry that is not a file with several names, and its content.
fn entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let kind = prop_oneof![
        Just((Kind::Directory, vec![])),
        Just((Kind::Fifo, vec![])),
        Just((Kind::Socket, vec![])),
        device().prop_map(|device| (Kind::CharacterDevice(device), vec![])),
        device().prop_map(|device| (Kind::BlockDevice(device), vec![])),
        path().prop_map(|target| (Kind::Symlink { target }, vec![])),
        prop::collection::vec(any::<u8>(), 0..50)
            .prop_map(|content| (Kind::File { size: content.len() as u64, link: None }, content)),
    ];
    (path(), 0..=PERMISSION_BITS, any::<(u32, u32)>(), kind).prop_map(
        |(name, permissions, (uid, gid), (kind, content))| {
            (Entry { name, permissions, uid, gid, kind }, content)
        },
    )
}

/// Entries, some of which are replaced by the names of two-named files.
fn archive_entries() -> impl Strategy<Value = Vec<(Entry, Vec<u8>)>> {
    (prop::collection::vec(entry(), 0..12), prop::collection::vec(any::<bool>(), 6)).prop_map(
        |(mut all, linked)| {
            for (pair, group) in all.chunks_exact_mut(2).zip(100..) {
                if linked[usize::try_from(group - 100_u64).unwrap()] {
                    let link = Some(HardLink { group, names: 2 });
                    pair[0].0.kind = Kind::File { size: 0, link };
                    pair[1].0.kind = Kind::File { size: pair[1].1.len() as u64, link };
                    pair[0].1.clear();
                }
            }
            all
        },
    )
}

/// Gives groups the number of the entry where they first occur, as numbers themselves mean nothing.
fn with_plain_groups(mut all: Vec<(Entry, Vec<u8>)>) -> Vec<(Entry, Vec<u8>)> {
    let mut first_seen = BTreeMap::new();
    for (number, (entry, _)) in (0_u64..).zip(&mut all) {
        if let Kind::File { link: Some(link), .. } = &mut entry.kind {
            link.group = *first_seen.entry(link.group).or_insert(number);
        }
    }
    all
}

proptest! {
    #[test]
    fn decoding_what_was_encoded_gives_it_back(all in archive_entries()) {
        let bytes = archive(&all);
        prop_assert_eq!(bytes.len() % 4, 0);
        prop_assert_eq!(with_plain_groups(entries(&bytes).unwrap()), with_plain_groups(all));
    }

    #[test]
    fn reading_a_damaged_archive_never_panics(
        all in archive_entries(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = archive(&all);
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = entries(&bytes);
    }

    #[test]
    fn reading_anything_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = entries(&bytes);
    }
}
