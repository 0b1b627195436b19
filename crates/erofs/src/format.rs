//! Numbers and layouts of the format, as Linux has them in `fs/erofs/erofs_fs.h`. All integers are little-endian.

/// A block, in bytes: the unit of addresses and the page of the processors there are kernels for here.
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// Its logarithm.
pub(crate) const BLOCK_BITS: u8 = 12;
/// The same, where lengths in memory are meant.
pub(crate) const BLOCK: usize = 4096;
/// Where the superblock stands in the first block.
pub(crate) const SUPERBLOCK_AT: usize = 1024;
/// Length of the superblock; what says how files are compressed follows it.
pub(crate) const SUPERBLOCK_BYTES: usize = 128;
pub(crate) const MAGIC: u32 = 0xe0f5_e1e2;
/// Times of inodes are times of modification.
pub(crate) const COMPAT_MTIME: u32 = 2;
/// Compressed data stands at the end of its blocks, after zeros.
pub(crate) const INCOMPAT_ZERO_PADDING: u32 = 1;
/// What is compressed may have more than one block, and the superblock is followed by the compression's settings.
pub(crate) const INCOMPAT_BIG_CLUSTER: u32 = 2;
/// The number of LZ4, and its bit.
pub(crate) const LZ4: u8 = 0;
pub(crate) const LZ4_BIT: u16 = 1;
/// Length of LZ4's settings.
pub(crate) const LZ4_SETTINGS_BYTES: u16 = 14;
/// How far back LZ4 refers, in bytes.
pub(crate) const LZ4_DISTANCE: u16 = 65535;

/// Inodes are numbered by their place in steps of this many bytes.
pub(crate) const SLOT_BYTES: u64 = 32;
/// An inode in its long form, the only one used.
pub(crate) const INODE_BYTES: usize = 64;
/// The place of the first inode, the root's. No inode has the number 0: readers of directories skip such entries.
pub(crate) const FIRST_INODE_AT: u64 = 64;
/// The long form's bit in an inode's format.
pub(crate) const LONG_FORM: u16 = 1;
/// Layouts of data: in blocks; compressed, with an index of 8 bytes a block; in blocks, and the rest behind the inode.
pub(crate) const LAYOUT_PLAIN: u16 = 0;
pub(crate) const LAYOUT_COMPRESSED: u16 = 1;
pub(crate) const LAYOUT_INLINE: u16 = 2;

/// What an index begins with: how the file is compressed, and eight bytes of nothing.
pub(crate) const INDEX_HEADER_BYTES: usize = 16;
pub(crate) const INDEX_ENTRY_BYTES: usize = 8;
/// In an index's header: what is compressed may have more than one block.
pub(crate) const ADVISE_BIG_CLUSTER: u16 = 2;
/// Kinds of index entries.
pub(crate) const CLUSTER_PLAIN: u16 = 0;
pub(crate) const CLUSTER_HEAD: u16 = 1;
pub(crate) const CLUSTER_CONTINUED: u16 = 2;
/// In the first continued entry: the rest of the number is that of the compressed blocks.
pub(crate) const COMPRESSED_BLOCKS: u16 = 1 << 11;
/// How much of a file is compressed at a time, in bytes: as much as the kernel reads ahead.
pub(crate) const EXTENT_BYTES: usize = 128 << 10;
/// The same in blocks.
pub(crate) const EXTENT_BLOCKS: usize = EXTENT_BYTES / BLOCK;

/// A name in a directory, before the names themselves.
pub(crate) const DIRENT_BYTES: usize = 12;
/// Longest name of a file in its directory, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest target of a symbolic link, in bytes: Linux's `PATH_MAX` without the NUL.
pub const MAX_TARGET_BYTES: usize = 4095;
/// The permission bits an inode may have, with set-user-ID, set-group-ID and sticky.
pub const PERMISSION_BITS: u32 = 0o7777;

pub(crate) const TYPE_BITS: u16 = 0o170_000;
pub(crate) const TYPE_DIRECTORY: u16 = 0o040_000;
pub(crate) const TYPE_FILE: u16 = 0o100_000;
pub(crate) const TYPE_SYMLINK: u16 = 0o120_000;

/// Before the extended attributes of an inode.
pub(crate) const XATTR_HEADER_BYTES: usize = 12;
/// Before each of them; they and their counts are in steps of as many bytes.
pub(crate) const XATTR_ENTRY_BYTES: usize = 4;
/// Beginnings of their names, and the numbers that stand for them. The last two are whole names.
pub(crate) const XATTR_PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
];

/// The kind of a directory entry, from an inode's mode.
pub(crate) fn entry_kind(mode: u16) -> u8 {
    match mode & TYPE_BITS {
        TYPE_FILE => 1,
        TYPE_DIRECTORY => 2,
        _ => 7,
    }
}
