//! Extended attributes, from layers and directories into images and out again.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    process::Command,
};

use rbuilds::{
    Change, EntryError, Error, InspectOptions, LayerError, Limits, NoteKind, Ownership, Part, diff, inspect,
    unpack_ramdisks,
};
use rustix::{
    fs::{XattrFlags, lgetxattr, llistxattr, setxattr},
    io::Errno,
};
use support::{Compression, Tar, Workshop, pax_record, simple_layout};

const IMAGE: &str = r#"{ oci = "image", format = "erofs" }"#;
const CPIO: &str = r#"{ oci = "image", format = "cpio" }"#;
const DIRECTORY: &str = r#"{ rootfs = "rootfs", format = "erofs" }"#;

/// `cap_net_raw+ep`, as `setcap` writes it; and what is shown of it.
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const NET_RAW_SHOWN: &str = "0x0100000200200000000000000000000000000000";

/// By path and name: as shown, and as they are.
type Attributes = BTreeMap<String, BTreeMap<String, String>>;
type OnDisk = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

fn with(tar: Tar, attributes: &[(&str, &[u8])]) -> Tar {
    let records = attributes.iter().map(|(name, value)| pax_record(&format!("SCHILY.xattr.{name}"), value));
    tar.pax(&records.collect::<Vec<_>>().concat())
}

fn layers() -> [Vec<u8>; 2] {
    let lower = with(Tar::default(), &[("user.a", b"of the directory")]).dir("d");
    let lower = with(lower, &[("security.capability", &NET_RAW)]).file("ping", b"ping");
    let lower = with(lower, &[("user.a", b"1"), ("user.b", b"\n\0")]).file("d/replaced", b"old");
    let lower = with(lower, &[("user.a", b"kept")]).file("d/kept", b"kept");
    let upper = with(Tar::default(), &[("user.c", b"new")]).dir("d").link("ping6", "ping");
    let upper = with(upper, &[("user.d", &[7; 300])]).file("d/replaced", b"new");
    [lower.end(), upper.end()]
}

fn workshop_of(layers: &[Vec<u8>]) -> Workshop {
    let workshop = Workshop::new();
    simple_layout(&workshop, layers, Compression::Gzip);
    workshop
}

fn attributes(image: &Path) -> Attributes {
    let options = InspectOptions { files: true, ..InspectOptions::default() };
    let files = inspect(image, &options).unwrap().ramdisks[1].files.clone().unwrap();
    let named = files.into_iter().filter(|file| !file.xattrs.is_empty());
    named.map(|file| (file.name, file.xattrs)).collect()
}

fn expected(list: &[(&str, &[(&str, &str)])]) -> Attributes {
    let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    list.iter().map(|(path, all)| ((*path).to_owned(), all.iter().map(text).collect())).collect()
}

#[test]
fn layers_attributes_are_in_the_image_and_a_later_layers_replace_an_earlier_ones() {
    let workshop = workshop_of(&layers());
    let report = workshop.build(IMAGE).unwrap();
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    // printf '\7%.0s' $(seq 300) | sha256sum
    let digest = "sha256:d677143e1431e8bb62b612cc7bb2c06a5eabe3d673f93a47113f2621aabaf421";
    let capability = &[("security.capability", NET_RAW_SHOWN)][..];
    let wanted = expected(&[
        ("rootfs/d", &[("user.c", "new")]),
        ("rootfs/d/kept", &[("user.a", "kept")]),
        ("rootfs/d/replaced", &[("user.d", digest)]),
        ("rootfs/ping", capability),
        ("rootfs/ping6", capability),
    ]);
    assert_eq!(attributes(&workshop.output()), wanted);
}

#[test]
fn a_plain_image_has_none_and_says_so() {
    let workshop = workshop_of(&layers());
    let notes = workshop.build(CPIO).unwrap().notes;
    let kinds: Vec<_> = notes.iter().map(|note| (note.kind, note.count)).collect();
    assert_eq!(kinds, [(NoteKind::CapabilitiesDropped, 2), (NoteKind::AttributesDropped, 3)]);
    assert_eq!(notes[0].examples, ["/ping", "/ping6"]);
    assert!(attributes(&workshop.output()).is_empty());
}

