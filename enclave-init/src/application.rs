//! The application's files, where they are one compressed file system in a ramdisk.
//!
//! The kernel leaves that file system in the ramdisk, since it skips files whose directory is not in the archive, and keeps
//! the ramdisks because the measured command line says so. It is mounted from there; what is written goes into memory
//! above it. So an image is in memory once, compressed, and what is read of it besides can be dropped again.
//!
//! Only in a machine: in namespaces the supervisor has unpacked the files already.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::Path,
};

use rustix::mount::{MountFlags, mount};

use crate::mounts::ROOTFS;

/// Where the kernel shows the ramdisks it was told to keep (Linux, `init/initramfs.c`).
const RAMDISKS: &str = "/sys/firmware/initrd";

/// The file system's name in them.
const IMAGE_ENTRY: &[u8] = b"rootfs.image/erofs";

const LOOP_DEVICE: &str = "/dev/loop0";
/// The file system. If this directory is there, the application's files are in one.
const LOWER: &str = "/glasshouse/lower";
/// What is written.
const UPPER: &str = "/glasshouse/upper";

/// Renamed directories, changed attributes and files with several names are to be as they are in any other file system.
const OVERLAY: &std::ffi::CStr = c"lowerdir=/glasshouse/lower,upperdir=/glasshouse/upper/files,workdir=/glasshouse/upper/work,redirect_dir=on,metacopy=on,index=on,xino=on";

/// Length of an entry's header (`Documentation/driver-api/early-userspace/buffer-format.rst`).
const HEADER_BYTES: usize = 110;
/// Where its fields of eight hexadecimal digits are that say how long the content and the name are.
const SIZE_AT: usize = 54;
const NAME_SIZE_AT: usize = 94;
/// Longest name compared, in bytes: longer ones are of other entries.
const MAX_NAME_BYTES: u64 = 64;
/// How far zeros between archives are looked through at a time.
const GAP_BYTES: usize = 4096;

