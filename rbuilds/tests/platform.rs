//! What the kernel decides: the processors of an image, and by its age what the image may have. Images for aarch64 are not booted here.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::fs;

use eif::Architecture;
use rbuilds::{Error, find_kernel};
use support::{Compression, Tar, Workshop, chain, simple_layout};

/// As much of a program as says what it is for.
fn program(machine: u16) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes
}

const X86_64: u16 = 62;
const AARCH64: u16 = 183;

/// A root file system of Debian's shape, in which `bin` is a link.
fn rootfs(workshop: &Workshop, machine: u16) {
    let root = workshop.path("rootfs");
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::create_dir_all(root.join("opt")).unwrap();
    fs::write(root.join("opt/real"), program(machine)).unwrap();
    fs::write(root.join("usr/bin/script"), "#!/bin/sh\n").unwrap();
    for (target, link) in [("usr/bin", "bin"), ("../../opt/./real", "usr/bin/app"), ("loop", "usr/bin/loop")]
    {
        std::os::unix::fs::symlink(target, root.join(link)).unwrap();
    }
}

fn manifest(command: &str, more: &str) -> String {
    format!("name = \"x\"\nimage = {{ rootfs = \"rootfs\"{more} }}\n[app]\ncommand = [\"{command}\"]\n")
}

#[test]
fn a_program_for_other_processors_is_refused_wherever_links_lead_to_it() {
    let workshop = Workshop { architecture: Architecture::Aarch64, ..Workshop::new() };
    rootfs(&workshop, X86_64);
    for command in ["/bin/app", "app", "/usr/bin/../bin/app"] {
        let error = workshop.build_text(&manifest(command, "")).unwrap_err();
        assert!(
            matches!(&error, Error::ProgramArchitecture { program, .. } if program == command),
            "{error}"
        );
        assert!(chain(&error).contains("is for x86-64, the kernel for aarch64"), "{}", chain(&error));
    }
    // What is no program, not there, or leads round, is found out by who starts it.
    for command in ["/bin/script", "/nowhere", "/bin/loop"] {
        workshop.build_text(&manifest(command, "")).unwrap();
    }
}

#[test]
fn programs_for_the_kernels_processors_are_taken() {
    let workshop = Workshop { architecture: Architecture::Aarch64, ..Workshop::new() };
    rootfs(&workshop, AARCH64);
    fs::write(workshop.path("guest"), program(AARCH64)).unwrap();
    workshop.build_text(&manifest("/bin/app", ", architecture = \"aarch64\"")).unwrap();
    fs::write(workshop.path("guest"), program(X86_64)).unwrap();
    let error = workshop.build_text(&manifest("/bin/app", "")).unwrap_err();
    assert!(matches!(&error, Error::ProgramArchitecture { program, .. } if program.ends_with("/guest")));
}

#[test]
fn a_manifest_that_wants_other_processors_than_the_kernels_is_refused() {
    let workshop = Workshop::new();
    rootfs(&workshop, X86_64);
    let error = workshop.build_text(&manifest("/bin/app", ", architecture = \"aarch64\"")).unwrap_err();
    assert!(chain(&error).contains("image.architecture is aarch64, but the kernel is for x86_64"));
    workshop.build_text(&manifest("/bin/app", ", architecture = \"x86_64\"")).unwrap();
}

/// What passes for a kernel that says its version (Linux, `Documentation/arch/x86/boot.rst`).
fn kernel(version: &str) -> Vec<u8> {
    let mut bytes = vec![0; 0x300];
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    bytes.extend_from_slice(version.as_bytes());
    bytes.extend_from_slice(b" (builder@host) #1\0");
    bytes
}

#[test]
fn a_kernel_without_openat2_boots_no_monitor_and_no_control_channel() {
    let workshop = Workshop::new();
    rootfs(&workshop, X86_64);
    let plain = manifest("/bin/app", "");
    let monitored = format!("{plain}[monitor]\nroots = [\"/opt\"]\n");
    fs::write(workshop.path("bzImage"), kernel("4.14.256-209.484.amzn2.x86_64")).unwrap();
    workshop.build_text(&plain).unwrap();
    let error = workshop.build_text(&monitored).unwrap_err();
    assert!(matches!(&error, Error::KernelTooOld { part: "monitor", .. }), "{error}");
    assert!(chain(&error).contains("is Linux 4.14.256-209.484.amzn2.x86_64"), "{}", chain(&error));
    for version in ["5.6.0", "6.12.117", "10.0", "of-mine"] {
        fs::write(workshop.path("bzImage"), kernel(version)).unwrap();
        workshop.build_text(&monitored).unwrap();
    }
}

#[test]
fn a_kernel_for_aarch64_is_known_by_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Image");
    let mut image = vec![0; 4096];
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    fs::write(&path, &image).unwrap();
    let kernel = find_kernel(Some(path.clone())).unwrap();
    assert_eq!((kernel.architecture, kernel.reads_file_systems), (Architecture::Aarch64, None));
    // A folder like the vendor's.
    fs::write(folder.path().join("nsm.ko"), program(AARCH64)).unwrap();
    let kernel = find_kernel(Some(folder.path().to_owned())).unwrap();
    assert_eq!((kernel.architecture, kernel.bzimage), (Architecture::Aarch64, path.clone()));
    assert_eq!(kernel.nsm_ko, Some(folder.path().join("nsm.ko")));
    image[0x38] = b'X';
    fs::write(&path, &image).unwrap();
    assert!(find_kernel(Some(path)).unwrap_err().to_string().contains("bzImage, or Image for aarch64"));
}

#[test]
fn a_container_image_for_other_processors_is_named() {
    let workshop = Workshop { architecture: Architecture::Aarch64, ..Workshop::new() };
    simple_layout(&workshop, &[Tar::default().file("bin/app", b"x").end()], Compression::Gzip);
    let said = chain(&workshop.refuse(r#"{ oci = "image" }"#));
    assert!(said.contains("no image for linux/arm64") && said.contains("linux/amd64"), "{said}");
}
