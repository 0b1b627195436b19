//! What a ramdisk holds: every entry with its attributes and the digest of its content, in one streaming pass.
//!
//! Takes ramdisks of any origin: newc archives as they are, compressed with gzip or Zstandard, and bytes that are no
//! archive at all, which is an answer here and not an error. Contents are never held; names are, within [`Limits`].

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, BufRead, BufReader, Read},
};

use aws_lc_rs::digest::{Context, SHA256};
use eif::{
    Section,
    cpio::{Entry, Kind, Reader},
};
use erofs::Xattr;
use flate2::bufread::MultiGzDecoder;
use serde::Serialize;

use crate::{
    Digest, Error, Limits,
    content::Content,
    digest::HashingReader,
    image::Image,
    path::printable,
    rootfs_image::{self, IMAGE_ENTRY},
    zstd::ZstdReader,
};

const BUFFER_BYTES: usize = 128 << 10;

/// How often a compressed ramdisk is decompressed again because two archives have their files in different order.
const MAX_RESTARTS: u32 = 16;

/// Compressions that kernels take and this program does not read, by the first bytes (Linux, `lib/decompress.c`).
const OTHER_COMPRESSIONS: [(&[u8], &str); 5] = [
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x5d\0\0", "lzma"),
    (b"\x89LZO", "lzo"),
    (b"\x02\x21\x4c\x18", "lz4"),
];

/// How an archive is stored in its section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Compression {
    /// As it is.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// Why a ramdisk is not shown as an archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoArchive {
    /// A compression that is not read here.
    #[error("it is compressed with {0}, which this program does not read")]
    OtherCompression(&'static str),
    /// Neither an archive nor compressed in a known way.
    #[error("it is neither a newc archive nor compressed in a known way: it starts with \"{start}\"")]
    Unknown {
        /// Its first bytes, escaped.
        start: String,
    },
    /// The compressed data is damaged.
    #[error("it does not decompress")]
    Decompress(#[source] io::Error),
    /// It decompresses to more than it may.
    #[error("it decompresses to more than the {limit} bytes allowed")]
    TooLarge {
        /// What is allowed, in bytes.
        limit: u64,
    },
    /// It is a malformed archive.
    #[error("it is not a well-formed newc archive")]
    Malformed(#[from] eif::cpio::ReadError),
    /// The file system in it cannot be read.
    #[error("the file system in it, {}, cannot be read", IMAGE_ENTRY.escape_ascii())]
    FileSystem(#[from] erofs::ReadError),
    /// It has more entries, or more bytes of names, than may be held in memory.
    #[error("it has more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
}

/// What a ramdisk turned out to be.
pub(crate) enum Contents {
    Archive(Listing),
    Opaque(NoArchive),
}

/// The entries of an archive.
pub(crate) struct Listing {
    pub(crate) compression: Compression,
    /// The archive's length once decompressed, in bytes.
    pub(crate) unpacked_bytes: u64,
    pub(crate) entries: BTreeMap<Name, Record>,
    /// Of the names in the archive's order.
    pub(crate) order: Digest,
    /// The file system in it.
    file_system: Option<Content>,
}

/// An entry's name, and how many entries of that name came before it: the kernel unpacks them all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) bytes: Vec<u8>,
    pub(crate) earlier: u32,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&printable(&self.bytes))?;
        if self.earlier > 0 {
            write!(f, " (entry {} of that name)", u64::from(self.earlier) + 1)?;
        }
        Ok(())
    }
}

/// What an archive says of one name.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) permissions: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// In seconds since 1970.
    pub(crate) modified: u32,
    pub(crate) kind: Kind,
    /// Of a file's content; `None` for a name of a file whose content comes with a later name.
    pub(crate) digest: Option<Digest>,
    /// For a further name of a file: the first one.
    pub(crate) first_name: Option<Vec<u8>>,
    /// Extended attributes, in order of their names. Archives have none.
    pub(crate) xattrs: Vec<Xattr>,
    pub(crate) place: Place,
}

/// Where a file's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// It starts at this byte of the decompressed archive.
    Archive(u64),
    /// With this inode of the file system in it.
    FileSystem(erofs::Number),
}

impl Record {
    /// The content's length in bytes; 0 for what is not a file.
    pub(crate) fn size(&self) -> u64 {
        match self.kind {
            Kind::File { size, .. } => size,
            _ => 0,
        }
    }
}

/// Lists a ramdisk.
pub(crate) fn list(image: &Image, section: &Section, limits: &Limits) -> Result<Contents, Error> {
    let found = recognise(image, section).map_err(|e| image.unreadable(e))?;
    Ok(match found.and_then(|compression| list_archive(image, section, compression, limits)) {
        Ok(listing) => Contents::Archive(listing),
        Err(NoArchive::Malformed(eif::cpio::ReadError::Io(e))) => return Err(image.unreadable(e)),
        Err(reason) => Contents::Opaque(reason),
    })
}