/// Why the application's files cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("cannot read {RAMDISKS}, which the kernel has with `retain_initrd` on its command line")]
    Ramdisks(#[source] io::Error),
    #[error("the ramdisks are no archives that could hold the application's files")]
    Archive,
    #[error("the ramdisks lack the application's files")]
    Missing,
    #[error("cannot make {LOOP_DEVICE} a device with the application's files")]
    Device(#[source] io::Error),
    #[error("cannot mount the application's files at {path}")]
    Mount {
        path: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot lay out {UPPER}")]
    Upper(#[source] io::Error),
}

/// Mounts the application's files at [`ROOTFS`], if they are in a file system.
pub(crate) fn mount_files() -> Result<(), ImageError> {
    if !Path::new(LOWER).is_dir() {
        return Ok(());
    }
    let ramdisks = File::open(RAMDISKS).map_err(ImageError::Ramdisks)?;
    let (offset, len) = find(&ramdisks)?.ok_or(ImageError::Missing)?;
    let device = sys::loop_device::attach(Path::new(LOOP_DEVICE), &ramdisks, offset, len);
    // Mounted, it stays a device.
    let _device = device.map_err(ImageError::Device)?;
    let read_only = MountFlags::RDONLY | MountFlags::NODEV;
    mount_at(LOWER, mount(LOOP_DEVICE, LOWER, "erofs", read_only, None))?;
    mount_at(UPPER, mount("tmpfs", UPPER, "tmpfs", MountFlags::NODEV, Some(c"mode=700")))?;
    lay_out_upper().map_err(ImageError::Upper)?;
    mount_at(ROOTFS, mount("overlay", ROOTFS, "overlay", MountFlags::NODEV, Some(OVERLAY)))
}

fn mount_at(path: &'static str, outcome: rustix::io::Result<()>) -> Result<(), ImageError> {
    outcome.map_err(|errno| ImageError::Mount { path, source: errno.into() })
}

/// The root directory is one of those that are written to, so it gets the owner and mode of the one in the image.
fn lay_out_upper() -> io::Result<()> {
    let (files, root) = (Path::new(UPPER).join("files"), fs::metadata(LOWER)?);
    fs::create_dir(Path::new(UPPER).join("work"))?;
    fs::create_dir(&files)?;
    std::os::unix::fs::chown(&files, Some(root.uid()), Some(root.gid()))?;
    fs::set_permissions(&files, Permissions::from_mode(root.mode() & 0o7777))
}

/// Where in the ramdisks the file system begins and how long it is. They follow each other, with zeros in between.
fn find(ramdisks: &File) -> Result<Option<(u64, u64)>, ImageError> {
    let len = ramdisks.metadata().map_err(ImageError::Ramdisks)?.len();
    let mut at = 0;
    while let Some(header_at) = skip_zeros(ramdisks, at, len).map_err(ImageError::Ramdisks)? {
        let mut header = [0; HEADER_BYTES];
        ramdisks.read_exact_at(&mut header, header_at).map_err(ImageError::Ramdisks)?;
        if !header.starts_with(b"070701") {
            return Err(ImageError::Archive);
        }
        let (name_len, size) = (field(&header, NAME_SIZE_AT)?, field(&header, SIZE_AT)?);
        let name_at = header_at + HEADER_BYTES as u64;
        let content_at = (name_at + name_len).next_multiple_of(4);
        at = (content_at + size).next_multiple_of(4);
        if at > len {
            return Err(ImageError::Archive);
        }
        if name_len <= MAX_NAME_BYTES {
            let mut name = vec![0; usize::try_from(name_len).unwrap_or_default()];
            ramdisks.read_exact_at(&mut name, name_at).map_err(ImageError::Ramdisks)?;
            if name.strip_suffix(b"\0") == Some(IMAGE_ENTRY) {
                return Ok(Some((content_at, size)));
            }
        }
    }
    Ok(None)
}

/// Where the next byte is that is not zero.
fn skip_zeros(ramdisks: &File, mut at: u64, len: u64) -> io::Result<Option<u64>> {
    let mut bytes = [0; GAP_BYTES];
    while at < len {
        let n = ramdisks.read_at(&mut bytes, at)?;
        if n == 0 {
            break;
        }
        if let Some(zeros) = bytes.iter().take(n).position(|byte| *byte != 0) {
            return Ok(Some(at + zeros as u64));
        }
        at += n as u64;
    }
    Ok(None)
}

/// A field of a header: eight hexadecimal digits.
fn field(header: &[u8], at: usize) -> Result<u64, ImageError> {
    let digits = header.get(at..at + 8).and_then(|digits| std::str::from_utf8(digits).ok());
    let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or(ImageError::Archive)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn entry(name: &str, content: &[u8]) -> Vec<u8> {
        let mut entry = b"070701".to_vec();
        for field in [1, 0o100_644, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0] {
            write!(entry, "{field:08x}").unwrap();
        }
        entry.extend(name.bytes().chain([0]));
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry.extend(content);
        entry.resize(entry.len().next_multiple_of(4), 0);
        entry
    }

    fn ramdisks(parts: &[Vec<u8>]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&parts.concat()).unwrap();
        file
    }

    #[test]
    fn the_file_system_is_found_in_the_second_archive() {
        let first = [entry("init", &[7; 9001]), entry("TRAILER!!!", b""), vec![0; 10_000]].concat();
        let before = [entry("glasshouse/manifest.json", b"{}")].concat();
        let file = ramdisks(&[first.clone(), before.clone(), entry("rootfs.image/erofs", &[5; 4096])]);
        let (offset, len) = find(&file).unwrap().unwrap();
        let mut content = vec![0; 4096];
        file.read_exact_at(&mut content, offset).unwrap();
        assert_eq!((len, content), (4096, vec![5; 4096]));
        assert!(offset > (first.len() + before.len()) as u64);
    }

    #[test]
    fn ramdisks_without_it_and_damaged_ones_are_told_apart() {
        let other = [entry("rootfs.image/erofs.old", b"x"), entry("TRAILER!!!", b"")].concat();
        assert!(matches!(find(&ramdisks(&[other.clone(), vec![0; 512]])), Ok(None)));
        assert!(matches!(find(&ramdisks(&[])), Ok(None)));
        let mut cut = entry("rootfs.image/erofs", &[5; 4096]);
        cut.truncate(2000);
        assert!(matches!(find(&ramdisks(&[cut])), Err(ImageError::Archive)));
        let mut digits = other.clone();
        digits[SIZE_AT] = b'+';
        assert!(matches!(find(&ramdisks(&[digits])), Err(ImageError::Archive)));
        assert!(matches!(find(&ramdisks(&[b"\x1f\x8b".repeat(200)])), Err(ImageError::Archive)));
    }
}
