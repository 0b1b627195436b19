//! Compressed files kept of one build for the next: taken when nothing changed, told from damage, never taken by `verify`.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
};

use support::{Compression, Tar, Workshop, simple_layout};

const IMAGE: &str = "{ oci = \"image\", format = \"erofs\" }";
/// Length of the digest at the end of a kept run.
const DIGEST_BYTES: usize = 32;

/// Two layers: one that is long enough for a run of its own, and an application above it.
fn layers(version: &str, gone: bool) -> Vec<Vec<u8>> {
    let line = |line| format!("this is line {line} of a file that compresses\n").into_bytes();
    let text: Vec<u8> = (0..200_000).flat_map(line).collect();
    let base = Tar::default().file("lib/a", &text[..5000]).file("lib/b", &text).file("lib/c", &text[..9000]);
    let app = Tar::default().file("bin/app", version.repeat(2000).as_bytes());
    let app = if gone { app.file("lib/.wh.c", b"") } else { app };
    vec![base.end(), app.end()]
}

fn kept(workshop: &Workshop) -> Vec<PathBuf> {
    let folder = workshop.path("cache/layers").read_dir().unwrap();
    let paths = folder.map(|entry| entry.unwrap().path());
    let mut runs: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "run")).collect();
    runs.sort_by_key(|path| fs::metadata(path).unwrap().len());
    runs
}

fn build(workshop: &Workshop, version: &str, gone: bool) -> Vec<u8> {
    let _ = fs::remove_dir_all(workshop.path("image"));
    simple_layout(workshop, &layers(version, gone), Compression::Gzip);
    workshop.build(IMAGE).unwrap();
    fs::read(workshop.output()).unwrap()
}

/// Changes a byte of a kept run's blocks, and its digest to match.
fn forge(run: &Path) {
    let mut bytes = fs::read(run).unwrap();
    let end = bytes.len() - DIGEST_BYTES;
    bytes[4095] ^= 1;
    let forged = blake3::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(forged.as_bytes());
    fs::write(run, bytes).unwrap();
}

#[test]
fn a_changed_application_gives_what_a_build_from_nothing_gives() {
    let (used, fresh) = (Workshop::new(), Workshop::new());
    build(&used, "1", false);
    assert_eq!(kept(&used).len(), 2);
    assert!(build(&used, "2", false) == build(&fresh, "2", false));
    assert_eq!(kept(&used).len(), 3, "the base's run was taken, the application's is another one");
    // A layer above that hides one of the base's files makes the base's run another one, and is another one itself.
    assert!(build(&used, "2", true) == build(&Workshop::new(), "2", true));
    assert_eq!(kept(&used).len(), 5);
}

#[test]
fn a_damaged_run_is_made_anew() {
    let workshop = Workshop::new();
    let image = build(&workshop, "1", false);
    let base = kept(&workshop).pop().unwrap();
    let good = fs::read(&base).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let end = good.len() - DIGEST_BYTES;
    for bad in [flipped(4095), flipped(end - 1), flipped(end - 9), good[..end].to_vec(), Vec::new()] {
        fs::write(&base, bad).unwrap();
        assert!(build(&workshop, "1", false) == image);
        assert!(fs::read(&base).unwrap() == good, "the right one is back");
    }
}

#[test]
fn a_forged_run_is_taken_by_a_build_and_found_by_verify() {
    let workshop = Workshop::new();
    let image = build(&workshop, "1", false);
    forge(&kept(&workshop).pop().unwrap());
    assert!(build(&workshop, "1", false) != image, "the run is what was taken");
    assert!(!workshop.verify(IMAGE).unwrap().reproduced);
    fs::remove_dir_all(workshop.path("cache")).unwrap();
    assert!(build(&workshop, "1", false) == image);
    assert!(workshop.verify(IMAGE).unwrap().reproduced);
}

#[test]
fn builds_that_may_keep_nothing_keep_no_run() {
    let mut workshop = Workshop::new();
    let image = build(&workshop, "1", false);
    fs::remove_dir_all(workshop.path("cache")).unwrap();
    workshop.registry.cache_limit_bytes = 0;
    assert!(build(&workshop, "1", false) == image);
    assert!(!workshop.path("cache").exists());
}
