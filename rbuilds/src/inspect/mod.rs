//! Everything an image holds, of whatever origin: header, parts, registers, signer, manifest, files, and what takes space.
//!
//! Reads the image a few times and holds names and digests, never contents. Nothing here is believed: what the image says
//! of itself is shown as what it says.

mod signer;
mod space;
mod text;

use std::{collections::BTreeMap, path::Path};

use eif::{
    Architecture, MAX_METADATA_BYTES, Section,
    cpio::{Device, Kind},
};
use serde::Serialize;
use serde_json::Value;

pub(crate) use self::signer::{signer as signer_info, subject};
use self::space::{largest_directories, largest_files};
pub use self::{signer::SignerInfo, space::Space};
use crate::{
    Compression, Digest, Error, Limits, PcrValue,
    diff::kind,
    image::{Image, Part, known_registers},
    listing::{Contents, Listing, Name, Record, list},
    path::printable,
    xattrs::shown,
};

/// Longest command line shown, in bytes: no kernel keeps more.
const MAX_CMDLINE_BYTES: u64 = 64 << 10;

/// What to find out about an image.
#[derive(Clone, Copy, Debug)]
pub struct InspectOptions {
    /// Whether every file is listed.
    pub files: bool,
    /// How many of the largest files and directories are listed, for each ramdisk.
    pub top: usize,
    /// What is held in memory at most, and what a compressed ramdisk may decompress to.
    pub limits: Limits,
}

impl Default for InspectOptions {
    fn default() -> Self {
        Self { files: false, top: 10, limits: Limits::default() }
    }
}

/// What an image holds. As JSON, an object with these members; a member whose value is not known is absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// The file's length in bytes.
    pub file_bytes: u64,
    /// The header.
    pub header: HeaderInfo,
    /// All sections in the order of the file.
    pub sections: Vec<SectionInfo>,
    /// What booting it measures, by register; 8 if it is signed, 16 if it has a measured manifest.
    pub pcrs: BTreeMap<u8, PcrValue>,
    /// The kernel's command line, escaped if it is not plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// The JSON of the metadata section, as it stands. Nothing measures it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// Who signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<SignerInfo>,
    /// The measured manifest; absent if Glasshouse did not build the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Value>,
    /// The ramdisks, the one that boots first.
    pub ramdisks: Vec<RamdiskInfo>,
}

/// What the header says. Nothing measures it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderInfo {
    /// The format's version.
    pub version: u16,
    /// `x86_64` or `aarch64`.
    pub architecture: &'static str,
    /// Enclave memory where the one who runs it does not say, in bytes.
    pub default_memory_bytes: u64,
    /// Enclave processors where the one who runs it does not say.
    pub default_cpus: u64,
    /// The checksum of the file, found to be right: 8 hexadecimal digits.
    pub crc32: String,
}

/// A section.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SectionInfo {
    /// What it holds.
    pub part: Part,
    /// Where its data starts, in bytes from the start of the file.
    pub offset: u64,
    /// The length of its data in bytes.
    pub bytes: u64,
    /// Its share of the file, in hundredths.
    pub percent: f64,
    /// Of its data.
    pub digest: Digest,
}

/// A ramdisk.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RamdiskInfo {
    /// Which, the one that boots being 0.
    pub number: usize,
    /// Why it is not shown as an archive: then all below is absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_archive: Option<String>,
    /// How the archive is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// The archive's length once decompressed, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpacked_bytes: Option<u64>,
    /// How many entries it has.
    pub entries: u64,
    /// What the directories hold that hold most, with all below them; the largest first.
    pub largest_directories: Vec<Space>,
    /// The largest files, the largest first.
    pub largest_files: Vec<Space>,
    /// Every entry, in the order of names; if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<FileInfo>>,
}

/// An entry of a ramdisk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileInfo {
    /// Its name, escaped if it is not plain text.
    pub name: String,
    /// `file`, `directory`, `symlink`, `character device`, `block device`, `fifo` or `socket`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Permissions with set-user-ID, set-group-ID and sticky: 4 octal digits.
    pub mode: String,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// The content's length.
    pub bytes: u64,
    /// When it says it was modified, in seconds since 1970. Reproducible images say 0.
    pub modified: u32,
    /// Of a file's content; absent for a name of a file whose content comes with a later name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Where a symbolic link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The first name of the same file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_file_as: Option<String>,
    /// `MAJOR,MINOR` of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Extended attributes by name: the value if it is plain text, else `0x` and hexadecimal digits, or if it is longer than
    /// 256 bytes, its digest.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
}

