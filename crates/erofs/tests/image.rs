//! Images read back, here and by Debian's own reader of the format.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]
#![allow(clippy::cast_possible_truncation, reason = "numbers of a test are small")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Seek, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
    process::Command,
};

use erofs::{
    Attributes, Inode, InodeId, InodeKind, ReadError, Reader, WalkLimits, WriteError, Writer, Xattr,
};
use proptest::{collection::vec, prelude::*};

const LIMITS: WalkLimits = WalkLimits { entries: 1_000_000, name_bytes: 1 << 28 };

fn attributes(permissions: u32, uid: u32, gid: u32) -> Attributes {
    Attributes { permissions, uid, gid, xattrs: Vec::new() }
}

fn writer(root: &Attributes) -> Writer<Vec<u8>> {
    let mut writer = Writer::new(tempfile::tempfile().unwrap(), root).unwrap();
    writer.begin_run(Vec::new());
    writer
}

fn image_of(mut writer: Writer<Vec<u8>>) -> Vec<u8> {
    let (run, blocks) = writer.end_run().unwrap();
    let blocks = blocks.unwrap();
    assert_eq!(run.blocks() * 4096, blocks.len() as u64);
    let mut file = tempfile::tempfile().unwrap();
    let image = writer.finish(&mut file).unwrap();
    let mut metadata = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut metadata).unwrap();
    assert_eq!(image.metadata_bytes, metadata.len() as u64);
    [image.superblock, blocks, metadata].concat()
}

fn open(image: &[u8]) -> Reader<&[u8]> {
    Reader::open(image, image.len() as u64).unwrap()
}

/// Data that compresses by about half, and is not the same at any two places.
fn mixed(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut data = Vec::with_capacity(len + 16);
    while data.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        data.extend(state.to_be_bytes());
        data.extend(b"the same ");
    }
    data.truncate(len);
    data
}

fn random(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(step).take(len).collect()
}

/// What a file holds; too long to be shown.
#[derive(Clone, PartialEq)]
struct Content(Vec<u8>);

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// What is to be in an image.
#[derive(Clone, Debug)]
enum Kind {
    Directory,
    File(Content),
    Symlink(Vec<u8>),
    /// Another name of the file with this number among the files before.
    Link(usize),
}

#[derive(Clone, Debug)]
struct Wanted {
    /// Which directory before it it is in.
    parent: usize,
    name: Vec<u8>,
    attributes: Attributes,
    kind: Kind,
}

/// A file with its attributes, content and names.
type WrittenFile = (InodeId, Attributes, Vec<u8>, Vec<Vec<u8>>);

/// What is found at a path: mode, owner, group, number of names, attributes, content or target.
type Found = (u32, u32, u32, u32, Vec<Xattr>, Content);

fn write(wanted: &[Wanted]) -> (Vec<u8>, BTreeMap<Vec<u8>, Found>) {
    let root = attributes(0o755, 7, 8);
    let mut image = writer(&root);
    let mut directories: Vec<(InodeId, Vec<u8>)> = vec![(image.root(), Vec::new())];
    let mut files: Vec<WrittenFile> = Vec::new();
    let mut expected = BTreeMap::new();
    let mut children: BTreeMap<Vec<u8>, u32> = BTreeMap::from([(Vec::new(), 2)]);
    let mut modes: BTreeMap<Vec<u8>, Attributes> = BTreeMap::from([(Vec::new(), root)]);
    for one in wanted {
        let (parent, parent_path) = directories[one.parent % directories.len()].clone();
        let path = [&parent_path[..], if parent_path.is_empty() { b"" } else { b"/" }, &one.name].concat();
        if modes.contains_key(&path) || path.len() > 4000 {
            continue;
        }
        modes.insert(path.clone(), one.attributes.clone());
        let id = match &one.kind {
            Kind::Directory => {
                let id = image.directory(&one.attributes).unwrap();
                directories.push((id, path.clone()));
                *children.get_mut(&parent_path).unwrap() += 1;
                children.insert(path, 2);
                id
            }
            Kind::Link(number) if !files.is_empty() => {
                let number = number % files.len();
                files[number].3.push(path);
                files[number].0
            }
            Kind::Link(_) => {
                modes.remove(&path);
                continue;
            }
            Kind::File(Content(content)) => {
                let id = image.file(&one.attributes, &mut &content[..], content.len() as u64).unwrap();
                files.push((id, one.attributes.clone(), content.clone(), vec![path]));
                id
            }
            Kind::Symlink(target) => {
                let a = &one.attributes;
                expected.insert(
                    path,
                    (0o120_000 | a.permissions, a.uid, a.gid, 1, sorted(a), Content(target.clone())),
                );
                image.symlink(&one.attributes, target).unwrap()
            }
        };
        image.name(parent, &one.name, id).unwrap();
    }
    for (path, links) in children {
        let a = &modes[&path];
        expected
            .insert(path, (0o040_000 | a.permissions, a.uid, a.gid, links, sorted(a), Content(Vec::new())));
    }
    for (_, a, content, names) in files {
        let links = names.len() as u32;
        for path in names {
            let found =
                (0o100_000 | a.permissions, a.uid, a.gid, links, sorted(&a), Content(content.clone()));
            expected.insert(path, found);
        }
    }
    (image_of(image), expected)
}

