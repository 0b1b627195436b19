//! Builds from directories and archives of a root file system, and reads the images again.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    time::{Duration, SystemTime},
};

use eif::cpio::Kind;
use rbuilds::{
    BuildInput, BuildReport, EntryError, Error, Kernel, LayerError, NoteKind, Ownership, build,
    measured_manifest, reference_values_path, unpack_ramdisks,
};
use support::{Tar, Workshop, chain, entries, gzip, pax_record};

const DIRECTORY: &str = r#"{ rootfs = "rootfs" }"#;
const ARCHIVE: &str = r#"{ rootfs = "rootfs.tar" }"#;

/// A set of capabilities with line ends in it, at which records must not be cut.
const CAPABILITY: [u8; 20] = *b"\x01\0\0\x02\n\n\n\n\0\0\0\0\0\0\0\0\0\0\0\0";

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Makes a small root file system, its entries in one order or the other.
fn make_rootfs(root: &Path, reverse: bool) {
    let mut names = vec!["app", "data", "other", "zeta"];
    if reverse {
        names.reverse();
    }
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir(root.join("tmp")).unwrap();
    set_mode(&root.join("tmp"), 0o1777);
    for name in names {
        fs::write(root.join("bin").join(name), format!("file {name}")).unwrap();
    }
    set_mode(&root.join("bin/app"), 0o755);
    fs::hard_link(root.join("bin/data"), root.join("bin/linked")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    symlink("../../../..", root.join("bin/out")).unwrap();
}

fn refused_entry(error: &Error) -> &EntryError {
    match error {
        Error::Rootfs { source: LayerError::Entry { source, .. }, .. }
        | Error::Layer { source: LayerError::Entry { source, .. }, .. } => source,
        other => panic!("not about an entry: {}", chain(other)),
    }
}

fn archive(workshop: &Workshop, bytes: &[u8]) {
    fs::write(workshop.path("rootfs.tar"), bytes).unwrap();
}

#[test]
fn a_directory_becomes_an_image() {
    let workshop = Workshop::new();
    make_rootfs(&workshop.path("rootfs"), false);
    let report = workshop.build(DIRECTORY).unwrap();

    let boot: Vec<_> = entries(&workshop.output(), 0).into_iter().map(|(name, _)| name).collect();
    let expected = ["dev", "dev/console", "glasshouse", "init", "proc", "rootfs", "run", "sys", "tmp"];
    assert_eq!(boot, expected.map(|n| n.as_bytes().to_vec()));

    let files = workshop.application();
    let (entry, content) = &files[&b"bin/app"[..]];
    assert_eq!((entry.permissions, entry.uid, entry.gid), (0o755, 0, 0));
    assert_eq!(content, b"file app");
    assert_eq!(files[&b"tmp"[..]].0.permissions, 0o1777);
    assert_eq!(files[&b"absolute"[..]].0.kind, Kind::Symlink { target: b"/etc/passwd".to_vec() });
    let group = |name: &[u8]| match files[name].0.kind {
        Kind::File { link: Some(link), .. } => link.group,
        ref other => panic!("{other:?}"),
    };
    assert_eq!(group(b"bin/data"), group(b"bin/linked"));
    assert_eq!(files[&b"bin/linked"[..]].1, b"file data");

    assert_eq!(report.files, files.len() as u64);
    // `linked` is another name of `data`.
    let contents = ["file app", "file data", "file other", "file zeta"];
    assert_eq!(report.content_bytes, contents.map(str::len).iter().sum::<usize>() as u64);
    assert_eq!(report.eif_bytes, workshop.output().metadata().unwrap().len());
    assert_eq!(workshop.output().metadata().unwrap().mode() & 0o777, 0o644);
}

#[test]
fn the_registers_reported_are_those_of_the_file() {
    let workshop = Workshop::new();
    make_rootfs(&workshop.path("rootfs"), false);
    let report = workshop.build(DIRECTORY).unwrap();
    let mut image = eif::Eif::open(fs::File::open(workshop.output()).unwrap()).unwrap();
    let measured = image.measure().unwrap();
    assert_eq!(report.pcrs[&0].0, measured.pcr0);
    assert_eq!(report.pcrs[&1].0, measured.pcr1);
    assert_eq!(report.pcrs[&2].0, measured.pcr2);
    assert_eq!(report.pcrs.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 16]);

    let manifest = measured_manifest(&workshop.output()).unwrap();
    let measured = manifest::Measured::from_canonical_json(&manifest).unwrap();
    assert_eq!(measured.main_service().command, ["/bin/app"]);

    let path = report.write_beside(&workshop.output()).unwrap();
    assert_eq!(path, reference_values_path(&workshop.output()));
    let back: BuildReport = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(back, report);
}

