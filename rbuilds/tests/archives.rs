//! Images in archives: what `docker save` wrote and writes, image layouts as archives, and archives that lie.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{fs, path::Path, process::Command};

use rbuilds::{BuildReport, Digest, EntryError, Error, LayerError, OciError};
use serde_json::{Value, json};
use support::{Compression, LayoutDir, Tar, Workshop, chain, simple_layout};

const IMAGE: &str = r#"{ archive = "app.tar" }"#;
const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

/// Two layers, of which the second replaces a file of the first.
fn layers() -> Vec<Vec<u8>> {
    vec![
        Tar::default().file("bin/app", &[7; 5000]).file("etc/conf", b"old").end(),
        Tar::default().file("etc/conf", b"new").end(),
    ]
}

fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Env": ["FROM=image"]},
        "rootfs": {"type": "layers", "diff_ids": ids},
    });
    serde_json::to_vec(&config).unwrap()
}

fn config_name(config: &[u8]) -> String {
    format!("{}.json", Digest::of(config).to_hex())
}

fn saved(config: &str, tags: &[&str], layers: &[&str]) -> Value {
    json!({"Config": config, "RepoTags": tags, "Layers": layers})
}

fn put_manifest(tar: Tar, images: &[Value]) -> Tar {
    tar.file("manifest.json", &serde_json::to_vec(images).unwrap())
}

