//! Permission events of fanotify(7): the kernel asks before a file is opened, and waits for the answer.
//!
//! Closing the group lets everything through that waits for it. Needs `CAP_SYS_ADMIN` in the initial user namespace and a kernel
//! with `CONFIG_FANOTIFY_ACCESS_PERMISSIONS`.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

/// Bytes of events read at a time.
const BUFFER_BYTES: usize = 4096;

/// A group of marks and the events that they raise.
#[derive(Debug)]
pub struct Group(OwnedFd);

/// A program is about to open or to run a file, and waits.
#[derive(Debug)]
pub struct Held {
    /// The file, open for reading; the program's own file is another one.
    pub file: OwnedFd,
    /// The program's process, 0 if it is in a namespace that cannot be seen from here.
    pub pid: i32,
}

/// What was read of a group.
#[derive(Debug, Default)]
pub struct Events {
    /// Each of these waits for an answer.
    pub held: Vec<Held>,
    /// Whether there were more than the kernel keeps. Programs that were not held for that went on.
    pub overflow: bool,
}

impl Group {
    /// A group without marks, which does not block when it is read.
    ///
    /// # Errors
    /// `EPERM` without the capability; `EINVAL` or `ENOSYS` if the kernel has no permission events.
    pub fn new() -> io::Result<Self> {
        let flags = libc::FAN_CLASS_CONTENT
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_UNLIMITED_QUEUE
            | libc::FAN_UNLIMITED_MARKS;
        let file_flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE;
        let file_flags = libc::c_uint::try_from(file_flags).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: no memory is passed; the result is a new descriptor or an error.
        let group = unsafe { libc::fanotify_init(flags, file_flags) };
        match group {
            0.. => {
                // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
                Ok(Self(unsafe { OwnedFd::from_raw_fd(group) }))
            }
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Holds every opening and running of a file of the file system that this file or directory is in.
    ///
    /// # Errors
    /// `EINVAL` if the kernel has no permission events, `EXDEV` or `ENODEV` for file systems that cannot be marked.
    pub fn hold_file_system(&self, of: BorrowedFd<'_>) -> io::Result<()> {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        let mask = libc::FAN_OPEN_PERM | libc::FAN_OPEN_EXEC_PERM;
        // A descriptor of its own, since one that was opened with O_PATH cannot be marked: the path leads to it.
        let path = format!("/proc/self/fd/{}\0", of.as_raw_fd());
        // SAFETY: `path` ends with a NUL and lives until the call returns.
        let outcome = unsafe {
            libc::fanotify_mark(self.0.as_raw_fd(), flags, mask, libc::AT_FDCWD, path.as_ptr().cast())
        };
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// What waits now; empty if nothing does.
    ///
    /// # Errors
    /// Of the read, and `EPROTO` if the kernel speaks another version.
    pub fn read(&self) -> io::Result<Events> {
        // Aligned for what is read from it.
        let mut buffer = [0_u64; BUFFER_BYTES / 8];
        // SAFETY: the pointer and the length are of `buffer`, which may hold any bytes.
        let read = unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), BUFFER_BYTES) };
        let Ok(length) = usize::try_from(read) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Events::default()),
                _ => Err(error),
            };
        };
        let bytes: Vec<u8> = buffer.iter().flat_map(|word| word.to_ne_bytes()).take(length).collect();
        events(&bytes)
    }

    /// Lets the program that waits for this file go on, or fail with `EPERM`.
    ///
    /// # Errors
    /// Of the write; `ENOENT` if nobody waits for the file.
    pub fn answer(&self, file: BorrowedFd<'_>, allow: bool) -> io::Result<()> {
        let response = if allow { libc::FAN_ALLOW } else { libc::FAN_DENY };
        let answer = libc::fanotify_response { fd: file.as_raw_fd(), response };
        let length = mem::size_of_val(&answer);
        // SAFETY: the pointer and the length are of `answer`, a plain structure without padding.
        let written = unsafe { libc::write(self.0.as_raw_fd(), (&raw const answer).cast(), length) };
        match usize::try_from(written) {
            Ok(written) if written == length => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes events apart, each of which is `fanotify_event_metadata` (fanotify(7)).
fn events(mut bytes: &[u8]) -> io::Result<Events> {
    let mut events = Events::default();
    while let Some(head) = bytes.first_chunk::<24>() {
        let word = |at: usize| -> [u8; 4] { std::array::from_fn(|i| head[at + i]) };
        let length = usize::try_from(u32::from_ne_bytes(word(0))).unwrap_or(usize::MAX);
        if head[4] != libc::FANOTIFY_METADATA_VERSION || length < 24 || length > bytes.len() {
            return Err(io::Error::from_raw_os_error(libc::EPROTO));
        }
        let (file, pid) = (i32::from_ne_bytes(word(16)), i32::from_ne_bytes(word(20)));
        let mask = u64::from_ne_bytes(std::array::from_fn(|i| head[8 + i]));
        events.overflow |= mask & libc::FAN_Q_OVERFLOW != 0;
        if file >= 0 {
            // SAFETY: the kernel made this descriptor for whoever reads the event, which is read once.
            events.held.push(Held { file: unsafe { OwnedFd::from_raw_fd(file) }, pid });
        }
        bytes = &bytes[length..];
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(version: u8, length: u32, mask: u64) -> Vec<u8> {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([version, 0, 24, 0]);
        bytes.extend(mask.to_ne_bytes());
        bytes.extend((-1_i32).to_ne_bytes());
        bytes.extend(7_i32.to_ne_bytes());
        bytes
    }

    #[test]
    fn an_overflow_has_no_file() {
        let read = events(&event(libc::FANOTIFY_METADATA_VERSION, 24, libc::FAN_Q_OVERFLOW)).unwrap();
        assert!(read.overflow && read.held.is_empty());
        assert!(!events(&[]).unwrap().overflow);
    }

    #[test]
    fn events_of_another_shape_are_refused() {
        let version = libc::FANOTIFY_METADATA_VERSION;
        for bad in [event(version + 1, 24, 0), event(version, 23, 0), event(version, 25, 0)] {
            assert_eq!(events(&bad).unwrap_err().raw_os_error(), Some(libc::EPROTO));
        }
    }
}