/// Two people on two machines: other folders, modes as another umask leaves them, times, order of creation.
#[test]
fn the_same_files_give_the_same_bytes_wherever_they_lie() {
    let build = |reverse: bool, umask: u32| {
        let workshop = Workshop::new();
        let root = workshop.path("rootfs");
        make_rootfs(&root, reverse);
        for path in ["bin", "bin/app", "bin/data", "bin/other"] {
            let path = root.join(path);
            set_mode(&path, path.metadata().unwrap().mode() & 0o7777 & !umask);
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(umask) * 1000);
            fs::File::open(path).unwrap().set_modified(time).unwrap();
        }
        workshop.build(DIRECTORY).unwrap();
        fs::read(workshop.output()).unwrap()
    };
    let first = build(false, 0o022);
    assert_eq!(first, build(true, 0o077));
    assert_eq!(first, build(true, 0o002));
}

#[test]
fn one_changed_byte_changes_register_2_and_not_register_1() {
    let workshop = Workshop::new();
    make_rootfs(&workshop.path("rootfs"), false);
    let before = workshop.build(DIRECTORY).unwrap();
    fs::write(workshop.path("rootfs/bin/other"), "file 0ther").unwrap();
    let after = workshop.build(DIRECTORY).unwrap();
    assert_eq!(before.pcrs[&1], after.pcrs[&1]);
    assert_eq!(before.pcrs[&16], after.pcrs[&16]);
    assert_ne!(before.pcrs[&2], after.pcrs[&2]);
    assert_ne!(before.pcrs[&0], after.pcrs[&0]);
}

#[test]
fn a_directory_of_ten_thousand_files_and_names_that_are_not_text() {
    let workshop = Workshop::new();
    let root = workshop.path("rootfs");
    fs::create_dir(&root).unwrap();
    for i in 0..10_000 {
        fs::write(root.join(format!("f{i}")), i.to_string()).unwrap();
    }
    let odd = b"odd\xff\n name";
    fs::write(root.join(OsStr::from_bytes(odd)), "odd").unwrap();
    let report = workshop.build(DIRECTORY).unwrap();
    assert_eq!(report.files, 10_002);
    let files = workshop.application();
    assert_eq!(files[&b"f9999"[..]].1, b"9999");
    assert_eq!(files[&odd[..]].1, b"odd");
}

#[test]
fn sockets_and_setuid_bits_are_left_out_and_said_so() {
    let workshop = Workshop::new();
    let root = workshop.path("rootfs");
    fs::create_dir(&root).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    fs::write(root.join("su"), "su").unwrap();
    set_mode(&root.join("su"), 0o4755);
    let report = workshop.build(DIRECTORY).unwrap();
    let files = workshop.application();
    assert!(!files.contains_key(&b"socket"[..]));
    assert_eq!(files[&b"su"[..]].0.permissions, 0o755);
    let kinds: Vec<_> = report.notes.iter().map(|n| (n.kind, n.examples.clone())).collect();
    let expected = [
        (NoteKind::SocketLeftOut, vec!["/socket".to_owned()]),
        (NoteKind::SetIdDropped, vec!["/su".to_owned()]),
    ];
    assert_eq!(kinds, expected);
}

/// Images that were committed from a container with runit in it, or unpacked from an old init's, have named pipes, and engines
/// run them. Such a program makes its pipes when it starts.
#[test]
fn named_pipes_are_left_out_and_said_so_wherever_they_come_from() {
    let workshop = Workshop::new();
    let root = workshop.path("rootfs");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("app"), "x").unwrap();
    let made = std::process::Command::new("mkfifo").arg(root.join("control")).status().unwrap();
    assert!(made.success());
    let lower = Tar::default().file("app", b"x").file("control", b"a file").end();
    let upper = Tar::default().put(b'6', b"control", b"", b"", 0o600).end();
    support::simple_layout(&workshop, &[lower, upper], support::Compression::Gzip);
    for image in [DIRECTORY, "{ oci = \"image\" }"] {
        let report = workshop.build(image).unwrap();
        let found = report.notes.iter().find(|note| note.kind == NoteKind::PipeLeftOut).unwrap();
        assert_eq!(found.examples, ["/control"], "{image}");
        let files = workshop.application();
        assert!(files.contains_key(&b"app"[..]) && !files.contains_key(&b"control"[..]), "{image}");
    }
}

