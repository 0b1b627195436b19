//! Sockets whose own address is none of this machine's.
//!
//! `relay` calls it for connections that come from the address of somebody else. The constant is that of the kernel's
//! `include/uapi/linux/in.h`.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Lets a socket of IPv4 or IPv6 be bound to any address (`IP_TRANSPARENT`).
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` and `CAP_NET_RAW` over the network namespace.
pub fn allow_any_source(socket: impl AsFd) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let value: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("4 fits");
    // The option of IPv4 sets the same mark on sockets of IPv6.
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel reads `length` bytes of `value`, which is
    // that long and lives until the call returns.
    let result = unsafe {
        libc::setsockopt(fd, libc::SOL_IP, libc::IP_TRANSPARENT, (&raw const value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
