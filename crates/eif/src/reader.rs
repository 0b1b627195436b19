//! Opens an image, refuses what is malformed and measures what is there.
//!
//! Verifiers and runners call this on files of unknown origin, so nothing the file says is believed before it is
//! checked against the file's length or a named limit, and nothing it says sizes a buffer beyond those limits.
//! Readers of images go by two different things, the table in the header and the headers between the sections;
//! here they must agree, so that every reader sees the same image. See `docs/spec/eif.md`, "Bad input".

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::{self, Read, Seek, SeekFrom, Take};

use thiserror::Error;

use crate::format::{
    Architecture, CRC_BYTES, HEADER_BYTES, HeaderFields, MAGIC, MAX_SECTIONS, OLDEST_READABLE_VERSION,
    RawHeader, RawSectionHeader, SECTION_HEADER_BYTES, SectionFields, SectionKind, VERSION,
};
use crate::hashing::{ChunkRing, Measurer, Role};
use crate::measurements::Measurements;
use crate::metadata::{MAX_METADATA_BYTES, Metadata};
use crate::signature::{ImageSignature, MAX_SIGNATURE_BYTES, SignatureError};

/// The longest command line read, in bytes. More than any kernel keeps: other tools set no limit.
const MAX_READ_CMDLINE_BYTES: u64 = 64 * 1024;

/// What the header says for the whole image. None of it is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The format's version, 2 to 4.
    pub version: u16,
    /// The processor the kernel is for.
    pub architecture: Architecture,
    /// Enclave memory where the one who runs the image does not say, in bytes.
    pub default_memory_bytes: u64,
    /// Enclave processors where the one who runs the image does not say.
    pub default_cpus: u64,
    /// The checksum of everything else, found to be right.
    pub crc32: u32,
}

/// A section of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// What it holds.
    pub kind: SectionKind,
    /// Its flags. None are defined.
    pub flags: u16,
    /// Where its data starts, in bytes from the start of the file. Its header is just before that.
    pub offset: u64,
    /// The length of its data in bytes.
    pub size: u64,
}

/// An open image, known to be well formed.
#[derive(Debug)]
pub struct Eif<R> {
    input: R,
    header: Header,
    sections: Vec<Section>,
}

impl<R: Read + Seek> Eif<R> {
    /// Opens the image that `input` is from start to end, checks its layout and its checksum.
    ///
    /// # Errors
    ///
    /// When `input` cannot be read, or is not a well-formed image: each reason is a variant of [`ReadError`].
    pub fn open(mut input: R) -> Result<Self, ReadError> {
        let length = input.seek(SeekFrom::End(0))?;
        let raw = read_raw_header(&mut input, length)?;
        let fields = HeaderFields::decode(&raw);
        check_header(&fields)?;
        let sections = walk_sections(&mut input, &fields, length)?;
        check_order(&sections)?;
        check_crc(&mut input, &raw, fields.crc)?;
        let header = Header {
            version: fields.version,
            architecture: Architecture::from_flags(fields.flags),
            default_memory_bytes: fields.default_memory_bytes,
            default_cpus: fields.default_cpus,
            crc32: fields.crc,
        };
        Ok(Self { input, header, sections })
    }

    /// What the header says for the whole image.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// All sections, in the order they have in the file.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The kernel.
    pub fn kernel(&self) -> Section {
        self.first(SectionKind::Kernel).expect("an image without a kernel is not opened")
    }