/// The content of a file of a ramdisk, if it is there, has one name and is no longer than `max_bytes`. Reads no further
/// than to that file.
pub(crate) fn find_file(
    image: &Image,
    section: &Section,
    name: &[u8],
    max_bytes: u64,
    limits: &Limits,
) -> Option<Vec<u8>> {
    let compression = recognise(image, section).ok()?.ok()?;
    let length = unpacked_length(image, section, compression, limits).ok()?;
    let mut archive = Reader::new(decompressed(image, section, compression), length);
    while let Some(entry) = archive.next_entry().ok()? {
        match entry.kind {
            _ if entry.name != name => {}
            Kind::File { size, link: None } if size <= max_bytes => {
                let mut bytes = Vec::new();
                archive.read_to_end(&mut bytes).ok()?;
                return Some(bytes);
            }
            _ => return None,
        }
    }
    None
}

fn recognise(image: &Image, section: &Section) -> io::Result<Result<Compression, NoArchive>> {
    let mut start = Vec::new();
    image.data(section).take(6).read_to_end(&mut start)?;
    let other = || OTHER_COMPRESSIONS.iter().find(|(magic, _)| start.starts_with(magic));
    Ok(if start.starts_with(b"070701") {
        Ok(Compression::None)
    } else if start.starts_with(&[0x1f, 0x8b]) {
        Ok(Compression::Gzip)
    } else if ZstdReader::<&[u8]>::recognises(&start) {
        Ok(Compression::Zstd)
    } else if let Some((_, name)) = other() {
        Err(NoArchive::OtherCompression(name))
    } else {
        Err(NoArchive::Unknown { start: start.escape_ascii().to_string() })
    })
}

fn decompressed(image: &Image, section: &Section, compression: Compression) -> Box<dyn BufRead> {
    let data = BufReader::with_capacity(BUFFER_BYTES, image.data(section));
    match compression {
        Compression::None => Box::new(data),
        Compression::Gzip => Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(data))),
        Compression::Zstd => Box::new(BufReader::with_capacity(BUFFER_BYTES, ZstdReader::new(data))),
    }
}

/// The archive's length. What is compressed has to be decompressed for that, and shows then whether it can be.
fn unpacked_length(
    image: &Image,
    section: &Section,
    compression: Compression,
    limits: &Limits,
) -> Result<u64, NoArchive> {
    if compression == Compression::None {
        return Ok(section.size);
    }
    let limit = limits.unpacked_bytes;
    let mut stream = decompressed(image, section, compression).take(limit.saturating_add(1));
    let length = io::copy(&mut stream, &mut io::sink()).map_err(NoArchive::Decompress)?;
    if length > limit { Err(NoArchive::TooLarge { limit }) } else { Ok(length) }
}

fn list_archive(
    image: &Image,
    section: &Section,
    compression: Compression,
    limits: &Limits,
) -> Result<Listing, NoArchive> {
    let unpacked_bytes = unpacked_length(image, section, compression, limits)?;
    let mut archive = Reader::new(decompressed(image, section, compression), unpacked_bytes);
    let mut collector = Collector::new(limits);
    let mut file_system = None;
    while let Some(entry) = archive.next_entry()? {
        collector.admit(&entry, &[])?;
        let (modified, content_at) = (archive.modified(), archive.position());
        let digest = match entry.kind {
            Kind::File { size: 0, link: Some(_) } => None,
            Kind::File { .. } => Some(content_digest(&mut archive)?),
            _ => None,
        };
        if let Kind::File { size, link: None } = entry.kind
            && compression == Compression::None
            && entry.name == IMAGE_ENTRY
        {
            file_system = Some(image.content(section.offset.saturating_add(content_at), size));
        }
        collector.add(entry, modified, Place::Archive(content_at), digest, Vec::new());
    }
    let order = collector.order();
    if let Some(content) = &file_system {
        list_file_system(content, &mut collector)?;
    }
    Ok(Listing { compression, unpacked_bytes, entries: collector.entries, order, file_system })
}

/// Lists the files in a file system as if each were an entry.
fn list_file_system(content: &Content, collector: &mut Collector<'_>) -> Result<(), NoArchive> {
    let reader = erofs::Reader::open(content.clone(), content.len())?;
    let mut bytes_left = collector.limits.unpacked_bytes;
    for (entry, inode) in rootfs_image::entries(&reader, collector.limits.walk())? {
        let xattrs = reader.xattrs(&inode)?;
        collector.admit(&entry, &xattrs)?;
        let digest = match entry.kind {
            Kind::File { size: 0, link: Some(_) } => None,
            Kind::File { size, .. } => {
                let limit = collector.limits.unpacked_bytes;
                bytes_left = bytes_left.checked_sub(size).ok_or(NoArchive::TooLarge { limit })?;
                Some(content_digest(&mut reader.file(&inode)?)?)
            }
            _ => None,
        };
        let modified = u32::try_from(inode.modified).unwrap_or(u32::MAX);
        collector.add(entry, modified, Place::FileSystem(inode.number), digest, xattrs);
    }
    Ok(())
}

