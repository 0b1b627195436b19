//! A pipe's end or a terminal's controlling side, without blocking.

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::OFlags,
    io::{Errno, ioctl_fionbio},
};
use tokio::io::{Interest, unix::AsyncFd};

/// Has the runtime wait for a descriptor.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types whose descriptor may change; that of an OwnedFd does not"
)]
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// A descriptor that is waited for by the runtime.
#[derive(Debug)]
pub(crate) struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        ioctl_fionbio(&fd, true)?;
        debug_assert!(rustix::fs::fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK)));
        Ok(Self(watch(fd)?))
    }

    /// Waits until there is something to read, or nobody is left who could write.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.0.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// Reads what is there. `None` when nothing is, `Some(0)` when nobody is left who could write.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            return match rustix::io::read(&self.0, &mut *buffer) {
                Ok(count) => Ok(Some(count)),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Ok(None),
                // What a terminal says when every process has left it.
                Err(Errno::IO) => Ok(Some(0)),
                Err(errno) => Err(errno.into()),
            };
        }
    }

    /// Reads what is there. `None` when nothing is, and then [`Descriptor::readable`] waits for more.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let read = self.0.try_io(Interest::READABLE, |_| {
            self.read_now(buffer)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
        });
        match read {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a part of `bytes`, at least one, once there is room.
    pub(crate) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.0.writable().await?;
            match rustix::io::write(&self.0, bytes) {
                Ok(count) => return Ok(count),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        self.0.get_ref()
    }
}
