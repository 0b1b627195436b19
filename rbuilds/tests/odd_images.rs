//! Image layouts as real tools leave them: with things beside the image, `null` for lists, and media types of several ages.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use rbuilds::Digest;
use serde_json::{Value, json};
use support::{Compression, INDEX, LayoutDir, MANIFEST, Tar, Workshop, chain};

const IMAGE: &str = "{ oci = \"image\" }";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image whose one file says which it is.
fn image(layout: &LayoutDir, content: &str, more: &Value) -> Value {
    let tar = Tar::default().file("app", content.as_bytes()).end();
    let mut image = layout.image(&[layout.layer(&tar, Compression::Gzip)], &json!({}), "amd64");
    image.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    image
}

fn attached(layout: &LayoutDir, config: &str, more: &Value) -> Value {
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": layout.blob(config, b"{}"),
        "layers": [layout.blob("application/vnd.in-toto+json", b"{}")]});
    let mut attached = layout.json_blob(MANIFEST, &manifest);
    attached.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    attached
}

fn platform(variant: Option<&str>) -> Value {
    json!({"platform": {"os": "linux", "architecture": "amd64", "variant": variant}})
}

type Prepare = fn(&LayoutDir) -> Vec<Value>;

/// What engines find in these, we find.
#[test]
fn the_image_is_found_among_what_tools_put_beside_it() {
    const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    let cases: Vec<(&str, Prepare)> = vec![
        ("attestations of BuildKit, with and without platforms", |l| {
            let attestation = json!({"platform": {"os": "unknown", "architecture": "unknown"},
                "annotations": {"vnd.docker.reference.type": "attestation-manifest"}});
            let bare = json!({"annotations": {"vnd.docker.reference.type": "attestation-manifest"}});
            let manifests = [
                image(l, "wanted", &platform(None)),
                attached(l, OCI_CONFIG, &attestation),
                attached(l, OCI_CONFIG, &bare),
            ];
            vec![l.json_blob(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))]
        }),
        ("an artifact that says so", |l| {
            vec![
                attached(l, EMPTY, &json!({"artifactType": "application/spdx+json"})),
                image(l, "wanted", &json!({})),
            ]
        }),
        ("an artifact that only its manifest tells", |l| {
            vec![attached(l, EMPTY, &json!({})), image(l, "wanted", &json!({}))]
        }),
        ("a signature that only its tag tells", |l| {
            let tag = json!({"annotations": {REF_NAME: "sha256-0123.sig"}});
            vec![image(l, "wanted", &json!({"annotations": {REF_NAME: "v1"}})), attached(l, OCI_CONFIG, &tag)]
        }),
        ("several generations of processors", |l| {
            [Some("v3"), None, Some("v2")]
                .map(|v| image(l, if v.is_none() { "wanted" } else { "too new" }, &platform(v)))
                .to_vec()
        }),
        ("one image with two names", |l| {
            ["a", "b"].map(|tag| image(l, "wanted", &json!({"annotations": {REF_NAME: tag}}))).to_vec()
        }),
    ];
    for (label, prepare) in cases {
        let workshop = Workshop::new();
        let mut layout = LayoutDir::new(workshop.path("image"));
        layout.index = prepare(&layout);
        layout.write_index();
        workshop.build(IMAGE).unwrap_or_else(|e| panic!("{label}: {}", chain(&e)));
        assert_eq!(workshop.application()[&b"app"[..]].1, b"wanted", "{label}");
    }
}

/// Two images with names of their own are for a person to choose from, whatever else they say.
#[test]
fn named_images_are_never_chosen_from_and_answer_to_the_tag_in_their_name() {
    let workshop = Workshop::new();
    let mut layout = LayoutDir::new(workshop.path("image"));
    let named = |name: &str, variant: &str| {
        let mut more = platform(Some(variant));
        more["annotations"] = json!({REF_NAME: name});
        image(&layout, name, &more)
    };
    layout.index = vec![named("registry.example/x/y:one", "v1"), named("two", "v2")];
    layout.write_index();
    let error = workshop.refuse(IMAGE);
    assert!(chain(&error).contains("it holds 2 images") && error.is_mistake(), "{}", chain(&error));
    for (tag, content) in [
        ("one", "registry.example/x/y:one"),
        ("two", "two"),
        ("registry.example/x/y:one", "registry.example/x/y:one"),
    ] {
        workshop.build(&format!("{{ oci = \"image\", tag = \"{tag}\" }}")).unwrap();
        assert_eq!(workshop.application()[&b"app"[..]].1, content.as_bytes(), "{tag}");
    }
}

#[test]
fn layers_are_read_whatever_of_the_media_types_they_have() {
    for media_type in [
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        GZIP,
    ] {
        let workshop = Workshop::new();
        let mut layout = LayoutDir::new(workshop.path("image"));
        // Not compressed, whatever the type says: some tools do that.
        let tar = Tar::default().file("app", b"x").end();
        let layer = (layout.blob(media_type, &tar), Digest::of(&tar));
        layout.index = vec![layout.image(&[layer], &json!({}), "x86_64")];
        layout.write_index();
        workshop.build(IMAGE).unwrap_or_else(|e| panic!("{media_type}: {}", chain(&e)));
    }
}

/// Programs written in Go write `null` for a list without elements.
#[test]
fn an_image_without_layers_is_an_empty_one_however_that_is_written() {
    for nothing in [json!([]), Value::Null] {
        let workshop = Workshop::new();
        let mut layout = LayoutDir::new(workshop.path("image"));
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": nothing}});
        let manifest = json!({"schemaVersion": 2, "layers": nothing,
            "config": layout.json_blob("application/vnd.oci.image.config.v1+json", &config)});
        layout.index = vec![layout.json_blob(MANIFEST, &manifest)];
        layout.write_index();
        let report = workshop.build(IMAGE).unwrap_or_else(|e| panic!("{nothing}: {}", chain(&e)));
        assert_eq!(report.content_bytes, 0);
    }
}

#[test]
fn what_is_no_image_is_called_what_it_is() {
    let cases: Vec<(&str, Prepare)> = vec![
        ("which is encrypted", |l| {
            let tar = Tar::default().file("app", b"x").end();
            let layer = (l.blob(&format!("{GZIP}+encrypted"), &tar), Digest::of(&tar));
            vec![l.image(&[layer], &json!({}), "amd64")]
        }),
        ("Docker's first form of images", |l| {
            vec![
                l.blob("application/vnd.docker.distribution.manifest.v1+prettyjws", b"{\"schemaVersion\":1}"),
            ]
        }),
        ("is no container image: its configuration is \"application/vnd.oci.empty.v1+json\"", |l| {
            vec![attached(l, "application/vnd.oci.empty.v1+json", &json!({}))]
        }),
        ("it has no image for linux/amd64", |_| Vec::new()),
    ];
    for (expected, prepare) in cases {
        let workshop = Workshop::new();
        let mut layout = LayoutDir::new(workshop.path("image"));
        layout.index = prepare(&layout);
        layout.write_index();
        let error = workshop.refuse(IMAGE);
        assert!(chain(&error).contains(expected), "{expected}: {}", chain(&error));
    }
}
