//! The SBOM of an image whose packages rpm itself has built and installed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test says what it skips, and stops unprepared"
)]

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use manifest::Manifest;
use rbuilds::{BuildInput, Documents, Kernel, Limits, build_documented};
use serde_json::Value;
use support::{Compression, Tar, Workshop, simple_layout};

const SPEC: &str = "\
Name: greeter
Epoch: 3
Version: 1.2
Release: 4.test
Summary: Greets
License: MIT
%description
Greets.
%files
%package libs
Summary: Its libraries
License: Apache-2.0 AND ISC
BuildArch: noarch
%description libs
Libraries.
%files libs
";

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The database of a root in which rpm installed packages that rpmbuild made, and its journal.
fn database(folder: &Path) -> [Vec<u8>; 2] {
    fs::write(folder.join("greeter.spec"), SPEC).unwrap();
    let top = format!("_topdir {}", folder.join("top").display());
    let target = ["--target", "x86_64-linux", "--define", &top];
    run(Command::new("rpmbuild").args(["-bb", "--quiet"]).args(target).arg(folder.join("greeter.spec")));
    let db = folder.join("db");
    let rpm = || {
        let mut rpm = Command::new("rpm");
        rpm.arg("--dbpath").arg(&db).args(["--define", "_db_backend sqlite"]);
        rpm
    };
    run(rpm().arg("--initdb"));
    let package = |path| folder.join("top/RPMS").join(path);
    run(rpm()
        .args(["--install", "--justdb", "--nodeps", "--ignorearch"])
        .arg(package("x86_64/greeter-1.2-4.test.x86_64.rpm"))
        .arg(package("noarch/greeter-libs-1.2-4.test.noarch.rpm")));
    [fs::read(db.join("rpmdb.sqlite")).unwrap(), fs::read(db.join("rpmdb.sqlite-wal")).unwrap_or_default()]
}

fn build(workshop: &Workshop) -> Documents {
    let text = "name = \"test\"\nimage = { oci = \"image\" }\n[app]\ncommand = [\"/bin/app\"]\n";
    let manifest = Manifest::parse(text).unwrap();
    let input = BuildInput {
        manifest: &manifest,
        base_dir: workshop.dir.path(),
        guest_binary: &workshop.path("guest"),
        kernel: Kernel::new(workshop.path("bzImage"), None),
        output: &workshop.output(),
        limits: Limits::default(),
        registry: workshop.registry.clone(),
        build_time: 0,
        signer: None,
    };
    build_documented(&input, &|_| {}).unwrap().1
}

#[test]
fn packages_that_rpm_installed_are_named() {
    if Command::new("rpmbuild").arg("--version").output().is_err() {
        println!("skipped: rpm not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let [database, journal] = database(folder.path());
    let workshop = Workshop::new();
    let layer = Tar::default()
        .file("bin/app", b"an application")
        .file("etc/os-release", b"ID=\"amzn\"\nVERSION_ID=\"2023\"\n")
        .file("usr/lib/sysimage/rpm/rpmdb.sqlite", &database)
        .file("usr/lib/sysimage/rpm/rpmdb.sqlite-wal", &journal)
        .end();
    simple_layout(&workshop, &[layer], Compression::Gzip);
    let documents = build(&workshop);
    assert_eq!(documents.notes, []);
    let sbom: Value = serde_json::from_str(&documents.sbom).unwrap();
    let of = |name: &str| {
        let components = sbom["components"].as_array().unwrap();
        components.iter().find(|component| component["name"] == name).unwrap_or_else(|| panic!("{sbom}"))
    };
    let greeter = of("greeter");
    let source = "upstream=greeter-1.2-4.test.src.rpm";
    assert_eq!(
        greeter["purl"],
        format!("pkg:rpm/amzn/greeter@1.2-4.test?arch=x86_64&distro=amzn-2023&epoch=3&{source}")
    );
    assert_eq!(greeter["version"], "3:1.2-4.test");
    assert_eq!(greeter["evidence"]["occurrences"][0]["location"], "/usr/lib/sysimage/rpm/rpmdb.sqlite");
    let libs = of("greeter-libs");
    assert_eq!(libs["licenses"][0]["license"]["name"], "Apache-2.0 AND ISC");
    assert!(libs["purl"].as_str().unwrap().contains("?arch=noarch&"), "{libs}");
}
