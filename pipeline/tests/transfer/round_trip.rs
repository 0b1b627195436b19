//! What goes in comes out: content, names, metadata, links and holes.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, symlink},
    },
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use pipeline::transfer::{Meter, ReceiveOptions, Source, Target, client};
use proptest::prelude::*;

use crate::support::*;

/// A tree with everything that a tree can have and a transfer carries.
pub(crate) fn build_tree(at: &Path) {
    fs::create_dir_all(at.join("deep/er/est")).unwrap();
    fs::create_dir(at.join("empty")).unwrap();
    fs::write(at.join("file"), noise(300_000, 1)).unwrap();
    fs::write(at.join("nothing"), b"").unwrap();
    fs::write(at.join("deep/er/est/small"), b"small").unwrap();
    fs::write(at.join(OsStr::from_bytes(b"not \xff utf-8 \n\x1b")), b"odd").unwrap();
    fs::hard_link(at.join("file"), at.join("deep/other name")).unwrap();
    symlink("../outside/\u{1f41f}", at.join("deep/link")).unwrap();
    symlink("/etc/passwd", at.join("absolute")).unwrap();
    let sparse = File::create(at.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 1 << 20).unwrap();
    for (path, mode, seconds, nanoseconds) in [
        ("file", 0o640, 1_000_000_000, 123_456_789),
        ("nothing", 0o4755, 0, 0),
        ("sparse", 0o444, -1, 999_999_999),
        ("deep/er/est", 0o1777, 5, 5),
        ("empty", 0o500, 1, 1),
    ] {
        set_mode(&at.join(path), mode);
        set_mtime(&at.join(path), seconds, nanoseconds);
    }
    set_mtime(&at.join("absolute"), 77, 7);
    for directory in ["deep/er", "deep", ""] {
        set_mtime(&at.join(directory), 1_234_567_890, 5);
    }
}

/// `survey`, less the bits that are dropped on purpose.
fn without_special(tree: &Path) -> std::collections::BTreeMap<std::path::PathBuf, Seen> {
    let mut found = survey(tree);
    found.values_mut().for_each(|seen| seen.mode &= 0o1777);
    found
}

#[test]
fn a_tree_arrives_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (source, root, back) = (folder.path().join("a"), folder.path().join("root"), folder.path().join("b"));
    build_tree(&source);
    fs::create_dir(&root).unwrap();
    runtime().block_on(async {
        let sent = Job::new("send-dir", &root, &source, "/tree").run(Line::Pieces(64 << 10)).await.done();
        assert_eq!(without_special(&root.join("tree")), without_special(&source));
        let got = Job::new("recv-dir", &root, &back, "/tree").run(Line::Pieces(64 << 10)).await.done();
        assert_eq!(without_special(&back), without_special(&source));
        assert_eq!(sent.client.unwrap().total.entries, 13);
        assert_eq!(got.client.unwrap().total.bytes, 300_000 + 5 + 3 + (3 << 20));
    });
    let blocks = fs::metadata(back.join("sparse")).unwrap().blocks();
    assert!(blocks * 512 < 1 << 20, "{blocks} blocks: the holes were filled");
}

#[test]
fn a_byte_at_a_time_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let (source, root) = (folder.path().join("a"), folder.path().join("root"));
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("sub/file"), noise(5000, 3)).unwrap();
    symlink("x", source.join("link")).unwrap();
    fs::create_dir(&root).unwrap();
    runtime().block_on(async {
        Job::new("send-dir", &root, &source, "/tree").run(Line::Pieces(1)).await.done();
        let back = folder.path().join("back");
        Job::new("recv-dir", &root, &back, "/tree").run(Line::Pieces(1)).await.done();
        assert_eq!(survey(&back), survey(&source));
    });
}

#[test]
fn metadata_is_what_cp_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let (source, root, copy) =
        (folder.path().join("a"), folder.path().join("root"), folder.path().join("cp"));
    build_tree(&source);
    fs::create_dir(&root).unwrap();
    let status = Command::new("cp").arg("-a").arg(&source).arg(&copy).status().unwrap();
    assert!(status.success());
    let job = Job {
        options: ReceiveOptions { special_bits: true, ..ReceiveOptions::default() },
        ..Job::new("recv-dir", folder.path(), &folder.path().join("ours"), "/a")
    };
    runtime().block_on(job.run(Line::Pieces(64 << 10))).done();
    assert_eq!(survey(&folder.path().join("ours")), survey(&copy));
}

