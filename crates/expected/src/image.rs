//! What an enclave image file says of the enclave that boots it.

use std::{fs::File, io::BufReader, path::Path};

use attestation::{Pcr, PcrIndex, framework_pcr};
use eif::{Eif, cpio};
use serde::{Deserialize, de::IgnoredAny};

use crate::Registers;

/// The entry of the measured manifest in ramdisk 1.
const MANIFEST_ENTRY: &[u8] = b"glasshouse/manifest.json";

/// Longest manifest read, in bytes.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// An image file, measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredImage {
    /// Registers 0, 1, 2, 8 if the image is signed, and 16 unless its manifest has a monitor, whose baseline goes into
    /// that register too.
    pub registers: Registers,
    /// The measured manifest, byte for byte.
    pub manifest: Vec<u8>,
}

/// Why a file cannot be used as an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// It cannot be read.
    #[error("cannot be read")]
    Io(#[from] std::io::Error),
    /// It is no image.
    #[error("is no enclave image")]
    Eif(#[from] eif::ReadError),
    /// Its second ramdisk is damaged.
    #[error("has a damaged ramdisk")]
    Ramdisk(#[from] cpio::ReadError),
    /// It was built by something else.
    #[error("holds no measured manifest: it was not built by glasshouse")]
    NoManifest,
}

impl MeasuredImage {
    /// Reads and measures the image at `path`.
    ///
    /// # Errors
    /// [`ImageError`]
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let mut image = Eif::open(BufReader::with_capacity(1 << 20, File::open(path)?))?;
        let measured = image.measure()?;
        let ramdisk = image.ramdisks().nth(1).ok_or(ImageError::NoManifest)?;
        let mut archive = cpio::Reader::new(image.read(&ramdisk)?, ramdisk.size);
        let manifest =
            archive.find_file(MANIFEST_ENTRY, MAX_MANIFEST_BYTES)?.ok_or(ImageError::NoManifest)?;
        let mut registers: Registers = [
            (PcrIndex::IMAGE, Some(measured.pcr0)),
            (PcrIndex::BOOT, Some(measured.pcr1)),
            (PcrIndex::APPLICATION, Some(measured.pcr2)),
            (PcrIndex::SIGNER, measured.pcr8),
        ]
        .into_iter()
        .filter_map(|(index, value)| Some((index, Pcr(value?))))
        .collect();
        if !has_monitor(&manifest) {
            registers.insert(PcrIndex::FRAMEWORK, framework_pcr(&manifest, None));
        }
        Ok(Self { registers, manifest })
    }
}

/// Whether the enclave's files are watched, so that the state they were found in at boot is in PCR16 too.
pub fn has_monitor(manifest: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Members {
        monitor: Option<IgnoredAny>,
    }
    serde_json::from_slice(manifest).is_ok_and(|Members { monitor }| monitor.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_is_seen_in_the_manifest() {
        assert!(has_monitor(br#"{"monitor":{"roots":[]},"name":"x"}"#));
        assert!(!has_monitor(br#"{"name":"monitor"}"#));
        assert!(!has_monitor(b"no JSON"));
    }

    #[test]
    fn a_file_that_is_no_image_is_refused_for_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(MeasuredImage::open(file.path()), Err(ImageError::Eif(_))));
        assert!(matches!(MeasuredImage::open(Path::new("/nowhere/at/all")), Err(ImageError::Io(_))));
    }
}
