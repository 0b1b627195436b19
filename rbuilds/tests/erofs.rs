//! Images whose application is one compressed file system, beside images of the same files without.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use eif::{Eif, cpio::Reader};
use manifest::Manifest;
use rbuilds::{
    BuildInput, BuildReport, Change, Error, FileInfo, InspectOptions, Limits, Ownership, Part, build, diff,
    find_kernel, held_by, inspect, memory_needed, unpack_ramdisks,
};
use support::{Tar, Workshop, chain, gzip};

const EROFS: &str = "{ rootfs = \"rootfs.tar\", format = \"erofs\" }";
const CPIO: &str = "{ rootfs = \"rootfs.tar\", format = \"cpio\" }";
const IMAGE: &[u8] = b"rootfs.image/erofs";
/// Where the checksum stands in an image file (docs/spec/eif.md).
const CHECKSUM_AT: usize = 544;

/// Text that compresses, and differs everywhere.
fn text(lines: usize) -> Vec<u8> {
    (0..lines)
        .flat_map(|line| format!("this is line {line} of a file that compresses\n").into_bytes())
        .collect()
}

fn application(app: &[u8]) -> Vec<u8> {
    Tar::default()
        .put(b'5', b"./", b"", b"", 0o750)
        .put(b'5', b"bin", b"", b"", 0o755)
        .put(b'0', b"bin/app", b"", app, 0o4755)
        .put(b'1', b"bin/also", b"bin/app", b"", 0o755)
        .put(b'0', b"bin-empty", b"", b"", 0o600)
        .put(b'2', b"bin/sh", b"app", b"", 0o777)
        .put(b'5', b"sealed", b"", b"", 0o000)
        .put(b'0', b"sealed/caf\xe9", b"", b"not UTF-8", 0o400)
        .end()
}

fn workshop() -> Workshop {
    let workshop = Workshop::new();
    fs::write(workshop.path("rootfs.tar"), application(&text(20_000))).unwrap();
    workshop
}

/// Builds, and keeps the image under a name of its own.
fn built(workshop: &Workshop, image: &str, name: &str) -> (PathBuf, BuildReport) {
    let report = workshop.build(image).unwrap();
    let path = workshop.path(name);
    fs::rename(workshop.output(), &path).unwrap();
    (path, report)
}

fn files(image: &Path) -> BTreeMap<String, FileInfo> {
    let options = InspectOptions { files: true, ..InspectOptions::default() };
    let found = inspect(image, &options).unwrap();
    let of_application = found.ramdisks[1].files.clone().unwrap().into_iter();
    let inside = |file: &FileInfo| file.name == "rootfs" || file.name.starts_with("rootfs/");
    of_application.filter(inside).map(|file| (file.name.clone(), file)).collect()
}

#[test]
fn the_same_files_are_in_either_format() {
    let workshop = workshop();
    let (plain, plain_report) = built(&workshop, CPIO, "plain.eif");
    let (packed, report) = built(&workshop, EROFS, "packed.eif");
    assert_eq!(files(&packed), files(&plain));
    assert_eq!(files(&packed)["rootfs"].mode, "0750");
    assert_eq!(files(&packed)["rootfs/bin/app"].bytes, text(20_000).len() as u64);
    assert_eq!((report.files, report.content_bytes), (plain_report.files, plain_report.content_bytes));
    assert_ne!(report.pcrs[&2], plain_report.pcrs[&2]);
    assert_eq!(report.pcrs[&16], plain_report.pcrs[&16]);
    assert!(report.eif_bytes < plain_report.eif_bytes / 2);
    assert_eq!(report.cmdline, format!("{} retain_initrd", plain_report.cmdline));

    let found = diff(&plain, &packed, &Limits::default()).unwrap();
    let in_rootfs = |name: &Option<String>| name.as_ref().is_some_and(|name| name.starts_with("rootfs/"));
    assert!(!found.differences.iter().any(|one| in_rootfs(&one.entry)), "{found}");
}

#[test]
fn the_least_memory_is_said_when_building_and_reading() {
    let workshop = workshop();
    for (format, name) in [(CPIO, "plain.eif"), (EROFS, "packed.eif")] {
        let (image, report) = built(&workshop, format, name);
        let mut eif = Eif::open(File::open(image).unwrap()).unwrap();
        let held = held_by(&mut eif, &Limits::default()).unwrap();
        assert_eq!(Some(memory_needed(&held)), report.memory_mib, "{format}");
    }
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let workshop = workshop();
    let (first, _) = built(&workshop, EROFS, "first.eif");
    let (second, _) = built(&workshop, EROFS, "second.eif");
    assert!(fs::read(first).unwrap() == fs::read(second).unwrap());
}

#[test]
fn a_changed_file_in_a_file_system_is_named_and_nothing_else() {
    let workshop = workshop();
    let (before, _) = built(&workshop, EROFS, "before.eif");
    let mut changed = text(20_000);
    changed[500_000] = b'!';
    fs::write(workshop.path("rootfs.tar"), application(&changed)).unwrap();
    let (after, _) = built(&workshop, EROFS, "after.eif");
    let found = diff(&before, &after, &Limits::default()).unwrap();
    let in_ramdisks: Vec<_> =
        found.differences.iter().filter(|one| matches!(one.part, Part::Ramdisk(_))).collect();
    // The file's content stands with the last of its names.
    let [one] = in_ramdisks[..] else { panic!("{found}") };
    assert_eq!((one.entry.as_deref(), &one.pcrs[..]), (Some("rootfs/bin/app"), &[0, 2][..]));
    let Change::Content { bytes: Some(range), .. } = &one.change else { panic!("{found}") };
    assert_eq!((range.offset, range.length), (500_000, 1));
}

