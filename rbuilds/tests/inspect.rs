//! What `inspect` shows of images: ours, those of AWS's tools, and those with ramdisks of any kind.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{fs, path::Path};

use rbuilds::{Compression, Digest, InspectOptions, Inspection, Limits, inspect};
use serde_json::json;
use support::{Tar, Workshop, gzip};

fn options() -> InspectOptions {
    InspectOptions { files: true, ..InspectOptions::default() }
}

fn built() -> (Workshop, rbuilds::BuildReport) {
    let workshop = Workshop::new();
    let tar = Tar::default()
        .put(b'5', b"bin", b"", b"", 0o755)
        .put(b'0', b"bin/app", b"", &[b'x'; 500], 0o4755)
        .put(b'0', b"bin/tool", b"", &[b'y'; 300], 0o755)
        .put(b'2', b"bin/sh", b"app", b"", 0o777)
        .put(b'0', b"etc\x1b[31m", b"", b"e", 0o600);
    fs::write(workshop.path("rootfs.tar"), tar.end()).unwrap();
    let report = workshop.build("{ rootfs = \"rootfs.tar\" }").unwrap();
    (workshop, report)
}

#[test]
fn an_image_of_ours_is_shown_with_manifest_registers_and_every_file() {
    let (workshop, report) = built();
    let found = inspect(&workshop.output(), &options()).unwrap();
    assert_eq!(found.pcrs, report.pcrs);
    assert_eq!(found.cmdline.as_ref(), Some(&report.cmdline));
    assert_eq!(found.file_bytes, report.eif_bytes);
    assert_eq!(found.sections[0].digest, report.kernel);
    assert_eq!(found.metadata.as_ref().unwrap()["ImageName"], "test");
    let manifest = found.manifest.as_ref().unwrap();
    assert_eq!(manifest["services"][0]["command"], json!(["/bin/app"]));
    assert_eq!(found.signer, None);

    let application = &found.ramdisks[1];
    let file =
        |name: &str| application.files.as_ref().unwrap().iter().find(|file| file.name == name).unwrap();
    let app = file("rootfs/bin/app");
    assert_eq!((app.kind, app.mode.as_str(), app.bytes), ("file", "4755", 500));
    assert_eq!(app.digest, Some(Digest::of(&[b'x'; 500])));
    assert_eq!(file("rootfs/bin/sh").target.as_deref(), Some("app"));
    assert_eq!(application.entries, application.files.as_ref().unwrap().len() as u64);
    assert_eq!(found.ramdisks[0].files.as_ref().unwrap()[1].device.as_deref(), Some("5,1"));
}

#[test]
fn what_takes_space_is_told_largest_first_and_no_more_than_asked_for() {
    let (workshop, _) = built();
    let found = inspect(&workshop.output(), &InspectOptions { top: 2, ..InspectOptions::default() }).unwrap();
    let application = &found.ramdisks[1];
    let sizes = |spaces: &[rbuilds::Space]| {
        spaces.iter().map(|space| (space.name.clone(), space.bytes)).collect::<Vec<_>>()
    };
    let expected = [("rootfs".to_owned(), 801), ("rootfs/bin".to_owned(), 800)];
    assert_eq!(sizes(&application.largest_directories), expected);
    let expected = [("rootfs/bin/app".to_owned(), 500), ("rootfs/bin/tool".to_owned(), 300)];
    assert_eq!(sizes(&application.largest_files), expected);
    assert_eq!(application.files, None);
}

#[test]
fn nothing_of_an_image_reaches_the_terminal_as_a_control_character() {
    let (workshop, _) = built();
    let text = inspect(&workshop.output(), &options()).unwrap().to_string();
    assert!(text.contains("rootfs/etc\\x1b[31m"), "{text}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
}

#[test]
fn images_of_aws_tools_are_shown_with_their_signer_and_without_a_manifest() {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/eif/testdata");
    let found = inspect(&testdata.join("signed.eif"), &options()).unwrap();
    let signer = found.signer.as_ref().unwrap();
    assert_eq!((signer.subject.as_str(), signer.valid), ("CN=glasshouse test vector", true));
    assert_eq!(found.manifest, None);
    assert_eq!(found.pcrs.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 8]);
    assert_eq!(found.header.architecture, "aarch64");
    let said = found.ramdisks[0].no_archive.as_ref().unwrap();
    assert!(said.starts_with("it is neither a newc archive nor compressed in a known way"), "{said}");
    assert!(found.to_string().contains("none: Glasshouse did not build this image"));
}

/// An image whose only ramdisk is these bytes.
fn with_ramdisk(bytes: &[u8], limits: Limits) -> Inspection {
    let (workshop, _) = built();
    let metadata =
        eif::Eif::open(fs::File::open(workshop.output()).unwrap()).unwrap().metadata().unwrap().unwrap();
    let mut file = fs::File::create(workshop.output()).unwrap();
    let kernel = eif::Source::bytes(b"k");
    let mut writer =
        eif::Writer::create(&mut file, &eif::Options::default(), kernel, "c", &metadata).unwrap();
    writer.ramdisk(eif::Source::bytes(bytes)).unwrap();
    writer.finish(None).unwrap();
    inspect(&workshop.output(), &InspectOptions { limits, ..options() }).unwrap()
}

fn archive(content: &[u8]) -> Vec<u8> {
    let mut archive = eif::cpio::Writer::new(Vec::new());
    let kind = eif::cpio::Kind::File { size: content.len() as u64, link: None };
    let entry = eif::cpio::Entry { name: b"init".to_vec(), permissions: 0o755, uid: 0, gid: 0, kind };
    archive.file(&entry, &mut &*content).unwrap();
    archive.finish().unwrap()
}

#[test]
fn a_compressed_ramdisk_is_shown_like_any_other() {
    let plain = archive(b"hello");
    let found = with_ramdisk(&gzip(&plain), Limits::default());
    let ramdisk = &found.ramdisks[0];
    assert_eq!(ramdisk.compression, Some(Compression::Gzip));
    assert_eq!(ramdisk.unpacked_bytes, Some(plain.len() as u64));
    assert_eq!(ramdisk.files.as_ref().unwrap()[0].digest, Some(Digest::of(b"hello")));
}

#[test]
fn a_ramdisk_that_cannot_be_listed_says_why() {
    let why = |bytes: &[u8], limits| with_ramdisk(bytes, limits).ramdisks[0].no_archive.clone().unwrap();
    let default = Limits::default();
    assert_eq!(why(b"\xfd7zXZ\0....", default), "it is compressed with xz, which this program does not read");
    let mut damaged = gzip(&archive(b"hello"));
    damaged.truncate(30);
    assert!(why(&damaged, default).starts_with("it does not decompress: "));
    let mut malformed = archive(b"hello");
    malformed.truncate(115);
    assert!(why(&malformed, default).starts_with("it is not a well-formed newc archive: the entry at byte"));
    // A megabyte of zeros in a kilobyte of gzip.
    let bomb = gzip(&archive(&vec![0; 1 << 20]));
    let limits = Limits { unpacked_bytes: 1 << 16, ..default };
    assert_eq!(why(&bomb, limits), "it decompresses to more than the 65536 bytes allowed");
    let limits = Limits { entries: 0, ..default };
    assert_eq!(why(&archive(b""), limits), "it has more than 0 entries");
    let limits = Limits { name_bytes: 3, ..default };
    assert_eq!(why(&archive(b""), limits), "it has more than 3 bytes of names");
}
