//! What `diff` says of pairs of images, and that it says nothing else.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use eif::{
    BuildMetadata, Metadata, Options, Signer, Source, Writer,
    cpio::{self, Entry, HardLink, Kind},
};
use proptest::prelude::*;
use rbuilds::{ByteRange, Change, Diff, Error, Limits, Part, diff};
use serde_json::{Value, json};
use support::{Tar, Workshop, chain, gzip};

/// Everything an image is made of.
#[derive(Clone)]
struct Image {
    kernel: Vec<u8>,
    cmdline: String,
    name: String,
    cpus: u64,
    ramdisks: Vec<Vec<u8>>,
}

impl Image {
    fn with_ramdisks(ramdisks: Vec<Vec<u8>>) -> Self {
        let (kernel, cmdline) = (b"kernel".to_vec(), "console=ttyS0".to_owned());
        Self { kernel, cmdline, name: "app".to_owned(), cpus: 2, ramdisks }
    }

    fn write(&self, path: &Path, signer: Option<&Signer>) {
        let options = Options { default_cpus: self.cpus, ..Options::default() };
        let mut file = File::create(path).unwrap();
        let mut writer = Writer::create(
            &mut file,
            &options,
            Source::bytes(&self.kernel),
            &self.cmdline,
            &metadata(&self.name),
        )
        .unwrap();
        for ramdisk in &self.ramdisks {
            writer.ramdisk(Source::bytes(ramdisk)).unwrap();
        }
        writer.finish(signer).unwrap();
    }
}

fn metadata(name: &str) -> Metadata {
    Metadata {
        image_name: name.to_owned(),
        image_version: "1".to_owned(),
        build: BuildMetadata {
            build_time: "1970-01-01T00:00:00Z".to_owned(),
            build_tool: "test".to_owned(),
            build_tool_version: "1".to_owned(),
            operating_system: "Linux".to_owned(),
            kernel_version: "6.12".to_owned(),
        },
        docker_info: Value::Null,
        custom: Value::Null,
    }
}

/// Something in a tree.
#[derive(Clone, Debug, PartialEq)]
struct Node {
    permissions: u32,
    owner: u32,
    what: What,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
}

type Tree = BTreeMap<String, Node>;

fn archive(tree: &Tree) -> Vec<u8> {
    let mut archive = cpio::Writer::new(Vec::new());
    for (name, node) in tree {
        let (kind, content) = match &node.what {
            What::Directory => (Kind::Directory, &[][..]),
            What::File(content) => {
                (Kind::File { size: content.len() as u64, link: None }, content.as_slice())
            }
            What::Symlink(target) => (Kind::Symlink { target: target.clone() }, &[][..]),
        };
        let entry = Entry {
            name: name.clone().into_bytes(),
            permissions: node.permissions,
            uid: node.owner,
            gid: 0,
            kind,
        };
        archive.file(&entry, &mut &*content).unwrap();
    }
    archive.finish().unwrap()
}

fn file(content: &[u8]) -> Node {
    Node { permissions: 0o644, owner: 0, what: What::File(content.to_vec()) }
}

fn tree(files: &[(&str, Node)]) -> Tree {
    files.iter().map(|(name, node)| ((*name).to_owned(), node.clone())).collect()
}

/// Two images in a folder.
struct Pair {
    dir: tempfile::TempDir,
}

impl Pair {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn diff(&self, a: &Image, b: &Image) -> Diff {
        a.write(&self.path("a.eif"), None);
        b.write(&self.path("b.eif"), None);
        self.diff_written()
    }

    fn diff_written(&self) -> Diff {
        diff(&self.path("a.eif"), &self.path("b.eif"), &Limits::default()).unwrap()
    }

    /// Compares images whose second ramdisks are these.
    fn diff_applications(&self, a: Vec<u8>, b: Vec<u8>) -> Diff {
        let boot = archive(&tree(&[("init", file(b"init"))]));
        self.diff(&Image::with_ramdisks(vec![boot.clone(), a]), &Image::with_ramdisks(vec![boot, b]))
    }
}

fn only(diff: &Diff) -> (Part, Option<&str>, &[u8], &Change) {
    let [difference] = &diff.differences[..] else { panic!("{:#?}", diff.differences) };
    (difference.part, difference.entry.as_deref(), &difference.pcrs, &difference.change)
}

fn attribute(name: &'static str, a: &str, b: &str) -> Change {
    Change::Attribute { name, a: a.to_owned(), b: b.to_owned() }
}

