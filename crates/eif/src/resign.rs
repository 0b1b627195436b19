//! Puts a signature on an image that is already there, without building it again.
//!
//! The image is measured while it is copied, so what is signed is what was copied, whatever happens to the file meanwhile.
//! All that is measured, and the metadata, stays as it is byte for byte.

use std::io::{Read, Seek, Write};

use crate::format::{SIGNATURE_VERSION, SectionKind};
use crate::measurements::Measurements;
use crate::reader::Eif;
use crate::signer::Signer;
use crate::source::Source;
use crate::writer::{Options, WriteError, Writer};

impl<R: Read + Seek> Eif<R> {
    /// Writes this image with a signature by `signer` to `output`, which must be empty. A signature it has is left out,
    /// unread.
    ///
    /// # Errors
    ///
    /// When this image cannot be read, has more than 28 ramdisks, signing fails or `output` fails.
    pub fn write_signed<W: Write + Seek>(
        &mut self,
        output: W,
        signer: &Signer,
    ) -> Result<Measurements, WriteError> {
        let header = self.header().clone();
        let options = Options {
            architecture: header.architecture,
            default_memory_bytes: header.default_memory_bytes,
            default_cpus: header.default_cpus,
        };
        let mut copy = Writer::begin(output, header.version.max(SIGNATURE_VERSION), &options)?;
        for section in self.sections().to_vec() {
            if section.kind == SectionKind::Signature {
                continue;
            }
            let data = self.read(&section).map_err(|error| WriteError::Source {
                section: section.kind,
                name: "the image".to_owned(),
                source: std::io::Error::other(error),
            })?;
            copy.copied(section.kind, Source::reader(data, section.size))?;
        }
        copy.finish(Some(signer))
    }
}
