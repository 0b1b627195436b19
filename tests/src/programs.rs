//! Programs of this machine in the root file system of a test's image.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::{fs, path::Path, process::Command};

/// Puts a program of this machine, and the libraries that it names, where it is here.
pub fn add_program(root: &Path, program: &str) {
    add_libraries(root, Path::new(program));
    add_file(root, program);
}

/// Puts the libraries that a program, or a library, names where they are here.
pub fn add_libraries(root: &Path, file: &Path) {
    let ldd = Command::new("ldd").arg(file).output().unwrap();
    let listed = String::from_utf8(ldd.stdout).unwrap();
    listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .for_each(|library| add_file(root, library));
}

fn add_file(root: &Path, file: &str) {
    // What ldd says of a library itself ends with a colon.
    let file = file.trim_end_matches(':');
    let target = root.join(file.trim_start_matches('/'));
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    if !target.exists() {
        fs::copy(file, &target).unwrap();
    }
}

/// Puts Python there, with its modules and what they need.
pub fn add_python(root: &Path) {
    add_program(root, "/usr/bin/python3.11");
    let status =
        Command::new("cp").args(["-rL", "--parents", "/usr/lib/python3.11"]).arg(root).status().unwrap();
    assert!(status.success());
    for unneeded in ["test", "config-3.11-x86_64-linux-gnu", "__pycache__", "dist-packages"] {
        // Not every machine has all of them.
        let _ = fs::remove_dir_all(root.join("usr/lib/python3.11").join(unneeded));
    }
    // Python loads more of them than its program names.
    for module in fs::read_dir(root.join("usr/lib/python3.11/lib-dynload")).unwrap() {
        add_libraries(root, &module.unwrap().path());
    }
}
