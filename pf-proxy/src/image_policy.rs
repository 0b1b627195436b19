//! What an image may reach, read from its manifest or from the image itself.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use eif::{
    Eif,
    cpio::{Kind, Reader},
};
use manifest::{Egress, Manifest, ManifestError, Measured, MeasuredError};

/// Where the measured manifest lies in the application's ramdisk (`docs/spec/image.md`).
const MANIFEST_ENTRY: &str = "glasshouse/manifest.json";

/// Longest manifest, in bytes.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// Why there is no policy to read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("{path}: cannot be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Manifest { path: PathBuf, source: ManifestError },
    #[error("{path}: {source}")]
    Measured { path: PathBuf, source: MeasuredError },
    #[error("{path}: not an enclave image that was built here: {reason}")]
    Image { path: PathBuf, reason: String },
    #[error("{path}: has no [egress]: the image reaches nothing")]
    NoEgress { path: PathBuf },
}

/// From a `glasshouse.toml`, or a measured manifest, which begins as JSON does.
pub(crate) fn of_manifest(path: &Path) -> Result<Egress, LoadError> {
    let bytes = read_bounded(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    if bytes.first() == Some(&b'{') {
        return of_measured(path, &bytes);
    }
    let manifest = Manifest::parse(&String::from_utf8_lossy(&bytes))
        .map_err(|source| LoadError::Manifest { path: path.to_owned(), source })?;
    manifest.egress().cloned().ok_or_else(|| LoadError::NoEgress { path: path.to_owned() })
}

/// From an image.
pub(crate) fn of_image(path: &Path) -> Result<Egress, LoadError> {
    let file = File::open(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let bytes = manifest_in(file).map_err(|reason| LoadError::Image { path: path.to_owned(), reason })?;
    of_measured(path, &bytes)
}

fn of_measured(path: &Path, bytes: &[u8]) -> Result<Egress, LoadError> {
    let measured = Measured::from_canonical_json(bytes)
        .map_err(|source| LoadError::Measured { path: path.to_owned(), source })?;
    measured.egress.ok_or_else(|| LoadError::NoEgress { path: path.to_owned() })
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MAX_MANIFEST_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than any manifest"));
    }
    fs::read(path)
}

fn manifest_in(file: File) -> Result<Vec<u8>, String> {
    let absent = || format!("it has no /{MANIFEST_ENTRY}");
    let mut eif = Eif::open(BufReader::new(file)).map_err(|error| error.to_string())?;
    let ramdisk = eif.ramdisks().nth(1).ok_or_else(absent)?;
    let data = eif.read(&ramdisk).map_err(|error| error.to_string())?;
    let mut archive = Reader::new(data, ramdisk.size);
    while let Some(entry) = archive.next_entry().map_err(|error| error.to_string())? {
        if entry.name != MANIFEST_ENTRY.as_bytes() {
            continue;
        }
        let Kind::File { size, link: None } = entry.kind else { return Err(absent()) };
        if size > MAX_MANIFEST_BYTES {
            return Err("its manifest is longer than any".to_owned());
        }
        let mut bytes = Vec::new();
        archive.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        return Ok(bytes);
    }
    Err(absent())
}
