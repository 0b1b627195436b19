//! Connections that are cut anywhere: nothing unfinished has the final name, the next attempt completes, and neither
//! descriptors nor files are left.
//!
//! One test, because it counts the descriptors of its process.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

#[path = "transfer/support.rs"]
mod support;

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use support::*;

/// More than is kept of a cut file, so that some cuts are gone on with and some start over.
const FILE_BYTES: usize = 400_000;

fn build(at: &Path) {
    fs::create_dir_all(at.join("sub")).unwrap();
    fs::write(at.join("large"), noise(FILE_BYTES, 1)).unwrap();
    for number in 0..6 {
        fs::write(at.join(format!("sub/{number}")), noise(3000, number)).unwrap();
    }
    fs::hard_link(at.join("large"), at.join("sub/again")).unwrap();
    symlink("sub/1", at.join("link")).unwrap();
    set_mode(&at.join("sub"), 0o750);
    set_mtime(&at.join("sub"), 1_000_000, 3);
    set_mtime(at, 2_000_000, 4);
}

/// Descriptors of this process, once threads that are ending have ended.
fn descriptors(expected: usize) -> usize {
    let count = || fs::read_dir("/proc/self/fd").unwrap().count();
    for _ in 0..500 {
        if count() <= expected {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    count()
}

/// Where to cut a line on which `bytes` went: at every frame's end, in every frame's head, and anywhere.
fn cuts(bytes: &[u8], random: &mut Random) -> Vec<usize> {
    let ends = boundaries(bytes);
    let mut cuts: Vec<_> = ends.iter().flat_map(|end| [*end, end + 1, end + 4, end + 6]).collect();
    cuts.extend((0..20).map(|_| random.below(bytes.len())));
    cuts.retain(|cut| (1..bytes.len()).contains(cut));
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

struct Scene {
    folder: tempfile::TempDir,
    job: Job,
    source: std::path::PathBuf,
    target: std::path::PathBuf,
}

fn scene(verb: &'static str) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let (root, near) = (folder.path().join("root"), folder.path().join("near"));
    fs::create_dir(&root).unwrap();
    fs::create_dir(&near).unwrap();
    let (from, to) = if verb.starts_with("send") { (&near, &root) } else { (&root, &near) };
    let (source, target) = (from.join("thing"), to.join("thing"));
    if verb.ends_with("dir") {
        build(&source);
    } else {
        fs::write(&source, noise(FILE_BYTES, 1)).unwrap();
    }
    Scene { job: Job::new(verb, &root, &near.join("thing"), "/thing"), folder, source, target }
}

/// What may have its final name after a cut: what is whole.
fn check_names(source: &Path, target: &Path) {
    if !target.exists() {
        return;
    }
    let (wanted, there) = (survey(source), survey(target));
    for (path, seen) in there {
        let name = path.to_string_lossy().into_owned();
        if let (What::File(found, _), false) = (&seen.what, name.contains(".glasshouse-")) {
            let What::File(content, _) = &wanted[&path].what else { panic!("{name} is no file") };
            assert!(found == content, "{name} is not whole");
        }
    }
}

async fn check_cut(scene: &Scene, line: Line) -> u64 {
    let ran = scene.job.run(line).await;
    if ran.client.is_err() {
        let said = ran.refused();
        assert!(said.contains("the connection was cut"), "{line:?}: {said}");
    }
    check_names(&scene.source, &scene.target);
    let again = scene.job.run(Line::Pieces(1 << 16)).await.done();
    assert_eq!(survey(&scene.target), survey(&scene.source), "{line:?}");
    assert_eq!(partials(scene.folder.path()), Vec::<std::path::PathBuf>::new(), "{line:?}");
    let kept = again.meter.kept();
    if scene.target.is_dir() {
        fs::remove_dir_all(&scene.target).unwrap();
    } else {
        fs::remove_file(&scene.target).unwrap();
    }
    kept
}

#[test]
fn a_cut_anywhere_leaves_nothing_and_is_made_good_by_the_next_attempt() {
    let runtime = runtime();
    let mut random = Random::new(0x91a5_5000);
    // One transfer first, so that what a process opens once is open.
    let warm = scene("send-file");
    runtime.block_on(warm.job.run(Line::Pieces(1 << 16))).done();
    drop(warm);
    let before = descriptors(0);
    for verb in ["send-file", "recv-file", "send-dir", "recv-dir"] {
        let scene = scene(verb);
        let record = runtime.block_on(scene.job.run(Line::Pieces(1 << 16))).done().record;
        let remove =
            if verb.ends_with("dir") { fs::remove_dir_all::<&Path> } else { fs::remove_file::<&Path> };
        remove(&scene.target).unwrap();
        let lines = cuts(&record.up, &mut random).into_iter().map(Line::CutUp);
        let lines = lines.chain(cuts(&record.down, &mut random).into_iter().map(Line::CutDown));
        let (mut gone_on, mut count) = (0, 0);
        for line in lines {
            gone_on += u64::from(runtime.block_on(check_cut(&scene, line)) > 0);
            count += 1;
        }
        assert!(count > 20 && gone_on > 5, "{verb}: {gone_on} of {count} cuts were gone on with");
    }
    assert_eq!(descriptors(before), before, "descriptors are left");
}
