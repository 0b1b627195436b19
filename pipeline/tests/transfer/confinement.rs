//! The server: nothing outside of what a key may reach, whatever is asked and whatever links there are.

use std::{fs, os::unix::fs::symlink, path::Path};

use crate::support::*;

fn scene() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("srv/data/inner")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/secret"), b"secret").unwrap();
    fs::write(root.join("srv/data/open"), b"open").unwrap();
    fs::write(folder.path().join("host"), b"the host's").unwrap();
    fs::write(folder.path().join("local"), b"local").unwrap();
    symlink("/etc", root.join("srv/data/absolute")).unwrap();
    symlink("../../etc", root.join("srv/data/relative")).unwrap();
    symlink("../../../../../../../../host", root.join("srv/data/far")).unwrap();
    symlink("inner", root.join("srv/data/within")).unwrap();
    symlink("/proc/self/root", root.join("srv/data/magic")).unwrap();
    symlink("../../etc/secret", root.join("srv/data/file")).unwrap();
    folder
}

fn job(folder: &Path, verb: &'static str, remote: &str) -> Job {
    let local = if verb.starts_with("send") { folder.join("local") } else { folder.join("got") };
    Job { allowed: vec!["/srv/data"], ..Job::new(verb, &folder.join("root"), &local, remote) }
}

fn run(job: &Job) -> Ran {
    runtime().block_on(job.run(Line::Pieces(1 << 16)))
}

#[test]
fn a_key_reads_and_writes_where_it_may_and_nowhere_else() {
    let folder = scene();
    let folder = folder.path();
    for remote in ["/etc/secret", "/srv", "/srv/database", "/srv/dat", "/"] {
        for verb in ["send-file", "recv-file", "send-dir", "recv-dir"] {
            let mut job = job(folder, verb, remote);
            if verb == "send-dir" {
                job.local = folder.join("root/srv/data/inner");
            }
            let said = run(&job).refused();
            assert!(said.contains("this key may not go there"), "{verb} {remote}: {said}");
        }
    }
    run(&job(folder, "recv-file", "/srv/data/open")).done();
    run(&job(folder, "send-file", "/srv/data/within/new")).done();
    assert_eq!(fs::read(folder.join("root/srv/data/inner/new")).unwrap(), b"local");
    run(&job(folder, "send-file", "//srv/./data//new/")).done();
    assert_eq!(fs::read(folder.join("root/srv/data/new")).unwrap(), b"local");
}

#[test]
fn dots_and_links_do_not_lead_out() {
    let folder = scene();
    let folder = folder.path();
    for remote in ["/srv/data/../../etc/secret", "/srv/data/..", "/.."] {
        let said = run(&job(folder, "recv-file", remote)).refused();
        assert!(said.contains("contains \"..\""), "{remote}: {said}");
    }
    for link in ["absolute", "relative", "magic"] {
        for (verb, below) in [("recv-file", "/secret"), ("send-file", "/new"), ("recv-dir", "")] {
            let said = run(&job(folder, verb, &format!("/srv/data/{link}{below}"))).refused();
            let out = said.contains("leave what this key may reach") || said.contains("Too many levels");
            assert!(out, "{verb} {link}: {said}");
        }
    }
    for link in ["file", "far"] {
        let said = run(&job(folder, "recv-file", &format!("/srv/data/{link}"))).refused();
        assert!(said.contains("leave what this key may reach"), "{link}: {said}");
    }
    assert_eq!(fs::read(folder.join("host")).unwrap(), b"the host's");
    assert!(!folder.join("root/etc/new").exists());
    assert!(!folder.join("got").exists());
}

#[test]
fn with_the_whole_root_links_mean_what_they_mean_inside() {
    let folder = scene();
    let folder = folder.path();
    let whole = |verb, remote| Job { allowed: vec!["/"], ..job(folder, verb, remote) };
    run(&whole("recv-file", "/srv/data/absolute/secret")).done();
    assert_eq!(fs::read(folder.join("got")).unwrap(), b"secret");
    let said = run(&whole("recv-file", "/srv/data/far")).refused();
    assert!(said.contains("No such file"), "inside, that path does not exist: {said}");
    run(&whole("send-file", "/srv/data/absolute/new")).done();
    assert_eq!(fs::read(folder.join("root/etc/new")).unwrap(), b"local");
}

#[test]
fn a_capability_for_one_file_is_for_this_file() {
    let folder = scene();
    let folder = folder.path();
    let one = |verb, remote| Job { allowed: vec!["/etc/conf"], ..job(folder, verb, remote) };
    run(&one("send-file", "/etc/conf")).done();
    assert_eq!(fs::read(folder.join("root/etc/conf")).unwrap(), b"local");
    assert!(run(&one("send-file", "/etc/other")).refused().contains("this key may not go there"));
    assert!(run(&one("recv-file", "/etc/secret")).refused().contains("this key may not go there"));
}

#[test]
fn fifos_and_devices_are_not_read() {
    let folder = scene();
    let folder = folder.path();
    let fifo = folder.join("root/srv/data/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o666.into(), 0).unwrap();
    assert!(run(&job(folder, "recv-file", "/srv/data/fifo")).refused().contains("is a FIFO, not a file"));
    assert!(
        run(&job(folder, "recv-file", "/srv/data/inner")).refused().contains("is a directory, not a file")
    );
    assert!(run(&job(folder, "recv-dir", "/srv/data/open")).refused().contains("Not a directory"));
    let device = Job { root: "/".into(), allowed: vec!["/dev"], ..job(folder, "recv-file", "/dev/zero") };
    assert!(run(&device).refused().contains("/dev/zero: is a device, not a file"));
}

#[test]
fn a_directory_swapped_for_a_link_leads_nowhere_else() {
    let folder = scene();
    let folder = folder.path().to_owned();
    let (source, victim) = (folder.join("source"), folder.join("victim"));
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::create_dir(&victim).unwrap();
    for number in 0..200 {
        fs::write(source.join(format!("sub/{number}")), noise(2000, number)).unwrap();
    }
    let base = folder.join("root/srv/data");
    for turn in 0..20 {
        let job = Job { local: source.clone(), ..job(&folder, "send-dir", &format!("/srv/data/t{turn}")) };
        let target = base.join(format!("t{turn}/sub"));
        let swap = std::thread::spawn({
            let (target, aside, victim) = (target, base.join(format!("aside{turn}")), victim.clone());
            move || {
                for _ in 0..100_000 {
                    if fs::rename(&target, &aside).is_ok() {
                        symlink(&victim, &target).unwrap();
                        return;
                    }
                }
            }
        });
        // It may complete in the directory that it holds, or fail because what it made is gone; it must not follow.
        let _ = run(&job).client;
        swap.join().unwrap();
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "turn {turn}");
    }
}