#[test]
fn others_are_left_out_and_that_is_said() {
    let tar = with(Tar::default(), &[("trusted.overlay.opaque", b"y"), ("user.a", b"1")]).dir("a");
    let tar = with(tar, &[("user.containers.override_stat", b"0:0:0755")]).file("b", b"");
    let tar = with(tar, &[("user.a", b"1")]).symlink("c", "b");
    let tar = with(tar, &[("security.selinux", b"label")]).file("d", b"");
    let workshop = workshop_of(&[tar.end()]);
    for format in [IMAGE, CPIO] {
        let notes = workshop.build(format).unwrap().notes;
        assert_eq!(
            (notes.last().unwrap().kind, notes.last().unwrap().count),
            (NoteKind::AttributesLeftOut, 3)
        );
        assert_eq!(notes.last().unwrap().examples, ["/a", "/b", "/c"]);
    }
    workshop.build(IMAGE).unwrap();
    assert_eq!(attributes(&workshop.output()), expected(&[("rootfs/a", &[("user.a", "1")])]));
}

#[test]
fn an_attribute_that_linux_would_not_take_is_refused() {
    for (name, value) in [
        ("security.capability", &b"\x01\0\0\x02"[..]),
        ("user.nul\0byte", b"1"),
        ("user.large", &[0; 65_536]),
    ] {
        let workshop = workshop_of(&[with(Tar::default(), &[(name, value)]).file("a", b"").end()]);
        let Error::Layer { source: LayerError::Entry { entry, source }, .. } = workshop.refuse(IMAGE) else {
            panic!("{name}")
        };
        assert!(entry == "/a" && matches!(source, EntryError::Attribute { .. }), "{name}: {source}");
    }
    let three = [("user.a", &[0; 60_000][..]), ("user.b", &[0; 60_000]), ("user.c", &[0; 60_000])];
    let mut workshop = workshop_of(&[with(Tar::default(), &three).file("a", b"").end()]);
    let refused = workshop.refuse(IMAGE);
    assert!(
        matches!(
            &refused,
            Error::Layer {
                source: LayerError::Entry { source: EntryError::AttributesTooLong { .. }, .. },
                ..
            }
        ),
        "{refused}"
    );
    // They count with the names, of which as much is held.
    workshop.limits = Limits { name_bytes: 100_000, ..Limits::default() };
    let refused = workshop.refuse(IMAGE);
    assert!(matches!(refused, Error::Layer { source: LayerError::NamesTooLong { .. }, .. }), "{refused}");
}

#[test]
fn a_difference_in_one_attribute_is_named_and_nothing_else() {
    let build = |value: &[u8], name: &str| {
        let tar = with(Tar::default(), &[("security.capability", value), ("user.same", b"1")]);
        let workshop = workshop_of(&[tar.file("ping", b"ping").end()]);
        workshop.build(IMAGE).unwrap();
        fs::rename(workshop.output(), workshop.path(name)).unwrap();
        workshop
    };
    let mut other = NET_RAW;
    other[5] = 4;
    let (a, b) = (build(&NET_RAW, "a.eif"), build(&other, "b.eif"));
    let found = diff(&a.path("a.eif"), &b.path("b.eif"), &Limits::default()).unwrap();
    let in_ramdisks: Vec<_> =
        found.differences.iter().filter(|one| matches!(one.part, Part::Ramdisk(_))).collect();
    let [one] = in_ramdisks[..] else { panic!("{found}") };
    assert_eq!((one.entry.as_deref(), &one.pcrs[..]), (Some("rootfs/ping"), &[0, 2][..]));
    let Change::Attribute { name: "extended attributes", a, b } = &one.change else { panic!("{found}") };
    assert_eq!(*a, format!("security.capability={NET_RAW_SHOWN}"));
    assert_eq!(*b, "security.capability=0x0100000200040000000000000000000000000000");
}

#[test]
fn files_that_were_kept_between_builds_keep_theirs() {
    let workshop = workshop_of(&layers());
    workshop.build(IMAGE).unwrap();
    let first = fs::read(workshop.output()).unwrap();
    workshop.build(IMAGE).unwrap();
    assert!(fs::read(workshop.output()).unwrap() == first);
    fs::remove_dir_all(workshop.path("cache")).unwrap();
    workshop.build(IMAGE).unwrap();
    assert!(fs::read(workshop.output()).unwrap() == first);
    let verified = workshop.verify(IMAGE).unwrap();
    assert!(verified.diff.identical, "{}", verified.diff);
}

/// Attributes of a file of this machine; none that every file of it has.
fn on_disk(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut names, mut value) = (vec![0; 65_536], vec![0; 65_536]);
    let len = llistxattr(path, &mut names[..]).unwrap();
    let names = names[..len].split(|b| *b == 0).map(|name| String::from_utf8_lossy(name).into_owned());
    let ours = names.filter(|name| name.starts_with("user.") || name == "security.capability");
    ours.map(|name| {
        let len = lgetxattr(path, &name, &mut value[..]).unwrap();
        (name, value[..len].to_vec())
    })
    .collect()
}