fn sorted(attributes: &Attributes) -> Vec<Xattr> {
    let mut xattrs = attributes.xattrs.clone();
    xattrs.sort();
    xattrs
}

fn content(reader: &Reader<&[u8]>, inode: &Inode) -> Content {
    let mut bytes = Vec::new();
    match inode.kind {
        InodeKind::File => {
            reader.file(inode).unwrap().read_to_end(&mut bytes).unwrap();
        }
        InodeKind::Symlink => bytes = reader.symlink(inode).unwrap(),
        InodeKind::Directory => {}
    }
    Content(bytes)
}

fn read(image: &[u8]) -> BTreeMap<Vec<u8>, Found> {
    let reader = open(image);
    let mut all = BTreeMap::new();
    let walked: Result<(), ReadError> = reader.walk(LIMITS, |node| {
        let inode = &node.inode;
        let kind = match inode.kind {
            InodeKind::File => 0o100_000,
            InodeKind::Directory => 0o040_000,
            InodeKind::Symlink => 0o120_000,
        };
        let xattrs = reader.xattrs(inode).unwrap();
        let found =
            (kind | inode.permissions, inode.uid, inode.gid, inode.links, xattrs, content(&reader, inode));
        assert_eq!(inode.modified, 0);
        assert!(all.insert(node.path, found).is_none());
        Ok(())
    });
    walked.unwrap();
    all
}

/// Has `fsck.erofs` check and extract an image.
fn extract(image: &[u8], into: &Path) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(image).unwrap();
    let target = format!("--extract={}", into.display());
    let output = Command::new("fsck.erofs").args([&target, "--preserve"]).arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Reads what was extracted. Extended attributes are not extracted.
fn read_directory(root: &Path) -> BTreeMap<Vec<u8>, Found> {
    let mut all = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let bytes = if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            fs::read(&path).unwrap()
        };
        let mode = if metadata.is_symlink() { 0o120_777 } else { metadata.mode() & !0o6000 };
        let links = if metadata.is_dir() { metadata.nlink() } else { 1 };
        let found =
            (mode, metadata.uid(), metadata.gid(), u32::try_from(links).unwrap(), Vec::new(), Content(bytes));
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        all.insert(name, found);
    }
    all
}

/// The parts of an expectation that extracting keeps.
fn extractable(expected: &BTreeMap<Vec<u8>, Found>) -> BTreeMap<Vec<u8>, Found> {
    let root = is_root();
    let of = |(mode, uid, gid, links, _, bytes): &Found| {
        // `fsck.erofs` gives files away after it set their modes, which drops these bits.
        let mode = if mode & 0o170_000 == 0o120_000 { 0o120_777 } else { *mode & !0o6000 };
        let links = if mode & 0o170_000 == 0o040_000 { *links } else { 1 };
        let owner = if root { (*uid, *gid) } else { own_ids() };
        (mode, owner.0, owner.1, links, Vec::new(), bytes.clone())
    };
    expected.iter().map(|(path, found)| (path.clone(), of(found))).collect()
}

fn own_ids() -> (u32, u32) {
    let metadata = tempfile::tempdir().unwrap().path().metadata().unwrap();
    (metadata.uid(), metadata.gid())
}

fn is_root() -> bool {
    own_ids().0 == 0
}

