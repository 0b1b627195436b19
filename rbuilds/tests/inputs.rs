//! What a stranger gets who names something that is not there, of another kind, or damaged.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{
    fs,
    os::unix::fs::{FileExt, symlink},
    path::Path,
    process::Command,
};

use rbuilds::{Error, LayerError};
use support::{Compression, Tar, Workshop, chain, simple_layout};

/// One of each kind, and what only looks like one.
fn prepared() -> Workshop {
    let workshop = Workshop::new();
    let tar = Tar::default().dir("bin").file("bin/app", &[7; 3000]).end();
    simple_layout(&workshop, std::slice::from_ref(&tar), Compression::Gzip);
    fs::create_dir(workshop.path("files")).unwrap();
    fs::write(workshop.path("files/app"), "x").unwrap();
    fs::write(workshop.path("files.tar"), &tar).unwrap();
    let in_directory = |command: &mut Command| {
        assert!(command.current_dir(workshop.path("")).status().unwrap().success(), "{command:?}");
    };
    in_directory(Command::new("tar").args(["-cf", "image.tar", "-C", "image", "."]));
    in_directory(Command::new("mkfifo").arg("pipe"));
    fs::write(workshop.path("empty"), "").unwrap();
    fs::write(workshop.path("Dockerfile"), "FROM scratch\n").unwrap();
    fs::write(workshop.path("files.tar.xz"), b"\xfd7zXZ\0\0\x04\xe6").unwrap();
    symlink("nowhere", workshop.path("dangling")).unwrap();
    workshop
}

/// A missing `rootfs` was told as "cannot open" and a failure of the program: no key, and nothing to do.
#[test]
fn what_is_missing_or_of_another_kind_is_named_by_key_and_path_with_what_to_do() {
    const NOTHING: &str = "there is nothing of that name";
    let cases = [
        ("oci", "missing", NOTHING),
        ("oci", "dangling", NOTHING),
        ("oci", "files.tar", "it is a file: an archive of an image goes under `image.archive`"),
        ("oci", "files", "it is a directory without `oci-layout`: files that are"),
        ("oci", "pipe", "it is a named pipe"),
        ("oci", "files.tar/x", "it cannot be reached (Not a directory"),
        ("archive", "missing", NOTHING),
        ("archive", "image", "it is an OCI image layout directory: say `image.oci`"),
        ("archive", "files", "go under `image.rootfs`"),
        ("archive", "pipe", "it is a named pipe"),
        ("archive", "/dev/null", "it is a device"),
        ("archive", "empty", "it is empty"),
        ("archive", "Dockerfile", "it is not a tar archive"),
        ("archive", "files.tar", "an archive of a root file system goes under `rootfs`"),
        ("rootfs", "missing", NOTHING),
        ("rootfs", "image", "say `image.oci`"),
        ("rootfs", "image.tar", "it holds a container image (`oci-layout`)"),
        ("rootfs", "pipe", "it is a named pipe"),
        ("rootfs", "empty", "it is empty"),
        ("rootfs", "files.tar.xz", "it is compressed with xz: unpack it first"),
        ("dockerfile", "Dockerfile", "is a Dockerfile: give the container image"),
    ];
    let workshop = prepared();
    for (key, path, expected) in cases {
        let error = workshop.refuse(&format!("{{ {key} = {path:?} }}"));
        let message = chain(&error);
        assert!(error.is_mistake(), "{key} {path}: {message}");
        assert!(message.contains(expected), "{key} {path}: {message}");
        assert!(message.contains(Path::new(path).file_name().unwrap().to_str().unwrap()), "{message}");
        if let Error::Input(input) = &error {
            assert_eq!(input.key, format!("image.{key}"), "{message}");
            assert!(message.starts_with(&format!("`image.{key}` in glasshouse.toml: ")), "{message}");
        }
    }
    for good in ["{ oci = \"image\" }", "{ archive = \"image.tar\" }", "{ rootfs = \"files\" }"] {
        workshop.build(good).unwrap();
    }
}

