//! Where everything lies: the superblock, what files and directories hold, then the inodes.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Write},
};

use super::{
    Data, Inode, InodeId, WriteError, Writer,
    blocks::{Extent, extents},
    directory::{Names, blocks, filled},
    xattr,
};
use crate::format::{
    ADVISE_BIG_CLUSTER, BLOCK, BLOCK_BITS, BLOCK_BYTES, CLUSTER_CONTINUED, CLUSTER_HEAD, CLUSTER_PLAIN,
    COMPAT_MTIME, COMPRESSED_BLOCKS, DIRENT_BYTES, EXTENT_BLOCKS, EXTENT_BYTES, FIRST_INODE_AT,
    INCOMPAT_BIG_CLUSTER, INCOMPAT_ZERO_PADDING, INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES, INODE_BYTES,
    LAYOUT_COMPRESSED, LAYOUT_INLINE, LAYOUT_PLAIN, LONG_FORM, LZ4, LZ4_BIT, LZ4_DISTANCE,
    LZ4_SETTINGS_BYTES, MAGIC, SLOT_BYTES, SUPERBLOCK_AT, SUPERBLOCK_BYTES, entry_kind,
};

/// Where everything lies.
struct Plan {
    inodes: Vec<Inode>,
    /// Where each stands from the beginning of the inodes.
    places: Vec<u64>,
    /// How many names each has; of a directory, with `.` and the `..` of those in it.
    links: Vec<u32>,
    /// The directory that each directory is in.
    parents: Vec<InodeId>,
    names: Names,
    /// The block in which the inodes begin.
    meta_block: u32,
    meta_bytes: u64,
}

/// What an image has besides its runs of blocks. Its bytes are the superblock's, those of the runs, and the metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The first block.
    pub superblock: Vec<u8>,
    /// How long the metadata is, in bytes.
    pub metadata_bytes: u64,
}

/// Says where everything lies, and writes directories and inodes.
pub(super) fn complete<D: Write>(writer: Writer<D>, metadata: &mut File) -> Result<Image, WriteError> {
    let Writer { blocks, mut inodes, mut names } = writer;
    names.sort()?;
    let (links, parents) = count_links(&inodes, &names)?;
    let (parts, mut tails) = blocks.into_parts().map_err(WriteError::Io)?;
    let parts = extents(&parts, 1)?;
    // Behind the superblock's block and those of the files.
    let data_end = parts.last().map_or(1, |last| u64::from(last.block) + u64::from(last.blocks));
    let mut meta_block = u32::try_from(data_end).map_err(|_| WriteError::TooLarge)?;
    inodes.iter_mut().for_each(|inode| inode.find_parts(&parts));
    for (inode, id) in inodes.iter_mut().zip(0..).filter(|(inode, _)| inode.is_directory()) {
        let parent = parents.get(id as usize).copied().unwrap_or(InodeId(0));
        lay_out_directory(inode, &names.of(InodeId(id), parent), &mut meta_block)?;
    }
    let (places, meta_bytes) = place(&inodes);
    let all = meta_bytes.div_ceil(BLOCK_BYTES).saturating_add(meta_block.into());
    let all = u32::try_from(all).map_err(|_| WriteError::TooLarge)?;
    let plan = Plan { inodes, places, links, parents, names, meta_block, meta_bytes };
    let mut output = BufWriter::with_capacity(EXTENT_BYTES, metadata);
    plan.write_directories(&mut output).map_err(WriteError::Io)?;
    plan.write_inodes(&mut output, &mut tails).map_err(WriteError::Io)?;
    output.flush().map_err(WriteError::Io)?;
    Ok(Image { superblock: plan.superblock(all), metadata_bytes: (u64::from(all) - data_end) * BLOCK_BYTES })
}

impl Plan {
    fn write_directories(&self, output: &mut dyn Write) -> io::Result<()> {
        for id in self.directories() {
            let all = self.directory_data(&self.names_of(id));
            let inline = self.inodes[id.index()].inline_bytes();
            let plain = &all[..all.len() - inline];
            output.write_all(plain)?;
            output.write_all(&vec![0; plain.len().next_multiple_of(BLOCK) - plain.len()])?;
        }
        Ok(())
    }

    fn superblock(&self, blocks: u32) -> Vec<u8> {
        let root = u16::try_from(FIRST_INODE_AT / SLOT_BYTES).expect("the root is the first inode");
        let mut block = Fields(vec![0; SUPERBLOCK_AT]);
        block.u32(MAGIC).u32(0).u32(COMPAT_MTIME);
        block.bytes(&[BLOCK_BITS, 0]).u16(root).u64(self.inodes.len() as u64);
        // The time of inodes in their short form, of which there are none.
        block.u64(0).u32(0);
        block.u32(blocks).u32(self.meta_block).u32(0);
        // No identifier and no name of the volume.
        block.bytes(&[0; 32]);
        block.u32(INCOMPAT_ZERO_PADDING | INCOMPAT_BIG_CLUSTER).u16(LZ4_BIT);
        block.0.resize(SUPERBLOCK_AT + SUPERBLOCK_BYTES, 0);
        let most = u16::try_from(EXTENT_BLOCKS).expect("an extent has few blocks");
        block.u16(LZ4_SETTINGS_BYTES).u16(LZ4_DISTANCE).u16(most);
        block.0.resize(BLOCK, 0);
        block.0
    }