    /// The ramdisks, the one that boots first.
    pub fn ramdisks(&self) -> impl Iterator<Item = Section> + '_ {
        self.sections.iter().copied().filter(|section| section.kind == SectionKind::Ramdisk)
    }

    /// Reads the data of one of this image's sections.
    ///
    /// # Errors
    ///
    /// When the input cannot be positioned.
    pub fn read(&mut self, section: &Section) -> Result<Take<&mut R>, ReadError> {
        self.input.seek(SeekFrom::Start(section.offset))?;
        Ok(self.input.by_ref().take(section.size))
    }

    /// The kernel's command line.
    ///
    /// # Errors
    ///
    /// When it is longer than 64 KiB or not UTF-8.
    pub fn cmdline(&mut self) -> Result<String, ReadError> {
        let section =
            self.first(SectionKind::Cmdline).expect("an image without a command line is not opened");
        let bytes = self.read_whole(&section, MAX_READ_CMDLINE_BYTES)?;
        String::from_utf8(bytes).map_err(|error| ReadError::CmdlineNotUtf8(error.utf8_error()))
    }

    /// The metadata, if the image has any. Nothing measures it.
    ///
    /// # Errors
    ///
    /// When it is longer than [`MAX_METADATA_BYTES`] or not the expected JSON.
    pub fn metadata(&mut self) -> Result<Option<Metadata>, ReadError> {
        let Some(section) = self.first(SectionKind::Metadata) else { return Ok(None) };
        let bytes = self.read_whole(&section, MAX_METADATA_BYTES)?;
        serde_json::from_slice(&bytes).map(Some).map_err(ReadError::Metadata)
    }

    /// The signature, if the image is signed. It is parsed, not verified: see [`Eif::verify_signature`].
    ///
    /// # Errors
    ///
    /// When it is longer than [`MAX_SIGNATURE_BYTES`] or malformed.
    pub fn signature(&mut self) -> Result<Option<ImageSignature>, ReadError> {
        let Some(section) = self.first(SectionKind::Signature) else { return Ok(None) };
        let bytes = self.read_whole(&section, MAX_SIGNATURE_BYTES)?;
        Ok(Some(ImageSignature::decode(&bytes)?))
    }

    /// What booting this image measures. Reads all of it.
    ///
    /// PCR8 is that of the certificate in the signature section, whether or not the signature is right: see
    /// [`Eif::verify_signature`].
    ///
    /// # Errors
    ///
    /// When the input cannot be read or the signature is malformed.
    pub fn measure(&mut self) -> Result<Measurements, ReadError> {
        let pcr8 = self.signature()?.map(|signature| signature.pcr8());
        let (mut measurer, mut ring) = (Measurer::start()?, ChunkRing::new());
        let mut is_first_ramdisk = true;
        for section in self.sections.clone() {
            let role = match section.kind {
                SectionKind::Metadata | SectionKind::Signature => continue,
                SectionKind::Kernel | SectionKind::Cmdline => Role::Boot,
                SectionKind::Ramdisk if std::mem::take(&mut is_first_ramdisk) => Role::Boot,
                SectionKind::Ramdisk => Role::Application,
            };
            self.measure_section(&section, role, &mut measurer, &mut ring)?;
        }
        Ok(Measurements { pcr8, ..measurer.finish() })
    }

    /// Checks that the image is signed, and that the signature is by the holder of its certificate over this image.
    /// Measures the image for that. Whether the certificate is one to trust is for the caller to say.
    ///
    /// # Errors
    ///
    /// When the image is unsigned, or the signature is malformed, over something else or forged.
    pub fn verify_signature(&mut self) -> Result<ImageSignature, ReadError> {
        let signature = self.signature()?.ok_or(ReadError::Unsigned)?;
        signature.verify_signature(&self.measure()?.pcr0)?;
        Ok(signature)
    }

    fn first(&self, kind: SectionKind) -> Option<Section> {
        self.sections.iter().copied().find(|section| section.kind == kind)
    }

    fn read_whole(&mut self, section: &Section, limit: u64) -> Result<Vec<u8>, ReadError> {
        if section.size > limit {
            return Err(ReadError::TooLarge { kind: section.kind, found: section.size, limit });
        }
        let mut bytes = Vec::new();
        self.read(section)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn measure_section(
        &mut self,
        section: &Section,
        role: Role,
        measurer: &mut Measurer,
        ring: &mut ChunkRing,
    ) -> Result<(), ReadError> {
        let mut data = self.read(section)?;
        while data.limit() > 0 {
            let read = read_some(&mut data, ring.current().room())?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            ring.current().advance(read);
            measurer.update(role, &ring.take())?;
        }
        Ok(())
    }
}

fn read_raw_header(input: &mut (impl Read + Seek), length: u64) -> Result<RawHeader, ReadError> {
    if length < HEADER_BYTES {
        return Err(ReadError::TooShort { found: length });
    }
    let mut raw: RawHeader = [0; size_of::<RawHeader>()];
    input.seek(SeekFrom::Start(0))?;
    input.read_exact(&mut raw)?;
    Ok(raw)
}

fn check_header(fields: &HeaderFields) -> Result<(), ReadError> {
    if fields.magic != MAGIC {
        return Err(ReadError::Magic { found: fields.magic });
    }
    if !(OLDEST_READABLE_VERSION..=VERSION).contains(&fields.version) {
        return Err(ReadError::Version { found: fields.version });
    }
    if usize::from(fields.section_count) > MAX_SECTIONS {
        return Err(ReadError::SectionCount { found: fields.section_count });
    }
    let table = fields.offsets.iter().zip(&fields.sizes).enumerate();
    for (index, (&offset, &size)) in table.skip(usize::from(fields.section_count)) {
        if (offset, size) != (0, 0) {
            return Err(ReadError::UnusedEntry { index, offset, size });
        }
    }
    Ok(())
}

