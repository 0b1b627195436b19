//! What is kept of one build for the next changes no image, whatever becomes of it meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{fs, path::PathBuf, thread};

use rbuilds::{Error, LayerError};
use support::{Compression, LayoutDir, Tar, Workshop, chain, simple_layout};

const IMAGE: &str = "{ oci = \"image\" }";

fn layers(version: &str) -> Vec<Vec<u8>> {
    let base = Tar::default().file("lib/base", &vec![7; 300_000]).file("lib/gone", b"x").end();
    let app = Tar::default().file("app/main", version.as_bytes()).file("lib/.wh.gone", b"").end();
    vec![base, app]
}

fn kept(workshop: &Workshop) -> Vec<PathBuf> {
    let folder = workshop.path("cache/layers").read_dir();
    let mut kept: Vec<_> = folder.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    kept.sort();
    kept
}

/// Overwrites every blob of a layer, so that only the cache can know what it held.
fn ruin_layers(workshop: &Workshop, layout: &LayoutDir) {
    for layer in kept(workshop) {
        let blob = layout.root.join("blobs/sha256").join(layer.file_name().unwrap());
        let length = fs::metadata(&blob).unwrap().len();
        fs::write(blob, vec![0; usize::try_from(length).unwrap()]).unwrap();
    }
}

#[test]
fn unchanged_layers_are_not_unpacked_again() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let workshop = Workshop::new();
        let layout = simple_layout(&workshop, &layers("1"), compression);
        let first = workshop.build(IMAGE).unwrap();
        assert_eq!(kept(&workshop).len(), 2);
        let image = fs::read(workshop.output()).unwrap();
        ruin_layers(&workshop, &layout);
        assert_eq!(workshop.build(IMAGE).unwrap(), first);
        assert!(fs::read(workshop.output()).unwrap() == image);
    }
}

#[test]
fn a_changed_layer_is_unpacked_and_gives_what_a_build_from_nothing_gives() {
    let (used, fresh) = (Workshop::new(), Workshop::new());
    simple_layout(&used, &layers("1"), Compression::Gzip);
    used.build(IMAGE).unwrap();
    fs::remove_dir_all(used.path("image")).unwrap();
    for workshop in [&used, &fresh] {
        simple_layout(workshop, &layers("2"), Compression::Gzip);
        workshop.build(IMAGE).unwrap();
    }
    assert_eq!(kept(&used).len(), 3);
    assert!(fs::read(used.output()).unwrap() == fs::read(fresh.output()).unwrap());
}

#[test]
fn what_is_damaged_or_something_else_is_unpacked_anew() {
    let workshop = Workshop::new();
    let layout = simple_layout(&workshop, &layers("1"), Compression::Gzip);
    workshop.build(IMAGE).unwrap();
    let image = fs::read(workshop.output()).unwrap();
    let files = kept(&workshop);
    let good: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let mut flipped = good[0].clone();
    flipped[1000] ^= 1;
    for bad in [flipped, good[1].clone(), good[0][..512].to_vec(), Vec::new()] {
        fs::write(&files[0], bad).unwrap();
        workshop.build(IMAGE).unwrap();
        assert!(fs::read(workshop.output()).unwrap() == image);
        assert!(fs::read(&files[0]).unwrap() == good[0], "the right one is back");
    }
    // Where the cache is wrong the layer counts, and where both are, the layer is at fault.
    ruin_layers(&workshop, &layout);
    files.iter().for_each(|file| fs::write(file, b"wrong").unwrap());
    let error = workshop.build(IMAGE).unwrap_err();
    assert!(
        matches!(error, Error::Layer { number: 1, source: LayerError::Blob(_), .. }),
        "{}",
        chain(&error)
    );
}

#[test]
fn layers_that_are_refused_are_not_kept() {
    let workshop = Workshop::new();
    let mut layout = LayoutDir::new(workshop.path("image"));
    let (blob, _) = layout.layer(&layers("1")[0], Compression::Gzip);
    let wrong = rbuilds::Digest::of(b"something else");
    layout.index = vec![layout.image(&[(blob, wrong)], &serde_json::json!({}), "amd64")];
    layout.write_index();
    workshop.refuse(IMAGE);
    assert_eq!(kept(&workshop), Vec::<PathBuf>::new());
}

#[test]
fn builds_at_the_same_time_share_a_cache() {
    let one = Workshop::new();
    let others: Vec<Workshop> = (0..3)
        .map(|_| {
            let mut other = Workshop::new();
            other.registry = one.registry.clone();
            other
        })
        .collect();
    let images: Vec<Vec<u8>> = thread::scope(|scope| {
        let started: Vec<_> = others
            .iter()
            .chain([&one])
            .map(|workshop| {
                scope.spawn(move || {
                    simple_layout(workshop, &layers("1"), Compression::Gzip);
                    workshop.build(IMAGE).unwrap();
                    fs::read(workshop.output()).unwrap()
                })
            })
            .collect();
        started.into_iter().map(|build| build.join().unwrap()).collect()
    });
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(kept(&one).len(), 2);
}

#[test]
fn nothing_is_kept_beyond_the_limit() {
    let mut workshop = Workshop::new();
    simple_layout(&workshop, &layers("1"), Compression::Gzip);
    workshop.registry.cache_limit_bytes = 200_000;
    workshop.build(IMAGE).unwrap();
    let sizes: Vec<u64> = kept(&workshop).iter().map(|file| fs::metadata(file).unwrap().len()).collect();
    assert!(sizes.iter().sum::<u64>() <= 100_000, "{sizes:?}");
    workshop.registry.cache_limit_bytes = 0;
    fs::remove_dir_all(workshop.path("cache")).unwrap();
    workshop.build(IMAGE).unwrap();
    assert!(!workshop.path("cache").exists());
}
