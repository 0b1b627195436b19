//! `rbuilds verify`: the same inputs give the same image, and another input is named.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use support::{Tar, Workshop};

/// What passes for a kernel: the magic of a `bzImage` where it has to be.
fn kernel(content: &[u8]) -> Vec<u8> {
    let mut kernel = vec![0; 0x202];
    kernel.extend_from_slice(b"HdrS");
    kernel.extend_from_slice(&[0; 0x100]);
    kernel.extend_from_slice(content);
    kernel
}

fn rootfs(workshop: &Workshop, content: &[u8]) {
    fs::write(workshop.path("rootfs.tar"), Tar::default().file("bin/app", content).end()).unwrap();
}

/// A folder with a manifest, and the image built from it with its reference values.
fn published() -> Workshop {
    let workshop = Workshop::new();
    fs::write(workshop.path("bzImage"), kernel(b"one")).unwrap();
    fs::write(workshop.path("guest"), b"\x7fELF the guest binary").unwrap();
    rootfs(&workshop, b"content");
    let text = "name = \"test\"\nimage = { rootfs = \"rootfs.tar\" }\n[app]\ncommand = [\"/bin/app\"]\n";
    fs::write(workshop.path("glasshouse.toml"), text).unwrap();
    workshop.build_text(text).unwrap().write_beside(&workshop.output()).unwrap();
    workshop
}

fn verify(workshop: &Workshop, more: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_rbuilds"))
        .arg("verify")
        .arg(workshop.output())
        .arg(workshop.dir.path())
        .args(["--kernel".as_ref(), workshop.path("bzImage").as_path()])
        .args(["--enclave".as_ref(), workshop.path("guest").as_path()])
        .args(more)
        .env_remove("SOURCE_DATE_EPOCH")
        .output()
        .unwrap();
    (status.code(), String::from_utf8(stdout).unwrap() + std::str::from_utf8(&stderr).unwrap())
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let workshop = published();
    let before: Vec<_> =
        fs::read_dir(workshop.path("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    let (code, text) = verify(&workshop, &[]);
    assert_eq!((code, text.as_str()), (Some(0), "Reproduced: the rebuilt image has the same bytes.\n"));
    let after: Vec<_> = fs::read_dir(workshop.path("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(before, after);
}

#[test]
fn a_changed_file_is_named() {
    let workshop = published();
    rootfs(&workshop, b"c0ntent");
    let (code, text) = verify(&workshop, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("rootfs/bin/app") && text.ends_with("Not reproduced.\n"), "{text}");
}

#[test]
fn another_input_than_recorded_is_named_first() {
    let workshop = published();
    fs::write(workshop.path("bzImage"), kernel(b"two")).unwrap();
    let (code, text) = verify(&workshop, &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("another kernel: recorded sha256:"), "{text}");
    assert!(!text.contains("another guest binary"), "{text}");
}

#[test]
fn a_difference_that_nothing_measures_is_no_refusal() {
    let workshop = published();
    let keep = workshop.path("rebuilt.eif");
    let text = fs::read_to_string(workshop.path("glasshouse.toml")).unwrap();
    fs::write(workshop.path("glasshouse.toml"), text + "[resources]\nmemory_mib = 1024\n").unwrap();
    let (code, text) = verify(&workshop, &["--keep", keep.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("default memory") && text.contains("nothing measures it"), "{text}");
    assert!(keep.is_file());
}

#[test]
fn scripts_read_json() {
    let workshop = published();
    let (code, text) = verify(&workshop, &["--json"]);
    let verdict: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &verdict["diff"]["identical"]), (Some(0), &serde_json::Value::Bool(true)));
    assert_eq!(verdict["other_inputs"], serde_json::json!([]));
}

#[test]
fn mistakes_are_told_from_failures() {
    let workshop = published();
    fs::write(workshop.path("glasshouse.toml"), "name = 1").unwrap();
    assert_eq!(verify(&workshop, &[]).0, Some(2));
    let workshop = published();
    fs::remove_file(workshop.output()).unwrap();
    let (code, text) = verify(&workshop, &[]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains(&*Path::new("app.eif").to_string_lossy()), "{text}");
}
