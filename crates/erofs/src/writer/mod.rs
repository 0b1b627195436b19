//! Takes files, directories and names in, and lays them out as one image.

mod blocks;
mod directory;
mod image;
mod xattr;

use std::{
    fs::File,
    io::{self, Read, Write},
};

use crate::{
    Xattr,
    format::{
        BLOCK, INODE_BYTES, MAX_NAME_BYTES, MAX_TARGET_BYTES, PERMISSION_BITS, TYPE_DIRECTORY, TYPE_FILE,
        TYPE_SYMLINK,
    },
};

pub use self::{blocks::Run, image::Image};
use self::{
    blocks::{Blocks, Extent},
    directory::Names,
};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A temporary file or the output could not be used.
    #[error("the file system image cannot be written")]
    Io(#[source] io::Error),
    /// A file's content could not be read.
    #[error("the content cannot be read")]
    Content(#[source] io::Error),
    /// A name is empty, too long, `.`, `..`, or has `/` or NUL in it.
    #[error("{name:?} is no name of a file")]
    Name {
        /// The name, escaped.
        name: String,
    },
    /// A directory has two entries of one name.
    #[error("a directory has {name:?} twice")]
    Twice {
        /// The name, escaped.
        name: String,
    },
    /// A directory has more than one name, or none.
    #[error("a directory has {names} names")]
    DirectoryNames {
        /// How many.
        names: u32,
    },
    /// A name was put into something that is not a directory.
    #[error("{name:?} is in what is no directory")]
    NotDirectory {
        /// The name, escaped.
        name: String,
    },
    /// A symbolic link leads to nothing, or its target is too long.
    #[error("a symbolic link has a target of {bytes} bytes")]
    Target {
        /// Its length.
        bytes: usize,
    },
    /// An extended attribute has a name that the format has not, is too large, or there are too many.
    #[error("the extended attribute {name:?} cannot be kept")]
    Xattr {
        /// The name, escaped.
        name: String,
    },
    /// A file came while no run of blocks was begun.
    #[error("no run of blocks was begun")]
    NoRun,
    /// What is known of a run of blocks is not about these files.
    #[error("the blocks that were kept are those of other files")]
    OtherRun,
    /// More blocks or inodes than there are numbers for.
    #[error("the file system is larger than its format allows")]
    TooLarge,
}

/// What every inode has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Some of [`PERMISSION_BITS`]; others are dropped.
    pub permissions: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Extended attributes, in any order.
    pub xattrs: Vec<Xattr>,
}

/// Names an inode of one [`Writer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(u32);

impl InodeId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// An inode, and where its data is until the image is written.
#[derive(Debug)]
struct Inode {
    mode: u16,
    uid: u32,
    gid: u32,
    /// As it stands behind the inode.
    xattrs: Box<[u8]>,
    /// In bytes; of a directory, once it is laid out.
    size: u64,
    data: Data,
}

#[derive(Debug)]
enum Data {
    /// Empty, or a directory that is not laid out.
    None,
    /// Behind the inode; until then in the second temporary file, in the order of the inodes. Of a directory only what
    /// is left over from whole blocks, which begin at this one.
    Inline(u32),
    /// In so many parts from this one on; it is not known yet where the parts lie.
    Parts { first: u32, count: u32 },
    /// As it is, from this block on.
    Plain(u32),
    /// Compressed in parts, all of [`crate::format::EXTENT_BYTES`] but the last.
    Compressed(Box<[Extent]>),
}

/// Collects the files of an image. The root directory is there from the beginning.
///
/// What files hold goes into runs of blocks, each into a `D` of its own, and so do targets of symbolic links that are too long
/// to stand behind their inode.
#[derive(Debug)]
pub struct Writer<D> {
    blocks: Blocks<D>,
    inodes: Vec<Inode>,
    names: Names,
}

impl<D: Write> Writer<D> {
    /// Begins an image. The empty file `tails` takes what small files hold until it is known where their inodes lie.
    ///
    /// # Errors
    /// [`WriteError`] when a file cannot be used, or for the root's attributes.
    pub fn new(tails: File, root: &Attributes) -> Result<Self, WriteError> {
        let blocks = Blocks::new(tails).map_err(WriteError::Io)?;
        let mut writer = Self { blocks, inodes: Vec::new(), names: Names::default() };
        writer.directory(root)?;
        Ok(writer)
    }

    /// The root directory.
    pub fn root(&self) -> InodeId {
        InodeId(0)
    }

    /// Begins a run of blocks, which goes to `data`.
    pub fn begin_run(&mut self, data: D) {
        self.blocks.begin(data);
    }

