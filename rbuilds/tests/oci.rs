//! Image layouts: which image is taken, and what is checked of it.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::fs;

use eif::{Architecture, Eif};
use rbuilds::{Digest, Error, LayerError, OciError, measured_manifest};
use serde_json::{Value, json};
use support::{Compression, INDEX, LayoutDir, MANIFEST, Tar, Workshop, chain, simple_layout};

const IMAGE: &str = r#"{ oci = "image" }"#;

fn one_layer() -> Vec<Vec<u8>> {
    vec![Tar::default().file("bin/app", &[7; 5000]).end()]
}

/// An image whose only file says which image it is.
fn marked(layout: &LayoutDir, mark: &str, architecture: &str) -> Value {
    let tar = Tar::default().file("mark", mark.as_bytes()).end();
    layout.image(&[layout.layer(&tar, Compression::Gzip)], &json!({}), architecture)
}

fn mark(workshop: &Workshop) -> Vec<u8> {
    workshop.application()[&b"mark"[..]].1.clone()
}

fn with(mut descriptor: Value, member: &str, value: Value) -> Value {
    descriptor[member] = value;
    descriptor
}

fn tagged(descriptor: Value, tag: &str) -> Value {
    with(descriptor, "annotations", json!({"org.opencontainers.image.ref.name": tag}))
}

fn platform(descriptor: Value, os: &str, architecture: &str) -> Value {
    with(descriptor, "platform", json!({"os": os, "architecture": architecture}))
}

fn oci_error(error: &Error) -> &OciError {
    match error {
        Error::Oci { source, .. } | Error::Layer { source: LayerError::Blob(source), .. } => source,
        other => panic!("not about the layout: {}", chain(other)),
    }
}

#[test]
fn every_compression_gives_the_same_image_contents() {
    let build = |compression| {
        let workshop = Workshop::new();
        simple_layout(&workshop, &one_layer(), compression);
        let report = workshop.build(IMAGE).unwrap();
        assert_eq!(workshop.application()[&b"bin/app"[..]].1, [7; 5000]);
        (report.pcrs, report.image_manifest.unwrap())
    };
    let (plain, plain_manifest) = build(Compression::None);
    let (gzip, gzip_manifest) = build(Compression::Gzip);
    let (zstd, _) = build(Compression::Zstd);
    assert_eq!(plain, gzip);
    assert_eq!(plain, zstd);
    assert_ne!(plain_manifest, gzip_manifest);
}

#[test]
fn the_image_says_how_its_program_is_run_and_the_manifest_overrides() {
    let workshop = Workshop::new();
    let mut layout = LayoutDir::new(workshop.path("image"));
    let layer = layout.layer(&one_layer()[0], Compression::Gzip);
    let run = json!({
        "Entrypoint": ["/bin/app"], "Cmd": ["--port", "80"], "Env": ["PATH=/opt/bin", "A=1=2"],
        "WorkingDir": "/srv", "User": "1000:1000", "ExposedPorts": {"80/tcp": {}}, "Labels": null,
    });
    let image = layout.image(&[layer], &run, "amd64");
    layout.index.push(image);
    layout.write_index();

    let service = |text: &str| {
        workshop.build_text(text).unwrap();
        let bytes = measured_manifest(&workshop.output()).unwrap();
        manifest::Measured::from_canonical_json(&bytes).unwrap().main_service().clone()
    };
    let plain = service("name = \"x\"\nimage = { oci = \"image\" }\n");
    assert_eq!(plain.command, ["/bin/app", "--port", "80"]);
    assert_eq!((plain.workdir.as_str(), plain.user.as_str()), ("/srv", "1000:1000"));
    assert_eq!(plain.env["PATH"], "/opt/bin");
    assert_eq!(plain.env["A"], "1=2");
    let overridden = service(
        "name = \"x\"\nimage = { oci = \"image\" }\n[app]\ncommand = [\"/bin/sh\"]\nuser = \"0\"\nenv = { A = \"3\" }\n",
    );
    assert_eq!(overridden.command, ["/bin/sh"]);
    assert_eq!((overridden.env["A"].as_str(), overridden.user.as_str()), ("3", "0"));
    assert_eq!(overridden.env["PATH"], "/opt/bin");
}