#[test]
fn an_archive_keeps_owners_modes_and_links() {
    let workshop = Workshop::new();
    let mut root = Tar::header(b'5', b"./", b"", 0, 0o700);
    root.set_uid(7);
    root.set_cksum();
    let mut su = Tar::header(b'0', b"./usr/bin/su", b"", 2, 0o4755);
    su.set_gid(42);
    su.set_cksum();
    let tar = Tar::default()
        .raw(&root, b"")
        .raw(&su, b"su")
        .link("./su2", "./usr/bin/su")
        .symlink("lib", "usr/lib")
        .pax(
            &[pax_record("SCHILY.xattr.security.capability", &CAPABILITY), pax_record("uid", b"3000000")]
                .concat(),
        )
        .file("ping", b"ping")
        .put(b'3', b"dev/null", b"", b"", 0o666)
        .end();
    for bytes in [tar.clone(), gzip(&tar)] {
        archive(&workshop, &bytes);
        let report = workshop.build(ARCHIVE).unwrap();
        let files = workshop.application();
        assert_eq!((files[&b""[..]].0.permissions, files[&b""[..]].0.uid), (0o700, 7));
        let (su, content) = &files[&b"usr/bin/su"[..]];
        assert_eq!((su.permissions, su.gid, &content[..]), (0o4755, 42, &b"su"[..]));
        // Nobody described these, so they are as a fresh system would have them.
        assert_eq!((files[&b"usr/bin"[..]].0.permissions, files[&b"usr"[..]].0.uid), (0o755, 0));
        assert_eq!(files[&b"ping"[..]].0.uid, 3_000_000);
        assert!(!files.contains_key(&b"dev/null"[..]));
        let kinds: Vec<_> = report.notes.iter().map(|n| n.kind).collect();
        assert_eq!(kinds, [NoteKind::DeviceLeftOut, NoteKind::CapabilitiesDropped]);
    }
}

#[test]
fn names_up_to_the_kernels_limit_pass_by_pax_and_gnu_records() {
    // 4088 bytes: with `rootfs/` before them, 4095, the most the kernel unpacks.
    let name: Vec<u8> = [&b"abc/".repeat(1021)[..], b"wxyz"].concat();
    assert_eq!(name.len(), 4088);
    let gnu_name = [&name[..], b"\0"].concat();
    let by_gnu = Tar::default()
        .put(b'L', b"././@LongLink", b"", &gnu_name, 0o644)
        .put(b'0', b"short", b"", b"x", 0o644)
        .end();
    let by_pax = Tar::default().put(b'0', &name, b"", b"x", 0o644).end();
    for tar in [by_gnu, by_pax] {
        let workshop = Workshop::new();
        archive(&workshop, &tar);
        workshop.build(ARCHIVE).unwrap();
        assert_eq!(workshop.application()[&name].1, b"x");
    }
    let workshop = Workshop::new();
    archive(&workshop, &Tar::default().put(b'0', &[&name[..], b"z"].concat(), b"", b"x", 0o644).end());
    let error = workshop.refuse(ARCHIVE);
    assert!(matches!(refused_entry(&error), EntryError::PathTooLong { found: 4089, limit: 4088 }));
}

#[test]
fn refuses_entries_that_no_image_can_hold() {
    type Check = fn(&EntryError) -> bool;
    let cases: Vec<(Tar, Check)> = vec![
        (Tar::default().file("../x", b""), |e| matches!(e, EntryError::ParentComponent)),
        (Tar::default().file("a/../../x", b""), |e| matches!(e, EntryError::ParentComponent)),
        (
            Tar::default().symlink("l", "/tmp").file("l/x", b""),
            |e| matches!(e, EntryError::ThroughSymlink { link } if link == "/l"),
        ),
        (
            Tar::default().file("f", b"").file("f/x", b""),
            |e| matches!(e, EntryError::NotInDirectory { parent } if parent == "/f"),
        ),
        (Tar::default().link("a", "../../etc/passwd"), |e| matches!(e, EntryError::ParentComponent)),
        (Tar::default().link("a", "missing"), |e| matches!(e, EntryError::MissingTarget { .. })),
        (Tar::default().dir("d").link("a", "d"), |e| matches!(e, EntryError::DirectoryTarget { .. })),
        (Tar::default().symlink("a", ""), |e| matches!(e, EntryError::TargetLength { found: 0 })),
        (Tar::default().file(".", b""), |e| matches!(e, EntryError::RootNotDirectory)),
        (Tar::default().put(b'3', b"x", b"", b"", 0o644), |e| matches!(e, EntryError::Device { .. })),
        (Tar::default().put(b'4', b"devx/p", b"", b"", 0o644), |e| matches!(e, EntryError::Device { .. })),
        (Tar::default().put(b'S', b"sparse", b"", b"", 0o644), |e| matches!(e, EntryError::Sparse)),
        (Tar::default().pax(&pax_record("GNU.sparse.major", b"1")).file("s", b""), |e| {
            matches!(e, EntryError::Sparse)
        }),
        (Tar::default().pax(&pax_record("size", b"600")).file("s", b"x"), |e| {
            matches!(e, EntryError::TwoLengths { pax: 600, header: 1 })
        }),
        (Tar::default().put(b'2', b"l", b"t", b"content", 0o777), |e| {
            matches!(e, EntryError::UnexpectedContent { found: 7 })
        }),
        (Tar::default().put(b'Z', b"z", b"", b"", 0o644), |e| {
            matches!(e, EntryError::UnknownType { found: b'Z' })
        }),
        (Tar::default().pax(&pax_record("uid", b"4294967295")).file("x", b""), |e| {
            matches!(e, EntryError::Owner { found: 4_294_967_295 })
        }),
        (Tar::default().pax(&pax_record("path", b"a\0b")).file("x", b""), |e| {
            matches!(e, EntryError::NulByte)
        }),
        (Tar::default().file(&"n".repeat(256), b""), |e| {
            matches!(e, EntryError::ComponentTooLong { found: 256 })
        }),
    ];
    for (tar, is_expected) in cases {
        let workshop = Workshop::new();
        archive(&workshop, &tar.end());
        let error = workshop.refuse(ARCHIVE);
        assert!(is_expected(refused_entry(&error)), "{}", chain(&error));
    }
}