#[test]
fn files_replace_files_and_links_but_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (root, local) = (folder.path().join("root"), folder.path().join("local"));
    fs::create_dir_all(root.join("directory")).unwrap();
    fs::write(&local, b"new").unwrap();
    fs::write(root.join("old"), b"old").unwrap();
    symlink("old", root.join("link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), rustix::fs::FileType::Fifo, 0o666.into(), 0)
        .unwrap();
    let send = |to: &str| {
        let job = Job::new("send-file", &root, &local, to);
        runtime().block_on(job.run(Line::Pieces(1 << 16)))
    };
    send("/link").done();
    assert!(!fs::symlink_metadata(root.join("link")).unwrap().is_symlink());
    assert_eq!(fs::read(root.join("old")).unwrap(), b"old", "the link was not followed");
    send("/old").done();
    assert_eq!(fs::read(root.join("old")).unwrap(), b"new");
    assert!(send("/fifo").refused().contains("/fifo: is a FIFO, not a file"));
    assert!(send("/directory").refused().contains("/directory: is a directory, not a file"));
    assert!(send("/").refused().contains("is a directory"));
    assert!(send("/none/file").refused().contains("No such file"));
    assert!(send("/old/file").refused().contains("Not a directory"));
    assert_eq!(partials(&root), Vec::<std::path::PathBuf>::new());
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn streams_are_files_on_the_other_side() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let content = noise(500_001, 9);
    runtime().block_on(async {
        let job = Job::new("send-file", root, Path::new("-"), "/streamed");
        let (mut stream, serving, _) = connect(root, &["/"], Line::Pieces(4096));
        let source = Source::Stream {
            stream: Box::new(std::io::Cursor::new(content.clone()).take(u64::MAX)),
            mode: 0o600,
        };
        let sent =
            client::upload(&mut stream, &job.request(), source, Meter::default(), PATIENCE).await.unwrap();
        assert_eq!(sent.content, Some(*blake3::hash(&content).as_bytes()));
        serving.await.unwrap().unwrap();
        assert_eq!(fs::read(root.join("streamed")).unwrap(), content);
        assert_eq!(fs::metadata(root.join("streamed")).unwrap().mode() & 0o7777, 0o600);

        let (out, (mut stream, serving, _)) = (Shared::default(), connect(root, &["/"], Line::Pieces(4096)));
        let job = Job::new("recv-file", root, Path::new("-"), "/streamed");
        let target = Target::Stream(Box::new(out.clone()));
        let options = ReceiveOptions::default();
        client::download(&mut stream, &job.request(), target, options, Meter::default(), PATIENCE)
            .await
            .unwrap();
        serving.await.unwrap().unwrap();
        assert_eq!(*out.0.lock().unwrap(), content);
    });
}

#[test]
fn what_is_excluded_stays_and_what_cannot_be_carried_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (source, root) = (folder.path().join("a"), folder.path().join("root"));
    fs::create_dir_all(source.join("target/x")).unwrap();
    fs::create_dir_all(&root).unwrap();
    for name in ["a.o", "a.c", "keep.o", "target/x/y"] {
        fs::write(source.join(name), name).unwrap();
    }
    rustix::fs::mknodat(rustix::fs::CWD, source.join("fifo"), rustix::fs::FileType::Fifo, 0o666.into(), 0)
        .unwrap();
    let excludes = vec!["*.o".to_owned(), "/target/".to_owned(), "!keep.o".to_owned()];
    let names = |at: &Path| survey(at).into_keys().map(|p| p.display().to_string()).collect::<Vec<_>>();
    let job = Job { excludes, ..Job::new("send-dir", &root, &source, "/up") };
    let ran = runtime().block_on(job.run(Line::Pieces(1 << 16))).done();
    assert_eq!(names(&root.join("up")), ["", "a.c", "keep.o"]);
    assert_eq!((ran.meter.skipped(), ran.meter.skipped_paths()), (1, vec![b"fifo".to_vec()]));
    let back = folder.path().join("back");
    let job = Job {
        local: back.clone(),
        verb: "recv-dir",
        remote: "/a".to_owned(),
        root: folder.path().to_owned(),
        ..job
    };
    let ran = runtime().block_on(job.run(Line::Pieces(1 << 16))).done();
    assert_eq!(names(&back), ["", "a.c", "keep.o"]);
    assert_eq!(ran.meter.skipped_paths(), vec![b"fifo".to_vec()]);
}

