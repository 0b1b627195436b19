//! Inputs made to hurt: little that unpacks to much, and more files than a folder should have.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]
#![allow(dead_code, reason = "the support module serves several tests")]

mod support;

use std::{fs, io::Read};

use eif::Eif;
use flate2::{Compression as Level, read::GzEncoder};
use rbuilds::{Digest, Error, LayerError, Limits, held_by, memory_needed};
use serde_json::json;
use support::{Compression, LayoutDir, Tar, Workshop, chain, simple_layout};

const IMAGE: &str = "{ oci = \"image\" }";

fn gzip_of_zeros(bytes: u64) -> Vec<u8> {
    let mut packed = Vec::new();
    GzEncoder::new(std::io::repeat(0).take(bytes), Level::best()).read_to_end(&mut packed).unwrap();
    packed
}

/// 4 MiB that unpack to 4 GiB, by members that each unpack to a thousand times their length.
#[test]
fn a_small_blob_that_unpacks_to_gigabytes_is_stopped_at_the_limit_and_leaves_nothing() {
    let mut workshop = Workshop::new();
    workshop.limits.unpacked_bytes = 8 << 20;
    let member = gzip_of_zeros(4 << 20);
    let mut header = Tar::header(b'0', b"zeros", b"", u64::from(u32::MAX), 0o644);
    header.set_cksum();
    let mut bomb = support::gzip(header.as_bytes());
    (0..1024).for_each(|_| bomb.extend_from_slice(&member));
    assert!(bomb.len() < 5 << 20, "{}", bomb.len());
    let mut layout = LayoutDir::new(workshop.path("image"));
    let blob = layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", &bomb);
    layout.index = vec![layout.image(&[(blob, Digest::of(b"never reached"))], &json!({}), "amd64")];
    layout.write_index();
    // `refuse` looks into the output's folder.
    let error = workshop.refuse(IMAGE);
    assert!(
        matches!(&error, Error::Layer { source: LayerError::UnpackedTooLarge { limit }, .. } if *limit == 8 << 20),
        "{}",
        chain(&error)
    );
    assert!(chain(&error).contains("8388608 bytes allowed"), "{}", chain(&error));
}

/// The memory that the build says, without reading the image again, is the one that a host reckons from the file.
#[test]
fn a_folder_of_a_hundred_thousand_files_is_built_and_its_memory_is_known_from_the_image_alone() {
    let workshop = Workshop::new();
    let all = (0..100_000).fold(Tar::default().dir("d"), |tar, i| tar.file(&format!("d/f{i}"), b""));
    let tar = all.file("large", &[1; 10_000]).link("again", "large").symlink("l", &"x/".repeat(100)).end();
    simple_layout(&workshop, &[tar], Compression::Gzip);
    let report = workshop
        .build_text("name = \"t\"\nimage = { oci = \"image\" }\n[app]\ncommand = [\"/a\"]\n")
        .unwrap();
    assert_eq!(report.files, 100_005);
    let mut eif = Eif::open(fs::File::open(workshop.output()).unwrap()).unwrap();
    let held = held_by(&mut eif, &Limits::default()).unwrap();
    // Pages: three of `large`, one of the long target, one of the manifest, one of the init.
    assert_eq!((held.image_bytes, held.file_pages), (report.eif_bytes, 6));
    assert_eq!(held.entries, report.files + 11);
    assert_eq!(report.memory_mib, Some(memory_needed(&held)));
}