#[test]
fn refuses_damaged_and_greedy_archives() {
    type Check = fn(&LayerError) -> bool;
    let good = Tar::default().file("a", &[1; 3000]).end();
    let mut flipped = good.clone();
    flipped[5] ^= 1;
    let cases: Vec<(Vec<u8>, Check)> = vec![
        (good[..2000].to_vec(), |e| matches!(e, LayerError::Truncated)),
        (Tar::default().file("a", b"x").cut(), |e| matches!(e, LayerError::Truncated)),
        (gzip(&good)[..60].to_vec(), |e| matches!(e, LayerError::Damaged(_))),
        (flipped, |e| matches!(e, LayerError::Damaged(_))),
        (b"not an archive".to_vec(), |e| matches!(e, LayerError::NotAnArchive { .. })),
        (Tar::default().pax(b"5 a=b\n").file("x", b"").end(), |e| matches!(e, LayerError::BadExtension)),
        (Tar::default().pax(&[b'x'; (1 << 20) + 1]).end(), |e| {
            matches!(e, LayerError::ExtensionTooLong { .. })
        }),
        (gzip(&Tar::default().file("zeros", &[0; 2_000_000]).end()), |e| {
            matches!(e, LayerError::UnpackedTooLarge { limit: 1_500_000 })
        }),
        ((0..101).fold(Tar::default(), |t, i| t.file(&i.to_string(), b"")).end(), |e| {
            matches!(e, LayerError::TooManyEntries { limit: 100 })
        }),
        ((0..90).fold(Tar::default(), |t, i| t.file(&format!("{}/{i}", "n".repeat(200)), b"")).end(), |e| {
            matches!(e, LayerError::NamesTooLong { limit: 10_000 })
        }),
    ];
    for (i, (bytes, is_expected)) in cases.into_iter().enumerate() {
        let mut workshop = Workshop::new();
        workshop.limits.unpacked_bytes = 1_500_000;
        workshop.limits.entries = 100;
        workshop.limits.name_bytes = 10_000;
        archive(&workshop, &bytes);
        let error = workshop.refuse(ARCHIVE);
        let Error::Rootfs { source, .. } = &error else { panic!("{}", chain(&error)) };
        assert!(is_expected(source), "case {i}: {}", chain(&error));
    }
}

#[test]
fn a_failed_build_leaves_the_older_image_alone() {
    let workshop = Workshop::new();
    archive(&workshop, &Tar::default().file("a", b"x").end());
    workshop.build(ARCHIVE).unwrap();
    let before = fs::read(workshop.output()).unwrap();
    archive(&workshop, b"garbage");
    workshop.build(ARCHIVE).unwrap_err();
    assert_eq!(fs::read(workshop.output()).unwrap(), before);
}