#[test]
fn a_second_transfer_sends_only_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let (source, root) = (folder.path().join("a"), folder.path().join("root"));
    build_tree(&source);
    fs::create_dir(&root).unwrap();
    let job = Job::new("send-dir", &root, &source, "/tree");
    runtime().block_on(async {
        job.run(Line::Pieces(1 << 16)).await.done();
        let again = job.run(Line::Pieces(1 << 16)).await.done();
        assert_eq!(again.meter.kept(), again.meter.bytes());
        assert!(again.record.up.len() < 5000, "{} bytes were sent", again.record.up.len());
        assert_eq!(without_special(&root.join("tree")), without_special(&source));

        // The same size and time, another content: only the digest tells.
        fs::write(root.join("tree/file"), noise(300_000, 2)).unwrap();
        set_mtime(&root.join("tree/file"), 1_000_000_000, 123_456_789);
        set_mode(&root.join("tree/nothing"), 0o777);
        let third = job.run(Line::Pieces(1 << 16)).await.done();
        assert_eq!(third.meter.bytes() - third.meter.kept(), 300_000);
        assert_eq!(without_special(&root.join("tree")), without_special(&source));
        let fresh = Job { resume: false, ..job }.run(Line::Pieces(1 << 16)).await.done();
        assert_eq!(fresh.meter.kept(), 0);
    });
}

#[test]
fn questions_about_long_names_fit_their_frames() {
    let folder = tempfile::tempdir().unwrap();
    let (source, root) = (folder.path().join("a"), folder.path().join("root"));
    fs::create_dir(&source).unwrap();
    fs::create_dir(&root).unwrap();
    for number in 0..600 {
        fs::write(source.join(format!("{number:0>255}")), number.to_string()).unwrap();
    }
    let job = Job::new("send-dir", &root, &source, "/tree");
    runtime().block_on(async {
        job.run(Line::Pieces(1 << 16)).await.done();
        let again = job.run(Line::Pieces(1 << 16)).await.done();
        assert_eq!(again.meter.kept(), again.meter.bytes());
    });
    assert_eq!(survey(&root.join("tree")), survey(&source));
}

#[test]
fn files_that_say_they_are_empty_and_are_not_arrive_whole() {
    let folder = tempfile::tempdir().unwrap();
    let job = Job {
        allowed: vec!["/proc"],
        ..Job::new("recv-file", Path::new("/"), &folder.path().join("got"), "/proc/version")
    };
    runtime().block_on(job.run(Line::Pieces(1 << 16))).done();
    assert_eq!(fs::read(folder.path().join("got")).unwrap(), fs::read("/proc/version").unwrap());
}

#[test]
fn a_file_that_changes_while_it_is_sent_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (root, local) = (folder.path().join("root"), folder.path().join("local"));
    fs::create_dir(&root).unwrap();
    fs::write(&local, noise(2 << 20, 4)).unwrap();
    // Long ago, or the system's clock may not have moved on when it is changed.
    set_mtime(&local, 1_000_000, 0);
    let refused = runtime().block_on(async {
        let (mut stream, serving, record) = connect(&root, &["/"], Line::Hold(10_000));
        let job = Job::new("send-file", &root, &local, "/file");
        let changing = async {
            while record.lock().unwrap().up.len() < 10_000 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            fs::OpenOptions::new().write(true).open(&local).unwrap().write_all_at(b"x", 0).unwrap();
            record.lock().unwrap().go_on = true;
        };
        let (refused, ()) = tokio::join!(job.ask(&mut stream, Meter::default()), changing);
        drop(stream);
        assert!(serving.await.unwrap().is_err());
        refused.unwrap_err().to_string()
    });
    assert!(refused.contains("local: changed while it was being sent"), "{refused}");
    assert!(survey(&root).len() == 1, "{:?}", survey(&root));
}