    fn write_inodes(&self, output: &mut dyn Write, tails: &mut dyn Read) -> io::Result<()> {
        let mut at = 0;
        for index in 0..self.inodes.len() {
            let mut bytes = self.inode(index);
            let inode = &self.inodes[index];
            match &inode.data {
                Data::Compressed(extents) => index_of(extents, inode.size, &mut bytes),
                Data::Inline(_) if inode.is_directory() => {
                    let all = self.directory_data(&self.names_of(id_of(index)));
                    bytes.bytes(&all[all.len() - inode.inline_bytes()..]);
                }
                // Tails were stored in the order of the inodes.
                Data::Inline(_) => {
                    let from = bytes.0.len();
                    bytes.0.resize(from + inode.inline_bytes(), 0);
                    tails.read_exact(&mut bytes.0[from..])?;
                }
                Data::None | Data::Parts { .. } | Data::Plain(_) => {}
            }
            let gap = usize::try_from(self.places[index] - at).expect("a gap is shorter than a block");
            output.write_all(&vec![0; gap])?;
            output.write_all(&bytes.0)?;
            at = self.places[index] + bytes.0.len() as u64;
        }
        let gap = self.meta_bytes.next_multiple_of(BLOCK_BYTES) - at;
        io::copy(&mut io::repeat(0).take(gap), output).map(drop)
    }

    /// An inode with its extended attributes.
    fn inode(&self, index: usize) -> Fields {
        let inode = &self.inodes[index];
        let (layout, address) = match &inode.data {
            Data::None | Data::Parts { .. } => (LAYOUT_PLAIN, 0),
            Data::Plain(block) => (LAYOUT_PLAIN, *block),
            Data::Inline(block) => (LAYOUT_INLINE, *block),
            Data::Compressed(extents) => {
                (LAYOUT_COMPRESSED, extents.iter().map(|e| u32::from(e.blocks)).sum())
            }
        };
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let mut bytes = Fields(Vec::new());
        bytes.u16(LONG_FORM | layout << 1).u16(xattr::count(&inode.xattrs)).u16(inode.mode).u16(0);
        bytes.u64(inode.size).u32(address).u32(number).u32(inode.uid).u32(inode.gid);
        // The time, which is 0.
        bytes.u64(0).u32(0);
        bytes.u32(self.links[index]);
        bytes.0.resize(INODE_BYTES, 0);
        bytes.bytes(&inode.xattrs);
        bytes
    }

    fn directories(&self) -> Vec<InodeId> {
        let all = self.inodes.iter().zip(0..);
        all.filter(|(inode, _)| inode.is_directory()).map(|(_, id)| InodeId(id)).collect()
    }

    fn names_of(&self, directory: InodeId) -> Vec<(&[u8], InodeId)> {
        self.names.of(directory, self.parents[directory.index()])
    }

    /// What a directory holds.
    fn directory_data(&self, names: &[(&[u8], InodeId)]) -> Vec<u8> {
        let mut data = Fields(Vec::new());
        for block in blocks(names) {
            data.0.resize(data.0.len().next_multiple_of(BLOCK), 0);
            let mut name_at = block.len() * DIRENT_BYTES;
            for (name, inode) in block {
                data.u64(self.places[inode.index()] / SLOT_BYTES)
                    .u16(u16::try_from(name_at).expect("a block is short"));
                data.bytes(&[entry_kind(self.inodes[inode.index()].mode), 0]);
                name_at += name.len();
            }
            for (name, _) in block {
                data.bytes(name);
            }
        }
        data.0
    }
}

impl Inode {
    /// Says where its parts are. Where nothing was saved, the blocks are the file.
    fn find_parts(&mut self, all: &[Extent]) {
        let Data::Parts { first, count } = self.data else { return };
        let first = first as usize;
        let extents = all.get(first..first + count as usize).expect("parts are numbered as they come");
        self.data = match extents {
            [] => Data::None,
            [start, ..] if extents.iter().all(|extent| !extent.compressed) => Data::Plain(start.block),
            _ => Data::Compressed(extents.into()),
        };
    }

    /// Length of all that is behind an inode.
    fn trailer_bytes(&self) -> usize {
        match &self.data {
            Data::Compressed(_) => {
                let blocks = usize::try_from(self.size.div_ceil(BLOCK_BYTES)).unwrap_or(usize::MAX);
                INDEX_HEADER_BYTES + blocks * INDEX_ENTRY_BYTES
            }
            _ => self.inline_bytes(),
        }
    }