fn small_name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-c!~.-]{1,3}".prop_map(String::into_bytes),
        vec(prop_oneof![1_u8..=46, 48_u8..=255], 1..40),
        vec(b'a'..=b'z', 200..=255),
    ]
    .prop_filter("names of the directory itself", |name| !matches!(name.as_slice(), b"." | b".."))
}

fn some_content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        (1_usize..9000, any::<u64>()).prop_map(|(len, seed)| mixed(len, seed)),
        (1_usize..9000, any::<u64>()).prop_map(|(len, seed)| random(len, seed)),
        (100_000_usize..300_000, any::<u64>()).prop_map(|(len, seed)| mixed(len, seed)),
        (60_000_usize..150_000, any::<u64>(), any::<u64>())
            .prop_map(|(len, a, b)| { [mixed(len, a), random(len, b), vec![0; len]].concat() }),
    ]
}

fn some_xattrs() -> impl Strategy<Value = Vec<Xattr>> {
    let one = ("(user|trusted|security)\\.[a-z.]{1,8}", vec(any::<u8>(), 0..3000));
    vec(one, 0..4).prop_map(|list| {
        let unique: BTreeMap<String, Vec<u8>> = list.into_iter().collect();
        unique.into_iter().map(|(name, value)| Xattr { name: name.into(), value }).collect()
    })
}

fn one() -> impl Strategy<Value = Wanted> {
    let kind = prop_oneof![
        2 => Just(Kind::Directory),
        4 => some_content().prop_map(|content| Kind::File(Content(content))),
        1 => vec(1_u8..=255, 1..=4095).prop_map(Kind::Symlink),
        1 => vec(1_u8..=255, 1..=60).prop_map(Kind::Symlink),
        1 => any::<usize>().prop_map(Kind::Link),
    ];
    let ids = (0_u32..0o10000, 0_u32..60000, 0_u32..60000);
    let xattrs = prop_oneof![3 => Just(Vec::new()), 1 => some_xattrs()];
    (any::<usize>(), small_name(), ids, xattrs, kind).prop_map(
        |(parent, name, (permissions, uid, gid), xattrs, kind)| {
            let attributes = Attributes { permissions, uid, gid, xattrs };
            Wanted { parent, name, attributes, kind }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_is_read_is_what_was_written(wanted in vec(one(), 0..40)) {
        let (image, expected) = write(&wanted);
        prop_assert_eq!(read(&image), expected);
        // And the bytes depend on nothing else.
        prop_assert!(write(&wanted).0 == image);
    }

    #[test]
    fn debians_reader_extracts_what_was_written(wanted in vec(one(), 0..25)) {
        let (image, expected) = write(&wanted);
        let directory = tempfile::tempdir().unwrap();
        let into = directory.path().join("x");
        extract(&image, &into);
        prop_assert_eq!(read_directory(&into), extractable(&expected));
    }

    #[test]
    fn a_damaged_image_is_read_or_refused(wanted in vec(one(), 0..12), damage in vec((any::<u32>(), any::<u8>()), 1..30)) {
        let (mut image, _) = write(&wanted);
        let len = image.len();
        for (at, byte) in damage {
            // Most of it to where inodes and directories are.
            let at = at as usize % len;
            image[if at.is_multiple_of(3) { at } else { len - 1 - at % len.min(20_000) }] = byte;
        }
        let Ok(reader) = Reader::open(&image[..], len as u64) else { return Ok(()) };
        let limits = WalkLimits { entries: 1000, name_bytes: 1 << 20 };
        let _: Result<(), ReadError> = reader.walk(limits, |node| {
            let _ = reader.xattrs(&node.inode);
            if let Ok(file) = reader.file(&node.inode) {
                let _ = std::io::copy(&mut file.take(4 << 20), &mut std::io::sink());
            }
            let _ = reader.symlink(&node.inode);
            Ok(())
        });
    }
}

#[test]
fn a_directory_of_100_000_names_comes_back() {
    let mut image = writer(&attributes(0o755, 0, 0));
    let root = image.root();
    let file = image.file(&attributes(0o644, 0, 0), &mut &b"x"[..], 1).unwrap();
    for number in 0..100_000 {
        image.name(root, format!("{number:0100}").as_bytes(), file).unwrap();
    }
    let image = image_of(image);
    let found = read(&image);
    assert_eq!(found.len(), 100_001);
    assert_eq!(found[format!("{:0100}", 99_999).as_bytes()].3, 100_000);
}

#[test]
fn a_path_of_4000_bytes_and_a_large_attribute_come_back() {
    let mut image = writer(&attributes(0o755, 0, 0));
    let mut parent = image.root();
    for _ in 0..15 {
        let directory = image.directory(&attributes(0o700, u32::MAX - 1, 0)).unwrap();
        image.name(parent, &[b'n'; 255], directory).unwrap();
        parent = directory;
    }
    let big = Xattr { name: b"user.big".to_vec(), value: vec![7; 65535] };
    let with_big = Attributes { xattrs: vec![big.clone()], ..attributes(0o4755, 1, 2) };
    let file = image.file(&with_big, &mut &b"content"[..], 7).unwrap();
    image.name(parent, b"file", file).unwrap();
    let found = read(&image_of(image));
    let (path, (mode, _, _, _, xattrs, content)) = found.last_key_value().unwrap();
    assert_eq!((path.len(), *mode, &content.0[..]), (15 * 256 + 4, 0o104_755, &b"content"[..]));
    assert_eq!(xattrs, &[big]);
}

#[test]
fn names_that_make_no_tree_are_refused() {
    let root = attributes(0o755, 0, 0);
    let mut image = writer(&root);
    let directory = image.directory(&root).unwrap();
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'a'; 256]] {
        assert!(matches!(image.name(directory, name, directory), Err(WriteError::Name { .. })));
    }
    let file = image.file(&root, &mut &b""[..], 0).unwrap();
    assert!(matches!(image.name(file, b"a", directory), Err(WriteError::NotDirectory { .. })));
    assert!(matches!(
        image.finish(&mut tempfile::tempfile().unwrap()),
        Err(WriteError::DirectoryNames { names: 0 })
    ));

    let mut image = writer(&root);
    let file = image.file(&root, &mut &b""[..], 0).unwrap();
    image.name(image.root(), b"a", file).unwrap();
    image.name(image.root(), b"a", file).unwrap();
    assert!(matches!(image.finish(&mut tempfile::tempfile().unwrap()), Err(WriteError::Twice { .. })));
}

