//! Options of vsock sockets that no safe interface reaches.
//!
//! `transport` calls it on every vsock stream. Constants are those of the kernel's `include/uapi/linux/vm_sockets.h`.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// The option level of vsock sockets is their address family.
const LEVEL: libc::c_int = libc::AF_VSOCK;

const SO_VM_SOCKETS_BUFFER_SIZE: libc::c_int = 0;
const SO_VM_SOCKETS_BUFFER_MAX_SIZE: libc::c_int = 2;

/// Sets how many bytes the socket takes in before its peer has to wait (`SO_VM_SOCKETS_BUFFER_SIZE`), raising the socket's
/// own maximum with it.
///
/// # Errors
/// `ENOPROTOOPT` for a socket of another family; otherwise as `setsockopt(2)`.
pub fn set_buffer_size(socket: impl AsFd, bytes: u64) -> io::Result<()> {
    set(&socket, SO_VM_SOCKETS_BUFFER_MAX_SIZE, bytes)?;
    set(&socket, SO_VM_SOCKETS_BUFFER_SIZE, bytes)
}

fn set(socket: &impl AsFd, option: libc::c_int, value: u64) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let length = libc::socklen_t::try_from(size_of::<u64>()).expect("8 fits");
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel reads `length` bytes of `value`, which is
    // that long and lives until the call returns.
    let result = unsafe { libc::setsockopt(fd, LEVEL, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::{fd::FromRawFd, unix::net::UnixStream},
    };

    use super::*;

    /// The socket is made and never bound or connected: no machine is spoken to.
    #[test]
    fn the_kernel_takes_the_size() {
        // SAFETY: the call takes no pointers, and its result is owned by nobody else.
        let fd = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            println!("skipped: vsock buffer size (this kernel has no vsock)");
            return;
        }
        // SAFETY: as above.
        let socket = unsafe { fs::File::from_raw_fd(fd) };
        set_buffer_size(&socket, 1 << 20).unwrap();
        let (mut size, mut length) = (0_u64, libc::socklen_t::try_from(size_of::<u64>()).unwrap());
        let option = SO_VM_SOCKETS_BUFFER_SIZE;
        // SAFETY: the kernel writes at most `length` bytes to `size`, which is that long.
        let result = unsafe { libc::getsockopt(fd, LEVEL, option, (&raw mut size).cast(), &raw mut length) };
        assert_eq!((result, size), (0, 1 << 20));
    }

    #[test]
    fn another_kind_of_socket_is_refused() {
        let (socket, _peer) = UnixStream::pair().unwrap();
        assert!(set_buffer_size(&socket, 1 << 20).is_err());
    }
}
