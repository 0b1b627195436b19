//! Layers put on each other, against a plain model and against umoci.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{
    cell::Cell,
    collections::HashMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
};

use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use rbuilds::{EntryError, Error, LayerError, NoteKind};
use support::{
    Compression, Tar, Workshop, chain, listing, simple_layout,
    stack::{Listing, Op, Seen, archive, hides_behind_a_link, model, name_links, stacks, whiteouts_first},
};

const IMAGE: &str = r#"{ oci = "image" }"#;

fn build_stack(workshop: &Workshop, stack: &[Vec<Op>], compression: Compression) -> Result<Listing, Error> {
    let layers: Vec<_> = stack.iter().map(|ops| archive(ops)).collect();
    simple_layout(workshop, &layers, compression);
    workshop.build(IMAGE)?;
    Ok(listing(workshop))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_stack_of_layers_is_what_the_model_says(
        stack in stacks(),
        compression in prop::sample::select(vec![Compression::None, Compression::Gzip, Compression::Zstd]),
    ) {
        let workshop = Workshop::new();
        match (model(&stack), build_stack(&workshop, &stack, compression)) {
            (Some(expected), Ok(found)) => prop_assert_eq!(found, expected),
            (None, Err(Error::Layer { source: LayerError::Entry { .. }, .. })) => {}
            (expected, found) => prop_assert!(false, "expected {expected:?}, found {found:?}"),
        }
    }
}

/// umoci unpacks layers as OCI runtimes see them.
#[test]
fn a_stack_of_layers_is_what_umoci_unpacks() {
    if Command::new("umoci").arg("--version").output().is_err() {
        println!("skipped: umoci not installed");
        return;
    }
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() };
    let compared = Cell::new(0);
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng)
        .run(&stacks(), |stack| {
            prop_assume!(!hides_behind_a_link(&stack));
            let stack = whiteouts_first(stack);
            let workshop = Workshop::new();
            let Ok(found) = build_stack(&workshop, &stack, Compression::Gzip) else { return Ok(()) };
            // It cannot unpack a link to itself or to what the link replaces; the builder can.
            let Some(expected) = unpack_with_umoci(&workshop) else { return Ok(()) };
            compared.set(compared.get() + 1);
            prop_assert_eq!(found, expected);
            Ok(())
        })
        .unwrap();
    assert!(compared.get() > 15, "only {compared:?} stacks could be compared");
}

fn unpack_with_umoci(workshop: &Workshop) -> Option<Listing> {
    let bundle = workshop.path("bundle");
    let image = format!("{}:latest", workshop.path("image").display());
    let output = Command::new("umoci")
        .args(["unpack", "--rootless", "--image", &image])
        .arg(&bundle)
        .output()
        .unwrap();
    if !output.status.success() {
        return None;
    }
    let root = bundle.join("rootfs");
    let (mut listing, mut names) = (Listing::new(), HashMap::new());
    list(&root, &root, &mut names, &mut listing);
    name_links(&mut listing);
    Some(listing)
}

fn list(root: &Path, at: &Path, names: &mut HashMap<u64, String>, listing: &mut Listing) {
    let path = at.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    let metadata = at.symlink_metadata().unwrap();
    let mode = metadata.permissions().mode() & 0o7777;
    let seen = if metadata.is_dir() {
        for entry in at.read_dir().unwrap() {
            list(root, &entry.unwrap().path(), names, listing);
        }
        Seen::Directory { mode }
    } else if metadata.is_symlink() {
        Seen::Symlink { target: fs::read_link(at).unwrap().to_str().unwrap().to_owned() }
    } else {
        let first_name = names.entry(metadata.ino()).or_insert_with(|| path.clone()).clone();
        Seen::File { mode, content: fs::read(at).unwrap(), first_name }
    };
    listing.insert(path, seen);
}

fn build_layers(layers: &[Tar]) -> (Workshop, Result<rbuilds::BuildReport, Error>) {
    let workshop = Workshop::new();
    let layers: Vec<_> = layers.iter().map(|tar| tar.clone().end()).collect();
    simple_layout(&workshop, &layers, Compression::Gzip);
    let result = workshop.build(IMAGE);
    (workshop, result)
}