    /// Length of the data behind an inode.
    fn inline_bytes(&self) -> usize {
        match self.data {
            Data::Inline(_) => usize::try_from(self.size % BLOCK_BYTES).unwrap_or(0),
            _ => 0,
        }
    }
}

/// Counts names, and finds the directory of each directory.
fn count_links(inodes: &[Inode], names: &Names) -> Result<(Vec<u32>, Vec<InodeId>), WriteError> {
    let mut links = vec![0_u32; inodes.len()];
    let mut parents = vec![InodeId(0); inodes.len()];
    let mut subdirectories = vec![0_u32; inodes.len()];
    for (parent, inode) in names.iter() {
        links[inode.index()] += 1;
        if inodes[inode.index()].is_directory() {
            parents[inode.index()] = parent;
            subdirectories[parent.index()] += 1;
        }
    }
    // The root is in itself, without a name.
    links[0] += 1;
    for (index, _) in inodes.iter().enumerate().filter(|(_, inode)| inode.is_directory()) {
        if links[index] != 1 {
            return Err(WriteError::DirectoryNames { names: links[index] });
        }
        links[index] = 2 + subdirectories[index];
    }
    Ok((links, parents))
}

/// Gives a directory its length and blocks. What is in its last block goes behind the inode if it fits there.
fn lay_out_directory(
    inode: &mut Inode,
    names: &[(&[u8], InodeId)],
    next_block: &mut u32,
) -> Result<(), WriteError> {
    let (count, last) = blocks(names).fold((0_u32, 0), |(count, _), block| (count + 1, filled(block)));
    let whole = count - 1;
    inode.size = u64::from(whole) * BLOCK_BYTES + last as u64;
    let fits = last < BLOCK && INODE_BYTES + inode.xattrs.len() + last <= BLOCK;
    let (data, taken) = match fits {
        true => (Data::Inline(*next_block), whole),
        false => (Data::Plain(*next_block), count),
    };
    inode.data = data;
    *next_block = next_block.checked_add(taken).ok_or(WriteError::TooLarge)?;
    Ok(())
}

/// Places the inodes one after the other, and says how long they are together. Neither an inode nor the data behind it
/// lies in two blocks, unless it is an index or attributes that no block could hold.
fn place(inodes: &[Inode]) -> (Vec<u64>, u64) {
    let mut at = FIRST_INODE_AT;
    let place_one = |inode: &Inode| {
        let head = INODE_BYTES + inode.xattrs.len();
        let together = (head + inode.inline_bytes()).min(BLOCK) as u64;
        at = at.next_multiple_of(SLOT_BYTES);
        if at % BLOCK_BYTES + together > BLOCK_BYTES {
            at = at.next_multiple_of(BLOCK_BYTES);
        }
        let place = at;
        // An index begins at a multiple of its entries' length, as inodes and attributes' ends are rounded up to.
        let trailer = match inode.data {
            Data::Compressed(_) => head.next_multiple_of(INDEX_ENTRY_BYTES) - head + inode.trailer_bytes(),
            _ => inode.trailer_bytes(),
        };
        at += (head + trailer) as u64;
        place
    };
    let places = inodes.iter().map(place_one).collect();
    (places, at)
}

/// Appends the index of a compressed file: a word on each of its blocks.
fn index_of(extents: &[Extent], size: u64, bytes: &mut Fields) {
    bytes.0.resize(bytes.0.len().next_multiple_of(INDEX_ENTRY_BYTES), 0);
    bytes.u32(0).u16(ADVISE_BIG_CLUSTER).bytes(&[LZ4, 0]).u64(0);
    let mut left = size;
    for extent in extents {
        let here = left.min(EXTENT_BLOCKS as u64 * BLOCK_BYTES);
        left -= here;
        let blocks = u16::try_from(here.div_ceil(BLOCK_BYTES)).expect("an extent has few blocks");
        if !extent.compressed {
            for block in 0..u32::from(blocks) {
                bytes.u16(CLUSTER_PLAIN).u16(0).u32(extent.block + block);
            }
            continue;
        }
        bytes.u16(CLUSTER_HEAD).u16(0).u32(extent.block);
        for behind in 1..blocks {
            let first = if behind == 1 { COMPRESSED_BLOCKS | extent.blocks } else { behind };
            bytes.u16(CLUSTER_CONTINUED).u16(0).u16(first).u16(blocks - behind);
        }
    }
}

fn id_of(index: usize) -> InodeId {
    InodeId(u32::try_from(index).expect("inodes are numbered with 32 bits"))
}

/// Bytes that integers are appended to.
struct Fields(Vec<u8>);

impl Fields {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }
}
