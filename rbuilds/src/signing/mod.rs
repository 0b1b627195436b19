//! Signing apart from building: measure an image, have PCR0 signed, put the signature on the image, check it.
//!
//! Three ways lead to a signature: a key file here, a command that asks a security module or a key service, and a file
//! with a signature that was made on another machine (`docs/spec/signing.md`). No clock is read: whether a certificate is
//! valid is judged at a time that the caller gives.

mod check;
mod error;
mod hook;
mod material;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

pub use eif::Curve;
use eif::{PCR_BYTES, Signer};
use serde::Serialize;

pub use self::{
    check::{SignatureCheck, SignatureRefusal, Trust, check_signature},
    error::{HookError, SignError},
    material::{KeySource, certificates, signer},
};
use crate::{
    BuildReport, DocumentPaths, Error, Limits, PcrValue,
    documents::image_digest,
    image::{Image, Part, known_registers},
    output::Output,
    provenance, reference_values_path,
};

/// The registers of an image file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MeasuredImage {
    /// By register: 0, 1 and 2; 8 if the image is signed, 16 if Glasshouse built it.
    pub pcrs: BTreeMap<u8, PcrValue>,
    #[serde(skip)]
    pcr0: [u8; PCR_BYTES],
}

/// Measures an image as booting it does. A signature it has is not judged: [`check_signature`] does.
///
/// # Errors
/// When the image cannot be read or is malformed.
pub fn measure(image: &Path) -> Result<MeasuredImage, Error> {
    let mut image = Image::open(image)?;
    let measured = image.measure()?;
    let manifest = image.manifest(&Limits::default());
    Ok(MeasuredImage { pcrs: known_registers(&measured, manifest.as_deref()), pcr0: measured.pcr0 })
}

impl MeasuredImage {
    /// The bytes to sign with ECDSA on this curve and its hash, for a signer elsewhere.
    pub fn bytes_to_sign(&self, curve: Curve) -> Vec<u8> {
        eif::bytes_to_sign(curve, &self.pcr0)
    }

    /// Writes [`MeasuredImage::bytes_to_sign`] to a file, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_bytes_to_sign(&self, curve: Curve, path: &Path) -> Result<(), Error> {
        let write = || -> io::Result<()> {
            let mut output = Output::create(path)?;
            output.file().write_all(&self.bytes_to_sign(curve))?;
            output.commit()
        };
        write().map_err(|source| Error::File { doing: "write", path: path.to_owned(), source })
    }
}

impl fmt::Display for MeasuredImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_registers(f, &self.pcrs)
    }
}

fn write_registers(f: &mut fmt::Formatter<'_>, pcrs: &BTreeMap<u8, PcrValue>) -> fmt::Result {
    pcrs.iter().try_for_each(|(index, value)| writeln!(f, "{:5}  {value}", format!("PCR{index}")))
}

/// What to sign, and where the signed image goes.
#[derive(Clone, Copy, Debug)]
pub struct SignInput<'a> {
    /// The image file.
    pub image: &'a Path,
    /// The signed image; may be the same file, which is then replaced.
    pub output: &'a Path,
    /// Who signs.
    pub signer: &'a Signer,
    /// Whether a signature that the image has gives way.
    pub replace: bool,
}

/// A signed image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SignedImage {
    /// Where it is.
    pub image: PathBuf,
    /// Its registers, 8 among them.
    pub pcrs: BTreeMap<u8, PcrValue>,
    /// The reference values beside it, if there were some beside the image that was signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_values: Option<PathBuf>,
    /// The provenance beside it, if there was one beside the image that was signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provenance: Option<PathBuf>,
}

impl fmt::Display for SignedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.image.display())?;
        write_registers(f, &self.pcrs)?;
        let beside = [("reference values", &self.reference_values), ("provenance", &self.provenance)];
        for (what, path) in beside.into_iter().filter_map(|(what, path)| Some((what, path.as_ref()?))) {
            writeln!(f, "{what}: {}", path.display())?;
        }
        Ok(())
    }
}

