//! The SBOM and the provenance that go with an image.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::fs;

use manifest::Manifest;
use rbuilds::{BuildInput, BuildReport, Digest, Documents, Kernel, Limits, build_documented};
use serde_json::Value;
use support::{Compression, Tar, Workshop, simple_layout};

fn build_in(workshop: &Workshop, image: &str, output: &str) -> (BuildReport, Documents) {
    let text = format!("name = \"test\"\nimage = {image}\n[app]\ncommand = [\"/bin/app\"]\n");
    let manifest = Manifest::parse(&text).unwrap();
    let input = BuildInput {
        manifest: &manifest,
        base_dir: workshop.dir.path(),
        guest_binary: &workshop.path("guest"),
        kernel: Kernel::new(workshop.path("bzImage"), None),
        output: &workshop.path(output),
        limits: Limits::default(),
        registry: workshop.registry.clone(),
        build_time: 0,
        signer: None,
    };
    build_documented(&input, &|_| {}).unwrap()
}

fn layers() -> Vec<Vec<u8>> {
    let status = b"Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n";
    let base = Tar::default()
        .file("etc/os-release", b"ID=debian\nVERSION_ID=\"12\"\n")
        .file("var/lib/dpkg/status", status)
        .end();
    let app = Tar::default()
        .put(b'0', b"bin/app", b"", b"an application", 0o755)
        .file("app/node_modules/x/package.json", br#"{"name":"x","version":"1.0.0","license":"MIT"}"#)
        .file("app/node_modules/broken/package.json", b"{")
        .end();
    vec![base, app]
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn component<'a>(sbom: &'a Value, reference: &str) -> &'a Value {
    let components = sbom["components"].as_array().unwrap();
    components
        .iter()
        .find(|c| c["bom-ref"] == reference)
        .unwrap_or_else(|| panic!("no {reference} in {sbom}"))
}

#[test]
fn the_sbom_names_packages_and_what_the_framework_adds() {
    let workshop = Workshop::new();
    simple_layout(&workshop, &layers(), Compression::Gzip);
    let (report, documents) = build_in(&workshop, r#"{ oci = "image" }"#, "out/app.eif");
    let sbom = json(&documents.sbom);
    let libc = component(&sbom, "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12");
    assert_eq!(libc["version"], "2.36-9");
    assert_eq!(libc["evidence"]["occurrences"][0]["location"], "/var/lib/dpkg/status");
    assert_eq!(component(&sbom, "pkg:npm/x@1.0.0")["licenses"][0]["license"]["name"], "MIT");
    assert_eq!(component(&sbom, "os")["version"], "12");
    assert_eq!(component(&sbom, "kernel")["hashes"][0]["content"], report.kernel.to_hex());
    assert_eq!(component(&sbom, "init")["hashes"][0]["content"], report.guest_binary.to_hex());
    assert_eq!(sbom["metadata"]["component"]["properties"][0]["value"], report.pcrs[&0].to_string());
    let unread = &sbom["metadata"]["properties"][0];
    assert_eq!(unread["name"], "glasshouse:unread");
    assert!(unread["value"].as_str().unwrap().starts_with("/app/node_modules/broken/package.json: "));
    assert_eq!(documents.notes.len(), 1);
    assert!(report.notes.is_empty(), "{:?}", report.notes);
}

#[test]
fn the_provenance_names_inputs_and_image() {
    let workshop = Workshop::new();
    let layout = simple_layout(&workshop, &layers(), Compression::None);
    let (report, documents) = build_in(&workshop, r#"{ oci = "image" }"#, "out/app.eif");
    let statement = json(&documents.provenance);
    let image = fs::read(workshop.output()).unwrap();
    let subject = &statement["subject"][0];
    assert_eq!(subject["digest"]["sha256"], Digest::of(&image).to_hex());
    assert_eq!(subject["annotations"]["pcr16"], report.pcrs[&16].to_string());
    let definition = &statement["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["cmdline"], report.cmdline);
    assert_eq!(definition["externalParameters"]["manifest"]["services"][0]["command"][0], "/bin/app");
    let inputs: Vec<_> = definition["resolvedDependencies"].as_array().unwrap().iter().collect();
    let named = |name: &str| &inputs.iter().find(|input| input["name"] == name).unwrap()["digest"]["sha256"];
    assert_eq!(*named("kernel"), report.kernel.to_hex());
    assert_eq!(*named("guest-program"), report.guest_binary.to_hex());
    assert_eq!(*named("image-manifest"), report.image_manifest.unwrap().to_hex());
    assert_eq!(layout.index[0]["digest"], format!("sha256:{}", named("image-manifest").as_str().unwrap()));
    assert_eq!(*named("layer-2"), Digest::of(&layers()[1]).to_hex());
    let sbom = &statement["predicate"]["runDetails"]["byproducts"][0];
    assert_eq!(sbom["digest"]["sha256"], Digest::of(documents.sbom.as_bytes()).to_hex());
}

#[test]
fn the_same_inputs_elsewhere_give_the_same_documents() {
    let documents = ["out/app.eif", "out/another-name.eif"].map(|output| {
        let workshop = Workshop::new();
        simple_layout(&workshop, &layers(), Compression::Gzip);
        let documents = build_in(&workshop, r#"{ oci = "image" }"#, output).1;
        let paths = documents.write_beside(&workshop.path(output)).unwrap();
        assert_eq!(paths.sbom, workshop.path(&format!("{output}.sbom.json")));
        assert_eq!(fs::read_to_string(paths.sbom).unwrap(), documents.sbom);
        assert_eq!(fs::read_to_string(paths.provenance).unwrap(), documents.provenance);
        documents
    });
    assert_eq!(documents[0], documents[1]);
}

/// What this machine itself has installed, if it is of Debian's kind.
#[test]
fn a_real_database_of_dpkg_is_read_whole() {
    let (Ok(status), Ok(os)) = (fs::read("/var/lib/dpkg/status"), fs::read("/etc/os-release")) else {
        println!("skipped: this machine has no database of dpkg");
        return;
    };
    let workshop = Workshop::new();
    let root = Tar::default().file("etc/os-release", &os).file("var/lib/dpkg/status", &status).end();
    fs::write(workshop.path("root.tar"), root).unwrap();
    let (_, documents) = build_in(&workshop, r#"{ rootfs = "root.tar" }"#, "out/app.eif");
    let sbom = json(&documents.sbom);
    let found = sbom["components"].as_array().unwrap().iter().filter(|c| c["type"] == "library").count();
    let text = String::from_utf8_lossy(&status);
    let installed =
        text.lines().filter(|line| line.starts_with("Status:") && line.ends_with(" installed")).count();
    assert!(installed > 0);
    assert_eq!(found, installed);
    assert!(documents.notes.is_empty(), "{:?}", documents.notes);
}
