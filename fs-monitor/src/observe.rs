//! Finds out what one name in an open directory is, in a state that it had as a whole.
//!
//! Only regular files are opened, and nothing is believed of the name: what was opened is compared with what was looked at,
//! before and after it is read. A file that changes meanwhile is read again.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::{
    fs::{AtFlags, Mode, OFlags, Statx, StatxFlags},
    io::Errno,
};

use crate::{
    content::Reader,
    state::{Content, Digests, Kind, Stamp, State, Unread},
};

/// How often a file that changes while it is read is tried.
const TRIES: u32 = 4;

/// What a name was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// There is no such file.
    Absent,
    /// A directory, the content of which is its listing's business.
    Directory,
    /// Anything else.
    State {
        /// What it is.
        state: State,
        /// What identifies this state.
        stamp: Stamp,
    },
}

/// What became of one attempt to read a file.
enum Attempt {
    Read(Digests),
    Unread(Unread),
    /// It is not, or no longer, what was looked at.
    Moved,
}

/// Looks at `name` in `directory` until what it found is one state. What moves on and on is [`Unread::Moving`].
///
/// # Errors
/// When not even that can be found out whether there is such a file.
pub fn observe(reader: &mut Reader, directory: BorrowedFd<'_>, name: &[u8]) -> Result<Seen, Errno> {
    let mut last = None;
    for _ in 0..TRIES {
        let Some(stat) = look(directory, name)? else { return Ok(Seen::Absent) };
        let content = match Kind::of(&stat) {
            Kind::Directory => return Ok(Seen::Directory),
            Kind::File => match read_file(reader, directory, name, &stat) {
                Attempt::Read(digests) => Some(Content::Digests(digests)),
                Attempt::Unread(why) => Some(Content::Unread(why)),
                Attempt::Moved => None,
            },
            Kind::Symlink => read_target(directory, name, &stat)?,
            _ => Some(Content::None),
        };
        if let Some(content) = content {
            return Ok(Seen::State { stamp: Stamp::of(&stat), state: State::new(&stat, content) });
        }
        last = Some(stat);
    }
    match last {
        Some(stat) => Ok(Seen::State {
            stamp: Stamp::of(&stat),
            state: State::new(&stat, Content::Unread(Unread::Moving)),
        }),
        None => Ok(Seen::Absent),
    }
}

/// What the kernel says of a name, without following it.
pub(crate) fn look(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Statx>, Errno> {
    match rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What the kernel says of an open file.
pub(crate) fn look_at(file: BorrowedFd<'_>) -> Result<Statx, Errno> {
    rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
}

fn read_file(reader: &mut Reader, directory: BorrowedFd<'_>, name: &[u8], stat: &Statx) -> Attempt {
    // Without O_NONBLOCK, a pipe that took the file's place would hold the monitor until somebody writes to it.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Attempt::Moved,
        Err(errno) => return Attempt::Unread(Unread::from_errno(errno)),
    };
    match look_at(file.as_fd()) {
        Ok(opened) if is_same(&opened, stat) => read_open(reader, file.as_fd(), &opened),
        Ok(_) => Attempt::Moved,
        Err(errno) => Attempt::Unread(Unread::from_errno(errno)),
    }
}

/// Hashes an open regular file, of which the kernel said `stat`, unless it changes meanwhile.
fn read_open(reader: &mut Reader, file: BorrowedFd<'_>, stat: &Statx) -> Attempt {
    let digests = match reader.digest(file, stat) {
        Ok(digests) => digests,
        Err(Unread::Moving) => return Attempt::Moved,
        Err(why) => return Attempt::Unread(why),
    };
    match look_at(file) {
        Ok(after) if is_same(&after, stat) => Attempt::Read(digests),
        Ok(_) => Attempt::Moved,
        Err(errno) => Attempt::Unread(Unread::from_errno(errno)),
    }
}

/// Whether both are the same state of the same file, attributes included: a change of those moves the change time.
fn is_same(a: &Statx, b: &Statx) -> bool {
    Stamp::of(a) == Stamp::of(b) && a.stx_mode == b.stx_mode
}

/// Where a link leads; `None` if it is not the link any more that was looked at.
fn read_target(directory: BorrowedFd<'_>, name: &[u8], stat: &Statx) -> Result<Option<Content>, Errno> {
    let target = match rustix::fs::readlinkat(directory, name, Vec::new()) {
        Ok(target) => target.into_bytes().into_boxed_slice(),
        Err(Errno::NOENT | Errno::INVAL | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Ok(Some(Content::Unread(Unread::from_errno(errno)))),
    };
    let after = look(directory, name)?;
    Ok(after.filter(|after| is_same(after, stat)).map(|_| Content::Target(target)))
}