/// Puts a signature on an image, which appears in the place of `input.output` whole or not at all. The image is neither
/// built again nor held in memory. Reference values and provenance beside it get PCR8, and the provenance the digest of the
/// signed file.
///
/// # Errors
/// [`SignError`]. Nothing has changed then, unless it is what stands beside the image that could not be put in its place.
pub fn sign(input: &SignInput<'_>) -> Result<SignedImage, SignError> {
    let mut image = Image::open(input.image)?;
    if image.part(Part::Signature).is_some() && !input.replace {
        return Err(SignError::AlreadySigned { image: input.image.to_owned() });
    }
    let recorded = recorded(input.image)?;
    let mut output = Output::create(input.output).map_err(|e| unwritable(input.output, e))?;
    let measured = image.eif.write_signed(output.file(), input.signer).map_err(|e| match e {
        eif::WriteError::Sign(source) => SignError::Sign { image: input.image.to_owned(), source },
        other => SignError::Write { path: input.output.to_owned(), source: other },
    })?;
    let manifest = image.manifest(&Limits::default());
    let pcrs = known_registers(&measured, manifest.as_deref());
    let eif_bytes = output.file().metadata().map_err(|e| unwritable(input.output, e))?.len();
    let values = recorded.map(|recorded| updated(input, recorded, &pcrs, eif_bytes)).transpose()?;
    let statement = updated_provenance(input, &mut output, &pcrs)?;
    output.commit().map_err(|e| unwritable(input.output, e))?;
    let put = |beside: Option<(PathBuf, Output)>| {
        let put = beside.map(|(path, draft)| match draft.commit() {
            Ok(()) => Ok(path),
            Err(source) => Err(SignError::Beside { image: input.output.to_owned(), path, source }),
        });
        put.transpose()
    };
    let (reference_values, provenance) = (put(values)?, put(statement)?);
    Ok(SignedImage { image: input.output.to_owned(), pcrs, reference_values, provenance })
}

/// The provenance of the signed image, written but not yet in its place, if there is one beside the image.
fn updated_provenance(
    input: &SignInput<'_>,
    output: &mut Output,
    pcrs: &BTreeMap<u8, PcrValue>,
) -> Result<Option<(PathBuf, Output)>, SignError> {
    let path = DocumentPaths::beside(input.image).provenance;
    let statement = match fs::read(&path) {
        Ok(statement) => statement,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::File { doing: "read", path, source }.into()),
    };
    let digest = image_digest(output.file()).map_err(|e| unwritable(input.output, e))?;
    let Some(statement) = provenance::of_signed(&statement, &digest, pcrs) else {
        return Err(SignError::OtherProvenance { image: input.image.to_owned(), path });
    };
    let path = DocumentPaths::beside(input.output).provenance;
    draft(path, &statement).map(Some)
}

/// The reference values beside the image that is to be signed.
fn recorded(image: &Path) -> Result<Option<BuildReport>, SignError> {
    let path = reference_values_path(image);
    match fs::read(&path) {
        Ok(json) => match serde_json::from_slice(&json) {
            Ok(report) => Ok(Some(report)),
            Err(source) => Err(SignError::MalformedReferenceValues { path, source }),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { doing: "read", path, source }.into()),
    }
}

/// The reference values of the signed image, written but not yet in their place.
fn updated(
    input: &SignInput<'_>,
    mut report: BuildReport,
    pcrs: &BTreeMap<u8, PcrValue>,
    eif_bytes: u64,
) -> Result<(PathBuf, Output), SignError> {
    if [0, 1, 2].iter().any(|index| report.pcrs.get(index) != pcrs.get(index)) {
        let path = reference_values_path(input.image);
        return Err(SignError::OtherReferenceValues { image: input.image.to_owned(), path });
    }
    report.pcrs.extend(pcrs);
    report.eif_bytes = eif_bytes;
    draft(reference_values_path(input.output), &report.to_json())
}

/// A file that is not yet in its place.
fn draft(path: PathBuf, text: &str) -> Result<(PathBuf, Output), SignError> {
    let write = || -> io::Result<Output> {
        let mut draft = Output::create(&path)?;
        draft.file().write_all(text.as_bytes())?;
        Ok(draft)
    };
    let draft = write().map_err(|e| unwritable(&path, e))?;
    Ok((path, draft))
}

fn unwritable(path: &Path, source: io::Error) -> SignError {
    Error::File { doing: "write", path: path.to_owned(), source }.into()
}