/// Follows the sections through the file and holds each one's header against the table.
fn walk_sections(
    input: &mut (impl Read + Seek),
    fields: &HeaderFields,
    length: u64,
) -> Result<Vec<Section>, ReadError> {
    let mut sections = Vec::new();
    let mut end = HEADER_BYTES;
    let table = fields.offsets.iter().copied().zip(fields.sizes.iter().copied());
    for (index, (offset, size)) in table.take(usize::from(fields.section_count)).enumerate() {
        if offset != end {
            return Err(ReadError::SectionOffset { index, expected: end, found: offset });
        }
        let section = read_section(input, index, offset, length)?;
        // AWS's signing tool, replacing a signature by one of another length, leaves the old length in the table.
        if section.size != size && section.kind != SectionKind::Signature {
            return Err(ReadError::SectionSize {
                index,
                kind: section.kind,
                table: size,
                found: section.size,
            });
        }
        end = section.offset.saturating_add(section.size);
        sections.push(section);
    }
    if end == length { Ok(sections) } else { Err(ReadError::TrailingBytes { offset: end, length }) }
}

/// Reads the section header at `offset`, and makes sure that the section ends within the file.
fn read_section(
    input: &mut (impl Read + Seek),
    index: usize,
    offset: u64,
    length: u64,
) -> Result<Section, ReadError> {
    let available = length.saturating_sub(offset);
    let Some(room) = available.checked_sub(SECTION_HEADER_BYTES) else {
        return Err(ReadError::Truncated { index, offset, needed: SECTION_HEADER_BYTES, available });
    };
    let mut raw: RawSectionHeader = [0; size_of::<RawSectionHeader>()];
    input.seek(SeekFrom::Start(offset))?;
    input.read_exact(&mut raw)?;
    let fields = SectionFields::decode(&raw);
    let kind =
        SectionKind::from_code(fields.code).ok_or(ReadError::Kind { index, offset, found: fields.code })?;
    if fields.size > room {
        let needed = fields.size.saturating_add(SECTION_HEADER_BYTES);
        return Err(ReadError::Truncated { index, offset, needed, available });
    }
    let data = offset.saturating_add(SECTION_HEADER_BYTES);
    Ok(Section { kind, flags: fields.flags, offset: data, size: fields.size })
}

/// Measured sections come as kernel, command line, ramdisks: readers that hash in another order than the file's would
/// otherwise measure something else than readers that follow the file.
fn check_order(sections: &[Section]) -> Result<(), ReadError> {
    use SectionKind::{Cmdline, Kernel, Metadata, Ramdisk, Signature};
    let mut measured = None;
    for (index, section) in sections.iter().enumerate() {
        let kind = section.kind;
        let is_repeated = sections.iter().take(index).any(|earlier| earlier.kind == kind);
        match (kind, measured) {
            (Metadata | Signature, _) if !is_repeated => {}
            (Kernel, None) | (Cmdline, Some(Kernel)) | (Ramdisk, Some(Cmdline | Ramdisk)) => {
                measured = Some(kind)
            }
            _ => return Err(ReadError::Order { index, kind }),
        }
    }
    match measured {
        Some(Ramdisk) => Ok(()),
        Some(Cmdline) => Err(ReadError::Missing { kind: Ramdisk }),
        Some(_) => Err(ReadError::Missing { kind: Cmdline }),
        None => Err(ReadError::Missing { kind: Kernel }),
    }
}

/// The checksum covers the whole file but itself.
fn check_crc(input: &mut (impl Read + Seek), header: &RawHeader, stored: u32) -> Result<(), ReadError> {
    let mut crc = crc32fast::Hasher::new();
    let (covered, _) = header.split_at(header.len().saturating_sub(CRC_BYTES));
    crc.update(covered);
    input.seek(SeekFrom::Start(HEADER_BYTES))?;
    let mut ring = ChunkRing::new();
    loop {
        let read = read_some(input, ring.current().room())?;
        if read == 0 {
            break;
        }
        ring.current().advance(read);
        crc.update(ring.current().filled());
        ring.current().clear();
    }
    let computed = crc.finalize();
    if computed == stored { Ok(()) } else { Err(ReadError::Crc { stored, computed }) }
}