fn content_digest(content: &mut impl Read) -> Result<Digest, NoArchive> {
    let mut hashing = HashingReader::new(content);
    io::copy(&mut hashing, &mut io::sink()).map_err(eif::cpio::ReadError::Io)?;
    Ok(hashing.digest())
}

/// Entries on their way into a listing, and what they may not exceed.
struct Collector<'a> {
    limits: &'a Limits,
    name_bytes: u64,
    entries: BTreeMap<Name, Record>,
    first_names: HashMap<u64, Vec<u8>>,
    order: Context,
}

impl<'a> Collector<'a> {
    fn new(limits: &'a Limits) -> Self {
        let (entries, first_names) = (BTreeMap::new(), HashMap::new());
        Self { limits, name_bytes: 0, entries, first_names, order: Context::new(&SHA256) }
    }

    fn admit(&mut self, entry: &Entry, xattrs: &[Xattr]) -> Result<(), NoArchive> {
        let target = match &entry.kind {
            Kind::Symlink { target } => target.len(),
            Kind::File { link: Some(_), .. } => entry.name.len(),
            _ => 0,
        };
        let xattrs: usize = xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum();
        self.name_bytes = self.name_bytes.saturating_add((entry.name.len() + target + xattrs) as u64);
        if self.name_bytes > self.limits.name_bytes {
            return Err(NoArchive::TooMany { what: "bytes of names", limit: self.limits.name_bytes });
        }
        if self.entries.len() as u64 >= self.limits.entries {
            return Err(NoArchive::TooMany { what: "entries", limit: self.limits.entries });
        }
        Ok(())
    }

    fn add(&mut self, entry: Entry, modified: u32, place: Place, digest: Option<Digest>, xattrs: Vec<Xattr>) {
        self.order.update(&entry.name);
        self.order.update(&[0]);
        let Entry { name: bytes, permissions, uid, gid, kind } = entry;
        let first_name = match &kind {
            Kind::File { link: Some(link), .. } => self.first_name(link.group, &bytes),
            _ => None,
        };
        let record = Record { permissions, uid, gid, modified, kind, digest, first_name, xattrs, place };
        let mut name = Name { bytes, earlier: 0 };
        if self.entries.contains_key(&name) {
            let last = Name { earlier: u32::MAX, ..name.clone() };
            let same = self.entries.range(&name..=&last).next_back();
            name.earlier = same.map_or(0, |(found, _)| found.earlier.saturating_add(1));
        }
        self.entries.insert(name, record);
    }

    /// The first name of a file, if `name` is a further one.
    fn first_name(&mut self, group: u64, name: &[u8]) -> Option<Vec<u8>> {
        let known = self.first_names.get(&group).cloned();
        if known.is_none() {
            self.first_names.insert(group, name.to_vec());
        }
        known
    }

    fn order(&self) -> Digest {
        Digest::from_output(&self.order.clone().finish())
    }
}

/// Reads contents of files of a listed archive again, best in the archive's order.
pub(crate) struct ContentCursor<'a> {
    image: &'a Image,
    section: Section,
    compression: Compression,
    file_system: Option<erofs::Reader<Content>>,
    /// A compressed archive's stream and how far it has come, in bytes.
    stream: Option<(Box<dyn BufRead>, u64)>,
    restarts: u32,
}

impl<'a> ContentCursor<'a> {
    pub(crate) fn new(image: &'a Image, section: Section, listing: &Listing) -> Self {
        let content = listing.file_system.clone();
        let file_system =
            content.and_then(|content| erofs::Reader::open(content.clone(), content.len()).ok());
        Self { image, section, compression: listing.compression, file_system, stream: None, restarts: 0 }
    }

    /// The content of a file; `None` if the stream would have to be begun again more often than is reasonable.
    pub(crate) fn open(&mut self, record: &Record) -> io::Result<Option<Box<dyn Read + '_>>> {
        let (at, size) = match (record.place, &self.file_system) {
            (Place::Archive(at), _) => (at, record.size()),
            (Place::FileSystem(number), Some(reader)) => {
                let file = reader.inode(number).and_then(|inode| reader.file(&inode));
                return Ok(Some(Box::new(file.map_err(io::Error::other)?)));
            }
            (Place::FileSystem(_), None) => {
                return Err(io::Error::other("the file system changed meanwhile"));
            }
        };
        if self.compression == Compression::None {
            let offset = self.section.offset.saturating_add(at);
            return Ok(Some(Box::new(BufReader::with_capacity(
                BUFFER_BYTES,
                self.image.slice(offset, size),
            ))));
        }
        if self.stream.as_ref().is_none_or(|(_, reached)| *reached > at) {
            if self.restarts == MAX_RESTARTS {
                return Ok(None);
            }
            self.restarts += 1;
            self.stream = Some((decompressed(self.image, &self.section, self.compression), 0));
        }
        let (stream, reached) = self.stream.as_mut().expect("a stream was begun above");
        io::copy(&mut stream.take(at.saturating_sub(*reached)), &mut io::sink())?;
        // Whoever compares reads to the end of both.
        *reached = at.saturating_add(size);
        Ok(Some(Box::new(stream.take(size))))
    }
}
