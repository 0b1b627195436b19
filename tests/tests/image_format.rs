//! An application whose files are one compressed file system, beside the same in a plain ramdisk.

#![allow(clippy::unwrap_used, reason = "a test that fails to prepare has to stop")]

use std::{
    fs::{self, File},
    path::PathBuf,
};

use bed::{Bed, hello_manifest, http_get, text, utf8};

/// Lines of a file that compresses well.
const LINES: usize = 100_000;

/// What the application does with its files: reads, appends, renames a directory of the image, removes, links, and looks
/// at what came of it. It ends with 42 only if all of it went as in any other file system.
const SCRIPT: &str = r#"
    PATH=/bin/applets; /bin/busybox mkdir /bin/applets; /bin/busybox --install -s /bin/applets
    set -e
    [ "$(sha256sum </data/text)" = "$(cat /data/sum)" ] || exit 1
    [ "$(stat -c %i /data/one)" = "$(stat -c %i /data/two)" ] || exit 2
    echo changed >/data/one
    [ "$(cat /data/two)" = changed ] || exit 3
    echo more >>/data/text
    [ "$(wc -l </data/text)" = 100001 ] || exit 4
    mv /data /moved
    [ ! -e /data ] && [ -f /moved/text ] || exit 5
    chmod 600 /moved/sum
    [ "$(stat -c %a /moved/sum)" = 600 ] || exit 6
    rm /etc/group
    [ ! -e /etc/group ] || exit 7
    [ "$(stat -c %a:%u /)" = 755:0 ] || exit 8
    exit 42
"#;

fn build(bed: &Bed, format: &str) -> PathBuf {
    let command = serde_json::to_string(&["/bin/sh", "-c", SCRIPT]).unwrap();
    let manifest = format!(
        "name = \"files\"\nimage = {{ rootfs = \"rootfs\", format = \"{format}\" }}\nresources.memory_mib = 256\n\
         [app]\ncommand = {command}\n"
    );
    let data = bed.manifest("files", &manifest).join("rootfs/data");
    fs::create_dir_all(&data).unwrap();
    let content: String = (0..LINES).map(|line| format!("line {line} of a file\n")).collect();
    fs::write(data.join("text"), &content).unwrap();
    let sum =
        std::process::Command::new("sha256sum").stdin(fs::File::open(data.join("text")).unwrap()).output();
    fs::write(data.join("sum"), sum.unwrap().stdout).unwrap();
    fs::write(data.join("one"), "shared").unwrap();
    let _ = fs::remove_file(data.join("two"));
    fs::hard_link(data.join("one"), data.join("two")).unwrap();
    let image = bed.path(&format!("{format}.eif"));
    bed.ok(&["build", utf8(&bed.path("files")), "-o", utf8(&image)]);
    image
}

fn files_are_as_in_any_file_system(bed: &Bed, format: &str) {
    let image = build(bed, format);
    let ended = bed.run(&bed.run_args(&image));
    assert_eq!(ended.status.code(), Some(42), "{}", text(&ended));
}

#[test]
fn a_compressed_image_is_read_and_written_on_qemu() {
    let Some(bed) = Bed::qemu() else { return };
    files_are_as_in_any_file_system(&bed, "erofs");
}

#[test]
fn a_compressed_image_is_read_and_written_on_local() {
    let Some(bed) = Bed::local() else { return };
    files_are_as_in_any_file_system(&bed, "erofs");
}

#[test]
fn a_plain_image_is_read_and_written_on_qemu() {
    let Some(bed) = Bed::qemu() else { return };
    files_are_as_in_any_file_system(&bed, "cpio");
}

/// As a user without any rights: `busybox` may not listen on port 80, and `busybox-bind`, the same program with a file
/// capability, may.
const CAPABLE: &str = r#"
    rights() { "$1" awk '/^CapEff/ { print $2 }' /proc/self/status; }
    [ "$(id -u)" = 33 ] || exit 1
    [ "$(rights /bin/busybox)" = 0000000000000000 ] || exit 2
    [ "$(rights /bin/busybox-bind)" = 0000000000000400 ] || exit 3
    /bin/busybox httpd -p 127.0.0.1:80 2>/dev/null && exit 4
    /bin/busybox-bind httpd -p 127.0.0.1:80 || exit 5
    exit 42
"#;

/// `cap_net_bind_service+ep`, as `setcap` writes it.
const NET_BIND_SERVICE: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn a_file_capability_works_for_who_is_not_root_on_qemu() {
    let Some(bed) = Bed::qemu() else { return };
    let command = serde_json::to_string(&["/bin/sh", "-c", CAPABLE]).unwrap();
    let manifest = format!(
        "name = \"capable\"\nimage = {{ rootfs = \"rootfs.tar\", format = \"erofs\" }}\nresources.memory_mib = 256\n\
         [app]\nuser = \"web\"\ncommand = {command}\n"
    );
    let folder = bed.manifest("capable", &manifest);
    let mut archive = tar::Builder::new(File::create(folder.join("rootfs.tar")).unwrap());
    archive.follow_symlinks(false);
    archive.append_dir_all(".", folder.join("rootfs")).unwrap();
    archive.append_pax_extensions([("SCHILY.xattr.security.capability", &NET_BIND_SERVICE[..])]).unwrap();
    archive.append_path_with_name("/bin/busybox", "bin/busybox-bind").unwrap();
    archive.into_inner().unwrap();
    let image = bed.path("capable.eif");
    bed.ok(&["build", utf8(&folder), "-o", utf8(&image)]);
    let ended = bed.run(&bed.run_args(&image));
    assert_eq!(ended.status.code(), Some(42), "{}", text(&ended));
}

#[test]
fn a_compressed_image_is_smaller_and_verified() {
    let Some(bed) = Bed::qemu() else { return };
    let manifest = hello_manifest("hello")
        .replace("image.rootfs = \"rootfs\"", "image = { rootfs = \"rootfs\", format = \"erofs\" }");
    let folder = bed.manifest("hello", &manifest);
    let image = bed.path("hello.eif");
    bed.ok(&["build", utf8(&folder), "-o", utf8(&image)]);
    let enclave = bed.start(&image, "hello", &[8080, 8443]);
    assert!(http_get(&enclave.address(8080), "/").contains("Hello"));
    let verdict = bed.ok(&["verify", &enclave.url(), "--image", utf8(&image), "--root", &bed.root()]);
    assert!(verdict.contains("VERIFIED"), "{verdict}");

    let plain = bed.path("plain.eif");
    fs::write(folder.join("glasshouse.toml"), manifest.replace("erofs", "cpio")).unwrap();
    bed.ok(&["build", utf8(&folder), "-o", utf8(&plain)]);
    let needed = |image: &PathBuf| {
        let report = fs::read_to_string(format!("{}.json", utf8(image))).unwrap();
        serde_json::from_str::<serde_json::Value>(&report).unwrap()["memory_mib"].as_u64().unwrap()
    };
    assert!(needed(&image) < needed(&plain));
    assert!(image.metadata().unwrap().len() < plain.metadata().unwrap().len());
}
