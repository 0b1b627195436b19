//! What surrounds a build: another umask, time zone, locale, number of processors and order of directories must not show in
//! it, and a full disk must end it cleanly. All need a process of their own, so the tests start this program again.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use manifest::Manifest;
use rbuilds::{BuildInput, BuildReport, Error, Kernel, Limits, build};
use support::{Compression, Tar, Workshop, chain, simple_layout};

/// In the environment of a started copy: the workshop's directory.
const WORKSHOP: &str = "RBUILDS_TEST_WORKSHOP";

/// Whether this process is a started copy, and where its workshop is.
fn workshop_of_copy() -> Option<PathBuf> {
    std::env::var_os(WORKSHOP).map(PathBuf::from)
}

/// Runs one test of this program again, from a shell script that ends in `exec "$0" "$@"`.
fn run_copy(shell: &mut Command, script: &str, test: &str, workshop: &Path) {
    let program = std::env::current_exe().unwrap();
    shell.args(["sh", "-ec", script]).arg(program).args(["--exact", "--nocapture", test]);
    let output = shell.env(WORKSHOP, workshop).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn build_in(workshop: &Path) -> Result<BuildReport, Error> {
    build_of(workshop, r#"oci = "image""#)
}

/// Without a cache: what it holds would go to another disk.
fn build_of(workshop: &Path, image: &str) -> Result<BuildReport, Error> {
    let text = format!("name = \"x\"\nimage = {{ {image} }}\n[app]\ncommand = [\"/bin/app\"]\n");
    let manifest = Manifest::parse(&text).unwrap();
    let input = BuildInput {
        manifest: &manifest,
        base_dir: workshop,
        guest_binary: &workshop.join("guest"),
        kernel: Kernel::new(workshop.join("bzImage"), None),
        output: &workshop.join("out/app.eif"),
        limits: Limits::default(),
        registry: rbuilds::RegistryOptions { cache_limit_bytes: 0, ..Default::default() },
        build_time: 0,
        signer: None,
    };
    build(&input, &|_| {})
}

fn prepare() -> Workshop {
    let workshop = Workshop::new();
    // Not all zeros: some file systems store those without taking up room.
    let noise: Vec<u8> = (0..600_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let tar = Tar::default().file("bin/app", &noise).symlink("usr", "bin").end();
    simple_layout(&workshop, &[tar], Compression::Gzip);
    workshop
}

#[test]
fn another_umask_time_zone_and_locale_give_the_same_bytes() {
    if let Some(workshop) = workshop_of_copy() {
        build_in(&workshop).unwrap();
        return;
    }
    let images: Vec<_> = [("022", "UTC", "C"), ("077", "Pacific/Kiritimati", "tr_TR.UTF-8")]
        .map(|(umask, zone, locale)| {
            let workshop = prepare();
            let script = format!("umask {umask}; exec \"$0\" \"$@\"");
            let mut shell = Command::new("env");
            shell.env("TZ", zone).env("LC_ALL", locale).env("USER", locale).env("SOURCE_DATE_EPOCH", umask);
            let test = "another_umask_time_zone_and_locale_give_the_same_bytes";
            run_copy(&mut shell, &script, test, workshop.dir.path());
            fs::read(workshop.output()).unwrap()
        })
        .into();
    assert_eq!(images[0], images[1]);
}

#[test]
fn another_number_of_processors_gives_the_same_bytes() {
    if let Some(workshop) = workshop_of_copy() {
        fs::write(workshop.join("processors"), processors().to_string()).unwrap();
        build_in(&workshop).unwrap();
        fs::rename(workshop.join("out/app.eif"), workshop.join("plain.eif")).unwrap();
        build_of(&workshop, r#"oci = "image", format = "erofs""#).unwrap();
        return;
    }
    if processors() == 1
        || !Command::new("taskset").args(["-c", "0", "true"]).status().is_ok_and(|s| s.success())
    {
        println!("skipped: there is one processor, or no taskset");
        return;
    }
    let (images, counts): (Vec<_>, Vec<_>) = ["exec", "exec taskset -c 0"]
        .map(|exec| {
            let workshop = prepare();
            let test = "another_number_of_processors_gives_the_same_bytes";
            run_copy(&mut Command::new("env"), &format!(r#"{exec} "$0" "$@""#), test, workshop.dir.path());
            let count = fs::read_to_string(workshop.path("processors")).unwrap();
            let image = |path| fs::read(path).unwrap();
            ([image(workshop.path("plain.eif")), image(workshop.output())], count)
        })
        .into_iter()
        .unzip();
    assert_ne!(counts[0], "1");
    assert_eq!(counts[1], "1");
    assert!(images[0] == images[1]);
    assert!(images[0][0] != images[0][1], "the formats differ");
}

fn processors() -> usize {
    std::thread::available_parallelism().unwrap().get()
}

/// File systems list a directory as they please. A tmpfs does so by when its files were made.
#[test]
fn another_order_of_directories_gives_the_same_bytes() {
    if let Some(workshop) = workshop_of_copy() {
        let mut numbers: Vec<u32> = (0..50).collect();
        if workshop.join("backwards").exists() {
            numbers.reverse();
        }
        let root = workshop.join("rootfs");
        for number in numbers {
            fs::create_dir(root.join(format!("d{number}"))).unwrap();
            fs::write(root.join(format!("f{number}")), number.to_string()).unwrap();
        }
        let names = root.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        fs::write(workshop.join("order"), names.collect::<Vec<_>>().join(" ")).unwrap();
        build_of(&workshop, r#"rootfs = "rootfs""#).unwrap();
        return;
    }
    if !has_user_namespaces() {
        println!("skipped: no user namespaces, so no tmpfs can be mounted");
        return;
    }
    let (images, orders): (Vec<_>, Vec<_>) = [false, true]
        .map(|backwards| {
            let workshop = prepare();
            fs::create_dir(workshop.path("rootfs")).unwrap();
            if backwards {
                fs::write(workshop.path("backwards"), "").unwrap();
            }
            let script = format!("mount -t tmpfs none \"${WORKSHOP}/rootfs\"; exec \"$0\" \"$@\"");
            let test = "another_order_of_directories_gives_the_same_bytes";
            run_copy(Command::new("unshare").arg("-Urm"), &script, test, workshop.dir.path());
            let order = fs::read_to_string(workshop.path("order")).unwrap();
            (fs::read(workshop.output()).unwrap(), order)
        })
        .into_iter()
        .unzip();
    assert_ne!(orders[0], orders[1], "the directories were listed in the same order");
    assert_eq!(images[0], images[1]);
}

fn has_user_namespaces() -> bool {
    Command::new("unshare").args(["-Urm", "true"]).status().is_ok_and(|status| status.success())
}

/// Half an image, or a temporary file that fills the disk until somebody finds it.
#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    if let Some(workshop) = workshop_of_copy() {
        let error = build_in(&workshop).unwrap_err();
        assert!(chain(&error).contains("No space left on device"), "{}", chain(&error));
        assert_eq!(workshop.join("out").read_dir().unwrap().count(), 0);
        return;
    }
    if !has_user_namespaces() {
        println!("skipped: no user namespaces, so no small disk can be mounted");
        return;
    }
    // One that the layer's files do not fit on, one where they do and the image does not.
    for size in ["1m", "4m"] {
        let workshop = prepare();
        let script = format!("mount -t tmpfs -o size={size} none \"${WORKSHOP}/out\"; exec \"$0\" \"$@\"");
        let mut shell = Command::new("unshare");
        shell.arg("-Urm");
        run_copy(&mut shell, &script, "a_full_disk_is_said_and_leaves_nothing", workshop.dir.path());
    }
}
