//! Streams an image out, measuring it on the way.
//!
//! Every input byte is read once, and hashed, checksummed and written while it is at hand; sizes are filled in
//! afterwards, so a ramdisk may be produced as it is written. Builders call this. It writes to what it is given:
//! making the result appear atomically under its name is the caller's job.

use std::io::{self, Read, Seek, SeekFrom, Write};

use thiserror::Error;

use crate::format::{
    Architecture, CRC_BYTES, HEADER_BYTES, HeaderFields, MAGIC, MAX_SECTIONS, SECTION_HEADER_BYTES,
    SectionFields, SectionKind, VERSION,
};
use crate::hashing::{ChunkRing, Measurer, Role};
use crate::measurements::Measurements;
use crate::metadata::{MAX_METADATA_BYTES, Metadata};
use crate::signer::{Signer, SignerError};
use crate::source::Source;

/// The longest command line, in bytes: Linux keeps 2048 on x86 and ARM, of which one is a NUL, and cuts off the rest.
pub const MAX_CMDLINE_BYTES: usize = 2047;
/// How many ramdisks an image can have beside kernel, command line, metadata and signature.
pub const MAX_RAMDISKS: usize = MAX_SECTIONS - 4;

/// What the header says for the whole image. None of it is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The processor the kernel is for.
    pub architecture: Architecture,
    /// Enclave memory where the one who runs the image does not say, in bytes.
    pub default_memory_bytes: u64,
    /// Enclave processors where the one who runs the image does not say.
    pub default_cpus: u64,
}

impl Default for Options {
    /// What AWS's tools write: x86-64, 1 GiB, two processors.
    fn default() -> Self {
        Self { architecture: Architecture::X86_64, default_memory_bytes: 1 << 30, default_cpus: 2 }
    }
}

