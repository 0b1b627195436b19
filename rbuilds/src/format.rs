//! How the application's files lie in the image, and what the kernel has to be told and able to do for it.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use manifest::ImageFormat;

use crate::{Error, Kernel};

/// Keeps the ramdisks in memory as they were loaded, and lets init read them (Linux, `init/initramfs.c`).
pub(crate) const KEEP_RAMDISKS: &str = "retain_initrd";

/// Files that kernels' configurations are kept in beside them: ours, and the vendor's.
const CONFIGURATIONS: [&str; 2] = ["config", "bzImage.config"];

/// What has to be built in for a kernel to read the file system, and to have a writable one above it.
const NEEDED: [&str; 6] = [
    "CONFIG_BLK_DEV_LOOP=y",
    "CONFIG_EROFS_FS=y",
    "CONFIG_EROFS_FS_XATTR=y",
    "CONFIG_EROFS_FS_ZIP=y",
    "CONFIG_OVERLAY_FS=y",
    "CONFIG_TMPFS_XATTR=y",
];

/// Longest configuration read, in bytes.
const MAX_CONFIGURATION_BYTES: u64 = 4 << 20;

/// Whether a kernel reads compressed file systems, from the configuration beside it; `None` without one.
pub(crate) fn reads_file_systems(bzimage: &Path) -> io::Result<Option<bool>> {
    for name in CONFIGURATIONS {
        let file = match File::open(bzimage.with_file_name(name)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let mut text = Vec::new();
        file.take(MAX_CONFIGURATION_BYTES).read_to_end(&mut text)?;
        let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').collect();
        return Ok(Some(NEEDED.iter().all(|needed| lines.contains(&needed.as_bytes()))));
    }
    Ok(None)
}

/// The format that was asked for, or the one that takes the least memory with this kernel.
pub(crate) fn choose(asked: Option<ImageFormat>, kernel: &Kernel) -> Result<ImageFormat, Error> {
    match (asked, kernel.reads_file_systems) {
        (Some(ImageFormat::Erofs), Some(false)) => {
            Err(Error::KernelWithoutErofs { path: kernel.bzimage.clone() })
        }
        (Some(asked), _) => Ok(asked),
        (None, Some(true)) => Ok(ImageFormat::Erofs),
        (None, _) => Ok(ImageFormat::Cpio),
    }
}

/// The command line for a kernel that boots such an image.
pub(crate) fn cmdline(kernel: &Kernel, format: ImageFormat) -> String {
    let told = kernel.cmdline.split_ascii_whitespace().any(|word| word == KEEP_RAMDISKS);
    match format {
        ImageFormat::Erofs if !told => format!("{} {KEEP_RAMDISKS}", kernel.cmdline),
        _ => kernel.cmdline.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_beside_a_kernel_says_what_it_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let bzimage = folder.path().join("bzImage");
        assert_eq!(reads_file_systems(&bzimage).unwrap(), None);
        std::fs::write(folder.path().join("bzImage.config"), NEEDED.join("\n")).unwrap();
        assert_eq!(reads_file_systems(&bzimage).unwrap(), Some(true));
        let lacking = NEEDED.join("\n").replace("CONFIG_EROFS_FS_ZIP=y", "# CONFIG_EROFS_FS_ZIP is not set");
        std::fs::write(folder.path().join("config"), lacking).unwrap();
        assert_eq!(reads_file_systems(&bzimage).unwrap(), Some(false));
    }

    #[test]
    fn a_kernel_that_cannot_read_it_gets_no_file_system() {
        let mut kernel = Kernel::new("/k/bzImage", None);
        assert_eq!(choose(None, &kernel).unwrap(), ImageFormat::Cpio);
        assert_eq!(choose(Some(ImageFormat::Erofs), &kernel).unwrap(), ImageFormat::Erofs);
        kernel.reads_file_systems = Some(true);
        assert_eq!(choose(None, &kernel).unwrap(), ImageFormat::Erofs);
        assert_eq!(choose(Some(ImageFormat::Cpio), &kernel).unwrap(), ImageFormat::Cpio);
        kernel.reads_file_systems = Some(false);
        assert_eq!(choose(None, &kernel).unwrap(), ImageFormat::Cpio);
        assert!(matches!(
            choose(Some(ImageFormat::Erofs), &kernel),
            Err(Error::KernelWithoutErofs { path }) if path == Path::new("/k/bzImage")
        ));
    }

    #[test]
    fn the_ramdisks_are_kept_once() {
        let mut kernel = Kernel::new("/k/bzImage", None);
        assert_eq!(cmdline(&kernel, ImageFormat::Cpio), kernel.cmdline);
        let told = cmdline(&kernel, ImageFormat::Erofs);
        assert_eq!(told, format!("{} retain_initrd", kernel.cmdline));
        kernel.cmdline.clone_from(&told);
        assert_eq!(cmdline(&kernel, ImageFormat::Erofs), told);
    }
}