#[test]
fn takes_the_image_with_the_tag() {
    let workshop = Workshop::new();
    let mut layout = LayoutDir::new(workshop.path("image"));
    for tag in ["one", "two"] {
        let image = tagged(marked(&layout, tag, "amd64"), tag);
        layout.index.push(image);
    }
    layout.write_index();
    let error = workshop.refuse(IMAGE);
    assert!(
        matches!(oci_error(&error), OciError::Ambiguous { found: 2, tags, .. } if tags == &["one", "two"]),
        "{}",
        chain(&error)
    );
    let error = workshop.refuse(r#"{ oci = "image", tag = "three" }"#);
    assert!(
        matches!(oci_error(&error), OciError::NoSuchTag { tag, tags } if tag == "three" && tags.len() == 2)
    );
    workshop.build(r#"{ oci = "image", tag = "two" }"#).unwrap();
    assert_eq!(mark(&workshop), b"two");
}

#[test]
fn takes_the_image_for_enclaves_out_of_an_index_of_platforms() {
    let workshop = Workshop::new();
    let mut layout = LayoutDir::new(workshop.path("image"));
    let arm = platform(marked(&layout, "arm", "arm64"), "linux", "arm64");
    let amd = platform(marked(&layout, "amd", "amd64"), "linux", "amd64");
    // Builders add attestations for a platform that is none.
    let attestation = platform(marked(&layout, "attestation", "unknown"), "unknown", "unknown");
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [arm, amd, attestation]});
    layout.index.push(tagged(layout.json_blob(INDEX, &index), "multi"));
    layout.write_index();
    workshop.build(r#"{ oci = "image", tag = "multi" }"#).unwrap();
    assert_eq!(mark(&workshop), b"amd");
    let architecture = |workshop: &Workshop| {
        Eif::open(fs::File::open(workshop.output()).unwrap()).unwrap().header().architecture
    };
    assert_eq!(architecture(&workshop), Architecture::X86_64);
    let workshop = Workshop { architecture: Architecture::Aarch64, ..workshop };
    workshop.build(r#"{ oci = "image", tag = "multi", architecture = "aarch64" }"#).unwrap();
    assert_eq!(mark(&workshop), b"arm");
    assert_eq!(architecture(&workshop), Architecture::Aarch64);
}

#[test]
fn refuses_images_for_other_platforms() {
    let workshop = Workshop::new();
    let mut layout = LayoutDir::new(workshop.path("image"));
    let arm = marked(&layout, "arm", "arm64");
    layout.index.push(platform(arm.clone(), "linux", "arm64"));
    layout.write_index();
    let check = |error: &Error| {
        assert!(
            matches!(oci_error(error), OciError::NoPlatform { found, .. } if found == &["linux/arm64"]),
            "{}",
            chain(error)
        );
    };
    check(&workshop.refuse(IMAGE));
    // The configuration is what counts where the descriptor says nothing.
    layout.index = vec![arm];
    layout.write_index();
    check(&workshop.refuse(IMAGE));
}

#[test]
fn refuses_indexes_nested_without_end() {
    let workshop = Workshop::new();
    let mut layout = LayoutDir::new(workshop.path("image"));
    let mut descriptor = marked(&layout, "deep", "amd64");
    for _ in 0..4 {
        descriptor = layout.json_blob(INDEX, &json!({"schemaVersion": 2, "manifests": [descriptor]}));
    }
    layout.index = vec![descriptor.clone()];
    layout.write_index();
    workshop.build(IMAGE).unwrap();
    fs::remove_file(workshop.output()).unwrap();
    layout.index = vec![layout.json_blob(INDEX, &json!({"schemaVersion": 2, "manifests": [descriptor]}))];
    layout.write_index();
    assert!(matches!(oci_error(&workshop.refuse(IMAGE)), OciError::IndexTooDeep));
}

/// The blob of the only layer of a simple layout.
fn layer_blob(layout: &LayoutDir) -> (Digest, std::path::PathBuf) {
    let read = |descriptor: &Value| -> (Digest, std::path::PathBuf) {
        let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
        (digest, layout.blob_path(&digest))
    };
    let manifest: Value = serde_json::from_slice(&fs::read(read(&layout.index[0]).1).unwrap()).unwrap();
    read(&manifest["layers"][0])
}

#[test]
fn refuses_blobs_that_are_not_what_their_names_promise() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let workshop = Workshop::new();
        let layout = simple_layout(&workshop, &one_layer(), compression);
        let (digest, path) = layer_blob(&layout);
        let good = fs::read(&path).unwrap();

        fs::write(&path, &good[..good.len() - 1]).unwrap();
        let error = workshop.refuse(IMAGE);
        assert!(
            matches!(oci_error(&error), OciError::BlobSize { digest: d, .. } if *d == digest),
            "{}",
            chain(&error)
        );
        // Wherever the damage is, the digest is what is said to be wrong.
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            fs::write(&path, &bad).unwrap();
            let error = workshop.refuse(IMAGE);
            let found = Digest::of(&bad);
            assert!(
                matches!(oci_error(&error), OciError::BlobDigest { expected: e, found: f } if *e == digest && *f == found),
                "{compression:?} {at}: {}",
                chain(&error)
            );
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(oci_error(&workshop.refuse(IMAGE)), OciError::Read { .. }));
    }
}

