//! An image file opened to be looked at: its parts by name, their bytes, its registers and its measured manifest.
//!
//! Decides nothing and shows nothing: [`crate::inspect`] and [`crate::diff`] do.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use eif::{Eif, HEADER_BYTES, ImageSignature, Measurements, Section, SectionKind};
use manifest::Measured;
use serde::{Serialize, Serializer};

use crate::{
    Digest, Error, Limits, PcrValue,
    content::{Content, ContentReader},
    digest::HashingReader,
    listing::find_file,
    report::{boot_registers, registers},
    unpack::{MANIFEST_ENTRY, MAX_MANIFEST_BYTES, image_error, open},
};

const BUFFER_BYTES: usize = 128 << 10;

/// A part of an image file. As text: `header`, `kernel`, `cmdline`, `metadata`, `ramdisk 0` and so on, `signature`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The header, and where the sections stand.
    Header,
    /// The kernel.
    Kernel,
    /// The kernel's command line.
    Cmdline,
    /// The JSON about the image.
    Metadata,
    /// A ramdisk, the one that boots being 0.
    Ramdisk(usize),
    /// The signature.
    Signature,
}

impl Part {
    /// The registers that booting measures this part into. A signature is not measured, its certificate is: into PCR8.
    pub(crate) fn registers(self) -> &'static [u8] {
        match self {
            Self::Kernel | Self::Cmdline | Self::Ramdisk(0) => &[0, 1],
            Self::Ramdisk(_) => &[0, 2],
            Self::Header | Self::Metadata | Self::Signature => &[],
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("header"),
            Self::Kernel => f.write_str("kernel"),
            Self::Cmdline => f.write_str("cmdline"),
            Self::Metadata => f.write_str("metadata"),
            Self::Ramdisk(number) => write!(f, "ramdisk {number}"),
            Self::Signature => f.write_str("signature"),
        }
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An image file, known to be well formed.
pub(crate) struct Image {
    path: PathBuf,
    file: Arc<File>,
    pub(crate) eif: Eif<BufReader<File>>,
    /// In the order of the file.
    pub(crate) parts: Vec<(Part, Section)>,
    pub(crate) file_bytes: u64,
}

impl Image {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let unusable = |source| Error::File { doing: "open", path: path.to_owned(), source };
        let file = File::open(path).map_err(unusable)?;
        let file_bytes = file.metadata().map_err(unusable)?.len();
        let eif = open(path)?;
        let parts = named(eif.sections());
        Ok(Self { path: path.to_owned(), file: Arc::new(file), eif, parts, file_bytes })
    }

    pub(crate) fn part(&self, part: Part) -> Option<Section> {
        self.parts.iter().find(|(found, _)| *found == part).map(|(_, section)| *section)
    }

    /// A reader of a section's data, independent of all others.
    pub(crate) fn data(&self, section: &Section) -> ContentReader {
        self.slice(section.offset, section.size)
    }

    /// Any bytes of the file.
    pub(crate) fn content(&self, offset: u64, bytes: u64) -> Content {
        Content::slice(Arc::clone(&self.file), offset, bytes)
    }

    /// A reader of any bytes of the file.
    pub(crate) fn slice(&self, offset: u64, bytes: u64) -> ContentReader {
        self.content(offset, bytes).open().expect("a slice of an open file is not opened again")
    }

    /// The header as it stands in the file.
    pub(crate) fn raw_header(&self) -> Result<Vec<u8>, Error> {
        self.whole(0, HEADER_BYTES)
    }

    /// A section's data, if it is no longer than `limit`.
    pub(crate) fn bytes(&self, section: &Section, limit: u64) -> Result<Option<Vec<u8>>, Error> {
        (section.size <= limit).then(|| self.whole(section.offset, section.size)).transpose()
    }

    fn whole(&self, offset: u64, length: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.slice(offset, length).read_to_end(&mut bytes).map_err(|e| self.unreadable(e))?;
        Ok(bytes)
    }

    /// The digest of a section's data.
    pub(crate) fn digest(&self, section: &Section) -> Result<Digest, Error> {
        let mut data = BufReader::with_capacity(BUFFER_BYTES, HashingReader::new(self.data(section)));
        crate::digest::drain(&mut data).map_err(|e| self.unreadable(e))?;
        Ok(data.get_ref().digest())
    }

    /// What booting measures. Reads all of the file.
    pub(crate) fn measure(&mut self) -> Result<Measurements, Error> {
        self.eif.measure().map_err(|source| image_error(&self.path, source))
    }

    /// The signature, if it is signed.
    pub(crate) fn signature(&mut self) -> Result<Option<ImageSignature>, Error> {
        self.eif.signature().map_err(|source| image_error(&self.path, source))
    }

    /// The measured manifest, as the bytes that init would extend PCR16 with; `None` if Glasshouse did not build this.
    pub(crate) fn manifest(&self, limits: &Limits) -> Option<Vec<u8>> {
        let section = self.part(Part::Ramdisk(1))?;
        let bytes = find_file(self, &section, MANIFEST_ENTRY, MAX_MANIFEST_BYTES, limits)?;
        Measured::from_canonical_json(&bytes).is_ok().then_some(bytes)
    }

    pub(crate) fn unreadable(&self, source: io::Error) -> Error {
        Error::File { doing: "read", path: self.path.clone(), source }
    }
}

/// All registers that are known of an image: PCR16 only if there is a measured manifest.
pub(crate) fn known_registers(measured: &Measurements, manifest: Option<&[u8]>) -> BTreeMap<u8, PcrValue> {
    manifest.map_or_else(|| boot_registers(measured), |manifest| registers(measured, manifest))
}

fn named(sections: &[Section]) -> Vec<(Part, Section)> {
    let mut ramdisks = 0..;
    let part = |section: &Section| match section.kind {
        SectionKind::Kernel => Part::Kernel,
        SectionKind::Cmdline => Part::Cmdline,
        SectionKind::Metadata => Part::Metadata,
        SectionKind::Signature => Part::Signature,
        SectionKind::Ramdisk => Part::Ramdisk(ramdisks.next().unwrap_or_default()),
    };
    let parts: Vec<Part> = sections.iter().map(part).collect();
    parts.into_iter().zip(sections.iter().copied()).collect()
}
