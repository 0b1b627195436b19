//! Peers that do not keep to the protocol, on either side: refused with nothing written outside, and nothing left.

use std::{fs, os::unix::fs::symlink, path::Path};

use pipeline::{
    frame::{FrameReader, FrameWriter, Kind},
    reply::{Accepted, Refusal},
    transfer::{
        Meter,
        entry::{Asked, Entry, Meta, Start, Total, encode_asked},
    },
};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use crate::support::*;

const META: Meta = Meta { mode: 0o644, seconds: 1, nanoseconds: 1 };

type Frames = Vec<(Kind, Vec<u8>)>;

fn file(name: &str, size: u64) -> (Kind, Vec<u8>) {
    let entry = Entry::File { name: name.into(), meta: META, size: Some(size), start: Start::At(0) };
    (Kind::Entry, entry.encode())
}

fn directory(name: &str) -> (Kind, Vec<u8>) {
    (Kind::Entry, Entry::Directory { name: name.into(), meta: META }.encode())
}

fn link(name: &str, target: &str) -> (Kind, Vec<u8>) {
    (Kind::Entry, Entry::Symlink { name: name.into(), meta: META, target: target.into() }.encode())
}

fn hard_link(name: &str, target: &str) -> (Kind, Vec<u8>) {
    (Kind::Entry, Entry::HardLink { name: name.into(), target: target.into() }.encode())
}

fn data(bytes: &[u8]) -> (Kind, Vec<u8>) {
    (Kind::Data, bytes.to_vec())
}

fn hole(length: u64) -> (Kind, Vec<u8>) {
    (Kind::Hole, length.to_be_bytes().to_vec())
}

fn digest(bytes: &[u8]) -> (Kind, Vec<u8>) {
    (Kind::Digest, blake3::hash(bytes).as_bytes().to_vec())
}

fn leave() -> (Kind, Vec<u8>) {
    (Kind::Entry, Entry::Leave.encode())
}

fn end() -> (Kind, Vec<u8>) {
    (Kind::End, Total { entries: 0, bytes: 0, digest: [0; 32] }.encode())
}

/// What a peer that sends `frames` can do to a tree that is being received, and what the receiver says of it.
fn tree(frames: Frames) -> Vec<(&'static str, Frames)> {
    let mut whole = vec![directory("")];
    whole.extend(frames);
    vec![("recv-dir", whole.clone()), ("send-dir", whole)]
}

/// Plays the peer of a receiver of `verb`; returns why the receiver gave up.
async fn attack(folder: &Path, verb: &'static str, frames: Frames) -> String {
    let job = Job::new(verb, &folder.join("root"), &folder.join("root/target"), "/target");
    if verb.starts_with("send") {
        attack_server(&job, frames).await
    } else {
        attack_client(&job, frames).await
    }
}

async fn attack_server(job: &Job, frames: Frames) -> String {
    let (client, server) = duplex(1 << 16);
    let serving = tokio::spawn(serve(server, job.root.clone(), reach(&["/"])));
    let (reader, writer) = tokio::io::split(client);
    let mut writer = FrameWriter::new(writer);
    writer.send(Kind::Request, &job.request().encode().unwrap()).await.unwrap();
    let said = play(FrameReader::new(reader), writer, frames).await;
    let ended = tokio::time::timeout(PATIENCE, serving).await.expect("the server ends").unwrap();
    assert!(ended.is_err());
    said
}

async fn attack_client(job: &Job, frames: Frames) -> String {
    let (mut client, server) = duplex(1 << 16);
    let (reader, writer) = tokio::io::split(server);
    let enclave = async move {
        let mut reader = FrameReader::new(reader);
        reader.next().await.unwrap().unwrap();
        let mut writer = FrameWriter::new(writer);
        writer.send(Kind::Accepted, &Accepted::default().encode()).await.unwrap();
        play(reader, writer, frames).await
    };
    let (asked, said) = tokio::join!(job.ask(&mut client, Meter::default()), enclave);
    let error = asked.unwrap_err().to_string();
    assert_eq!(said, error, "the peer is told what the user is told");
    error
}

/// Sends everything, and returns the refusal. The receiver reads on for a while, so nothing fails to be written.
async fn play(mut reader: Reader, mut writer: Writer, frames: Frames) -> String {
    for (kind, payload) in frames {
        writer.send(kind, &payload).await.unwrap();
    }
    writer.flush().await.unwrap();
    let said = async {
        while let Some(frame) = reader.next().await.unwrap() {
            if frame.kind == Kind::Refused {
                return Refusal::decode(&frame.payload).unwrap().message;
            }
        }
        panic!("the receiver said nothing");
    };
    tokio::time::timeout(PATIENCE, said).await.expect("the receiver answers")
}

type Reader = FrameReader<tokio::io::ReadHalf<DuplexStream>>;
type Writer = FrameWriter<tokio::io::WriteHalf<DuplexStream>>;