/// Everything below a directory: mode, content or target, and which names are one file.
fn below(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>, u64)> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let content = if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else {
            fs::read(&path).unwrap()
        };
        let name = path.strip_prefix(root).unwrap().to_owned();
        found.insert(name, (metadata.mode(), content, metadata.nlink()));
    }
    found
}

#[test]
fn either_format_unpacks_to_the_same_files() {
    let workshop = workshop();
    let mut unpacked = Vec::new();
    for (format, name) in [(CPIO, "plain"), (EROFS, "packed")] {
        let (image, _) = built(&workshop, format, &format!("{name}.eif"));
        let into = workshop.path(name);
        fs::create_dir(&into).unwrap();
        unpack_ramdisks(&image, &into, Ownership::Squash).unwrap();
        assert!(!into.join("rootfs.image").exists());
        unpacked.push(below(&into.join("rootfs")));
    }
    assert_eq!(unpacked[1], unpacked[0]);
    assert_eq!(unpacked[1][Path::new("bin/also")].2, 2);
}

/// Where the file system begins in an image file.
fn file_system_at(image: &Path) -> u64 {
    let mut eif = Eif::open(File::open(image).unwrap()).unwrap();
    let section = eif.ramdisks().nth(1).unwrap();
    let mut archive = Reader::new(eif.read(&section).unwrap(), section.size);
    while archive.next_entry().unwrap().unwrap().name != IMAGE {}
    section.offset + archive.position()
}

#[test]
fn a_damaged_file_system_is_said_and_not_unpacked() {
    let workshop = workshop();
    let (image, _) = built(&workshop, EROFS, "image.eif");
    let at = file_system_at(&image);
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&[0xff; 64], at + 1024).unwrap();
    // The checksum of the file would tell as well: it is made to fit.
    let mut bytes = fs::read(&image).unwrap();
    let mut checksum = flate2::Crc::new();
    checksum.update(&bytes[..CHECKSUM_AT]);
    checksum.update(&bytes[CHECKSUM_AT + 4..]);
    bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.sum().to_be_bytes());
    fs::write(&image, &bytes).unwrap();
    let found = inspect(&image, &InspectOptions::default()).unwrap();
    assert!(found.ramdisks[1].no_archive.as_ref().unwrap().contains("EROFS"), "{found}");
    let into = workshop.path("into");
    fs::create_dir(&into).unwrap();
    let refused = unpack_ramdisks(&image, &into, Ownership::Squash).unwrap_err();
    assert!(chain(&refused).contains("EROFS"), "{}", chain(&refused));
}

/// Builds with a kernel that has this configuration in itself.
fn build_with(workshop: &Workshop, configuration: &str, image: &str) -> Result<BuildReport, Error> {
    let inside = [&b"IKCFG_ST"[..], &gzip(configuration.as_bytes()), b"IKCFG_ED"].concat();
    let mut kernel = vec![0; 1024];
    kernel[0x1f1] = 1;
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel.extend(gzip(&inside));
    fs::write(workshop.path("bzImage"), kernel).unwrap();
    let text = format!("name = \"test\"\nimage = {image}\n[app]\ncommand = [\"/bin/app\"]\n");
    let manifest = Manifest::parse(&text).unwrap();
    let (guest, output) = (workshop.path("guest"), workshop.output());
    let input = BuildInput {
        manifest: &manifest,
        base_dir: workshop.dir.path(),
        guest_binary: &guest,
        kernel: find_kernel(Some(workshop.path("bzImage"))).unwrap(),
        output: &output,
        limits: workshop.limits,
        registry: workshop.registry.clone(),
        build_time: 0,
        signer: None,
    };
    build(&input, &|_| {})
}

#[test]
fn the_kernels_configuration_decides_where_the_manifest_does_not() {
    let able = "CONFIG_BLK_DEV_LOOP=y\nCONFIG_EROFS_FS=y\nCONFIG_EROFS_FS_SECURITY=y\nCONFIG_EROFS_FS_XATTR=y\n\
                CONFIG_EROFS_FS_ZIP=y\nCONFIG_OVERLAY_FS=y\nCONFIG_TMPFS_XATTR=y\n";
    let workshop = workshop();
    let any = "{ rootfs = \"rootfs.tar\" }";
    let packed = |report: BuildReport| report.cmdline.ends_with(" retain_initrd");
    assert!(packed(build_with(&workshop, able, any).unwrap()));
    assert!(!packed(build_with(&workshop, able, CPIO).unwrap()));
    assert!(!packed(build_with(&workshop, "CONFIG_OVERLAY_FS=y\n", any).unwrap()));
    fs::remove_file(workshop.output()).unwrap();
    let refused = build_with(&workshop, "CONFIG_OVERLAY_FS=y\n", EROFS).unwrap_err();
    assert!(matches!(refused, Error::KernelWithoutErofs { .. }), "{refused}");
    assert_eq!(workshop.path("out").read_dir().unwrap().count(), 0);
}