/// False where the file system has no attributes of users, or the caller may not give a file capabilities.
fn give(path: &Path, name: &str, value: &[u8]) -> bool {
    match setxattr(path, name, value, XattrFlags::empty()) {
        Ok(()) => true,
        Err(Errno::NOTSUP | Errno::PERM) => false,
        Err(error) => panic!("{name}: {error}"),
    }
}

#[test]
fn a_directorys_attributes_are_in_the_image() {
    let workshop = Workshop::new();
    let root = workshop.path("rootfs");
    fs::create_dir_all(root.join("d")).unwrap();
    fs::write(root.join("file"), "content").unwrap();
    fs::write(root.join("ping"), "ping").unwrap();
    fs::hard_link(root.join("ping"), root.join("ping6")).unwrap();
    symlink("file", root.join("link")).unwrap();
    if !give(&root.join("file"), "user.a", b"1") {
        println!("skipped: no attributes of users here");
        return;
    }
    assert!(give(&root, "user.root", b"r") && give(&root.join("d"), "user.d", b"\x01"));
    let may_give = give(&root.join("ping"), "security.capability", &NET_RAW);
    let report = workshop.build(DIRECTORY).unwrap();
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    let mut wanted = expected(&[
        ("rootfs", &[("user.root", "r")]),
        ("rootfs/d", &[("user.d", "0x01")]),
        ("rootfs/file", &[("user.a", "1")]),
    ]);
    if may_give {
        let capability = &[("security.capability", NET_RAW_SHOWN)][..];
        wanted.extend(expected(&[("rootfs/ping", capability), ("rootfs/ping6", capability)]));
    }
    assert_eq!(attributes(&workshop.output()), wanted);
}

/// All paths below a directory with their attributes.
fn below(root: &Path) -> OnDisk {
    let mut found = OnDisk::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        if path.symlink_metadata().unwrap().is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), on_disk(&path));
    }
    found
}

fn unpacked(workshop: &Workshop, ownership: Ownership, into: &str) -> (Vec<rbuilds::Note>, OnDisk) {
    fs::create_dir(workshop.path(into)).unwrap();
    let notes = unpack_ramdisks(&workshop.output(), &workshop.path(into), ownership).unwrap();
    (notes, below(&workshop.path(into).join("rootfs")))
}

fn may_give_everything(workshop: &Workshop) -> bool {
    let probe = workshop.path("probe");
    fs::write(&probe, "").unwrap();
    let may = give(&probe, "user.a", b"1") && give(&probe, "security.capability", &NET_RAW);
    may && probe.metadata().unwrap().uid() == 0
}

/// umoci unpacks layers as OCI runtimes see them.
#[test]
fn an_unpacked_image_has_the_attributes_that_umoci_gives() {
    let workshop = workshop_of(&layers());
    if !may_give_everything(&workshop) {
        println!("skipped: attributes cannot be given here");
        return;
    }
    workshop.build(IMAGE).unwrap();
    let (notes, found) = unpacked(&workshop, Ownership::Keep, "unpacked");
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(found["ping6"], BTreeMap::from([("security.capability".to_owned(), NET_RAW.to_vec())]));
    assert_eq!(found["d"], BTreeMap::from([("user.c".to_owned(), b"new".to_vec())]));
    if Command::new("umoci").arg("--version").output().is_err() {
        println!("skipped: umoci not installed");
        return;
    }
    let image = format!("{}:latest", workshop.path("image").display());
    let output = Command::new("umoci")
        .args(["unpack", "--image", &image])
        .arg(workshop.path("bundle"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(found, below(&workshop.path("bundle/rootfs")));
}

/// Capabilities on a file of the caller's would lend the caller's rights, as a setuid bit does.
#[test]
fn who_owns_all_unpacked_files_gives_them_no_capabilities() {
    let workshop = workshop_of(&layers());
    workshop.build(IMAGE).unwrap();
    let (notes, found) = unpacked(&workshop, Ownership::Squash, "unpacked");
    assert!(found.values().all(|all| !all.contains_key("security.capability")), "{found:?}");
    let [note] = &notes[..] else { panic!("{notes:?}") };
    assert_eq!(note.kind, NoteKind::AttributesNotUnpacked);
    assert!(note.examples.contains(&"/rootfs/ping6".to_owned()), "{note:?}");
}