fn scene() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("root")).unwrap();
    fs::create_dir(folder.path().join("victim")).unwrap();
    fs::write(folder.path().join("victim/file"), b"untouched").unwrap();
    folder
}

fn check_untouched(folder: &Path) {
    assert_eq!(survey(&folder.join("victim")).len(), 2);
    assert_eq!(fs::read(folder.join("victim/file")).unwrap(), b"untouched");
    assert_eq!(partials(folder), Vec::<std::path::PathBuf>::new());
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for name in ["..", ".", "../victim/new", "/etc/new", "a/b", "a\0b", "", ".glasshouse-0.partial"] {
        for entry in [file(name, 1), directory(name), link(name, "x"), hard_link(name, "x")] {
            for (verb, frames) in tree(vec![entry.clone(), data(b"x"), digest(b"x")]) {
                let folder = scene();
                let said = runtime().block_on(attack(folder.path(), verb, frames));
                let known = said.contains("name is refused") || said.contains("does not belong here");
                assert!(known, "{verb} {name:?}: {said}");
                check_untouched(folder.path());
            }
        }
    }
}

#[test]
fn links_that_came_before_are_not_followed() {
    let folder = scene();
    let victim = folder.path().join("victim").display().to_string();
    for (frames, why) in [
        (
            vec![link("d", &victim), directory("d"), file("new", 1), data(b"x"), digest(b"x")],
            "is a symbolic link, not a directory",
        ),
        (vec![link("d", &victim), hard_link("h", "d/file")], "cannot create the hard link"),
        (vec![link("f", &format!("{victim}/file")), hard_link("h", "f")], "is a symbolic link, not a file"),
        (vec![hard_link("h", "../../victim/file")], "hard link to a path that is refused"),
        (vec![hard_link("h", "/etc/passwd")], "hard link to a path that is refused"),
        (vec![directory("e"), leave(), hard_link("h", "e")], "is a directory, not a file"),
        (vec![hard_link("h", "none")], "cannot create the hard link"),
    ] {
        for (verb, frames) in tree(frames) {
            let folder = scene();
            symlink(&victim, folder.path().join("root/unused")).unwrap();
            let said = runtime().block_on(attack(folder.path(), verb, frames));
            assert!(said.contains(why), "{verb}: {said}");
            check_untouched(folder.path());
        }
    }
    check_untouched(folder.path());
    // A file through a link that came before replaces the link.
    for (verb, frames) in tree(vec![
        link("f", &format!("{victim}/file")),
        file("f", 1),
        data(b"x"),
        digest(b"x"),
        link("f", "elsewhere"),
        leave(),
        end(),
    ]) {
        let folder = scene();
        let said = runtime().block_on(attack(folder.path(), verb, frames));
        assert!(said.contains("digest does not agree"), "{verb}: {said}");
        assert_eq!(fs::read_link(folder.path().join("root/target/f")).unwrap(), Path::new("elsewhere"));
        check_untouched(folder.path());
    }
    check_untouched(folder.path());
}

#[test]
fn content_that_is_not_as_announced_never_gets_its_name() {
    for (frames, why) in [
        (vec![file("f", 1), data(b"xy")], "more data than was announced"),
        (vec![file("f", 3), data(b"xy"), digest(b"xy")], "less data than was announced"),
        (vec![file("f", 2), data(b"xy"), digest(b"xz")], "f: the digest does not agree"),
        (vec![file("f", 2), data(b"xy"), data(b""), digest(b"xy")], "no bytes"),
        (vec![file("f", 2), hole(u64::MAX)], "more data than was announced"),
        (vec![file("f", 2), data(b"x"), hole(u64::MAX)], "more than there can be"),
        (vec![file("f", 2), hole(0)], "no bytes"),
        (vec![file("f", u64::MAX)], "larger than the limit"),
        (vec![file("f", 2), data(b"xy"), leave()], "does not belong into a file"),
        (vec![file("f", 2), (Kind::Hole, vec![0; 7])], "length of its kind"),
        (vec![file("f", 2), (Kind::Digest, vec![0; 31])], "length of its kind"),
        (vec![data(b"x")], "does not belong here"),
        (vec![leave(), leave()], "does not belong here"),
        (vec![leave(), file("f", 0)], "does not belong here"),
        (vec![end()], "too early"),
        (vec![(Kind::Entry, vec![0xff; 100])], "not the CBOR that is specified"),
        (vec![(Kind::Request, vec![])], "does not belong here"),
        (
            vec![(
                Kind::Ask,
                encode_asked(&[Asked { name: b"f".to_vec(), size: 1, seconds: 1, nanoseconds: 1 }]),
            )],
            "does not belong here",
        ),
    ] {
        for (verb, frames) in tree(frames) {
            let folder = scene();
            let said = runtime().block_on(attack(folder.path(), verb, frames));
            assert!(said.contains(why), "{verb}: {said}, not {why}");
            assert!(!folder.path().join("root/target/f").exists());
            check_untouched(folder.path());
        }
    }
}