/// Every prefix is refused with the file's name, and nothing is left of it; no message holds bytes of the file.
#[test]
fn what_was_cut_anywhere_is_refused_by_name() {
    let workshop = prepared();
    let source = |name: &str| fs::read(workshop.path(name)).unwrap();
    let packed = Compression::Zstd.pack(&source("image.tar"));
    let all = [
        ("archive", source("image.tar")),
        ("archive", support::gzip(&source("image.tar"))),
        ("archive", packed),
        ("rootfs", source("files.tar")),
        ("rootfs", support::gzip(&source("files.tar"))),
    ];
    for (key, whole) in all {
        let end = whole.iter().rposition(|b| *b != 0).unwrap() + 1;
        // A prime number of places, so that they fall on blocks, into headers and into contents.
        for len in (0..whole.len()).step_by(whole.len() / 23 + 1) {
            // Of the closing zeros one block is enough.
            if len >= end.next_multiple_of(512) + 512 {
                continue;
            }
            fs::write(workshop.path("cut"), &whole[..len]).unwrap();
            let error = workshop.refuse(&format!("{{ {key} = \"cut\" }}"));
            let message = chain(&error);
            assert!(message.contains("/cut"), "{len}: {message}");
            assert!(!message.chars().any(char::is_control), "{len}: {message:?}");
        }
    }
}

/// `tar --sparse` is what backup scripts and makers of root file systems call, and engines take what it writes.
#[test]
fn a_file_with_holes_is_read_from_each_form_that_tar_writes() {
    let workshop = Workshop::new();
    let files = workshop.path("files");
    fs::create_dir(&files).unwrap();
    let holes = fs::File::create(files.join("holes")).unwrap();
    // More pieces than fit into the header of the old form, and into the block behind it.
    for piece in 0..40_u8 {
        holes.write_all_at(&[piece + 1; 4096], u64::from(piece) * 16384 + 8192).unwrap();
    }
    holes.set_len(40 * 16384 + 100_000).unwrap();
    fs::write(files.join("after"), "after").unwrap();
    fs::File::create(files.join("hole")).unwrap().set_len(50_000).unwrap();
    let expected = fs::read(files.join("holes")).unwrap();
    let forms = [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ];
    for form in forms {
        let mut tar = Command::new("tar");
        tar.current_dir(&files).args(["--sparse", "--hole-detection=raw", "-cf", "../sparse.tar"]);
        assert!(tar.args(form).args(["holes", "hole", "after"]).status().unwrap().success(), "{form:?}");
        let packed = fs::metadata(workshop.path("sparse.tar")).unwrap().len();
        assert!(packed < 300_000, "{form:?}: {packed} bytes are no sparse archive");
        workshop.build("{ rootfs = \"sparse.tar\" }").unwrap();
        let found = workshop.application();
        assert!(found[&b"holes"[..]].1 == expected, "{form:?}");
        assert!(found[&b"hole"[..]].1 == [0; 50_000], "{form:?}");
        assert_eq!(found[&b"after"[..]].1, b"after", "{form:?}");
        let whole = fs::read(workshop.path("sparse.tar")).unwrap();
        fs::write(workshop.path("cut.tar"), &whole[..whole.len() / 2]).unwrap();
        fs::remove_file(workshop.output()).unwrap();
        workshop.refuse("{ rootfs = \"cut.tar\" }");
    }
    let mut limited = workshop;
    limited.limits.unpacked_bytes = 500_000;
    let error = limited.refuse("{ rootfs = \"sparse.tar\" }");
    assert!(
        matches!(&error, Error::Rootfs { source: LayerError::UnpackedTooLarge { .. }, .. }),
        "{}",
        chain(&error)
    );
}

/// The reason was printed twice, once as a part of the message and once as its cause.
#[test]
fn the_program_says_once_what_is_wrong_with_the_manifest_and_ends_with_status_2() {
    let workshop = prepared();
    workshop.build("{ rootfs = \"files\" }").unwrap();
    fs::write(workshop.path("glasshouse.toml"), "name = 1\n").unwrap();
    for (manifest, expected) in [("nowhere", "No such file"), ("glasshouse.toml", "expected a string")] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_rbuilds"));
        program.arg("verify").args([workshop.output(), workshop.path(manifest)]);
        let said = program.output().unwrap();
        let text = String::from_utf8(said.stderr).unwrap();
        assert_eq!(said.status.code(), Some(2), "{text}");
        assert_eq!(text.matches(expected).count(), 1, "{text}");
    }
}