fn names(workshop: &Workshop) -> Vec<String> {
    listing(workshop).into_keys().skip(1).collect()
}

#[test]
fn a_whiteout_hides_lower_layers_and_not_its_own() {
    let lower = Tar::default().file("d/old", b"").file("e/old", b"").file("f", b"old");
    let upper = Tar::default()
        .file("d/new", b"")
        .file("d/.wh..wh..opq", b"")
        .file("f", b"new")
        .file(".wh.f", b"")
        .file(".wh.e", b"")
        .file(".wh.never", b"");
    let (workshop, result) = build_layers(&[lower, upper]);
    result.unwrap();
    assert_eq!(names(&workshop), ["d", "d/new", "f"]);
    assert_eq!(workshop.application()[&b"f"[..]].1, b"new");
}

#[test]
fn a_hard_link_reaches_into_a_lower_layer_and_survives_its_replacement() {
    let lower = Tar::default().file("a", b"one");
    let middle = Tar::default().link("b", "a");
    let upper = Tar::default().file("a", b"two").link("c", "/b");
    let (workshop, result) = build_layers(&[lower, middle, upper]);
    result.unwrap();
    let files = workshop.application();
    assert_eq!(files[&b"a"[..]].1, b"two");
    let listing = listing(&workshop);
    for name in ["b", "c"] {
        let expected = Seen::File { mode: 0o644, content: b"one".to_vec(), first_name: "b".to_owned() };
        assert_eq!(listing[name], expected);
    }
}

/// A base image has `lib -> usr/lib`. An extractor that follows it writes the upper layer's `lib/x` to `usr/lib/x`, one
/// that does not replaces the link; and with an absolute link, a careless one writes to the host.
#[test]
fn refuses_a_file_behind_a_lower_layers_symbolic_link() {
    let lower = Tar::default().dir("usr/lib").symlink("lib", "/usr/lib");
    let (_, result) = build_layers(&[lower.clone(), Tar::default().file("lib/x", b"")]);
    let error = result.unwrap_err();
    let Error::Layer { number: 2, of: 2, source: LayerError::Entry { entry, source }, .. } = &error else {
        panic!("{}", chain(&error))
    };
    assert_eq!(entry, "/lib/x");
    assert!(matches!(source, EntryError::ThroughSymlink { link } if link == "/lib"));
    // A directory of its own in the place of the link is a replacement, and clear.
    let (workshop, result) = build_layers(&[lower, Tar::default().dir("lib").file("lib/x", b"")]);
    result.unwrap();
    assert_eq!(names(&workshop), ["lib", "lib/x", "usr", "usr/lib"]);
}

#[test]
fn refuses_whiteouts_that_name_nothing() {
    for name in [".wh.", "d/.wh..", ".wh...", ".wh.d/file"] {
        let (_, result) = build_layers(&[Tar::default().file(name, b"")]);
        let error = result.unwrap_err();
        assert!(
            matches!(
                &error,
                Error::Layer { source: LayerError::Entry { source: EntryError::BadWhiteout, .. }, .. }
            ),
            "{name}: {}",
            chain(&error)
        );
    }
}

#[test]
fn leaves_aufs_metadata_out_and_says_so() {
    let (workshop, result) = build_layers(&[Tar::default().dir(".wh..wh.plnk").file(".wh..wh.aufs", b"")]);
    let notes = result.unwrap().notes;
    assert_eq!(notes.len(), 1);
    assert_eq!((notes[0].kind, notes[0].count), (NoteKind::AufsMetadataLeftOut, 2));
    assert!(names(&workshop).is_empty());
}

#[test]
fn whiteout_names_are_ordinary_names_in_a_root_file_system() {
    let workshop = Workshop::new();
    fs::create_dir(workshop.path("rootfs")).unwrap();
    fs::write(workshop.path("rootfs/.wh.x"), "kept").unwrap();
    workshop.build(r#"{ rootfs = "rootfs" }"#).unwrap();
    assert_eq!(names(&workshop), [".wh.x"]);
}
