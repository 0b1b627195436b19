//! How much an input may ask for before it is refused.

/// Longest name a ramdisk entry can have, in bytes without the closing NUL. The kernel skips longer ones without a word
/// (`PATH_MAX` in `init/initramfs.c`), so they have to be refused here.
pub(crate) const MAX_RAMDISK_NAME_BYTES: usize = 4095;

/// Where the application's file system stands in ramdisk 1.
pub(crate) const ROOTFS_PREFIX: &[u8] = b"rootfs/";

/// Longest path inside an application's file system, in bytes.
pub(crate) const MAX_PATH_BYTES: usize = MAX_RAMDISK_NAME_BYTES - ROOTFS_PREFIX.len();

/// Longest component of a path, in bytes (`NAME_MAX`).
pub(crate) const MAX_COMPONENT_BYTES: usize = 255;

/// Longest target of a symbolic link, in bytes (`PATH_MAX` less the closing NUL).
pub(crate) const MAX_TARGET_BYTES: usize = 4095;

/// Largest file, in bytes: cpio's "newc" form has 32 bits for the length.
pub(crate) const MAX_FILE_BYTES: u64 = u32::MAX as u64;

/// Largest PAX or GNU extension record of a tar entry, in bytes. Linux allows extended attributes of 64 KiB.
pub(crate) const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// Longest name of an extended attribute, in bytes (`XATTR_NAME_MAX`).
pub(crate) const MAX_XATTR_NAME_BYTES: usize = 255;

/// Longest value of one, in bytes: file systems in images have 16 bits for the length.
pub(crate) const MAX_XATTR_VALUE_BYTES: usize = 65_535;

/// Most bytes of names and values that a file has, so that they always fit behind its inode.
pub(crate) const MAX_XATTRS_BYTES: usize = 128 << 10;

/// Largest JSON document of an image layout, in bytes. The distribution specification obliges registries to take 4 MiB.
pub(crate) const MAX_JSON_BYTES: u64 = 4 << 20;

/// How many links may stand behind one another before a file in an image archive comes. `docker save` writes one.
pub(crate) const MAX_ARCHIVE_LINKS: usize = 8;

/// Most layers an image may have. Docker stops at 127.
pub(crate) const MAX_LAYERS: usize = 1024;

/// How many image indexes may stand behind one another before the image manifest comes.
pub(crate) const MAX_INDEX_DEPTH: usize = 4;

/// What the caller may choose. Everything counts over the whole input, all layers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes the layers may unpack to, or the files of a directory may have. Default 8 GiB.
    pub unpacked_bytes: u64,
    /// Most entries: files, directories, links and whiteouts. Default 2 million.
    pub entries: u64,
    /// Most bytes of paths, link targets and extended attributes, which are held in memory. Default 512 MiB.
    pub name_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { unpacked_bytes: 8 << 30, entries: 2_000_000, name_bytes: 512 << 20 }
    }
}

impl Limits {
    /// The same for a file system in an image.
    pub(crate) fn walk(&self) -> erofs::WalkLimits {
        erofs::WalkLimits { entries: self.entries, name_bytes: self.name_bytes }
    }
}