#[test]
fn one_changed_byte_of_an_application_is_told_by_file_offset_and_registers() {
    let workshop = Workshop::new();
    let pair = Pair::new();
    for (name, greeting) in [("a.eif", b"\0\x01\x02Hello from"), ("b.eif", b"\0\x01\x02Jello from")] {
        let tar =
            Tar::default().put(b'0', b"bin/app", b"", greeting, 0o755).put(b'0', b"etc/x", b"", b"x", 0o644);
        fs::write(workshop.path("rootfs.tar"), tar.end()).unwrap();
        workshop.build("{ rootfs = \"rootfs.tar\" }").unwrap();
        fs::copy(workshop.output(), pair.path(name)).unwrap();
    }
    let diff = pair.diff_written();
    let bytes = Some(ByteRange { offset: 3, length: 1, differing: 1 });
    let content = Change::Content { a_bytes: 13, b_bytes: 13, bytes, line: None };
    assert_eq!(only(&diff), (Part::Ramdisk(1), Some("rootfs/bin/app"), &[0, 2][..], &content));
    assert_eq!((diff.identical, diff.same_measurements), (false, false));
    let moved: Vec<u8> = diff.pcrs.iter().filter(|pair| !pair.same).map(|pair| pair.pcr).collect();
    assert_eq!(moved, [0, 2]);
    let text = diff.to_string();
    assert!(
        text.contains("ramdisk 1  (moves PCR0, PCR2)\n  rootfs/bin/app: content: 1 byte differs at offset 3"),
        "{text}"
    );
}

#[test]
fn a_changed_manifest_is_told_by_the_json_path_and_moves_register_16_too() {
    let workshop = Workshop::new();
    let pair = Pair::new();
    let tar = Tar::default().put(b'0', b"bin/app", b"", b"x", 0o755);
    fs::write(workshop.path("rootfs.tar"), tar.end()).unwrap();
    for (name, argument) in [("a.eif", "old"), ("b.eif", "new")] {
        let text = format!(
            "name = \"test\"\nimage = {{ rootfs = \"rootfs.tar\" }}\n[app]\ncommand = [\"/bin/app\", \"{argument}\"]\n"
        );
        workshop.build_text(&text).unwrap();
        fs::copy(workshop.output(), pair.path(name)).unwrap();
    }
    let diff = pair.diff_written();
    let (part, entry, pcrs, change) = only(&diff);
    assert_eq!((part, entry, pcrs), (Part::Ramdisk(1), Some("glasshouse/manifest.json"), &[0, 2, 16][..]));
    let Change::Json(change) = change else { panic!("{change:?}") };
    assert_eq!(change.pointer, "/services/0/command/1");
    assert_eq!((&change.a, &change.b), (&Some(json!("old")), &Some(json!("new"))));
}

#[test]
fn what_boots_moves_registers_0_and_1_and_what_nothing_measures_moves_none() {
    let pair = Pair::new();
    let boot = archive(&tree(&[("init", file(b"init"))]));
    let image = Image::with_ramdisks(vec![boot.clone(), boot]);
    let with = |change: &dyn Fn(&mut Image)| {
        let mut other = image.clone();
        change(&mut other);
        pair.diff(&image, &other)
    };

    let diff = with(&|other| other.kernel[0] = b'K');
    assert_eq!((only(&diff).0, only(&diff).2), (Part::Kernel, &[0, 1][..]));
    let diff = with(&|other| other.cmdline.push_str(" quiet"));
    let text = attribute("text", "console=ttyS0", "console=ttyS0 quiet");
    assert_eq!(only(&diff), (Part::Cmdline, None, &[0, 1][..], &text));
    let diff = with(&|other| other.ramdisks[0] = archive(&tree(&[("init", file(b"Init"))])));
    assert_eq!((only(&diff).0, only(&diff).1, only(&diff).2), (Part::Ramdisk(0), Some("init"), &[0, 1][..]));

    let diff = with(&|other| other.cpus = 4);
    assert_eq!(only(&diff), (Part::Header, None, &[][..], &attribute("default cpus", "2", "4")));
    assert!(diff.same_measurements && !diff.identical);
    let diff = with(&|other| other.name = "other".to_owned());
    let (part, _, pcrs, Change::Json(change)) = only(&diff) else { panic!("{diff}") };
    assert_eq!((part, pcrs, change.pointer.as_str()), (Part::Metadata, &[][..], "/ImageName"));
    assert!(
        diff.to_string()
            .contains("The measurements are the same; the files differ only in what no register holds.")
    );

    let diff = with(&|other| other.ramdisks.push(b"070701".to_vec()));
    let added = Change::OnlyInB { is: "6 bytes".to_owned() };
    assert_eq!(only(&diff), (Part::Ramdisk(2), None, &[0, 2][..], &added));
}

