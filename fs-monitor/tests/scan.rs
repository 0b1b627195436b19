//! What a walk finds in trees that are ordinary, strange or hostile.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    ffi::OsStr,
    fs::{self, File, Permissions},
    io::Write,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, PermissionsExt, symlink},
            net::UnixListener,
            process::CommandExt,
        },
    },
    path::Path,
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use fs_monitor::{
    content::{DigestSet, Reader},
    observe::{Seen, observe},
    patterns::Patterns,
    state::{Content, Kind, State, Unread},
    tree::Tree,
    walk::{Found, Visitor, walk},
};
use rustix::fs::{Mode, OFlags};

type States = BTreeMap<Vec<u8>, State>;

#[derive(Default)]
struct Collect(Mutex<States>);

impl Visitor for Collect {
    type Error = Infallible;

    fn enter(&self, _: BorrowedFd<'_>, _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn found(&self, files: Vec<Found>) -> Result<(), Infallible> {
        let mut states = self.0.lock().unwrap();
        for Found { path, state, .. } in files {
            assert!(states.insert(path.to_vec(), state).is_none(), "{path:?} was found twice");
        }
        Ok(())
    }
}

fn scan(base: &Path, roots: &[&str], ignore: &[&str]) -> States {
    let tree = Tree::open(base, roots, Patterns::new(ignore).unwrap()).unwrap();
    let collect = Collect::default();
    let Ok(()) = walk(&tree, DigestSet::default(), 4, &collect);
    collect.0.into_inner().unwrap()
}

fn blake3(state: &State) -> [u8; 32] {
    state.digests().unwrap().blake3
}

#[test]
fn every_file_is_found_once_with_its_content() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = BTreeMap::new();
    for a in 0..12 {
        fs::create_dir(dir.path().join(a.to_string())).unwrap();
        for b in 0..40 {
            // Sizes around what is read at a time, and one that other threads take over.
            let size = if (a, b) == (3, 3) { 5_000_000 } else { a * b * 300 };
            let content: Vec<u8> = (0..=252).cycle().take(size).collect();
            fs::write(dir.path().join(format!("{a}/{b}")), &content).unwrap();
            expected.insert(format!("/{a}/{b}").into_bytes(), *blake3::hash(&content).as_bytes());
        }
    }
    let states = scan(dir.path(), &["/"], &[]);
    let files = states.iter().filter(|(_, state)| state.kind == Kind::File);
    let found: BTreeMap<_, _> = files.map(|(path, state)| (path.clone(), blake3(state))).collect();
    assert_eq!(found, expected);
    assert_eq!(states.len(), expected.len() + 13, "twelve directories and the root");
}

#[test]
fn only_the_roots_are_walked_and_a_root_may_be_a_file() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["app/x", "apple/x", "srv/data", "srv/other"] {
        fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
        fs::write(dir.path().join(path), path).unwrap();
    }
    let states = scan(dir.path(), &["/app", "/srv/data"], &[]);
    let paths: Vec<_> = states.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    assert_eq!(paths, ["/app", "/app/x", "/srv/data"]);
}

#[test]
fn ignored_files_show_neither_by_themselves_nor_in_their_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("cache/deep")).unwrap();
    fs::write(dir.path().join("kept"), "x").unwrap();
    let before = scan(dir.path(), &["/"], &["*.log", "/cache/"]);
    fs::write(dir.path().join("x.log"), "x").unwrap();
    fs::write(dir.path().join("cache/deep/y"), "x").unwrap();
    assert_eq!(scan(dir.path(), &["/"], &["*.log", "/cache/"]), before);
    assert_eq!(before.keys().collect::<Vec<_>>(), [&b"/".to_vec(), &b"/kept".to_vec()]);
}

/// Each of these was once a way to make two unlike directories look alike.
#[test]
fn a_directorys_digest_binds_names_counts_modes_and_sizes() {
    let digest = |change: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [("a", "1"), ("b", "22")] {
            fs::write(dir.path().join(name), content).unwrap();
            fs::set_permissions(dir.path().join(name), Permissions::from_mode(0o644)).unwrap();
        }
        change(dir.path());
        let states = scan(dir.path(), &["/"], &[]);
        (blake3(&states[b"/".as_slice()]), states[b"/".as_slice()].size)
    };
    let (plain, count) = digest(&|_| {});
    assert_eq!((digest(&|_| {}), count), ((plain, 2), 2), "the same listing has the same digest anywhere");
    let changes: [&dyn Fn(&Path); 6] = [
        &|dir| fs::rename(dir.join("a"), dir.join("c")).unwrap(),
        &|dir| fs::write(dir.join("c"), "").unwrap(),
        &|dir| fs::remove_file(dir.join("a")).unwrap(),
        &|dir| fs::set_permissions(dir.join("a"), Permissions::from_mode(0o755)).unwrap(),
        &|dir| fs::write(dir.join("a"), "12").unwrap(),
        &|dir| {
            fs::remove_file(dir.join("a")).unwrap();
            symlink("1", dir.join("a")).unwrap();
        },
    ];
    for (i, change) in changes.into_iter().enumerate() {
        assert_ne!(digest(change).0, plain, "change {i}");
    }
}

/// A monitor that opens a pipe waits for a writer that never comes.
#[test]
fn pipes_sockets_devices_and_links_are_recorded_without_being_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), Mode::from_raw_mode(0o600)).unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    symlink("/nowhere\n/\u{e9}", path("link")).unwrap();
    symlink("link", path("loop")).unwrap();
    let states = scan(dir.path(), &["/"], &[]);
    let state = |name: &str| &states[format!("/{name}").as_bytes()];
    assert_eq!((state("pipe").kind, &state("pipe").content), (Kind::Fifo, &Content::None));
    assert_eq!((state("socket").kind, &state("socket").content), (Kind::Socket, &Content::None));
    assert_eq!(state("link").content, Content::Target("/nowhere\n/\u{e9}".as_bytes().into()));
    assert_eq!(state("loop").content, Content::Target(b"link".as_slice().into()));
}