#[test]
fn unknown_attributes_and_short_contents_are_refused() {
    let mut image = writer(&attributes(0o755, 0, 0));
    for name in [&b"other.name"[..], b"user.", b"system.posix_acl_access.x", b"security"] {
        let xattr = Xattr { name: name.to_vec(), value: Vec::new() };
        let with = Attributes { xattrs: vec![xattr], ..attributes(0o644, 0, 0) };
        assert!(matches!(image.directory(&with), Err(WriteError::Xattr { .. })));
    }
    for size in [4, 5000] {
        let short = image.file(&attributes(0o644, 0, 0), &mut &b"abc"[..], size);
        assert!(matches!(short, Err(WriteError::Content(_))));
    }
}

/// What does not compress is stored as it is, so that it costs nothing to read.
#[test]
fn an_image_is_hardly_longer_than_what_does_not_compress() {
    let mut image = writer(&attributes(0o755, 0, 0));
    let data = random(3 << 20, 3);
    let file = image.file(&attributes(0o644, 0, 0), &mut &data[..], data.len() as u64).unwrap();
    image.name(image.root(), b"model", file).unwrap();
    let bytes = image_of(image);
    assert!(bytes.len() <= data.len() + 3 * 4096, "{}", bytes.len());
    assert!(bytes.windows(64).any(|window| window == &data[1 << 20..(1 << 20) + 64]));
}

#[test]
fn another_programs_image_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let (files, image) = (directory.path().join("files"), directory.path().join("image"));
    fs::create_dir(&files).unwrap();
    fs::write(files.join("file"), mixed(100_000, 1)).unwrap();
    let made = Command::new("mkfs.erofs").arg("-zlz4").args([&image, &files]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let bytes = fs::read(&image).unwrap();
    let opened = Reader::open(&bytes[..], bytes.len() as u64);
    assert!(matches!(opened, Err(ReadError::Unsupported { .. })), "{opened:?}");
    assert!(matches!(Reader::open(&[0; 5000][..], 5000), Err(ReadError::NoSuperblock)));
    assert!(matches!(Reader::open(File::open(&image).unwrap(), 100), Err(ReadError::NoSuperblock)));
}
