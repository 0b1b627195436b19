//! The ioctl of `/dev/nsm`.
//!
//! One call, [`message`]: request bytes in, response bytes out. What the bytes mean is the business of the crate
//! `nsm`, the only caller. Layout and number: the kernel's `include/uapi/linux/nsm.h` (`NSM_IOCTL_RAW`). The kernel
//! grants the call to holders of `CAP_SYS_ADMIN` only.

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// `struct nsm_iovec`: address and length in bytes of one buffer, 64 bits each on every architecture.
#[repr(C)]
struct NsmIovec {
    addr: u64,
    len: u64,
}

/// `struct nsm_raw`: the request to read and the room for the response. The kernel stores the response's real length
/// in `response.len`.
#[repr(C)]
struct NsmRaw {
    request: NsmIovec,
    response: NsmIovec,
}

/// `NSM_IOCTL_RAW`, `_IOWR(0x0A, 0, struct nsm_raw)`.
const NSM_IOCTL_RAW: Opcode = opcode::read_write::<NsmRaw>(0x0A, 0);

/// Sends `request` to the module behind `device` and returns how many bytes of `response` it filled.
///
/// Blocks until the module has answered.
///
/// # Errors
/// The errno as the kernel gives it: `EMSGSIZE` when the request is over 0x1000 bytes or the response does not fit,
/// `ENOTTY` or `EINVAL` when `device` is no Nitro Security Module, `EPERM` or `EACCES` without the capability.
pub fn message(device: impl AsFd, request: &[u8], response: &mut [u8]) -> Result<usize, Errno> {
    let mut raw = NsmRaw {
        request: NsmIovec { addr: request.as_ptr().expose_provenance() as u64, len: request.len() as u64 },
        response: NsmIovec {
            addr: response.as_mut_ptr().expose_provenance() as u64,
            len: response.len() as u64,
        },
    };
    // SAFETY: `NSM_IOCTL_RAW` is the number the kernel header defines for a pointer to `struct nsm_raw`, and `NsmRaw` has
    // that struct's layout (four u64, `repr(C)`; a test holds the number and the size), so the kernel reads and writes
    // within `raw`. Its addresses are those of `request`, which the kernel only reads, for exactly `request.len()` bytes,
    // and of `response`, exclusively borrowed, of which it writes at most `response.len()` bytes; both borrows outlive the
    // call, and the kernel keeps neither address after it. A driver other than NSM does not know the number and fails.
    unsafe { ioctl(device, Updater::<NSM_IOCTL_RAW, NsmRaw>::new(&mut raw))? };
    // A length beyond the room would be the kernel's error; it must not become ours.
    Ok(usize::try_from(raw.response.len).map_or(response.len(), |len| len.min(response.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_the_kernel_headers() {
        assert_eq!(size_of::<NsmRaw>(), 32);
        // Direction read and write (3), size 32, group 0x0A, number 0.
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        assert_eq!(NSM_IOCTL_RAW, 0xc020_0a00);
    }

    #[test]
    fn a_file_that_is_no_module_keeps_its_errno() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let refused = message(&null, b"request", &mut [0; 16]);
        assert_eq!(refused, Err(Errno::NOTTY));
    }
}