#[test]
fn names_may_be_any_bytes_and_paths_as_long_as_they_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let name = b"a\nb\xff\x01 %";
    fs::write(dir.path().join(OsStr::from_bytes(name)), "x").unwrap();
    // Sixteen levels of 254 bytes and their separators: no path longer than 4,095 bytes can be said in one call.
    let level = "d".repeat(254);
    let mut at = File::open(dir.path()).unwrap();
    for _ in 0..18 {
        rustix::fs::mkdirat(&at, &*level, Mode::from_raw_mode(0o755)).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        at = rustix::fs::openat(&at, &*level, flags, Mode::empty()).unwrap().into();
    }
    let states = scan(dir.path(), &["/"], &[]);
    assert!(states.contains_key([b"/".as_slice(), name].concat().as_slice()));
    let longest = states.keys().max_by_key(|path| path.len()).unwrap();
    assert_eq!(longest.len(), 16 * 255);
    assert_eq!(states[longest].content, Content::Unread(Unread::TooDeep));
}

#[test]
fn hard_links_are_files_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "x").unwrap();
    fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
    let states = scan(dir.path(), &["/"], &[]);
    assert_eq!(states[b"/a".as_slice()], states[b"/b".as_slice()]);
}

#[test]
fn an_apparent_size_of_100_gib_takes_no_time() {
    let dir = tempfile::tempdir().unwrap();
    File::create(dir.path().join("huge")).unwrap().write_all_at(b"x", 100 << 30).unwrap();
    let state = &scan(dir.path(), &["/"], &[])[b"/huge".as_slice()];
    assert_eq!((state.size, &state.content), ((100 << 30) + 1, &Content::Unread(Unread::Sparse)));
}

/// Root reads everything, so the program is run as somebody else where the test is root.
#[test]
fn what_cannot_be_read_is_recorded_as_such() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(dir.path().join("closed")).unwrap();
    fs::write(dir.path().join("secret"), "x").unwrap();
    for name in ["closed", "secret"] {
        fs::set_permissions(dir.path().join(name), Permissions::from_mode(0o000)).unwrap();
    }
    // A copy where anybody may run it, whatever the modes above the place it was built in.
    let program = dir.path().join("fs-monitor");
    // Made by another process: what this one writes, processes that other tests start at that moment have open too, and
    // what is open for writing cannot be run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_fs-monitor")).arg(&program).status().unwrap();
    assert!(copied.success());
    let mut command = Command::new(&program);
    command.args(["scan", "--json", "--ignore", "fs-monitor"]).arg(dir.path());
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    let output = command.output().unwrap();
    fs::set_permissions(dir.path().join("closed"), Permissions::from_mode(0o700)).unwrap();
    let lines: Vec<serde_json::Value> =
        output.stdout.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let unread = |path: &str| {
        let line = lines.iter().find(|line| line["path"] == path).unwrap();
        line["unread"].as_str().unwrap().to_owned()
    };
    assert_eq!((unread("/closed"), unread("/secret")), ("denied".into(), "denied".into()));
    assert_eq!(output.status.code(), Some(1));
}

/// A link that takes a file's place between the look and the opening must not lead the monitor elsewhere, and whatever is
/// recorded must have been there.
#[test]
fn a_file_swapped_with_a_link_is_one_or_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("in")).unwrap();
    fs::write(path("outside"), "outside").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Bounded, so that a failed assertion ends the test.
            for _ in 0..50_000 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                fs::write(path("in/new"), "inside").unwrap();
                fs::rename(path("in/new"), path("in/x")).unwrap();
                symlink(path("outside"), path("in/new")).unwrap();
                fs::rename(path("in/new"), path("in/x")).unwrap();
            }
        });
        let directory = File::open(path("in")).unwrap();
        let mut reader = Reader::new(DigestSet::default());
        for _ in 0..500 {
            match observe(&mut reader, directory.as_fd(), b"x").unwrap() {
                Seen::State { state, .. } => match state.content {
                    // Empty while it is being written: under its own name it never is.
                    Content::Digests(digests) => {
                        assert_eq!(digests.blake3, *blake3::hash(b"inside").as_bytes());
                    }
                    Content::Target(target) => assert_eq!(*target, *path("outside").as_os_str().as_bytes()),
                    other => assert_eq!(other, Content::Unread(Unread::Moving)),
                },
                seen => assert_eq!(seen, Seen::Absent, "before the first rename"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// A file that grows while it is read has many contents; the one recorded is one of them, with its size.
#[test]
fn a_growing_file_is_recorded_in_one_of_its_states() {
    let dir = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut file = File::create(dir.path().join("log")).unwrap();
        let stop = &stop;
        scope.spawn(move || {
            for i in 0..200_000_u32 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                file.write_all(&i.to_be_bytes()).unwrap();
            }
        });
        let directory = File::open(dir.path()).unwrap();
        let mut reader = Reader::new(DigestSet::default());
        for _ in 0..300 {
            let seen = observe(&mut reader, directory.as_fd(), b"log").unwrap();
            let Seen::State { state, .. } = seen else { panic!("{seen:?}") };
            if let Content::Digests(digests) = state.content {
                let numbers = u32::try_from(state.size / 4).unwrap();
                let content: Vec<u8> = (0..numbers).flat_map(u32::to_be_bytes).collect();
                assert_eq!(digests.blake3, *blake3::hash(&content).as_bytes());
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}