/// What `docker save` wrote up to version 24.
fn legacy(layers: &[Vec<u8>]) -> Tar {
    let config = config(layers);
    let names: Vec<String> = (0..layers.len()).map(|i| format!("id{i}/layer.tar")).collect();
    let mut tar = Tar::default();
    for (i, layer) in layers.iter().enumerate() {
        tar = tar.dir(&format!("id{i}/")).file(&format!("id{i}/VERSION"), b"1.0");
        tar = tar.file(&format!("id{i}/json"), b"{}").file(&names[i], layer);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let image = saved(&config_name(&config), &["web:1.2"], &names);
    put_manifest(tar.file(&config_name(&config), &config), &[image])
        .file("repositories", br#"{"web":{"1.2":"id1"}}"#)
}

/// One image whose only layer, `a/layer.tar`, is put there by `put`.
fn one_layer(put: impl Fn(Tar, &[u8]) -> Tar) -> Tar {
    let layers = &layers()[..1];
    let config = config(layers);
    let image = saved(&config_name(&config), &[], &["a/layer.tar"]);
    let tar = Tar::default().file(&config_name(&config), &config);
    put(put_manifest(tar, &[image]), &layers[0])
}

/// An archive of everything in a directory, as `tar -c .` writes it.
fn archive_of(root: &Path) -> Tar {
    fn add(mut tar: Tar, root: &Path, name: &str) -> Tar {
        let mut names: Vec<_> = root
            .join(name)
            .read_dir()
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        for child in names {
            let child = format!("{name}/{child}");
            let path = root.join(&child);
            tar = if path.is_dir() {
                add(tar.dir(&format!("{child}/")), root, &child)
            } else {
                tar.file(&child, &fs::read(path).unwrap())
            };
        }
        tar
    }
    add(Tar::default().dir("./"), root, ".")
}

fn write(workshop: &Workshop, archive: &[u8]) {
    fs::write(workshop.path("app.tar"), archive).unwrap();
}

fn build(workshop: &Workshop, archive: &[u8]) -> BuildReport {
    write(workshop, archive);
    workshop.build(IMAGE).unwrap_or_else(|e| panic!("{}", chain(&e)))
}

fn refuse(archive: &[u8]) -> Error {
    let workshop = Workshop::new();
    write(&workshop, archive);
    workshop.refuse(IMAGE)
}

fn oci_error(error: &Error) -> &OciError {
    match error {
        Error::Archive { source: LayerError::Blob(source), .. }
        | Error::Layer { source: LayerError::Blob(source), .. } => source,
        other => panic!("not about the image: {}", chain(other)),
    }
}

/// What the same layers give as a layout directory, the reference for all archives.
fn from_layout() -> (Workshop, BuildReport) {
    let workshop = Workshop::new();
    let mut layout = LayoutDir::new(workshop.path("image"));
    let layers: Vec<_> = layers().iter().map(|tar| layout.layer(tar, Compression::Gzip)).collect();
    let image = layout.image(&layers, &json!({"Env": ["FROM=image"]}), "amd64");
    layout.index.push(image);
    layout.write_index();
    let report = workshop.build(r#"{ oci = "image" }"#).unwrap();
    (workshop, report)
}

#[test]
fn every_form_of_archive_gives_the_image_of_the_layout() {
    let (workshop, reference) = from_layout();
    let layout = archive_of(&workshop.path("image"));
    for compression in COMPRESSIONS {
        let report = build(&Workshop::new(), &compression.pack(&layout.clone().end()));
        assert_eq!(report.pcrs, reference.pcrs, "{compression:?}");
        assert_eq!(report.image_manifest, reference.image_manifest);
        let report = build(&Workshop::new(), &compression.pack(&legacy(&layers()).end()));
        assert_eq!(report.pcrs, reference.pcrs, "{compression:?}");
        assert_eq!((report.image_manifest, report.notes), (None, reference.notes.clone()));
    }
}

/// Since version 25 `docker save` writes an image layout and a `manifest.json` that names blobs of it.
#[test]
fn the_layout_counts_where_docker_writes_both() {
    let (workshop, reference) = from_layout();
    let both = |config: &str| {
        let image = saved(config, &["web:1.2"], &["blobs/sha256/none"]);
        put_manifest(archive_of(&workshop.path("image")), &[image]).end()
    };
    assert_eq!(build(&Workshop::new(), &both("blobs/sha256/none")).image_manifest, reference.image_manifest);
    // Without the layout's marker, it is manifest.json that counts.
    fs::remove_file(workshop.path("image/oci-layout")).unwrap();
    assert!(
        matches!(oci_error(&refuse(&both("blobs/sha256/none"))), OciError::Missing { file } if file == "blobs/sha256/none")
    );
}

#[test]
fn takes_the_image_with_the_name_or_tag() {
    let contents = ["one", "two"].map(|mark| vec![Tar::default().file("mark", mark.as_bytes()).end()]);
    let mut tar = Tar::default();
    let mut images = Vec::new();
    for (i, layers) in contents.iter().enumerate() {
        let (config, layer) = (config(layers), format!("{i}/layer.tar"));
        tar = tar.file(&layer, &layers[0]).file(&config_name(&config), &config);
        let name = format!("docker.io/library/web:{i}");
        images.push(saved(&config_name(&config), &[&name, "extra:9"][..2 - i], &[&layer]));
    }
    let workshop = Workshop::new();
    write(&workshop, &put_manifest(tar, &images).end());
    let error = workshop.refuse(IMAGE);
    assert!(matches!(oci_error(&error), OciError::Ambiguous { found: 2, tags, .. } if tags.len() == 3));
    let error = workshop.refuse(r#"{ archive = "app.tar", tag = "web:2" }"#);
    assert!(matches!(oci_error(&error), OciError::NoSuchTag { tag, .. } if tag == "web:2"));
    for (tag, mark) in
        [("web:0", "one"), ("1", "two"), ("extra:9", "one"), ("docker.io/library/web:1", "two")]
    {
        workshop.build(&format!(r#"{{ archive = "app.tar", tag = "{tag}" }}"#)).unwrap();
        assert_eq!(workshop.application()[&b"mark"[..]].1, mark.as_bytes(), "{tag}");
    }
}

/// The name that `docker save` gives an image in a layout is in containerd's annotation; the specification's has the tag
/// alone, which images of different names share.
#[test]
fn takes_the_image_with_containerds_name() {
    let workshop = Workshop::new();
    let mut layout = LayoutDir::new(workshop.path("image"));
    for name in ["web", "cache"] {
        let tar = Tar::default().file("mark", name.as_bytes()).end();
        let mut image = layout.image(&[layout.layer(&tar, Compression::None)], &json!({}), "amd64");
        image["annotations"] = json!({
            "io.containerd.image.name": format!("docker.io/library/{name}:latest"),
            "org.opencontainers.image.ref.name": "latest",
        });
        layout.index.push(image);
    }
    layout.write_index();
    write(&workshop, &archive_of(&layout.root).end());
    let error = workshop.refuse(r#"{ archive = "app.tar", tag = "latest" }"#);
    assert!(
        matches!(oci_error(&error), OciError::Ambiguous { found: 2, tags, .. } if tags[1] == "docker.io/library/cache:latest")
    );
    workshop.build(r#"{ archive = "app.tar", tag = "cache:latest" }"#).unwrap();
    assert_eq!(workshop.application()[&b"mark"[..]].1, b"cache");
}

/// `docker save` writes a layer that several images share once and links to it; others use hard links.
#[test]
fn layers_behind_links_are_found_inside_the_archive() {
    type Put = fn(Tar, &[u8]) -> Tar;
    let cases: [Put; 4] = [
        |tar, layer| tar.file("b/layer.tar", layer).symlink("a/layer.tar", "../b/layer.tar"),
        |tar, layer| tar.symlink("a/layer.tar", "../b.tar").file("b.tar", layer),
        |tar, layer| tar.file("b/layer.tar", layer).link("a/layer.tar", "b/layer.tar"),
        |tar, layer| tar.file("c", layer).link("b", "c").symlink("a/layer.tar", ".././b"),
    ];
    for (i, put) in cases.into_iter().enumerate() {
        for compression in COMPRESSIONS {
            let workshop = Workshop::new();
            build(&workshop, &compression.pack(&one_layer(put).end()));
            assert_eq!(workshop.application()[&b"bin/app"[..]].1, [7; 5000], "case {i}");
        }
    }
}

#[test]
fn refuses_names_that_lead_nowhere_or_out() {
    type Put = fn(Tar, &[u8]) -> Tar;
    type Check = fn(&OciError) -> bool;
    let outside: Check = |e| matches!(e, OciError::LinkOutside { file, .. } if file == "a/layer.tar");
    let cases: Vec<(Put, Check)> = vec![
        (|tar, _| tar, |e| matches!(e, OciError::Missing { file } if file == "a/layer.tar")),
        (|tar, _| tar.dir("a/layer.tar"), |e| matches!(e, OciError::IsDirectory { .. })),
        (
            |tar, _| tar.symlink("a/layer.tar", "../b"),
            |e| matches!(e, OciError::Missing { file } if file == "b"),
        ),
        (|tar, _| tar.link("a/layer.tar", "b"), |e| matches!(e, OciError::Missing { file } if file == "b")),
        (|tar, _| tar.symlink("a/layer.tar", "../../b"), outside),
        (|tar, _| tar.symlink("a/layer.tar", "/etc/passwd"), outside),
        (|tar, _| tar.symlink("a/layer.tar", "layer.tar"), |e| matches!(e, OciError::TooManyLinks { .. })),
    ];
    for (put, is_expected) in cases {
        let error = refuse(&one_layer(put).end());
        assert!(is_expected(oci_error(&error)), "{}", chain(&error));
    }
    // A name in a document, not of an entry.
    let image = saved("../etc/passwd", &[], &[]);
    let error = refuse(&put_manifest(Tar::default(), &[image]).end());
    assert!(
        matches!(oci_error(&error), OciError::Name { source: EntryError::ParentComponent, .. }),
        "{}",
        chain(&error)
    );
}

#[test]
fn refuses_entries_that_programs_disagree_on() {
    type Put = fn(Tar, &[u8]) -> Tar;
    type Check = fn(&EntryError) -> bool;
    let duplicate: Check = |e| matches!(e, EntryError::Duplicate);
    let cases: Vec<(Put, Check)> = vec![
        (|tar, layer| tar.file("a/layer.tar", layer).file("a/layer.tar", layer), duplicate),
        (|tar, layer| tar.file("a/layer.tar", layer).symlink("./a/layer.tar", "x"), duplicate),
        (|tar, layer| tar.file("a/layer.tar", layer).dir("a/layer.tar"), duplicate),
        (
            |tar, layer| tar.file("a/layer.tar", layer).file("../x", b""),
            |e| matches!(e, EntryError::ParentComponent),
        ),
        (
            |tar, layer| tar.file("a/layer.tar", layer).link("x", "../x"),
            |e| matches!(e, EntryError::ParentComponent),
        ),
        (
            |tar, layer| tar.file("a/layer.tar", layer).put(b'3', b"dev/null", b"", b"", 0o666),
            |e| matches!(e, EntryError::Device { .. }),
        ),
    ];
    for (put, is_expected) in cases {
        for compression in COMPRESSIONS {
            let error = refuse(&compression.pack(&one_layer(put).end()));
            assert!(
                matches!(&error, Error::Archive { source: LayerError::Entry { source, .. }, .. } if is_expected(source)),
                "{}",
                chain(&error)
            );
        }
    }
    // A directory may stand there twice: it holds nothing to disagree on.
    build(&Workshop::new(), &one_layer(|tar, l| tar.dir("a").dir("a").file("a/layer.tar", l)).end());
}

#[test]
fn refuses_layers_and_configurations_that_are_not_those_promised() {
    let other = Tar::default().file("bin/app", b"another").end();
    let error = refuse(&one_layer(|tar, _| tar.file("a/layer.tar", &other)).end());
    let (claimed, there) = (Digest::of(&layers()[0]), Digest::of(&other));
    assert!(
        matches!(
            &error,
            Error::Layer { number: 1, of: 1, digest, source: LayerError::DiffId { expected, found } }
                if (*digest, *expected, *found) == (claimed, claimed, there)
        ),
        "{}",
        chain(&error)
    );

    let (good, bad) = (config(&layers()), config(&layers()[..1]));
    let image = saved(&config_name(&good), &[], &["0", "1"]);
    let error = refuse(&put_manifest(Tar::default().file(&config_name(&good), &bad), &[image]).end());
    assert!(
        matches!(oci_error(&error), OciError::BlobDigest { expected, .. } if *expected == Digest::of(&good))
    );

    // A layer that is named after a digest of its own has to have it as well.
    let layer = &layers()[0];
    let config = config(&layers()[..1]);
    let blob = format!("blobs/sha256/{}", Digest::of(b"something else").to_hex());
    let tar = Tar::default().file("c.json", &config).file(&blob, layer);
    let error = refuse(&put_manifest(tar, &[saved("c.json", &[], &[&blob])]).end());
    assert!(
        matches!(oci_error(&error), OciError::BlobDigest { found, .. } if *found == Digest::of(layer)),
        "{}",
        chain(&error)
    );
}

#[test]
fn refuses_documents_that_do_not_fit() {
    type Check = fn(&OciError) -> bool;
    let config = config(&layers());
    let arm = String::from_utf8(config.clone()).unwrap().replace("amd64", "arm64");
    let cases: Vec<(Vec<u8>, &[u8], Check)> = vec![
        (b"[{".to_vec(), b"", |e| matches!(e, OciError::Json { file, .. } if file == "manifest.json")),
        (b"[]".to_vec(), b"", |e| matches!(e, OciError::NoPlatform { .. })),
        (vec![b' '; (4 << 20) + 1], b"", |e| matches!(e, OciError::JsonTooLong { .. })),
        (br#"[{"Config":"c","RepoTags":null,"Layers":null}]"#.to_vec(), &config, |e| {
            matches!(e, OciError::LayerCount { layers: 0, diff_ids: 2 })
        }),
        (
            br#"[{"Config":"c","Layers":["c"]}]"#.to_vec(),
            arm.as_bytes(),
            |e| matches!(e, OciError::NoPlatform { found, .. } if found == &["linux/arm64"]),
        ),
        (serde_json::to_vec(&[saved("c", &[], &["c"; 1025])]).unwrap(), &config, |e| {
            matches!(e, OciError::TooManyLayers { found: 1025 })
        }),
    ];
    for (manifest, config, is_expected) in cases {
        let error = refuse(&Tar::default().file("c", config).file("manifest.json", &manifest).end());
        assert!(is_expected(oci_error(&error)), "{}", chain(&error));
    }
    let error = refuse(&Tar::default().file("bin/app", b"").end());
    assert!(matches!(oci_error(&error), OciError::NotAnImage), "{}", chain(&error));
}

#[test]
fn refuses_archives_that_are_cut_or_no_archives() {
    let whole = legacy(&layers()).end();
    let without_end = legacy(&layers()).cut();
    let lengths = [1, 511, 513, 700, whole.len() / 2, without_end.len() - 1, without_end.len()];
    for compression in COMPRESSIONS {
        for len in lengths {
            let error = refuse(&compression.pack(&whole[..len]));
            assert!(
                matches!(
                    error,
                    Error::Archive {
                        source: LayerError::Truncated
                            | LayerError::Damaged(_)
                            | LayerError::NotAnArchive { .. },
                        ..
                    }
                ),
                "{compression:?} {len}: {}",
                chain(&error)
            );
        }
        if compression != Compression::None {
            let packed = compression.pack(&whole);
            for len in [5, packed.len() / 2, packed.len() - 1] {
                let error = refuse(&packed[..len]);
                assert!(
                    matches!(error, Error::Archive { source: LayerError::Damaged(_), .. }),
                    "{compression:?} {len}: {}",
                    chain(&error)
                );
            }
        }
    }
    assert!(matches!(refuse(b""), Error::Archive { source: LayerError::NotAnArchive { .. }, .. }));
    let workshop = Workshop::new();
    assert!(matches!(workshop.refuse(IMAGE), Error::Input(_)));
    fs::create_dir(workshop.path("app.tar")).unwrap();
    assert!(matches!(workshop.refuse(IMAGE), Error::Input(_)));
    // Opening a named pipe waits for its other end unless one takes care.
    fs::remove_dir(workshop.path("app.tar")).unwrap();
    assert!(Command::new("mkfifo").arg(workshop.path("app.tar")).status().unwrap().success());
    assert!(matches!(workshop.refuse(IMAGE), Error::Input(_)));
}

#[test]
fn refuses_bombs() {
    let mut workshop = Workshop::new();
    workshop.limits.unpacked_bytes = 1_000_000;
    let bomb = vec![Tar::default().file("zeros", &vec![0; 2_000_000]).end()];
    for compression in [Compression::Gzip, Compression::Zstd] {
        // The archive itself is the bomb, or a layer in it.
        write(&workshop, &compression.pack(&legacy(&bomb).end()));
        let error = workshop.refuse(IMAGE);
        assert!(
            matches!(error, Error::Archive { source: LayerError::UnpackedTooLarge { limit: 1_000_000 }, .. }),
            "{}",
            chain(&error)
        );
        let layout_shop = Workshop::new();
        let layout = simple_layout(&layout_shop, &bomb, compression);
        write(&workshop, &archive_of(&layout.root).end());
        let error = workshop.refuse(IMAGE);
        assert!(
            matches!(error, Error::Layer { number: 1, source: LayerError::UnpackedTooLarge { .. }, .. }),
            "{}",
            chain(&error)
        );
    }
    workshop.limits.entries = 5;
    write(&workshop, &legacy(&layers()).end());
    let error = workshop.refuse(IMAGE);
    assert!(matches!(error, Error::Archive { source: LayerError::TooManyEntries { limit: 5 }, .. }));
}

/// skopeo is what most people without Docker make such archives with.
#[test]
fn takes_what_skopeo_writes() {
    if !Command::new("skopeo").arg("--version").output().is_ok_and(|o| o.status.success()) {
        println!("skipped: skopeo not installed");
        return;
    }
    let (workshop, reference) = from_layout();
    for (kind, tag) in [("docker-archive", "web:1.2"), ("oci-archive", "1.2")] {
        let target = format!("{kind}:app.tar:{tag}");
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "oci:image", &target]).current_dir(workshop.dir.path());
        let output = skopeo.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let archive = fs::read(workshop.path("app.tar")).unwrap();
        for bytes in [Compression::Gzip.pack(&archive), archive] {
            write(&workshop, &bytes);
            let report = workshop.build(&format!(r#"{{ archive = "app.tar", tag = "{tag}" }}"#)).unwrap();
            assert_eq!(report.pcrs, reference.pcrs, "{kind}");
        }
        // skopeo does not write over an archive.
        fs::remove_file(workshop.path("app.tar")).unwrap();
    }
}
