//! Addresses and options of vsock sockets that no safe interface reaches.
//!
//! `transport` and `relay` call it for every vsock. Constants are those of the kernel's `include/uapi/linux/vm_sockets.h`.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

/// A vsock address (`struct sockaddr_vm`), for `rustix::net::{bind, connect}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The machine; `u32::MAX` is any.
    pub cid: u32,
    /// The port; `u32::MAX` lets the system choose one.
    pub port: u32,
}

// SAFETY: `f` gets a pointer to a whole `sockaddr_vm` with its length, and it lives until `f` returns.
unsafe impl SocketAddrArg for Address {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        // SAFETY: all bytes zero is a value of this struct of integers, and its padding has to be zero.
        let mut raw: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        raw.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).expect("families are small");
        raw.svm_cid = self.cid;
        raw.svm_port = self.port;
        let length = SocketAddrLen::try_from(size_of::<libc::sockaddr_vm>()).expect("16 fits");
        f((&raw const raw).cast(), length)
    }
}

/// The port of a vsock that is bound.
///
/// # Errors
/// As `getsockname(2)`; `InvalidInput` for a socket of another family.
pub fn local_port(socket: impl AsFd) -> io::Result<u32> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: all bytes zero is a value of this struct of integers.
    let mut raw: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::sockaddr_vm>()).expect("16 fits");
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel writes at most `length` bytes to `raw`.
    let result = unsafe { libc::getsockname(fd, (&raw mut raw).cast(), &raw mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if i32::from(raw.svm_family) == libc::AF_VSOCK {
        Ok(raw.svm_port)
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

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
    fn the_address_is_laid_out_as_the_kernel_has_it() {
        let layout = |pointer: *const SocketAddrOpaque, length: SocketAddrLen| {
            // SAFETY: that many bytes can be read there, says the trait.
            unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), length as usize) }.to_vec()
        };
        // SAFETY: the closure reads no more than it is told.
        let bytes = unsafe { Address { cid: 0x0102_0304, port: 0x0506_0708 }.with_sockaddr(layout) };
        let mut expected = vec![40, 0, 0, 0];
        expected.extend(0x0506_0708_u32.to_ne_bytes());
        expected.extend(0x0102_0304_u32.to_ne_bytes());
        expected.extend([0; 4]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn another_kind_of_socket_is_refused() {
        let (socket, _peer) = UnixStream::pair().unwrap();
        assert!(set_buffer_size(&socket, 1 << 20).is_err());
    }
}
