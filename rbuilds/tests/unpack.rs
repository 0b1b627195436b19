//! Ramdisks of unknown origin, unpacked into a directory that nothing may get out of.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{
    fs,
    io::Cursor,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
};

use eif::{
    BuildMetadata, Metadata, Options, Source,
    cpio::{Device, Entry, HardLink, Kind, Writer},
};
use rbuilds::{Error, Ownership, UnpackError, measured_manifest, unpack_ramdisks};
use support::chain;

struct Sandbox {
    dir: tempfile::TempDir,
}

impl Sandbox {
    /// An image with these ramdisks, to be unpacked into `inside`, with a file beside it that must not change.
    fn new(ramdisks: &[Vec<(Entry, Vec<u8>)>]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inside")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/file"), "untouched").unwrap();
        fs::write(dir.path().join("image"), image(ramdisks)).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn unpack(&self, ownership: Ownership) -> Result<(), Error> {
        let result = unpack_ramdisks(&self.path("image"), &self.path("inside"), ownership).map(|notes| {
            assert!(notes.is_empty(), "{notes:?}");
        });
        assert_eq!(fs::read(self.path("outside/file")).unwrap(), b"untouched");
        assert_eq!(self.path("outside").read_dir().unwrap().count(), 1);
        result
    }

    fn refuse(&self) -> (String, UnpackError) {
        match self.unpack(Ownership::Squash) {
            Err(Error::Unpack { entry, source }) => (entry, source),
            other => panic!("{other:?}"),
        }
    }
}

fn image(ramdisks: &[Vec<(Entry, Vec<u8>)>]) -> Vec<u8> {
    let text = || "x".to_owned();
    let build = BuildMetadata {
        build_time: text(),
        build_tool: text(),
        build_tool_version: text(),
        operating_system: text(),
        kernel_version: text(),
    };
    let null = serde_json::Value::Null;
    let metadata = Metadata {
        image_name: text(),
        image_version: text(),
        build,
        docker_info: null.clone(),
        custom: null,
    };
    let mut file = Cursor::new(Vec::new());
    let kernel = Source::bytes(b"kernel");
    let mut image = eif::Writer::create(&mut file, &Options::default(), kernel, "c", &metadata).unwrap();
    for entries in ramdisks {
        let mut archive = Writer::new(Vec::new());
        for (entry, content) in entries {
            archive.file(entry, &mut content.as_slice()).unwrap();
        }
        image.ramdisk(Source::bytes(&archive.finish().unwrap())).unwrap();
    }
    image.finish(None).unwrap();
    file.into_inner()
}

fn entry(name: &str, permissions: u32, kind: Kind) -> (Entry, Vec<u8>) {
    (Entry { name: name.into(), permissions, uid: 12, gid: 34, kind }, Vec::new())
}

fn file(name: &str, permissions: u32, content: &str) -> (Entry, Vec<u8>) {
    let kind = Kind::File { size: content.len() as u64, link: None };
    (entry(name, permissions, kind).0, content.into())
}

fn directory(name: &str, permissions: u32) -> (Entry, Vec<u8>) {
    entry(name, permissions, Kind::Directory)
}

fn link_to(name: &str, target: &Path) -> (Entry, Vec<u8>) {
    entry(name, 0o777, Kind::Symlink { target: target.to_str().unwrap().into() })
}

/// One of two names of a file; the last has the content.
fn name_of(name: &str, content: &str) -> (Entry, Vec<u8>) {
    let link = Some(HardLink { group: 7, names: 2 });
    (entry(name, 0o444, Kind::File { size: content.len() as u64, link }).0, content.into())
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().mode() & 0o7777
}

#[test]
fn refuses_names_that_lead_out() {
    for name in ["../outside/file", "a/../../outside/file", ".."] {
        let (entry, source) = Sandbox::new(&[vec![file(name, 0o644, "evil")]]).refuse();
        assert_eq!(entry, name);
        assert!(matches!(source, UnpackError::Name(_)));
    }
}

#[test]
fn an_absolute_name_is_one_below_the_directory() {
    let sandbox = Sandbox::new(&[vec![directory("/etc", 0o755), file("/etc/x", 0o644, "x")]]);
    sandbox.unpack(Ownership::Squash).unwrap();
    assert_eq!(fs::read(sandbox.path("inside/etc/x")).unwrap(), b"x");
}

