//! What a file is at one moment: the facts that are recorded of it.

use rustix::fs::{FileType, Statx};

/// The bits of a mode that are permissions.
const PERMISSION_BITS: u16 = 0o7777;

/// Longer than a tick of any kernel's clock.
const CLOCK_TICK_NS: i64 = 20_000_000;

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

/// A file as it was found, consistent in itself: its content is the one it had while size and times were these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What kind of file it is.
    pub kind: Kind,
    /// Permissions, with set-user-ID, set-group-ID and sticky bit.
    pub mode: u16,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Bytes of a file or of a link's target, entries of a directory, else 0.
    pub size: u64,
    /// When a file or link was last written, in nanoseconds since 1970; 0 for a directory, whose listing says more.
    pub mtime: i64,
    /// The device that a device node stands for, major and minor number.
    pub device: Option<(u32, u32)>,
    /// What is in it.
    pub content: Content,
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Digests of a file's bytes, or of a directory's listing.
    Digests(Digests),
    /// Where a symbolic link leads.
    Target(Box<[u8]>),
    /// Devices, pipes and sockets are never opened.
    None,
    /// It could not be read.
    Unread(Unread),
}

/// Digests of the same bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digests {
    /// BLAKE3.
    pub blake3: [u8; 32],
    /// SHA-256, if it was asked for.
    pub sha256: Option<[u8; 32]>,
    /// SHA3-512, if it was asked for.
    pub sha3_512: Option<Box<[u8; 64]>>,
}

/// Why a file's content is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// The monitor may not read it.
    Denied,
    /// It changed again and again while it was read.
    Moving,
    /// More of it is holes than is worth hashing.
    Sparse,
    /// Names below it would be longer than a path may be.
    TooDeep,
    /// It is another file system, one that shows the kernel's state.
    Pseudo,
    /// Reading failed with this `errno`.
    Failed(i32),
}

/// What identifies one state of one inode: any change moves at least one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    device: (u32, u32),
    inode: u64,
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
    is_shared: bool,
}

impl Stamp {
    /// The stamp in what the kernel says of a file.
    pub fn of(stat: &Statx) -> Self {
        Self {
            device: (stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            is_shared: Kind::of(stat) != Kind::Directory && stat.stx_nlink > 1,
        }
    }
}

impl Stamp {
    /// Which file it is, if it has several names.
    pub(crate) fn shared_inode(&self) -> Option<((u32, u32), u64)> {
        self.is_shared.then_some((self.device, self.inode))
    }

    /// Whether the file changed last long enough before `now`, in nanoseconds since 1970, that another change would show:
    /// kernels before 6.13 give the same time to all changes within a tick of their clock.
    pub(crate) fn is_settled(&self, now: u64) -> bool {
        let changed = nanoseconds(self.ctime.0, self.ctime.1);
        i64::try_from(now).is_ok_and(|now| now.saturating_sub(changed) > CLOCK_TICK_NS)
    }
}

impl Kind {
    /// The kind in what the kernel says of a file.
    pub fn of(stat: &Statx) -> Self {
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            _ => Self::File,
        }
    }

    /// Its name in records and listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::CharDevice => "char-device",
            Self::BlockDevice => "block-device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        }
    }
}

impl State {
    /// The state of a file with this content.
    pub fn new(stat: &Statx, content: Content) -> Self {
        let kind = Kind::of(stat);
        let sized = matches!(kind, Kind::File | Kind::Symlink);
        let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        Self {
            kind,
            mode: stat.stx_mode & PERMISSION_BITS,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: if sized { stat.stx_size } else { 0 },
            mtime: if sized { nanoseconds(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec) } else { 0 },
            device: is_device.then_some((stat.stx_rdev_major, stat.stx_rdev_minor)),
            content,
        }
    }

    /// The digests, if its content was read.
    pub fn digests(&self) -> Option<&Digests> {
        match &self.content {
            Content::Digests(digests) => Some(digests),
            _ => None,
        }
    }
}

impl Unread {
    /// From the error of opening or reading.
    pub fn from_errno(errno: rustix::io::Errno) -> Self {
        match errno {
            rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => Self::Denied,
            other => Self::Failed(other.raw_os_error()),
        }
    }

    /// Its name in records, and the `errno` if there is one.
    pub fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Moving => "moving",
            Self::Sparse => "sparse",
            Self::TooDeep => "too-deep",
            Self::Pseudo => "pseudo",
            Self::Failed(_) => "failed",
        }
    }
}

/// Times beyond the years 1677 and 2262 become the nearest that fit.
fn nanoseconds(seconds: i64, nanoseconds: u32) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.into())
}