#[test]
fn refuses_a_manifest_that_was_changed() {
    let workshop = Workshop::new();
    let layout = simple_layout(&workshop, &one_layer(), Compression::Gzip);
    let digest: Digest = layout.index[0]["digest"].as_str().unwrap().parse().unwrap();
    let path = layout.blob_path(&digest);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("+gzip", "+gzIp")).unwrap();
    assert!(matches!(oci_error(&workshop.refuse(IMAGE)), OciError::BlobDigest { .. }));
}

#[test]
fn refuses_a_layer_that_unpacks_to_something_else() {
    let workshop = Workshop::new();
    let mut layout = LayoutDir::new(workshop.path("image"));
    let (blob, good) = layout.layer(&one_layer()[0], Compression::Gzip);
    let claimed = Digest::of(b"something else");
    layout.index = vec![layout.image(&[(blob, claimed)], &json!({}), "amd64")];
    layout.write_index();
    let error = workshop.refuse(IMAGE);
    assert!(
        matches!(
            &error,
            Error::Layer { number: 1, source: LayerError::DiffId { expected, found }, .. }
                if *expected == claimed && *found == good
        ),
        "{}",
        chain(&error)
    );
}

/// The end mark of an archive is not the end of its digest: two archives in one blob have the first one's files.
#[test]
fn the_digest_covers_what_comes_after_the_archives_end() {
    let workshop = Workshop::new();
    let mut layout = LayoutDir::new(workshop.path("image"));
    let tar = one_layer().remove(0);
    let longer = [&tar[..], b"behind the end"].concat();
    let (blob, _) = layout.layer(&longer, Compression::Gzip);
    layout.index = vec![layout.image(&[(blob, Digest::of(&tar))], &json!({}), "amd64")];
    layout.write_index();
    assert!(matches!(workshop.refuse(IMAGE), Error::Layer { source: LayerError::DiffId { .. }, .. }));
}

#[test]
fn refuses_a_decompression_bomb_over_all_layers_together() {
    let mut workshop = Workshop::new();
    workshop.limits.unpacked_bytes = 1_000_000;
    let layer = |i: usize| Tar::default().file(&format!("f{i}"), &vec![0; 400_000]).end();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let layout = simple_layout(&workshop, &[layer(0), layer(1), layer(2)], compression);
        let error = workshop.refuse(IMAGE);
        assert!(
            matches!(error, Error::Layer { source: LayerError::UnpackedTooLarge { limit: 1_000_000 }, .. }),
            "{}",
            chain(&error)
        );
        fs::remove_dir_all(layout.root).unwrap();
    }
}