/// The classic escape: one entry makes a link to the outside, the next one writes through it.
#[test]
fn refuses_to_write_through_a_symbolic_link() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "untouched").unwrap();
    let through = |second: (Entry, Vec<u8>)| {
        let (name, source) = Sandbox::new(&[vec![link_to("a", outside.path()), second]]).refuse();
        assert!(matches!(source, UnpackError::File(_)), "{name}");
        assert_eq!(outside.path().read_dir().unwrap().count(), 1);
        assert_eq!(fs::read(outside.path().join("file")).unwrap(), b"untouched");
    };
    through(file("a/file", 0o644, "evil"));
    through(file("a/new", 0o644, "evil"));
    through(directory("a", 0o777));
    through(directory("a/new", 0o755));
    through(link_to("a/new", Path::new("x")));
}

#[test]
fn a_file_in_the_place_of_a_link_replaces_the_link() {
    let sandbox = Sandbox::new(&[
        vec![link_to("a", Path::new("../outside/file")), link_to("b", Path::new("../outside/file"))],
        vec![file("a", 0o644, "new"), name_of("b", ""), name_of("c", "linked")],
    ]);
    sandbox.unpack(Ownership::Squash).unwrap();
    assert!(!sandbox.path("inside/a").is_symlink());
    assert_eq!(fs::read(sandbox.path("inside/a")).unwrap(), b"new");
    assert_eq!(fs::read(sandbox.path("inside/b")).unwrap(), b"linked");
    assert_eq!(mode(&sandbox.path("inside/c")), 0o444);
}

#[test]
fn a_later_ramdisk_lies_over_an_earlier_one() {
    let sandbox = Sandbox::new(&[
        vec![directory("d", 0o700), file("d/x", 0o600, "one"), file("d/y", 0o600, "kept")],
        vec![directory("d", 0o555), file("d/x", 0o755, "two")],
    ]);
    sandbox.unpack(Ownership::Squash).unwrap();
    assert_eq!(fs::read(sandbox.path("inside/d/x")).unwrap(), b"two");
    assert_eq!(fs::read(sandbox.path("inside/d/y")).unwrap(), b"kept");
    // The caller keeps the right to clear up.
    assert_eq!(mode(&sandbox.path("inside/d")), 0o755);
    assert_eq!(mode(&sandbox.path("inside/d/x")), 0o755);
}

#[test]
fn devices_are_left_out_and_setuid_bits_dropped() {
    let null = Kind::CharacterDevice(Device { major: 1, minor: 3 });
    let sandbox = Sandbox::new(&[vec![
        entry("null", 0o666, null),
        entry("pipe", 0o666, Kind::Fifo),
        file("su", 0o6755, "su"),
    ]]);
    sandbox.unpack(Ownership::Squash).unwrap();
    assert_eq!(sandbox.path("inside").read_dir().unwrap().count(), 1);
    assert_eq!(mode(&sandbox.path("inside/su")), 0o755);
}

#[test]
fn keeps_owners_where_the_caller_may() {
    if tempfile::tempdir().unwrap().path().metadata().unwrap().uid() != 0 {
        println!("skipped: only root may give files away");
        return;
    }
    let sandbox = Sandbox::new(&[vec![
        directory("d", 0o2511),
        file("d/su", 0o4755, "su"),
        link_to("d/l", Path::new("x")),
    ]]);
    sandbox.unpack(Ownership::Keep).unwrap();
    for (name, expected) in [("d", 0o2511), ("d/su", 0o4755), ("d/l", 0o777)] {
        let path = sandbox.path("inside").join(name);
        let metadata = path.symlink_metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), mode(&path)), (12, 34, expected), "{name}");
    }
}

#[test]
fn refuses_a_directory_that_is_not_empty() {
    let sandbox = Sandbox::new(&[vec![file("a", 0o644, "")]]);
    symlink("../outside", sandbox.path("inside/a")).unwrap();
    let error = sandbox.unpack(Ownership::Squash).unwrap_err();
    assert!(matches!(error, Error::File { doing: "unpack into", .. }), "{}", chain(&error));
}

#[test]
fn refuses_damaged_images_and_those_of_other_builders() {
    let sandbox = Sandbox::new(&[vec![], vec![file("etc/other", 0o644, "x")]]);
    assert!(matches!(measured_manifest(&sandbox.path("image")), Err(Error::NoManifest { .. })));
    let good = fs::read(sandbox.path("image")).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    for bytes in [&bad[..], &good[..good.len() - 5], b"text"] {
        fs::write(sandbox.path("image"), bytes).unwrap();
        assert!(matches!(measured_manifest(&sandbox.path("image")), Err(Error::Image { .. })));
        assert!(matches!(sandbox.unpack(Ownership::Squash), Err(Error::Image { .. })));
    }
}