#[test]
fn names_the_input_that_is_missing() {
    let workshop = Workshop::new();
    let error = workshop.refuse(DIRECTORY);
    assert!(chain(&error).starts_with("`image.rootfs` in glasshouse.toml: "), "{}", chain(&error));
    fs::create_dir(workshop.path("rootfs")).unwrap();
    fs::remove_file(workshop.path("guest")).unwrap();
    assert!(chain(&workshop.refuse(DIRECTORY)).contains("/guest"));
    fs::write(workshop.path("guest"), "g").unwrap();
    let error = workshop.build_text("name = \"x\"\nimage = { rootfs = \"rootfs\" }\n").unwrap_err();
    assert!(matches!(error, Error::Resolve(_)));
}

#[test]
fn unpacks_both_ramdisks_over_each_other() {
    let workshop = Workshop::new();
    make_rootfs(&workshop.path("rootfs"), false);
    workshop.build(DIRECTORY).unwrap();
    let target = workshop.path("unpacked");
    fs::create_dir(&target).unwrap();
    unpack_ramdisks(&workshop.output(), &target, Ownership::Squash).unwrap();
    assert_eq!(fs::read(target.join("init")).unwrap(), b"the guest binary");
    assert_eq!(target.join("init").metadata().unwrap().mode() & 0o7777, 0o755);
    assert_eq!(
        fs::read(target.join("glasshouse/manifest.json")).unwrap(),
        measured_manifest(&workshop.output()).unwrap()
    );
    assert_eq!(fs::read(target.join("rootfs/bin/app")).unwrap(), b"file app");
    assert_eq!(fs::read_link(target.join("rootfs/absolute")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(target.join("rootfs/tmp").metadata().unwrap().mode() & 0o7777, 0o1777);
    let inode = |name: &str| target.join("rootfs/bin").join(name).metadata().unwrap().ino();
    assert_eq!(inode("data"), inode("linked"));
    assert_eq!(fs::read(target.join("rootfs/bin/data")).unwrap(), b"file data");
    assert!(!target.join("dev/console").exists());
    assert!(unpack_ramdisks(&workshop.output(), &target, Ownership::Squash).is_err(), "not empty");
}

#[test]
fn the_build_time_is_in_the_metadata_and_in_no_register() {
    let workshop = Workshop::new();
    archive(&workshop, &Tar::default().file("a", b"x").end());
    let text = "name = \"x\"\nimage = { rootfs = \"rootfs.tar\" }\napp.command = [\"/a\"]\n";
    let manifest = manifest::Manifest::parse(text).unwrap();
    let build_at = |build_time| {
        let steps = std::cell::RefCell::new(Vec::new());
        let input = BuildInput {
            manifest: &manifest,
            base_dir: workshop.dir.path(),
            guest_binary: &workshop.path("guest"),
            kernel: Kernel::new(workshop.path("bzImage"), Some(workshop.path("guest"))),
            output: &workshop.output(),
            limits: workshop.limits,
            registry: workshop.registry.clone(),
            build_time,
            signer: None,
        };
        let report = build(&input, &|step| steps.borrow_mut().push(format!("{step:?}")))?;
        let mut image = eif::Eif::open(fs::File::open(workshop.output()).unwrap()).unwrap();
        let time = image.metadata().unwrap().unwrap().build.build_time;
        Ok::<_, Error>((report, image.cmdline().unwrap(), time, steps.into_inner()))
    };
    let (first, cmdline, time, steps) = build_at(0).unwrap();
    assert_eq!(time, "1970-01-01T00:00:00Z");
    assert!(!cmdline.contains("nomodules"), "{cmdline}");
    assert!(entries(&workshop.output(), 0).iter().any(|(name, _)| name == b"nsm.ko"));
    assert!(
        steps[0].starts_with("Rootfs") && steps[1].starts_with("Write { files: 2, bytes: 1"),
        "{steps:?}"
    );
    let (second, _, time, _) = build_at(1_700_000_000).unwrap();
    assert_eq!(time, "2023-11-14T22:13:20Z");
    assert_eq!(first, second);
    assert!(matches!(build_at(u64::MAX), Err(Error::BuildTime { found: u64::MAX })));
}

/// The file that the specification shows is one that this program writes and reads.
#[test]
fn reads_the_specified_reference_values() {
    let text = include_str!("../../docs/spec/vectors/reference-values.json");
    let report: BuildReport = serde_json::from_str(text).unwrap();
    assert_eq!(report.to_json(), text);
    let earlier = text.replacen("  \"memory_mib\": 50,\n", "", 1);
    let report: BuildReport = serde_json::from_str(&earlier).unwrap();
    assert_eq!((report.memory_mib, report.to_json()), (None, earlier));
    let later = text.replacen("\"version\": 1", "\"version\": 2", 1);
    let error = serde_json::from_str::<BuildReport>(&later).unwrap_err();
    assert!(error.to_string().contains("version 2"), "{error}");
}
