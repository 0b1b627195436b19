//! The development root's files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::thread;

use nsm::sim::{DevelopmentRoot, RootError};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_first_use_makes_a_root_and_the_second_loads_it() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("deep/inside");
    let made = DevelopmentRoot::load_or_create(&dir).unwrap();
    assert_eq!(mode(&dir.join("root.key")), 0o600);
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(fs::read_to_string(dir.join("root.pem")).unwrap(), made.root_pem());
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["root.key", "root.pem"]);

    let loaded = DevelopmentRoot::load_or_create(&dir).unwrap();
    assert_eq!(loaded.root_der(), made.root_der());
}

#[test]
fn the_root_says_what_it_is_not() {
    let (_dir, root) = crate::new_root();
    let subject = b"Glasshouse development root, not for production";
    assert!(root.root_der().windows(subject.len()).any(|part| part == subject));
}

#[test]
fn users_that_start_together_get_the_same_root() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let roots: Vec<_> = thread::scope(|scope| {
        let load = || DevelopmentRoot::load_or_create(path).unwrap().root_der().to_vec();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(roots.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_file_left_by_an_interrupted_start_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    symlink(&victim, dir.path().join("root.new")).unwrap();
    DevelopmentRoot::load_or_create(dir.path()).unwrap();
    assert_eq!(fs::read_to_string(victim).unwrap(), "untouched");
}

#[test]
fn damage_is_named_and_never_repaired_silently() {
    let (dir, _root) = crate::new_root();
    let (other_dir, _other) = crate::new_root();
    let read = |dir: &Path, file| fs::read(dir.join(file)).unwrap();
    let (key, pem) = (read(dir.path(), "root.key"), read(dir.path(), "root.pem"));
    let other_pem = read(other_dir.path(), "root.pem");
    let mut flipped = pem.clone();
    let middle = flipped.len() / 2;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };

    let damages: [(&str, &[u8]); 8] = [
        ("root.key", b""),
        ("root.key", b"no key at all"),
        ("root.key", &key[..key.len() / 2]),
        ("root.key", &pem),
        ("root.pem", b"\xff\xfe"),
        ("root.pem", &flipped),
        ("root.pem", &other_pem),
        ("root.pem", &[b'x'; 70_000]),
    ];
    for (file, contents) in damages {
        let path = dir.path().join(file);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, contents).unwrap();
        let error = DevelopmentRoot::load_or_create(dir.path()).unwrap_err();
        assert!(matches!(&error, RootError::Damaged { path: named, .. } if *named == path), "{error:?}");
        assert!(error.to_string().contains("remove both"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), contents);
        fs::write(&path, whole).unwrap();
    }
    DevelopmentRoot::load_or_create(dir.path()).unwrap();
}

#[test]
fn every_changed_character_of_the_certificate_is_noticed() {
    let (dir, root) = crate::new_root();
    let path = dir.path().join("root.pem");
    let pem = root.root_pem();
    let body: Vec<usize> = pem
        .char_indices()
        .filter(|(at, c)| c.is_ascii_alphanumeric() && (28..pem.len() - 28).contains(at))
        .map(|(at, _)| at)
        .collect();
    for at in body {
        let mut bytes = pem.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'Q' } else { b'A' };
        fs::write(&path, &bytes).unwrap();
        let loaded = DevelopmentRoot::load_or_create(dir.path());
        assert!(matches!(loaded, Err(RootError::Damaged { .. })), "character {at}: {loaded:?}");
    }
}

#[test]
fn half_a_root_is_an_error() {
    for file in ["root.key", "root.pem"] {
        let (dir, _root) = crate::new_root();
        fs::remove_file(dir.path().join(file)).unwrap();
        let error = DevelopmentRoot::load_or_create(dir.path()).unwrap_err();
        assert!(matches!(&error, RootError::HalfMissing { path } if path.ends_with(file)), "{error:?}");
    }
}

#[test]
fn a_key_others_can_read_is_refused() {
    let (dir, _root) = crate::new_root();
    let key = dir.path().join("root.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let error = DevelopmentRoot::load_or_create(dir.path()).unwrap_err();
    assert!(matches!(error, RootError::KeyExposed { mode: 0o644, .. }), "{error:?}");
}

#[test]
fn the_key_is_not_in_the_debug_text() {
    let (_dir, root) = crate::new_root();
    assert_eq!(format!("{root:?}"), "DevelopmentRoot { .. }");
}