    /// Begins a run of blocks that was written before, of the same files: what they hold is not read.
    pub fn begin_known_run(&mut self, run: &Run) {
        self.blocks.begin_known(run);
    }

    /// Ends a run. Gives back what it was written to, unless it was known.
    ///
    /// # Errors
    /// [`WriteError`] when blocks cannot be written, or a known run has more of them than there were files for.
    pub fn end_run(&mut self) -> Result<(Run, Option<D>), WriteError> {
        self.blocks.end()
    }

    /// Adds a directory. It needs one name.
    ///
    /// # Errors
    /// [`WriteError`] for attributes that the format has not.
    pub fn directory(&mut self, attributes: &Attributes) -> Result<InodeId, WriteError> {
        self.add(TYPE_DIRECTORY, attributes, 0, Data::None)
    }

    /// Adds a file with the `size` bytes of `content`. It may have any number of names.
    ///
    /// # Errors
    /// [`WriteError`]; when `content` is shorter as well.
    pub fn file(
        &mut self,
        attributes: &Attributes,
        content: &mut dyn Read,
        size: u64,
    ) -> Result<InodeId, WriteError> {
        let room = room_behind(attributes)?;
        let data = match usize::try_from(size) {
            Ok(0) => Data::None,
            Ok(size) if size <= room => {
                self.blocks.put_tail(&exactly(content, size)?)?;
                Data::Inline(0)
            }
            _ => self.blocks.put_file(content, size)?,
        };
        self.add(TYPE_FILE, attributes, size, data)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// [`WriteError`]; a target has 1 to [`MAX_TARGET_BYTES`] bytes.
    pub fn symlink(&mut self, attributes: &Attributes, target: &[u8]) -> Result<InodeId, WriteError> {
        if !(1..=MAX_TARGET_BYTES).contains(&target.len()) {
            return Err(WriteError::Target { bytes: target.len() });
        }
        let data = if target.len() <= room_behind(attributes)? {
            self.blocks.put_tail(target)?;
            Data::Inline(0)
        } else {
            self.blocks.put_plain(target)?
        };
        self.add(TYPE_SYMLINK, attributes, target.len() as u64, data)
    }

    /// Gives an inode a name in a directory.
    ///
    /// # Errors
    /// [`WriteError::Name`], [`WriteError::NotDirectory`], [`WriteError::TooLarge`].
    pub fn name(&mut self, parent: InodeId, name: &[u8], inode: InodeId) -> Result<(), WriteError> {
        let malformed = name.is_empty()
            || name.len() > MAX_NAME_BYTES
            || matches!(name, b"." | b"..")
            || name.iter().any(|b| matches!(b, b'/' | 0));
        if malformed {
            return Err(WriteError::Name { name: escaped(name) });
        }
        if !self.is_directory(parent) {
            return Err(WriteError::NotDirectory { name: escaped(name) });
        }
        self.names.push(parent, name, inode)
    }

    /// Completes the image: writes directories and inodes into the empty file `metadata`.
    ///
    /// # Errors
    /// [`WriteError`] when names and directories make no tree, it is too large, or cannot be written.
    pub fn finish(self, metadata: &mut File) -> Result<Image, WriteError> {
        image::complete(self, metadata)
    }

    fn is_directory(&self, inode: InodeId) -> bool {
        self.inodes.get(inode.index()).is_some_and(Inode::is_directory)
    }

    fn add(
        &mut self,
        kind: u16,
        attributes: &Attributes,
        size: u64,
        data: Data,
    ) -> Result<InodeId, WriteError> {
        let id = InodeId(u32::try_from(self.inodes.len()).map_err(|_| WriteError::TooLarge)?);
        let permissions = u16::try_from(attributes.permissions & PERMISSION_BITS).unwrap_or_default();
        self.inodes.push(Inode {
            mode: kind | permissions,
            uid: attributes.uid,
            gid: attributes.gid,
            xattrs: xattr::encode(&attributes.xattrs)?.into(),
            size,
            data,
        });
        Ok(id)
    }
}

impl Inode {
    fn is_directory(&self) -> bool {
        self.mode & crate::format::TYPE_BITS == TYPE_DIRECTORY
    }
}

/// How much data fits behind an inode: it has to end in the block in which the inode begins.
fn room_behind(attributes: &Attributes) -> Result<usize, WriteError> {
    Ok(BLOCK.saturating_sub(INODE_BYTES + xattr::encode(&attributes.xattrs)?.len()))
}

fn exactly(content: &mut dyn Read, size: usize) -> Result<Vec<u8>, WriteError> {
    let mut bytes = vec![0; size];
    content.read_exact(&mut bytes).map_err(WriteError::Content)?;
    Ok(bytes)
}

fn escaped(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}
