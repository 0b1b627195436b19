//! What is in one directory: its names, and the digest that binds them (`docs/spec/monitor.md`).

use std::os::fd::BorrowedFd;

use rustix::{
    fs::{RawDir, Statx},
    io::Errno,
};

use crate::{
    content::{DigestSet, Hasher},
    observe::{look, look_at},
    state::{Content, Kind, Stamp, State, Unread},
};

/// What the bytes that are hashed begin with.
const DIGEST_TAG: &[u8] = b"glasshouse directory 1\n";

/// Bytes of names read at a time.
const BUFFER_BYTES: usize = 32 * 1024;

/// How often a directory that changes while it is listed is tried.
const TRIES: u32 = 4;

/// Longest path of a file that is recorded, in bytes: what a program can name in one call (`PATH_MAX`, less its end).
pub const MAX_PATH_BYTES: usize = 4095;

/// A name in a directory, and what the kernel says of it.
pub type Child = (Box<[u8]>, Statx);

/// A directory's names in ascending order of their bytes.
#[derive(Debug)]
pub struct Listing {
    /// The directory itself.
    pub stat: Statx,
    /// Its names and what each is.
    pub children: Vec<Child>,
    /// Whether it stood still meanwhile.
    stable: bool,
}

impl Listing {
    /// Lists an open directory, without the names that are `ignored`.
    ///
    /// # Errors
    /// When its names cannot be read.
    pub fn read(directory: BorrowedFd<'_>, ignored: impl Fn(&[u8], bool) -> bool) -> Result<Self, Errno> {
        let mut tries = 0;
        loop {
            let before = look_at(directory)?;
            let mut children = children(directory, &ignored)?;
            children.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            let stat = look_at(directory)?;
            tries += 1;
            let stable = Stamp::of(&before) == Stamp::of(&stat);
            if stable || tries == TRIES {
                return Ok(Self { stat, children, stable });
            }
            rustix::fs::seek(directory, rustix::fs::SeekFrom::Start(0))?;
        }
    }

    /// What is recorded of this directory, which lies at `path`.
    pub fn state(&self, path: &[u8], set: DigestSet) -> State {
        let longest = self.children.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let content = if !self.stable {
            Content::Unread(Unread::Moving)
        } else if path.len().saturating_add(1).saturating_add(longest) > MAX_PATH_BYTES {
            Content::Unread(Unread::TooDeep)
        } else {
            self.digest(set)
        };
        State { size: self.children.len() as u64, ..State::new(&self.stat, content) }
    }

    fn digest(&self, set: DigestSet) -> Content {
        let mut hasher = Hasher::new(set);
        hasher.update(DIGEST_TAG);
        hasher.update(&(self.children.len() as u64).to_be_bytes());
        for (name, stat) in &self.children {
            let state = State::new(stat, Content::None);
            let length = u16::try_from(name.len()).expect("a file name has at most 255 bytes");
            hasher.update(&length.to_be_bytes());
            hasher.update(name);
            hasher.update(&[code(state.kind)]);
            hasher.update(&state.mode.to_be_bytes());
            hasher.update(&state.uid.to_be_bytes());
            hasher.update(&state.gid.to_be_bytes());
            hasher.update(&state.size.to_be_bytes());
        }
        Content::Digests(hasher.finish())
    }
}

/// The byte that stands for a kind.
fn code(kind: Kind) -> u8 {
    match kind {
        Kind::File => 1,
        Kind::Directory => 2,
        Kind::Symlink => 3,
        Kind::CharDevice => 4,
        Kind::BlockDevice => 5,
        Kind::Fifo => 6,
        Kind::Socket => 7,
    }
}

fn children(directory: BorrowedFd<'_>, ignored: impl Fn(&[u8], bool) -> bool) -> Result<Vec<Child>, Errno> {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut names = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut children = Vec::new();
    while let Some(entry) = names.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        // Gone already: the directory has changed, and is read again.
        let Some(stat) = look(directory, name)? else { continue };
        if !ignored(name, Kind::of(&stat) == Kind::Directory) {
            children.push((name.into(), stat));
        }
    }
    Ok(children)
}
