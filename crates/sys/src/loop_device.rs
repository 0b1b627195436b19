//! A part of a file as a block device.
//!
//! `enclave-init` calls it, and mounts the device. Which file and which part is decided there.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
    path::Path,
};

use rustix::ioctl::{self, Setter};

/// `LOOP_CONFIGURE` (Linux, `include/uapi/linux/loop.h`).
const CONFIGURE: ioctl::Opcode = 0x4c0a;
/// `LO_FLAGS_READ_ONLY` and `LO_FLAGS_AUTOCLEAR`: gone when nothing uses it.
const READ_ONLY_UNTIL_UNUSED: u32 = 1 | 4;
/// In bytes: a page, which is what is read at a time.
const BLOCK_BYTES: u32 = 4096;

/// `struct loop_config`, with the `struct loop_info64` in it.
#[repr(C)]
struct Configuration {
    file: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    names_and_key: [u8; 64 + 64 + 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// Makes `len` bytes of `file` from `offset` what the block device at `device` has, read-only. `len` is a multiple of
/// 4096. The device stays so as long as the file that is returned, or a mount, uses it.
///
/// # Errors
/// `ENOENT` without the device; `EBUSY` when it is in use; `EINVAL` for a file that cannot be read so.
pub fn attach(device: &Path, file: &File, offset: u64, len: u64) -> io::Result<File> {
    let opened = OpenOptions::new().read(true).open(device)?;
    let descriptor = u32::try_from(file.as_raw_fd()).expect("descriptors of open files are not negative");
    let configuration = Configuration {
        file: descriptor,
        block_size: BLOCK_BYTES,
        device: 0,
        inode: 0,
        rdevice: 0,
        offset,
        size_limit: len,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: READ_ONLY_UNTIL_UNUSED,
        names_and_key: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the request takes a pointer to a `struct loop_config`, of which this is the layout, reads it and keeps a
    // reference of its own to the file.
    unsafe { ioctl::ioctl(&opened, Setter::<CONFIGURE, Configuration>::new(configuration)) }?;
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_the_kernels_layout() {
        assert_eq!(size_of::<Configuration>(), 304);
        assert_eq!(std::mem::offset_of!(Configuration, flags), 60);
        assert_eq!(std::mem::offset_of!(Configuration, init), 224);
    }

    #[test]
    fn what_is_no_such_device_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let missing = attach(Path::new("/dev/there-is-none"), &file, 0, 4096);
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(attach(Path::new("/dev/null"), &file, 0, 4096).is_err());
    }
}
