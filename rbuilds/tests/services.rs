//! What a build says of services that could not start.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt};

use rbuilds::NoteKind;
use support::Workshop;

/// A program for x86-64 with one segment, which names this interpreter.
fn dynamic(interpreter: &str) -> Vec<u8> {
    let mut bytes = vec![0; 64 + 56];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18] = 62;
    bytes[32] = 64;
    bytes[54] = 56;
    bytes[56] = 1;
    bytes[64] = 3;
    bytes[72] = 120;
    bytes[96] = u8::try_from(interpreter.len() + 1).unwrap();
    bytes.extend_from_slice(interpreter.as_bytes());
    bytes.push(0);
    bytes
}

/// A root file system with programs of every sort.
fn workshop() -> Workshop {
    let workshop = Workshop::new();
    let root = workshop.path("rootfs");
    for folder in ["bin", "etc", "lib64", "srv"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:\nwww:x:33:33::/:\n").unwrap();
    fs::write(root.join("etc/group"), "tls:x:101:\n").unwrap();
    let programs: [(&str, &[u8]); 8] = [
        ("bin/sh", b"\x7fELF\x02\x01"),
        ("bin/script", b"#! /bin/sh -e\n"),
        ("bin/bashism", b"#!/bin/bash\n"),
        ("bin/dynamic", &dynamic("/lib64/ld-linux-x86-64.so.2")),
        ("bin/musl", &dynamic("/lib/ld-musl-x86_64.so.1")),
        ("bin/cut", &dynamic("/x")[..80]),
        ("lib64/ld-linux-x86-64.so.2", b"loader"),
        ("srv/server", b"#!/bin/sh\n"),
    ];
    for (name, content) in programs {
        fs::write(root.join(name), content).unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(root.join("bin/plain"), "#!/bin/sh\n").unwrap();
    workshop
}

/// What is noted of a service with this command and these lines more.
fn noted(workshop: &Workshop, command: &str, more: &str) -> Vec<(NoteKind, String)> {
    let text = format!("name = \"x\"\nimage.rootfs = \"rootfs\"\n[app]\ncommand = [\"{command}\"]\n{more}\n");
    let notes = workshop.build_text(&text).unwrap().notes;
    notes.into_iter().map(|note| (note.kind, note.examples.join(", "))).collect()
}

#[test]
fn programs_that_could_not_start_are_noted() {
    let workshop = workshop();
    for command in ["/bin/sh", "sh", "/bin/script", "/bin/dynamic", "/bin/cut"] {
        assert_eq!(noted(&workshop, command, ""), [], "{command}");
    }
    let expected = [
        ("/bin/srever", NoteKind::ProgramNotThere, "/bin/srever"),
        ("srever", NoteKind::ProgramNotThere, "srever"),
        ("/bin", NoteKind::ProgramNotThere, "/bin"),
        ("plain", NoteKind::ProgramNotExecutable, "plain"),
        ("/bin/bashism", NoteKind::InterpreterNotThere, "/bin/bashism needs /bin/bash"),
        ("/bin/musl", NoteKind::InterpreterNotThere, "/bin/musl needs /lib/ld-musl-x86_64.so.1"),
    ];
    for (command, kind, example) in expected {
        assert_eq!(noted(&workshop, command, ""), [(kind, example.to_owned())], "{command}");
    }
}

#[test]
fn a_path_without_a_beginning_is_taken_from_the_working_directory() {
    let workshop = workshop();
    assert_eq!(noted(&workshop, "./server", "workdir = \"/srv\""), []);
    assert_eq!(noted(&workshop, "./server", "")[0].0, NoteKind::ProgramNotThere);
}

#[test]
fn users_that_the_image_does_not_know_are_noted() {
    let workshop = workshop();
    for user in ["www", "www:tls", "1000", "1000:7", "root:101"] {
        assert_eq!(noted(&workshop, "sh", &format!("user = \"{user}\"")), [], "{user}");
    }
    for user in ["ww", "www:wheel", "1000:wheel"] {
        let expected = [(NoteKind::UserNotThere, user.to_owned())];
        assert_eq!(noted(&workshop, "sh", &format!("user = \"{user}\"")), expected, "{user}");
    }
}