#[test]
fn a_second_transfer_of_the_same_file_waits_for_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (root, local) = (folder.path().join("root"), folder.path().join("local"));
    fs::create_dir(&root).unwrap();
    fs::write(&local, noise(2 << 20, 4)).unwrap();
    runtime().block_on(async {
        let (mut held, serving, record) = connect(&root, &["/"], Line::Hold(10_000));
        let first = tokio::spawn({
            let job = Job::new("send-file", &root, &local, "/file");
            async move { job.ask(&mut held, Meter::default()).await }
        });
        while partials(&root).is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let second = Job::new("send-file", &root, &local, "/file").run(Line::Pieces(1 << 16)).await;
        assert!(second.refused().contains("/file: another transfer of this file is under way"));
        record.lock().unwrap().go_on = true;
        first.await.unwrap().unwrap();
        serving.await.unwrap().unwrap();
    });
    assert_eq!(fs::read(root.join("file")).unwrap(), fs::read(local).unwrap());
}

#[test]
fn sixty_four_transfers_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    runtime().block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for number in 0..64_u64 {
            let local = folder.path().join(format!("local-{number}"));
            fs::write(&local, noise(200_000, number)).unwrap();
            let job = Job::new("send-file", &root, &local, &format!("/file-{number}"));
            all.spawn(async move {
                job.run(Line::Pieces(8192)).await.done();
            });
        }
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
    });
    for number in 0..64 {
        assert_eq!(fs::read(root.join(format!("file-{number}"))).unwrap(), noise(200_000, number));
    }
}

/// A tree of any shape: every entry is made from a few numbers.
fn random_tree(at: &Path, seed: u64) {
    let mut random = Random::new(seed);
    fs::create_dir(at).unwrap();
    let (mut directories, mut files) = (vec![at.to_owned()], Vec::new());
    for number in 0..random.below(40) {
        let mut name = noise(1 + random.below(30), random.next());
        name.iter_mut().filter(|byte| matches!(**byte, 0 | b'/')).for_each(|byte| *byte = b'-');
        name.extend_from_slice(number.to_string().as_bytes());
        let path = directories[random.below(directories.len())].join(OsStr::from_bytes(&name));
        match random.below(6) {
            0 => {
                fs::create_dir(&path).unwrap();
                directories.push(path.clone());
            }
            1 => symlink(OsStr::from_bytes(&name), &path).unwrap(),
            2 if !files.is_empty() => {
                let target: &std::path::PathBuf = &files[random.below(files.len())];
                fs::hard_link(target, &path).unwrap();
            }
            3 => {
                let file = File::create(&path).unwrap();
                file.set_len(random.below(1 << 20) as u64).unwrap();
                file.write_all_at(&noise(random.below(9000), seed), random.below(1 << 19) as u64).unwrap();
                files.push(path.clone());
            }
            _ => {
                fs::write(&path, noise(random.below(200_000), random.next())).unwrap();
                files.push(path.clone());
            }
        }
        if !path.is_symlink() {
            set_mode(
                &path,
                0o600
                    | (u32::try_from(random.below(0o2000)).unwrap() & 0o1177)
                    | if path.is_dir() { 0o100 } else { 0 },
            );
        }
        let (seconds, nanoseconds) = (random.below(1 << 33), random.below(1_000_000_000));
        set_mtime(&path, i64::try_from(seconds).unwrap() - 1000, i64::try_from(nanoseconds).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_arrives_as_it_was(seed: u64, second: u64) {
        let folder = tempfile::tempdir().unwrap();
        let (source, root, back) = (folder.path().join("a"), folder.path().join("root"), folder.path().join("b"));
        random_tree(&source, seed);
        fs::create_dir(&root).unwrap();
        runtime().block_on(async {
            Job::new("send-dir", &root, &source, "/t").run(Line::Pieces(1 << 14)).await.done();
            assert_eq!(survey(&root.join("t")), survey(&source));
            // Over another tree with other names, the names of both are there.
            random_tree(&back, second);
            Job::new("recv-dir", &root, &back, "/t").run(Line::Pieces(1 << 14)).await.done();
            let (there, wanted) = (survey(&back), survey(&source));
            assert!(wanted.iter().all(|(path, seen)| there[path].what == seen.what || matches!(seen.what, What::File(..))));
            assert_eq!(there[Path::new("")], wanted[Path::new("")]);
        });
    }
}