/// A register is said to have been moved only if it was: kernel and command line are hashed without a mark between
/// them, so that a byte can go from one to the other unmeasured.
#[test]
fn no_register_is_said_to_move_that_did_not() {
    let boot = archive(&tree(&[("init", file(b"init"))]));
    let mut a = Image::with_ramdisks(vec![boot]);
    (a.kernel, a.cmdline) = (b"kernelx".to_vec(), "y".to_owned());
    let mut b = a.clone();
    (b.kernel, b.cmdline) = (b"kernel".to_vec(), "xy".to_owned());
    let diff = Pair::new().diff(&a, &b);
    assert!(diff.same_measurements);
    assert_eq!(
        diff.differences.iter().map(|d| (d.part, d.pcrs.len())).collect::<Vec<_>>(),
        [(Part::Kernel, 0), (Part::Cmdline, 0)]
    );
}

#[test]
fn another_signer_moves_register_8_and_a_second_signature_by_the_same_none() {
    let pair = Pair::new();
    let boot = archive(&tree(&[("init", file(b"init"))]));
    let image = Image::with_ramdisks(vec![boot]);
    let (first, second) = (signer(), signer());
    let compare = |a: Option<&Signer>, b: Option<&Signer>| {
        image.write(&pair.path("a.eif"), a);
        image.write(&pair.path("b.eif"), b);
        pair.diff_written()
    };
    let diff = compare(None, Some(&first));
    assert_eq!((only(&diff).0, only(&diff).2), (Part::Signature, &[8][..]));
    let diff = compare(Some(&first), Some(&second));
    assert_eq!((only(&diff).0, only(&diff).2), (Part::Signature, &[8][..]));
    let Change::Attribute { name: "certificate", a, .. } = only(&diff).3 else { panic!("{diff}") };
    assert!(a.starts_with("CN=test signer (sha256:"), "{a}");
    let diff = compare(Some(&first), Some(&first));
    assert!(diff.same_measurements, "{diff}");
    assert!(diff.differences.iter().all(|difference| difference.part == Part::Signature));
}

fn signer() -> Signer {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut certificate = rcgen::CertificateParams::new(Vec::new()).unwrap();
    certificate.distinguished_name = rcgen::DistinguishedName::new();
    certificate.distinguished_name.push(rcgen::DnType::CommonName, "test signer");
    let certificate = certificate.self_signed(&key).unwrap();
    Signer::from_pem(key.serialize_pem().as_bytes(), certificate.pem().as_bytes()).unwrap()
}

#[test]
fn attributes_are_told_one_by_one() {
    let node = |permissions, owner, what| Node { permissions, owner, what };
    let a = tree(&[
        ("mode", node(0o644, 0, What::File(b"x".to_vec()))),
        ("owner", node(0o644, 0, What::Directory)),
        ("target", node(0o777, 0, What::Symlink(b"old".to_vec()))),
        ("text", file(b"one\ntwo\n")),
        ("type", node(0o755, 0, What::Directory)),
    ]);
    let b = tree(&[
        ("mode", node(0o4755, 0, What::File(b"x".to_vec()))),
        ("owner", node(0o644, 33, What::Directory)),
        ("target", node(0o777, 0, What::Symlink(b"new".to_vec()))),
        ("text", file(b"one\nthree\n")),
        ("type", node(0o755, 0, What::File(Vec::new()))),
    ]);
    let diff = Pair::new().diff_applications(archive(&a), archive(&b));
    let changes: Vec<_> = diff.differences.iter().map(|d| (d.entry.as_deref().unwrap(), &d.change)).collect();
    assert_eq!(changes[0], ("mode", &attribute("mode", "0644", "4755")));
    assert_eq!(changes[1], ("owner", &attribute("owner", "0:0", "33:0")));
    assert_eq!(changes[2], ("target", &attribute("target", "old", "new")));
    assert_eq!(changes[4], ("type", &attribute("type", "directory", "file")));
    assert_eq!(changes.len(), 5);
    let (_, Change::Content { a_bytes: 8, b_bytes: 10, bytes, line: Some(line) }) = changes[3] else {
        panic!("{:?}", changes[3])
    };
    assert_eq!(*bytes, Some(ByteRange { offset: 5, length: 5, differing: 5 }));
    assert_eq!((line.number, line.a.as_str(), line.b.as_str()), (2, "two", "three"));
}