#[test]
fn refuses_layouts_that_are_malformed() {
    type Check = fn(&OciError) -> bool;
    let cases: Vec<(&str, &str, Check)> = vec![
        ("oci-layout", r#"{"imageLayoutVersion":"2.0.0"}"#, |e| matches!(e, OciError::LayoutVersion { .. })),
        ("oci-layout", "{", |e| matches!(e, OciError::Json { file, .. } if file == "oci-layout")),
        ("index.json", r#"{"schemaVersion":1,"manifests":[]}"#, |e| {
            matches!(e, OciError::SchemaVersion { found: 1, .. })
        }),
        ("index.json", r#"{"schemaVersion":2,"manifests":[]}"#, |e| matches!(e, OciError::NoPlatform { .. })),
        ("index.json", "[]", |e| matches!(e, OciError::Json { .. })),
        (
            "index.json",
            r#"{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:../../etc/passwd","size":1}]}"#,
            |e| matches!(e, OciError::Json { .. }),
        ),
    ];
    for (file, text, is_expected) in cases {
        let workshop = Workshop::new();
        simple_layout(&workshop, &one_layer(), Compression::Gzip);
        fs::write(workshop.path("image").join(file), text).unwrap();
        let error = workshop.refuse(IMAGE);
        assert!(is_expected(oci_error(&error)), "{}", chain(&error));
    }
    let workshop = Workshop::new();
    simple_layout(&workshop, &one_layer(), Compression::Gzip);
    let long = " ".repeat((4 << 20) + 1);
    fs::write(workshop.path("image/index.json"), long).unwrap();
    assert!(matches!(oci_error(&workshop.refuse(IMAGE)), OciError::JsonTooLong { .. }));
}

#[test]
fn refuses_manifests_that_do_not_fit_their_configuration() {
    type Change = fn(&LayoutDir, &mut Value, &mut Value);
    type Check = fn(&OciError) -> bool;
    let cases: Vec<(Change, Check)> = vec![
        (
            |_, _, config| config["rootfs"]["diff_ids"] = json!([]),
            |e| matches!(e, OciError::LayerCount { layers: 1, diff_ids: 0 }),
        ),
        (
            |_, manifest, _| manifest["layers"][0]["mediaType"] = json!("application/x-encrypted"),
            |e| matches!(e, OciError::MediaType { found, .. } if found == "application/x-encrypted"),
        ),
        (
            |_, manifest, _| manifest["schemaVersion"] = json!(1),
            |e| matches!(e, OciError::SchemaVersion { found: 1, .. }),
        ),
        (
            |_, manifest, _| {
                let layer = manifest["layers"][0].clone();
                manifest["layers"] = json!(vec![layer; 1025]);
            },
            |e| matches!(e, OciError::TooManyLayers { found: 1025 }),
        ),
    ];
    for (change, is_expected) in cases {
        let workshop = Workshop::new();
        let mut layout = LayoutDir::new(workshop.path("image"));
        let (blob, id) = layout.layer(&one_layer()[0], Compression::Gzip);
        let mut config = json!({
            "os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [id.to_string()]},
        });
        let mut manifest = json!({"schemaVersion": 2, "layers": [blob]});
        change(&layout, &mut manifest, &mut config);
        manifest["config"] = layout.json_blob("application/vnd.oci.image.config.v1+json", &config);
        layout.index = vec![layout.json_blob(MANIFEST, &manifest)];
        layout.write_index();
        let error = workshop.refuse(IMAGE);
        assert!(is_expected(oci_error(&error)), "{}", chain(&error));
    }
}

/// umoci's `insert` writes layers whose last block is not filled up, and engines take them. A layer that ends inside a
/// file's content is another matter, even if its digests are right.
#[test]
fn a_last_block_that_is_not_filled_is_taken_and_cut_content_is_not() {
    let content = [7; 5000];
    let archive = Tar::default().file("bin/app", &content).cut();
    let content_end = 512 + content.len();
    for compression in [Compression::None, Compression::Gzip] {
        let workshop = Workshop::new();
        simple_layout(&workshop, &[archive[..content_end].to_vec()], compression);
        workshop.build(IMAGE).unwrap();
        assert_eq!(workshop.application()[&b"bin/app"[..]].1, content);

        let workshop = Workshop::new();
        simple_layout(&workshop, &[archive[..content_end - 1].to_vec()], compression);
        let error = workshop.refuse(IMAGE);
        assert!(matches!(error, Error::Layer { source: LayerError::Truncated, .. }), "{}", chain(&error));
    }
}