/// An image being written: kernel, command line and metadata at the start, then ramdisks, then the end.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::io::{Cursor, Write};
/// use eif::{BuildMetadata, Metadata, Options, Source, WriteError, Writer};
///
/// let metadata = Metadata {
///     image_name: "hello".into(),
///     image_version: "1.0".into(),
///     build: BuildMetadata {
///         build_time: "1970-01-01T00:00:00+00:00".into(),
///         build_tool: "example".into(),
///         build_tool_version: "1".into(),
///         operating_system: "Linux".into(),
///         kernel_version: "6.12".into(),
///     },
///     docker_info: serde_json::Value::Null,
///     custom: serde_json::Value::Null,
/// };
/// let mut file = Cursor::new(Vec::new());
/// let kernel = Source::bytes(b"a kernel");
/// let mut image = Writer::create(&mut file, &Options::default(), kernel, "console=ttyS0", &metadata)?;
/// image.ramdisk(Source::bytes(b"boots"))?;
/// image.ramdisk_with(|section| Ok::<_, WriteError>(section.write_all(b"the application")?))?;
/// let measurements = image.finish(None)?;
/// println!("{measurements}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Writer<W: Write + Seek> {
    output: W,
    header: HeaderFields,
    /// Where the next section starts.
    end: u64,
    /// Over everything after the header.
    crc: crc32fast::Hasher,
    ring: ChunkRing,
    measurer: Measurer,
    ramdisks: usize,
    /// A section was begun and not ended: what it had so far is measured already, so there is no going on.
    is_broken: bool,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins an image at the start of `output` and writes its first three sections.
    ///
    /// `output` is written from its very start (position 0) and must be empty: nothing is cut off behind the image.
    ///
    /// # Errors
    ///
    /// When the command line or the metadata is unusable, `kernel` cannot be read or is not as long as it said, or
    /// `output` fails.
    pub fn create(
        output: W,
        options: &Options,
        kernel: Source<'_>,
        cmdline: &str,
        metadata: &Metadata,
    ) -> Result<Self, WriteError> {
        check_cmdline(cmdline)?;
        let metadata = encode_metadata(metadata)?;
        let mut writer = Self::begin(output, VERSION, options)?;
        writer.section(SectionKind::Kernel, Role::Boot, |section| section.copy(kernel))?;
        writer.section(SectionKind::Cmdline, Role::Boot, |section| section.put(cmdline.as_bytes()))?;
        writer.section(SectionKind::Metadata, Role::Unmeasured, |section| section.put(&metadata))?;
        Ok(writer)
    }

    /// Begins an image without any section.
    pub(crate) fn begin(output: W, version: u16, options: &Options) -> Result<Self, WriteError> {
        Ok(Self {
            output,
            header: HeaderFields { version, ..empty_header(options) },
            end: HEADER_BYTES,
            crc: crc32fast::Hasher::new(),
            ring: ChunkRing::new(),
            measurer: Measurer::start().map_err(WriteError::Thread)?,
            ramdisks: 0,
            is_broken: false,
        })
    }

    /// Adds a section of an image that is already there.
    pub(crate) fn copied(&mut self, kind: SectionKind, content: Source<'_>) -> Result<(), WriteError> {
        match kind {
            SectionKind::Ramdisk => self.ramdisk(content),
            SectionKind::Kernel | SectionKind::Cmdline => {
                self.section(kind, Role::Boot, |section| section.copy(content))
            }
            SectionKind::Metadata | SectionKind::Signature => {
                self.section(kind, Role::Unmeasured, |section| section.copy(content))
            }
        }
    }

    /// Adds a ramdisk. The first one is what boots (PCR1), the others are the application (PCR2).
    ///
    /// # Errors
    ///
    /// When there are [`MAX_RAMDISKS`] already, `content` cannot be read or is not as long as it said, or the output
    /// fails.
    pub fn ramdisk(&mut self, content: Source<'_>) -> Result<(), WriteError> {
        self.ramdisk_with(|section| section.copy(content))
    }

    /// Adds a ramdisk whose content `produce` writes, of whatever length it turns out to have.
    ///
    /// # Errors
    ///
    /// As [`Writer::ramdisk`], and whatever `produce` fails with; the image cannot be finished then.
    pub fn ramdisk_with<T, E: From<WriteError>>(
        &mut self,
        produce: impl FnOnce(&mut SectionWriter<'_, W>) -> Result<T, E>,
    ) -> Result<T, E> {
        if self.ramdisks == MAX_RAMDISKS {
            return Err(WriteError::TooManyRamdisks.into());
        }
        let role = if self.ramdisks == 0 { Role::Boot } else { Role::Application };
        self.ramdisks += 1;
        self.section(SectionKind::Ramdisk, role, produce)
    }

    /// Ends the image: signs it if there is a signer, and writes the header. Returns what booting it measures.
    ///
    /// # Errors
    ///
    /// When there is no ramdisk, an earlier section failed, signing fails or the output fails.
    pub fn finish(mut self, signer: Option<&Signer>) -> Result<Measurements, WriteError> {
        if self.ramdisks == 0 {
            return Err(WriteError::NoRamdisk);
        }
        if self.is_broken {
            return Err(WriteError::Unfinished);
        }
        let mut measurements = self.measurer.finish();
        if let Some(signer) = signer {
            let signature = signer.sign(&measurements.pcr0).map_err(WriteError::Sign)?;
            self.section(SectionKind::Signature, Role::Unmeasured, |section| section.put(&signature))?;
            measurements.pcr8 = Some(signer.pcr8());
        }
        self.write_header()?;
        Ok(measurements)
    }

    fn section<T, E: From<WriteError>>(
        &mut self,
        kind: SectionKind,
        role: Role,
        produce: impl FnOnce(&mut SectionWriter<'_, W>) -> Result<T, E>,
    ) -> Result<T, E> {
        if std::mem::replace(&mut self.is_broken, true) {
            return Err(WriteError::Unfinished.into());
        }
        let data_start = self.end + SECTION_HEADER_BYTES;
        self.output.seek(SeekFrom::Start(data_start)).map_err(WriteError::Output)?;
        let mut section = SectionWriter { image: self, kind, role, crc: crc32fast::Hasher::new(), length: 0 };
        let produced = produce(&mut section)?;
        section.pass_on().map_err(WriteError::Output)?;
        let (data_crc, length) = (section.crc, section.length);
        self.end_section(kind, length, &data_crc)?;
        self.is_broken = false;
        Ok(produced)
    }

    /// Writes the section's header, now that the length is known, and enters it in the table.
    fn end_section(
        &mut self,
        kind: SectionKind,
        length: u64,
        data_crc: &crc32fast::Hasher,
    ) -> Result<(), WriteError> {
        let start = self.end;
        let header = SectionFields::new(kind, length).encode();
        self.output.seek(SeekFrom::Start(start)).map_err(WriteError::Output)?;
        self.output.write_all(&header).map_err(WriteError::Output)?;
        self.crc.update(&header);
        self.crc.combine(data_crc);
        let index = usize::from(self.header.section_count);
        self.header.offsets[index] = start;
        self.header.sizes[index] = length;
        self.header.section_count += 1;
        self.end = start + SECTION_HEADER_BYTES + length;
        Ok(())
    }

    /// The checksum runs over the header and then the rest, but the rest was known first: so the two are combined.
    fn write_header(&mut self) -> Result<(), WriteError> {
        let mut crc = crc32fast::Hasher::new();
        let bytes = self.header.encode();
        crc.update(&bytes[..bytes.len() - CRC_BYTES]);
        crc.combine(&self.crc);
        self.header.crc = crc.finalize();
        self.output.seek(SeekFrom::Start(0)).map_err(WriteError::Output)?;
        self.output.write_all(&self.header.encode()).map_err(WriteError::Output)?;
        self.output.seek(SeekFrom::Start(self.end)).map_err(WriteError::Output)?;
        self.output.flush().map_err(WriteError::Output)
    }
}

/// A section being written: what is written here is measured and becomes its content.
#[derive(Debug)]
pub struct SectionWriter<'w, W: Write + Seek> {
    image: &'w mut Writer<W>,
    kind: SectionKind,
    role: Role,
    crc: crc32fast::Hasher,
    length: u64,
}