#[test]
fn hard_links_are_followed_by_name_and_not_by_inode_number() {
    let linked = |before: bool, names: &[&str]| {
        let mut archive = cpio::Writer::new(Vec::new());
        let entry = |name: &str, kind| Entry { name: name.into(), permissions: 0o644, uid: 0, gid: 0, kind };
        if before {
            archive.entry(&entry("a", Kind::Directory)).unwrap();
        }
        for (index, name) in names.iter().enumerate() {
            let content = if index + 1 == names.len() { &b"shared"[..] } else { b"" };
            let link = Some(HardLink { group: 1, names: u32::try_from(names.len()).unwrap() });
            let kind = Kind::File { size: content.len() as u64, link };
            archive.file(&entry(name, kind), &mut &*content).unwrap();
        }
        archive.finish().unwrap()
    };
    let pair = Pair::new();
    let diff = pair.diff_applications(linked(false, &["x", "y"]), linked(true, &["x", "y"]));
    assert_eq!(only(&diff).1, Some("a"), "a file before the links changes their inode number only");
    let diff = pair.diff_applications(linked(false, &["x", "y"]), linked(false, &["x", "z"]));
    assert_eq!(diff.differences.iter().filter_map(|d| d.entry.as_deref()).collect::<Vec<_>>(), ["y", "z"]);
}

#[test]
fn archives_that_only_differ_in_how_they_are_written_are_told_apart() {
    let pair = Pair::new();
    let files = tree(&[("a", file(b"a")), ("b", file(b"b"))]);
    let plain = archive(&files);
    let how = |diff: &Diff| match only(diff).3 {
        Change::Written { how, bytes } => (*how, bytes.unwrap().offset),
        other => panic!("{other:?}"),
    };
    let mut inode = plain.clone();
    inode[13] = b'7';
    let (said, at) = how(&pair.diff_applications(plain.clone(), inode));
    assert!(said.contains("same order") && at == 13, "{said} {at}");

    let mut reversed = cpio::Writer::new(Vec::new());
    for name in ["b", "a"] {
        let kind = Kind::File { size: 1, link: None };
        let entry = Entry { name: name.into(), permissions: 0o644, uid: 0, gid: 0, kind };
        reversed.file(&entry, &mut name.as_bytes()).unwrap();
    }
    let (said, _) = how(&pair.diff_applications(plain.clone(), reversed.finish().unwrap()));
    assert!(said.contains("another order"), "{said}");

    let (said, at) = how(&pair.diff_applications(plain.clone(), gzip(&plain)));
    assert!(said.contains("compression") && at == 0, "{said} {at}");

    // The time of an entry, which other tools set, is an attribute.
    let mut time = plain.clone();
    time[6 + 8 * 5 + 7] = b'9';
    let diff = pair.diff_applications(plain, time);
    assert_eq!(only(&diff).3, &attribute("modified", "0", "9"));
}