fn read_some(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Why an image was refused. Indices count sections from 0; offsets are in bytes from the start of the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The image could not be read.
    #[error("cannot read the image")]
    Io(#[from] io::Error),
    /// There is no room for a header.
    #[error("the image ends after {found} bytes; its header alone takes {HEADER_BYTES}")]
    TooShort {
        /// The file's length in bytes.
        found: u64,
    },
    /// This is no image.
    #[error("not an enclave image: it starts with {found:02x?}, not with {MAGIC:02x?} (\".eif\")")]
    Magic {
        /// Its first four bytes.
        found: [u8; 4],
    },
    /// The version is none that is read here.
    #[error("the image has version {found}; readable are {OLDEST_READABLE_VERSION} to {VERSION}")]
    Version {
        /// The version it says.
        found: u16,
    },
    /// There are more sections than the table has places.
    #[error("the header counts {found} sections; at most {MAX_SECTIONS} fit")]
    SectionCount {
        /// The count it says.
        found: u16,
    },
    /// The table has an entry behind the last section.
    #[error("the header's entry {index} is not in use and yet says offset {offset}, size {size}")]
    UnusedEntry {
        /// Which entry.
        index: usize,
        /// What it says.
        offset: u64,
        /// What it says, in bytes.
        size: u64,
    },
    /// A section does not start where the one before it ends: below that they overlap, above it there is a gap.
    #[error(
        "section {index} should start at offset {expected}, where the one before it ends, but the header says {found}"
    )]
    SectionOffset {
        /// Which section.
        index: usize,
        /// Where the previous section ends.
        expected: u64,
        /// What the header says.
        found: u64,
    },
    /// A section does not end within the file.
    #[error(
        "section {index} at offset {offset} takes {needed} bytes, but the image has {available} from there on"
    )]
    Truncated {
        /// Which section.
        index: usize,
        /// Where its header starts.
        offset: u64,
        /// The length of its header and data in bytes, as far as it could be read.
        needed: u64,
        /// What is there, in bytes.
        available: u64,
    },
    /// A section's header and the file's header disagree.
    #[error("section {index} ({kind}) has {found} bytes by its own header and {table} by the image's")]
    SectionSize {
        /// Which section.
        index: usize,
        /// What it holds.
        kind: SectionKind,
        /// The size in the table, in bytes.
        table: u64,
        /// The size in the section's header, in bytes.
        found: u64,
    },
    /// A section of a kind that is not known.
    #[error("section {index} at offset {offset} has the unknown kind {found}")]
    Kind {
        /// Which section.
        index: usize,
        /// Where its header starts.
        offset: u64,
        /// The kind it says.
        found: u16,
    },
    /// A section in the wrong place, or one too many.
    #[error(
        "section {index} is a {kind}, which may not stand there: expected one kernel, one cmdline, then ramdisks, and at most one metadata and one signature"
    )]
    Order {
        /// Which section.
        index: usize,
        /// What it holds.
        kind: SectionKind,
    },
    /// A section that an image cannot do without.
    #[error("the image has no {kind}")]
    Missing {
        /// What is not there.
        kind: SectionKind,
    },
    /// Something follows the last section, or it is cut off.
    #[error("the last section ends at offset {offset}, but the image has {length} bytes")]
    TrailingBytes {
        /// Where the last section ends.
        offset: u64,
        /// The file's length in bytes.
        length: u64,
    },
    /// The image is damaged.
    #[error("the image's checksum is {computed:08x}, but its header says {stored:08x}: the file is damaged")]
    Crc {
        /// What the header says.
        stored: u32,
        /// What it is.
        computed: u32,
    },
    /// A section that is read whole is too long for that.
    #[error("the {kind} section has {found} bytes; at most {limit} are read")]
    TooLarge {
        /// What it holds.
        kind: SectionKind,
        /// Its length in bytes.
        found: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The command line is not text.
    #[error("the kernel command line is not UTF-8")]
    CmdlineNotUtf8(#[source] std::str::Utf8Error),
    /// The metadata is not what it should be.
    #[error("the metadata is not the expected JSON")]
    Metadata(#[source] serde_json::Error),
    /// The image is not signed.
    #[error("the image is not signed")]
    Unsigned,
    /// The signature is malformed, or not over this image.
    #[error("the image's signature is refused")]
    Signature(#[from] SignatureError),
}
