//! Inodes, and what stands behind them.

use super::{Number, ReadAt, ReadError, Reader, fields::Fields};
use crate::{
    Xattr,
    format::{
        BLOCK_BYTES, INODE_BYTES, LAYOUT_COMPRESSED, LAYOUT_INLINE, LAYOUT_PLAIN, LONG_FORM,
        MAX_TARGET_BYTES, PERMISSION_BITS, TYPE_BITS, TYPE_DIRECTORY, TYPE_FILE, TYPE_SYMLINK,
        XATTR_ENTRY_BYTES, XATTR_HEADER_BYTES, XATTR_PREFIXES,
    },
};

/// A file, directory or symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Its number.
    pub number: Number,
    /// What it is.
    pub kind: InodeKind,
    /// Permissions, some of [`PERMISSION_BITS`].
    pub permissions: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// In seconds since 1970.
    pub modified: u64,
    /// How many names it says it has.
    pub links: u32,
    /// Length of what it holds, in bytes.
    pub size: u64,
    pub(super) layout: u16,
    /// The first block.
    pub(super) block: u32,
    /// Where the extended attributes end.
    pub(super) end: u64,
    xattr_bytes: usize,
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

impl<S: ReadAt> Reader<S> {
    /// The inode of this number.
    ///
    /// # Errors
    /// [`ReadError`] when there is none, or one of another kind.
    pub fn inode(&self, number: Number) -> Result<Inode, ReadError> {
        let at = self.place(number)?;
        let mut bytes = [0; INODE_BYTES];
        self.read(&mut bytes, at, "an inode")?;
        let fields = Fields(&bytes);
        let (format, mode) = (fields.u16(0), fields.u16(4));
        let layout = format >> 1;
        if format & LONG_FORM == 0 || !matches!(layout, LAYOUT_PLAIN | LAYOUT_COMPRESSED | LAYOUT_INLINE) {
            return Err(ReadError::Unsupported { what: "another layout of files" });
        }
        let kind = match mode & TYPE_BITS {
            TYPE_FILE => InodeKind::File,
            TYPE_DIRECTORY => InodeKind::Directory,
            TYPE_SYMLINK => InodeKind::Symlink,
            _ => return Err(ReadError::Unsupported { what: "devices, pipes or sockets" }),
        };
        if layout == LAYOUT_COMPRESSED && kind != InodeKind::File {
            return Err(ReadError::Unsupported { what: "compressed directories" });
        }
        let xattr_bytes = xattr_bytes(fields.u16(2));
        let inode = Inode {
            number,
            kind,
            permissions: u32::from(mode) & PERMISSION_BITS,
            uid: fields.u32(24),
            gid: fields.u32(28),
            modified: fields.u64(32),
            links: fields.u32(44),
            size: fields.u64(8),
            layout,
            block: fields.u32(16),
            end: at.saturating_add((INODE_BYTES as u64).saturating_add(xattr_bytes as u64)),
            xattr_bytes,
        };
        if layout != LAYOUT_COMPRESSED {
            self.check_extent(&inode)?;
        }
        Ok(inode)
    }

    /// What is not compressed has to be in the image.
    fn check_extent(&self, inode: &Inode) -> Result<(), ReadError> {
        let tail = inode.tail_bytes();
        let whole = inode.size.saturating_sub(tail);
        let whole_end = u64::from(inode.block).saturating_mul(BLOCK_BYTES).saturating_add(whole);
        let tail_end = inode.end.saturating_add(tail);
        if whole > 0 && whole_end > self.len || tail_end > self.len {
            return Err(ReadError::Outside { what: "what a file holds" });
        }
        Ok(())
    }

    /// The extended attributes of an inode, in order of their names.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>, ReadError> {
        const MALFORMED: ReadError = ReadError::Malformed { what: "an extended attribute" };
        let mut bytes = vec![0; inode.xattr_bytes];
        let at = inode.end.saturating_sub(inode.xattr_bytes as u64);
        self.read(&mut bytes, at, "an extended attribute")?;
        if Fields(&bytes).u8(4) != 0 {
            return Err(ReadError::Unsupported { what: "shared extended attributes" });
        }
        let mut left = bytes.get(XATTR_HEADER_BYTES..).unwrap_or_default();
        let mut xattrs = Vec::new();
        while !left.is_empty() {
            let fields = Fields(left);
            let (name_len, value_len) = (usize::from(fields.u8(0)), usize::from(fields.u16(2)));
            let (_, prefix) =
                XATTR_PREFIXES.iter().find(|(number, _)| *number == fields.u8(1)).ok_or(MALFORMED)?;
            let value_at = XATTR_ENTRY_BYTES.saturating_add(name_len);
            let end = value_at.saturating_add(value_len);
            let name = left.get(XATTR_ENTRY_BYTES..value_at).ok_or(MALFORMED)?;
            let value = left.get(value_at..end).ok_or(MALFORMED)?;
            xattrs.push(Xattr { name: [prefix, name].concat(), value: value.to_vec() });
            left = left.get(end.next_multiple_of(XATTR_ENTRY_BYTES)..).ok_or(MALFORMED)?;
        }
        xattrs.sort();
        Ok(xattrs)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// [`ReadError`], also for what is none.
    pub fn symlink(&self, inode: &Inode) -> Result<Vec<u8>, ReadError> {
        let len = usize::try_from(inode.size).ok().filter(|len| (1..=MAX_TARGET_BYTES).contains(len));
        let (Some(len), InodeKind::Symlink) = (len, inode.kind) else {
            return Err(ReadError::Malformed { what: "a symbolic link" });
        };
        let mut target = vec![0; len];
        self.read_plain(inode, &mut target, 0)?;
        match target.contains(&0) {
            true => Err(ReadError::Malformed { what: "a symbolic link" }),
            false => Ok(target),
        }
    }

    /// Fills `buf` with what an inode holds from `position` on, which is not compressed. Reads no further than to the end
    /// of a block unless all of it is in blocks.
    pub(super) fn read_plain(&self, inode: &Inode, buf: &mut [u8], position: u64) -> Result<(), ReadError> {
        let whole = inode.size.saturating_sub(inode.tail_bytes());
        let (at, what) = match position.checked_sub(whole) {
            Some(behind) => (inode.end.saturating_add(behind), "the rest of a file"),
            None => (u64::from(inode.block).saturating_mul(BLOCK_BYTES).saturating_add(position), "a block"),
        };
        self.read(buf, at, what)
    }
}

impl Inode {
    /// How much stands behind the inode itself.
    pub(super) fn tail_bytes(&self) -> u64 {
        if self.layout == LAYOUT_INLINE { self.size % BLOCK_BYTES } else { 0 }
    }
}

/// Length of the extended attributes, from the number that stands for it.
fn xattr_bytes(count: u16) -> usize {
    match usize::from(count).checked_sub(1) {
        None => 0,
        Some(more) => XATTR_HEADER_BYTES.saturating_add(more.saturating_mul(XATTR_ENTRY_BYTES)),
    }
}