#[test]
fn contents_in_compressed_archives_are_compared_too() {
    let a = archive(&tree(&[("a", file(&[1; 70_000])), ("b", file(b"bb")), ("c", file(b"c"))]));
    let b = archive(&tree(&[("a", file(&[1; 70_001])), ("b", file(b"bB")), ("c", file(b"c"))]));
    let diff = Pair::new().diff_applications(gzip(&a), gzip(&b));
    let found: Vec<_> = diff
        .differences
        .iter()
        .map(|d| match &d.change {
            Change::Content { bytes: Some(bytes), .. } => {
                (d.entry.as_deref().unwrap(), bytes.offset, bytes.differing)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(found, [("a", 70_000, 1), ("b", 1, 1)]);
}

#[test]
fn a_ramdisk_that_is_no_archive_is_compared_byte_by_byte() {
    let diff = Pair::new().diff_applications(vec![7; 1000], [vec![7; 999], vec![8]].concat());
    let bytes = Some(ByteRange { offset: 999, length: 1, differing: 1 });
    let content = Change::Content { a_bytes: 1000, b_bytes: 1000, bytes, line: None };
    assert_eq!(only(&diff), (Part::Ramdisk(1), None, &[0, 2][..], &content));
}

#[test]
fn what_is_no_image_is_refused_by_name_and_reason() {
    let pair = Pair::new();
    Image::with_ramdisks(vec![archive(&Tree::new())]).write(&pair.path("a.eif"), None);
    let good = fs::read(pair.path("a.eif")).unwrap();
    let mut damaged = good.clone();
    *damaged.last_mut().unwrap() ^= 1;
    for (bytes, reason) in [
        (&b"\x7fELF"[..], "the image ends after 4 bytes"),
        (&vec![0; 600], "not an enclave image"),
        (&good[..good.len() - 1], "takes"),
        (&damaged, "checksum"),
    ] {
        fs::write(pair.path("b.eif"), bytes).unwrap();
        let error = diff(&pair.path("a.eif"), &pair.path("b.eif"), &Limits::default()).unwrap_err();
        assert!(matches!(error, Error::Image { .. }));
        let said = chain(&error);
        assert!(said.contains("b.eif is not a usable enclave image file") && said.contains(reason), "{said}");
    }
}

#[test]
fn the_program_answers_with_its_exit_status() {
    let pair = Pair::new();
    let boot = archive(&tree(&[("init", file(b"init"))]));
    let image = Image::with_ramdisks(vec![boot]);
    image.write(&pair.path("a.eif"), None);
    Image { cpus: 3, ..image }.write(&pair.path("b.eif"), None);
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_rbuilds"))
            .args(args)
            .current_dir(pair.dir.path())
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = run(&["diff", "a.eif", "a.eif"]);
    assert!(code == 0 && text.ends_with("The images are the same, byte for byte.\n"), "{text}");
    let (code, text) = run(&["diff", "--json", "a.eif", "b.eif"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["same_measurements"]), (1, &json!(true)));
    let expected = json!({
        "part": "header", "pcrs": [], "what": "attribute", "name": "default cpus", "a": "2", "b": "3"
    });
    assert_eq!(json["differences"], json!([expected]));
    assert_eq!(run(&["diff", "a.eif"]).0, 2);
    assert_eq!(run(&["diff", "a.eif", "none.eif"]).0, 3);
    assert_eq!(run(&["inspect", "none.eif"]).0, 3);
}

fn node() -> impl Strategy<Value = Node> {
    let what = prop_oneof![
        Just(What::Directory),
        prop::collection::vec(0_u8..3, 0..6).prop_map(What::File),
        prop::collection::vec(b'x'..b'z', 1..3).prop_map(What::Symlink),
    ];
    (prop::sample::select(vec![0o644, 0o755]), 0_u32..2, what).prop_map(|(permissions, owner, what)| Node {
        permissions,
        owner,
        what,
    })
}

/// A tree, and the same with some entries replaced, removed or added.
fn trees() -> impl Strategy<Value = (Tree, Tree)> {
    let tree = prop::collection::btree_map("[a-c]{1,2}", node(), 0..8);
    let edits = prop::collection::btree_map("[a-c]{1,2}", prop::option::of(node()), 0..4);
    (tree, edits).prop_map(|(tree, edits)| {
        let mut edited = tree.clone();
        for (name, node) in edits {
            match node {
                Some(node) => edited.insert(name, node),
                None => edited.remove(&name),
            };
        }
        (tree, edited)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The model knows nothing of archives: a path has changed if it stands for something else in the other tree.
    #[test]
    fn exactly_the_changed_paths_are_told(
        (a, b) in trees(),
        compressed in any::<(bool, bool)>(),
    ) {
        let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        let expected: BTreeSet<&str> =
            names.into_iter().filter(|name| a.get(*name) != b.get(*name)).map(String::as_str).collect();
        let pack = |tree: &Tree, compress: bool| if compress { gzip(&archive(tree)) } else { archive(tree) };
        let pair = Pair::new();
        let diff = pair.diff_applications(pack(&a, compressed.0), pack(&b, compressed.1));
        let told: BTreeSet<&str> = diff.differences.iter().filter_map(|d| d.entry.as_deref()).collect();
        prop_assert_eq!(told, expected);
        let same = fs::read(pair.path("a.eif")).unwrap() == fs::read(pair.path("b.eif")).unwrap();
        prop_assert_eq!(diff.differences.is_empty(), same);
        prop_assert_eq!(diff.identical, same);
        prop_assert!(diff.differences.iter().all(|d| d.part == Part::Ramdisk(1) && d.pcrs == [0, 2]));
    }

    /// Whatever a ramdisk holds, it is an answer or a typed error.
    #[test]
    fn ramdisks_of_any_bytes_never_panic(
        start in prop::sample::select(vec![&b""[..], b"070701", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd"]),
        rest in prop::collection::vec(any::<u8>(), 1..300),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let pair = Pair::new();
        let mut almost = archive(&tree(&[("a", file(b"content")), ("b", file(b"other"))]));
        let at = at.index(almost.len());
        almost[at] = byte;
        let wild = [start, &rest].concat();
        pair.diff_applications(wild, almost.clone());
        for name in ["a.eif", "b.eif"] {
            let options = rbuilds::InspectOptions { files: true, ..rbuilds::InspectOptions::default() };
            rbuilds::inspect(&pair.path(name), &options).unwrap().to_string();
        }
    }
}
