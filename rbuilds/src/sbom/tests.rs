//! Whole trees looked through, and what the parsers' tests share.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::{io, sync::Arc};

use proptest::prelude::*;

use super::{elf::tests::program, *};
use crate::{
    content::Content,
    tree::{Inode, NewEntry},
};

pub(super) fn debian() -> Os {
    Os::parse(
        b"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian\"\nVERSION_ID=\"12\"\nID=debian\n",
    )
}

/// What a parser finds and refuses.
pub(super) fn purls(
    read: impl FnOnce(&mut dyn FnMut(Result<Item, Malformed>)) -> io::Result<()>,
) -> (Vec<String>, Vec<Malformed>) {
    let (mut found, mut malformed) = (Vec::new(), Vec::new());
    read(&mut |item| match item {
        Ok(item) => found.push(item.purl),
        Err(reason) => malformed.push(reason),
    })
    .unwrap();
    (found, malformed)
}

fn inventory_of(tree: &Tree) -> Inventory {
    Inventory::of(tree, tempfile::tempdir().unwrap().path())
}

/// A tree of files with these modes.
fn tree(files: &[(&str, u32, &[u8])]) -> Tree {
    let mut tree = Tree::new();
    for (path, mode, content) in files {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, content).unwrap();
        let kind = Kind::File(Content::slice(std::sync::Arc::new(file), 0, content.len() as u64));
        let entry = NewEntry::Inode(Inode { mode: *mode, uid: 0, gid: 0, kind, xattrs: Box::default() });
        tree.insert(&EntryPath::parse(path.as_bytes()).unwrap(), entry).unwrap();
    }
    tree
}

fn found(inventory: &Inventory) -> Vec<&str> {
    inventory.packages.keys().map(String::as_str).collect()
}

fn unread(inventory: &Inventory) -> Vec<(&str, &str)> {
    inventory.unread.iter().map(|file| (file.path.as_str(), file.reason.0)).collect()
}