#[test]
fn a_file_is_not_a_tree_and_a_tree_is_not_a_file() {
    for (verb, frames) in [
        ("recv-file", vec![directory("")]),
        ("send-file", vec![directory("")]),
        ("recv-file", vec![file("named", 1)]),
        ("recv-file", vec![link("", "/etc/passwd")]),
        ("recv-dir", vec![file("", 1)]),
        ("send-dir", vec![leave()]),
        ("send-file", vec![file("", 1), data(b"x"), digest(b"x"), file("", 1)]),
    ] {
        let folder = scene();
        let said = runtime().block_on(attack(folder.path(), verb, frames));
        let known = said.contains("does not belong here") || said.contains("name is refused");
        assert!(known, "{verb}: {said}");
        check_untouched(folder.path());
    }
}

#[test]
fn depth_has_a_limit() {
    let deep = vec![directory("d"); 300];
    for (verb, frames) in tree(deep) {
        let folder = scene();
        let said = runtime().block_on(attack(folder.path(), verb, frames));
        assert!(said.contains("more than 256 directories"), "{verb}: {said}");
    }
}

#[test]
fn a_part_that_is_not_there_cannot_be_gone_on_with() {
    let at =
        |start| (Kind::Entry, Entry::File { name: b"f".to_vec(), meta: META, size: Some(9), start }.encode());
    for start in [Start::At(3), Start::Whole([0; 32])] {
        for (verb, frames) in tree(vec![at(start)]) {
            let folder = scene();
            let said = runtime().block_on(attack(folder.path(), verb, frames));
            assert!(said.contains("where this side has nothing"), "{verb}: {said}");
            check_untouched(folder.path());
        }
    }
}

#[test]
fn an_unfinished_file_that_others_made_is_not_written_to() {
    let folder = scene();
    let (root, local) = (folder.path().join("root"), folder.path().join("local"));
    fs::write(&local, noise(100_000, 5)).unwrap();
    // The name that an unfinished `/file` has.
    let name = format!(".glasshouse-{}.partial", &blake3::hash(b"file").to_hex()[..32]);
    let plants: [&dyn Fn(&Path); 4] = [
        &|at| symlink("../victim/file", at).unwrap(),
        &|at| fs::hard_link(folder.path().join("victim/file"), at).unwrap(),
        &|at| rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap(),
        &|at| fs::write(at, noise(70_000, 6)).unwrap(),
    ];
    for plant in plants {
        plant(&root.join(&name));
        let job = Job::new("send-file", &root, &local, "/file");
        runtime().block_on(job.run(Line::Pieces(1 << 16))).done();
        assert_eq!(fs::read(root.join("file")).unwrap(), fs::read(&local).unwrap());
        check_untouched(folder.path());
        fs::remove_file(root.join("file")).unwrap();
    }
}

#[test]
fn more_than_is_allowed_is_refused() {
    use pipeline::transfer::ReceiveOptions;
    let folder = scene();
    let source = folder.path().join("root/source");
    fs::create_dir(&source).unwrap();
    for number in 0..10 {
        fs::write(source.join(number.to_string()), noise(1000, number)).unwrap();
    }
    let limited = |options| {
        let job = Job {
            options,
            ..Job::new("recv-dir", &folder.path().join("root"), &folder.path().join("got"), "/source")
        };
        runtime().block_on(job.run(Line::Pieces(1 << 16))).refused()
    };
    let defaults = ReceiveOptions::default();
    assert!(limited(ReceiveOptions { max_bytes: 5500, ..defaults }).contains("more bytes than are allowed"));
    assert!(limited(ReceiveOptions { max_entries: 5, ..defaults }).contains("more entries than are allowed"));
    check_untouched(folder.path());
}

#[test]
fn bytes_that_are_no_frames_end_the_transfer() {
    for bytes in [&b"\x21\xff\xff\xff\xff"[..], b"\xee\0\0\0\0", &[0x20, 0, 1, 0, 1]] {
        let folder = scene();
        runtime().block_on(async {
            let job = Job::new("send-file", &folder.path().join("root"), Path::new("unused"), "/target");
            let (mut client, server) = duplex(1 << 16);
            let serving = tokio::spawn(serve(server, job.root.clone(), reach(&["/"])));
            FrameWriter::new(&mut client)
                .send(Kind::Request, &job.request().encode().unwrap())
                .await
                .unwrap();
            client.write_all(bytes).await.unwrap();
            let (reader, writer) = tokio::io::split(client);
            let said = play(FrameReader::new(reader), FrameWriter::new(writer), Vec::new()).await;
            assert!(said.contains("broke the protocol: a frame of no kind"), "{said}");
            assert!(serving.await.unwrap().is_err());
        });
        check_untouched(folder.path());
    }
}