/// Looks at an image.
///
/// # Errors
/// When the file cannot be read or is not a well-formed image, its signature included. A ramdisk that is no archive is
/// said to be none.
pub fn inspect(image: &Path, options: &InspectOptions) -> Result<Inspection, Error> {
    let mut image = Image::open(image)?;
    let measured = image.measure()?;
    let manifest = image.manifest(&options.limits);
    let sections: Vec<SectionInfo> = image
        .parts
        .iter()
        .map(|(part, section)| section_info(&image, *part, section))
        .collect::<Result<_, _>>()?;
    let ramdisks: Vec<Section> = image.eif.ramdisks().collect();
    let ramdisks = ramdisks
        .iter()
        .enumerate()
        .map(|(number, section)| Ok(ramdisk_info(number, list(&image, section, &options.limits)?, options)));
    Ok(Inspection {
        file_bytes: image.file_bytes,
        sections,
        ramdisks: ramdisks.collect::<Result<_, Error>>()?,
        pcrs: known_registers(&measured, manifest.as_deref()),
        cmdline: small(&image, Part::Cmdline, MAX_CMDLINE_BYTES)?.map(|text| printable(&text)),
        metadata: small(&image, Part::Metadata, MAX_METADATA_BYTES)?
            .and_then(|bytes| serde_json::from_slice(&bytes).ok()),
        manifest: manifest.and_then(|bytes| serde_json::from_slice(&bytes).ok()),
        header: header_info(image.eif.header()),
        signer: signer::signer(&mut image, &measured)?,
    })
}

fn small(image: &Image, part: Part, limit: u64) -> Result<Option<Vec<u8>>, Error> {
    image.part(part).map_or(Ok(None), |section| image.bytes(&section, limit))
}

fn header_info(header: &eif::Header) -> HeaderInfo {
    HeaderInfo {
        version: header.version,
        architecture: match header.architecture {
            Architecture::X86_64 => "x86_64",
            Architecture::Aarch64 => "aarch64",
        },
        default_memory_bytes: header.default_memory_bytes,
        default_cpus: header.default_cpus,
        crc32: format!("{:08x}", header.crc32),
    }
}

fn section_info(image: &Image, part: Part, section: &Section) -> Result<SectionInfo, Error> {
    let per_mille = u128::from(section.size) * 10_000 / u128::from(image.file_bytes.max(1));
    let percent = u16::try_from(per_mille).map_or(100.0, |share| f64::from(share) / 100.0);
    let digest = image.digest(section)?;
    Ok(SectionInfo { part, offset: section.offset, bytes: section.size, percent, digest })
}

fn ramdisk_info(number: usize, contents: Contents, options: &InspectOptions) -> RamdiskInfo {
    let mut info = RamdiskInfo {
        number,
        no_archive: None,
        compression: None,
        unpacked_bytes: None,
        entries: 0,
        largest_directories: Vec::new(),
        largest_files: Vec::new(),
        files: None,
    };
    match contents {
        Contents::Opaque(reason) => info.no_archive = Some(chain(&reason)),
        Contents::Archive(Listing { compression, unpacked_bytes, entries, .. }) => {
            info.compression = Some(compression);
            info.unpacked_bytes = Some(unpacked_bytes);
            info.entries = entries.len() as u64;
            info.largest_directories = largest_directories(&entries, options.top);
            info.largest_files = largest_files(&entries, options.top);
            info.files = options.files.then(|| entries.iter().map(file_info).collect());
        }
    }
    info
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn file_info((name, record): (&Name, &Record)) -> FileInfo {
    let (target, device) = match &record.kind {
        Kind::Symlink { target } => (Some(printable(target)), None),
        Kind::CharacterDevice(Device { major, minor }) | Kind::BlockDevice(Device { major, minor }) => {
            (None, Some(format!("{major},{minor}")))
        }
        _ => (None, None),
    };
    FileInfo {
        name: name.to_string(),
        kind: kind(record),
        mode: format!("{:04o}", record.permissions),
        uid: record.uid,
        gid: record.gid,
        bytes: record.size(),
        modified: record.modified,
        digest: record.digest,
        target,
        same_file_as: record.first_name.as_deref().map(printable),
        device,
        xattrs: record.xattrs.iter().map(|xattr| (printable(&xattr.name), shown(&xattr.value))).collect(),
    }
}