#[test]
fn each_kind_of_package_is_found_where_it_is_installed() {
    let crates = {
        use std::io::Write;
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder
            .write_all(br#"{"packages":[{"name":"libc","version":"0.2.150","source":"crates.io"}]}"#)
            .unwrap();
        encoder.finish().unwrap()
    };
    let rust = program(&[(".dep-v0", 0, &crates)]);
    let inventory = inventory_of(&tree(&[
        ("usr/lib/os-release", 0o644, b"ID=debian\nVERSION_ID=\"12\"\n"),
        ("var/lib/dpkg/status.d/base", 0o644, b"Package: base-files\nVersion: 12.4\nArchitecture: amd64\n"),
        ("var/lib/dpkg/status.d/base.md5sums", 0o644, b"0123  usr/lib/x\n"),
        ("lib/apk/db/installed", 0o644, b"P:musl\nV:1.2.4-r2\n\n"),
        ("usr/lib/python3/dist-packages/a-1.dist-info/METADATA", 0o644, b"Name: A\nVersion: 1\n\ntext"),
        ("usr/lib/python3/dist-packages/b.egg-info/PKG-INFO", 0o644, b"Name: b\nVersion: 2\n"),
        ("usr/lib/python3/dist-packages/c-3.egg-info", 0o644, b"Name: c\nVersion: 3\n"),
        ("venv/a-1.dist-info/METADATA", 0o644, b"Name: a\nVersion: 1\nLicense: MIT\n"),
        ("app/node_modules/left-pad/package.json", 0o644, br#"{"name":"left-pad","version":"1.3.0"}"#),
        ("app/package.json", 0o644, br#"{"name":"app","version":"9.9.9"}"#),
        ("usr/bin/tool", 0o755, &rust),
        ("usr/bin/script", 0o755, b"#!/bin/sh\n"),
        ("usr/share/not-executable", 0o644, &rust),
    ]));
    let expected = [
        "pkg:apk/debian/musl@1.2.4-r2?distro=debian-12",
        "pkg:cargo/libc@0.2.150",
        "pkg:deb/debian/base-files@12.4?arch=amd64&distro=debian-12",
        "pkg:npm/left-pad@1.3.0",
        "pkg:pypi/a@1",
        "pkg:pypi/b@2",
        "pkg:pypi/c@3",
    ];
    assert_eq!(found(&inventory), expected);
    assert_eq!(unread(&inventory), []);
    assert_eq!(inventory.packages["pkg:pypi/a@1"].places.len(), 2);
    assert_eq!(inventory.packages["pkg:pypi/a@1"].licence.as_deref(), Some("MIT"));
    let [program] = &inventory.programs[..] else { panic!("{:?}", inventory.programs) };
    assert_eq!((program.path.as_str(), program.digest), ("/usr/bin/tool", Digest::of(&rust)));
}

#[test]
fn what_is_not_read_is_named() {
    let inventory = inventory_of(&tree(&[
        ("a/node_modules/x/package.json", 0o644, b"{"),
        ("usr/bin/go", 0o755, &program(&[(".go.buildinfo", 0, b"damaged")])),
        ("usr/lib/sysimage/rpm/rpmdb.sqlite", 0o644, b"SQLite format 3\0"),
        ("usr/lib/sysimage/rpm/Packages.db", 0o644, b"RpmP"),
        ("var/lib/dpkg/status", 0o644, b"Package: a\n\nPackage: b\nVersion: 1\n"),
        ("var/lib/rpm/Packages", 0o644, b""),
    ]));
    let paths: Vec<_> = unread(&inventory).into_iter().map(|(path, _)| path).collect();
    let expected = [
        "/a/node_modules/x/package.json",
        "/usr/bin/go",
        "/usr/lib/sysimage/rpm/Packages.db",
        "/usr/lib/sysimage/rpm/rpmdb.sqlite",
        "/var/lib/dpkg/status",
        "/var/lib/rpm/Packages",
    ];
    assert_eq!(paths, expected);
    let reason = |path: &str| unread(&inventory).into_iter().find(|(of, _)| *of == path).unwrap().1;
    assert!(reason(expected[2]).contains("ndb") && reason(expected[5]).contains("Berkeley DB"));
    assert_eq!(found(&inventory), ["pkg:deb/debian/b@1"]);
}

#[test]
fn more_packages_than_there_is_room_for_are_counted() {
    let mut inventory = Inventory::default();
    let place = "x".repeat(1 << 20);
    for number in 0..40 {
        let name = format!("p{number}");
        let item = Item::new(&name, Some("1"), &Purl::cargo(&name, "1"), None).unwrap();
        inventory.add(item, &place);
    }
    assert_eq!((inventory.packages.len(), inventory.left_out), (15, 25));
}

#[test]
fn a_file_too_long_to_be_a_package_is_not_read() {
    // A sparse file: only its length counts.
    let file = tempfile::tempfile().unwrap();
    file.set_len(MAX_DATABASE_BYTES + 1).unwrap();
    let kind = Kind::File(Content::slice(Arc::new(file), 0, MAX_DATABASE_BYTES + 1));
    let mut tree = Tree::new();
    let entry = NewEntry::Inode(Inode { mode: 0o644, uid: 0, gid: 0, kind, xattrs: Box::default() });
    tree.insert(&EntryPath::parse(b"var/lib/dpkg/status").unwrap(), entry).unwrap();
    let inventory = inventory_of(&tree);
    assert_eq!(unread(&inventory), [("/var/lib/dpkg/status", "longer than such a file is read")]);
}

proptest! {
    #[test]
    fn any_bytes_under_any_name_end_in_an_inventory(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let names = [
            "etc/os-release", "var/lib/rpm/rpmdb.sqlite", "var/lib/dpkg/status", "lib/apk/db/installed", "x.egg-info",
            "node_modules/x/package.json", "usr/bin/x",
        ];
        let files: Vec<_> = names.iter().map(|name| (*name, 0o755, &bytes[..])).collect();
        inventory_of(&tree(&files));
    }
}