impl<W: Write + Seek> SectionWriter<'_, W> {
    /// Writes all of `source`, without copying it through a buffer of the caller's.
    ///
    /// # Errors
    ///
    /// When `source` cannot be read or is not as long as it said, or the output fails.
    pub fn copy(&mut self, source: Source<'_>) -> Result<(), WriteError> {
        let (section, name) = (self.kind, source.name());
        let unreadable = |source| WriteError::Source { section, name: name.clone(), source };
        let (mut reader, expected) = source.open().map_err(unreadable)?;
        let mut found = 0;
        loop {
            let read = match reader.read(self.image.ring.current().room()) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(error)),
            };
            found += read as u64;
            if found > expected {
                break;
            }
            self.advance(read).map_err(WriteError::Output)?;
        }
        if found == expected {
            Ok(())
        } else {
            Err(WriteError::SourceLength { section, name, expected, found })
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.write_all(bytes).map_err(WriteError::Output)
    }

    /// Counts bytes that were put into the current chunk; there is always room for one more afterwards.
    fn advance(&mut self, bytes: usize) -> io::Result<()> {
        let chunk = self.image.ring.current();
        chunk.advance(bytes);
        if chunk.is_full() { self.pass_on() } else { Ok(()) }
    }

    /// Sends the current chunk on its way. Hashing takes longest, so that goes first.
    fn pass_on(&mut self) -> io::Result<()> {
        let chunk = self.image.ring.take();
        self.image.measurer.update(self.role, &chunk)?;
        self.crc.update(chunk.filled());
        self.length += chunk.filled().len() as u64;
        self.image.output.write_all(chunk.filled())
    }
}

impl<W: Write + Seek> Write for SectionWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.image.ring.current().room();
        let taken = bytes.len().min(room.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        self.advance(taken)?;
        Ok(taken)
    }

    /// Nothing to do: the content is in the file once the image is finished.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn check_cmdline(cmdline: &str) -> Result<(), WriteError> {
    if let Some(at) = cmdline.bytes().position(|byte| byte == 0) {
        return Err(WriteError::CmdlineNul { at });
    }
    if cmdline.len() > MAX_CMDLINE_BYTES {
        return Err(WriteError::CmdlineTooLong { found: cmdline.len() });
    }
    Ok(())
}

fn encode_metadata(metadata: &Metadata) -> Result<Vec<u8>, WriteError> {
    let bytes = serde_json::to_vec(metadata).map_err(WriteError::Metadata)?;
    if bytes.len() as u64 > MAX_METADATA_BYTES {
        return Err(WriteError::MetadataTooLong { found: bytes.len() });
    }
    Ok(bytes)
}

fn empty_header(options: &Options) -> HeaderFields {
    HeaderFields {
        magic: MAGIC,
        version: VERSION,
        flags: options.architecture.flags(),
        default_memory_bytes: options.default_memory_bytes,
        default_cpus: options.default_cpus,
        section_count: 0,
        offsets: [0; MAX_SECTIONS],
        sizes: [0; MAX_SECTIONS],
        crc: 0,
    }
}

/// Why an image could not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The command line has a NUL in it, which would end it early.
    #[error("the kernel command line has a NUL at byte {at}")]
    CmdlineNul {
        /// Where, in bytes from its start.
        at: usize,
    },
    /// The kernel would cut off the command line.
    #[error("the kernel command line is {found} bytes long; the kernel keeps {MAX_CMDLINE_BYTES}")]
    CmdlineTooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// The metadata cannot be put as JSON.
    #[error("the metadata cannot be encoded")]
    Metadata(#[source] serde_json::Error),
    /// The metadata is larger than any reader here accepts.
    #[error("the metadata is {found} bytes of JSON; at most {MAX_METADATA_BYTES} are accepted")]
    MetadataTooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// An input could not be opened or read.
    #[error("cannot read the {section} from {name}")]
    Source {
        /// What the input was for.
        section: SectionKind,
        /// The input.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
    /// An input is shorter or longer than it said, perhaps because something changed it meanwhile.
    #[error("the {section} from {name} should have {expected} bytes, but {} {found}", if .found > .expected { "has at least" } else { "ended after" })]
    SourceLength {
        /// What the input was for.
        section: SectionKind,
        /// The input.
        name: String,
        /// The length it said, in bytes.
        expected: u64,
        /// What was read, in bytes; reading stops early when there is too much.
        found: u64,
    },
    /// The image has no ramdisk, so nothing could boot from it.
    #[error("an image needs at least one ramdisk")]
    NoRamdisk,
    /// The header's table has no place for another ramdisk.
    #[error("an image holds at most {MAX_RAMDISKS} ramdisks")]
    TooManyRamdisks,
    /// A section failed earlier, and the image was to be finished all the same.
    #[error("a section of this image failed, so it cannot be finished")]
    Unfinished,
    /// Signing failed.
    #[error("cannot sign the image")]
    Sign(#[source] SignerError),
    /// No thread could be started to hash on.
    #[error("cannot start a thread to hash on")]
    Thread(#[source] io::Error),
    /// The image could not be written.
    #[error("cannot write the image")]
    Output(#[from] io::Error),
}
