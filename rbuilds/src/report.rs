//! What a build made: the reference values that a verifier compares an enclave with, and what went into them.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    io::Write,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA384, digest};
use eif::Measurements;
use manifest::Measured;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::{Digest, Error, Note, error::WriteError, output::Output};

/// The version of the form that this crate writes.
pub const REPORT_VERSION: u32 = 1;

/// The register that init extends with the measured manifest.
pub(crate) const MANIFEST_PCR: u8 = 16;

/// The reference values of an image and what it was made of. As JSON, this is the file beside an image
/// (`docs/spec/reference-values.md`). It holds no time, no host's path and no name of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildReport {
    /// [`REPORT_VERSION`]; another version is not deserialised.
    #[serde(deserialize_with = "known_version")]
    pub version: u32,
    /// The image's name.
    pub name: String,
    /// The reference values by register: 0, 1, 2 and 16, and 8 if the image is signed. Without 16 if files are watched.
    pub pcrs: BTreeMap<u8, PcrValue>,
    /// SHA-384 of the measured manifest if files are watched: what PCR16 is extended with first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_sha384: Option<PcrValue>,
    /// Of the kernel file.
    pub kernel: Digest,
    /// The kernel's command line.
    pub cmdline: String,
    /// Of the guest binary, which is `/init` in the enclave.
    pub guest_binary: Digest,
    /// Of the kernel module `nsm.ko`, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nsm_ko: Option<Digest>,
    /// Of the OCI image manifest, if the application came from a container image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_manifest: Option<Digest>,
    /// Files, directories and links of the application.
    pub files: u64,
    /// What the application's files hold together, in bytes. A file with several names counts once.
    pub content_bytes: u64,
    /// Length of the image file, in bytes.
    pub eif_bytes: u64,
    /// The least memory that the enclave boots with, in MiB ([`crate::memory_needed`]); `None` in files of versions of
    /// this program that did not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// What was left out or changed.
    pub notes: Vec<Note>,
}

/// The value of a platform configuration register, written as 96 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PcrValue(pub [u8; 48]);

/// A text is not 96 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not the value of a register, 96 hexadecimal digits")]
pub struct PcrValueError {
    text: String,
}

impl BuildReport {
    /// The JSON text of the file beside an image.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("numbers, strings and lists always serialise");
        json + "\n"
    }

    /// Writes the reference values beside their image, to [`reference_values_path`], whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`] when the file cannot be written.
    pub fn write_beside(&self, image: &Path) -> Result<PathBuf, Error> {
        let path = reference_values_path(image);
        let write = || -> std::io::Result<()> {
            let mut output = Output::create(&path)?;
            output.file().write_all(self.to_json().as_bytes())?;
            output.commit()
        };
        write().map_err(|e| Error::Write { path: path.clone(), source: WriteError::File(e) })?;
        Ok(path)
    }
}

/// Where an image's reference values stand: `app.eif.json` for `app.eif`.
pub fn reference_values_path(image: &Path) -> PathBuf {
    let mut path = OsString::from(image);
    path.push(".json");
    path.into()
}

/// The registers of an image with these measurements and this measured manifest.
pub fn registers(measured: &Measurements, manifest: &[u8]) -> BTreeMap<u8, PcrValue> {
    let mut pcrs = boot_registers(measured);
    if !has_monitor(manifest) {
        pcrs.insert(MANIFEST_PCR, manifest_register(manifest));
    }
    pcrs
}

/// Whether the enclave's files are watched. Their state at boot goes into the manifest's register too, with keys that are made
/// then: nobody can know its value before.
fn has_monitor(manifest: &[u8]) -> bool {
    Measured::from_canonical_json(manifest).is_ok_and(|measured| measured.monitor.is_some())
}

/// SHA-384 of a measured manifest, if its register cannot be known.
pub(crate) fn manifest_digest(manifest: &[u8]) -> Option<PcrValue> {
    has_monitor(manifest).then(|| {
        PcrValue(digest(&SHA384, manifest).as_ref().try_into().expect("a SHA-384 digest has 48 bytes"))
    })
}

/// The registers that booting fills before anything of the image runs: those of [`registers`] but the manifest's.
pub(crate) fn boot_registers(measured: &Measurements) -> BTreeMap<u8, PcrValue> {
    let image =
        [(0, Some(measured.pcr0)), (1, Some(measured.pcr1)), (2, Some(measured.pcr2)), (8, measured.pcr8)];
    image.into_iter().filter_map(|(index, value)| Some((index, PcrValue(value?)))).collect()
}

/// What init's one extension makes of a register of zeros: SHA-384(48 zero bytes || SHA-384(manifest)).
fn manifest_register(manifest: &[u8]) -> PcrValue {
    let mut extended = Context::new(&SHA384);
    extended.update(&[0; 48]);
    extended.update(digest(&SHA384, manifest).as_ref());
    PcrValue(extended.finish().as_ref().try_into().expect("a SHA-384 digest has 48 bytes"))
}

fn known_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        REPORT_VERSION => Ok(REPORT_VERSION),
        found => Err(de::Error::custom(format_args!(
            "reference values have version {found}, this program reads version {REPORT_VERSION}"
        ))),
    }
}

impl fmt::Display for PcrValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PcrValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<PcrValue> for String {
    fn from(value: PcrValue) -> Self {
        value.to_string()
    }
}

impl TryFrom<String> for PcrValue {
    type Error = PcrValueError;

    fn try_from(text: String) -> Result<Self, PcrValueError> {
        let mut bytes = [0; 48];
        match hex::decode_to_slice(&text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err(PcrValueError { text: text.chars().take(200).collect() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_16_is_one_extension_with_the_manifests_digest() {
        // printf '{}' | sha384sum; then 48 zero bytes and that digest through sha384sum again.
        let expected = "5f39faa6110e0462f66fba1b16366971d894162ff3e4b6ac447fe32ba772fc740f5761c509cedd184340db8e84f54630";
        assert_eq!(manifest_register(b"{}").to_string(), expected);
    }

    #[test]
    fn a_register_value_is_96_digits() {
        let value = PcrValue([0xab; 48]);
        assert_eq!(PcrValue::try_from(String::from(value)).unwrap(), value);
        for text in ["", "ab", &"zz".repeat(48), &"ab".repeat(47), &"ab".repeat(49)] {
            assert!(PcrValue::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn stands_beside_the_image() {
        assert_eq!(reference_values_path(Path::new("x/app.eif")), Path::new("x/app.eif.json"));
    }
}
