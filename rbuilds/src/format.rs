//! How the application's files lie in the image, and what the kernel has to be told and able to do for it.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use flate2::bufread::GzDecoder;
use manifest::ImageFormat;

use crate::{Error, Kernel};

/// Keeps the ramdisks in memory as they were loaded, and lets init read them (Linux, `init/initramfs.c`).
pub(crate) const KEEP_RAMDISKS: &str = "retain_initrd";

/// What has to be built in for a kernel to read the file system, and to have a writable one above it.
const NEEDED: [&str; 7] = [
    "CONFIG_BLK_DEV_LOOP=y",
    "CONFIG_EROFS_FS=y",
    "CONFIG_EROFS_FS_SECURITY=y",
    "CONFIG_EROFS_FS_XATTR=y",
    "CONFIG_EROFS_FS_ZIP=y",
    "CONFIG_OVERLAY_FS=y",
    "CONFIG_TMPFS_XATTR=y",
];

/// What stands before and after the configuration in a kernel that has it in itself (Linux, `kernel/configs.c`).
const CONFIGURATION_MARKS: [&[u8]; 2] = [b"IKCFG_ST", b"IKCFG_ED"];

/// Largest kernel unpacked, and longest configuration read, in bytes.
const MAX_KERNEL_BYTES: u64 = 64 << 20;
const MAX_CONFIGURATION_BYTES: u64 = 4 << 20;

/// Whether a kernel reads compressed file systems; `None` if it does not have its configuration in itself
/// (`CONFIG_IKCONFIG`) or is compressed with anything but gzip. Nothing else than the kernel is asked, so that an image
/// depends on nothing else.
pub(crate) fn reads_file_systems(bzimage: &Path) -> io::Result<Option<bool>> {
    let Some(configuration) = configuration(&mut File::open(bzimage)?)? else { return Ok(None) };
    let lines: Vec<&[u8]> = configuration.split(|b| *b == b'\n').collect();
    Ok(Some(NEEDED.iter().all(|needed| lines.contains(&needed.as_bytes()))))
}

/// The configuration in a `bzImage` (Linux, `Documentation/arch/x86/boot.rst`: `setup_sects` at 0x1f1, `payload_offset`
/// at 0x248, relative to what follows the setup).
fn configuration(kernel: &mut File) -> io::Result<Option<Vec<u8>>> {
    let mut setup = Vec::new();
    kernel.by_ref().take(0x24c).read_to_end(&mut setup)?;
    let (Some(&sectors), Some(offset)) = (setup.get(0x1f1), setup.get(0x248..).and_then(<[u8]>::first_chunk))
    else {
        return Ok(None);
    };
    let payload_at = (u64::from(sectors) + 1) * 512 + u64::from(u32::from_le_bytes(*offset));
    kernel.seek(SeekFrom::Start(payload_at))?;
    let Some(whole) = unpacked(BufReader::new(kernel), MAX_KERNEL_BYTES) else { return Ok(None) };
    let [start, end] = CONFIGURATION_MARKS;
    // The marks themselves may stand elsewhere in a kernel that looks for them: the first with something behind it counts.
    let starts = memmem(&whole, start);
    Ok(starts.into_iter().find_map(|at| {
        let inside = whole.get(at + start.len()..)?;
        let len = *memmem(inside, end).first()?;
        unpacked(inside.get(..len)?, MAX_CONFIGURATION_BYTES)
    }))
}

/// What gzip unpacks to, if it is that and no longer than the limit.
fn unpacked(source: impl BufRead, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    GzDecoder::new(source).take(limit + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= limit).then_some(bytes)
}

/// Where `needle` stands in `bytes`.
fn memmem(bytes: &[u8], needle: &[u8]) -> Vec<usize> {
    bytes
        .windows(needle.len())
        .enumerate()
        .filter(|(_, window)| *window == needle)
        .map(|(at, _)| at)
        .collect()
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
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// A kernel with this between the marks.
    fn kernel_with(configuration: &[u8]) -> tempfile::NamedTempFile {
        let mut setup = vec![0; 1024];
        setup[0x1f1] = 1;
        setup[0x248] = 16;
        let inside =
            [b"code IKCFG_ST other code", &b"IKCFG_ST"[..], configuration, b"IKCFG_ED more code"].concat();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[&setup[..], &[0; 16], &gzip(&inside), b"behind it"].concat()).unwrap();
        file
    }

    #[test]
    fn the_configuration_in_a_kernel_says_what_it_can_read() {
        let able = NEEDED.join("\n");
        let lacking = able.replace("CONFIG_EROFS_FS_ZIP=y", "# CONFIG_EROFS_FS_ZIP is not set");
        let found = |inside: &[u8]| reads_file_systems(kernel_with(inside).path()).unwrap();
        assert_eq!(found(&gzip(able.as_bytes())), Some(true));
        assert_eq!(found(&gzip(lacking.as_bytes())), Some(false));
        assert_eq!(found(able.as_bytes()), None);
        assert_eq!(found(&gzip(&vec![b'#'; 5 << 20])), None);
        let mut none = tempfile::NamedTempFile::new().unwrap();
        none.write_all(b"a kernel").unwrap();
        assert_eq!(reads_file_systems(none.path()).unwrap(), None);
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
