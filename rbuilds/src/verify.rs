//! Builds an image again from its inputs and compares.
//!
//! The verdict is about bytes: the rebuilt image and the one in question are the same, or [`crate::diff`] says where they
//! are not. What the reference values beside the image recorded of the inputs says first which input is another one.

use std::{fmt, fs, path::Path};

use serde::Serialize;

use crate::{
    BuildInput, BuildReport, Diff, Digest, Error, Limits, Progress, RegistryOptions, build, diff,
    image::Image, reference_values_path,
};

/// The register of the certificate that an image is signed with.
const SIGNER_PCR: u8 = 8;

/// What rebuilding an image showed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verification {
    /// Whether the same inputs gave the same measurements. The signer's register is left out: no key is here.
    pub reproduced: bool,
    /// The image in question (`a`) and the rebuilt one (`b`).
    pub diff: Diff,
    /// Inputs that are not those recorded beside the image. `None` if nothing is recorded there.
    pub other_inputs: Option<Vec<OtherInput>>,
}

/// An input that is not the one recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OtherInput {
    /// Which: `kernel`, `guest binary`, `nsm.ko`, `container image`.
    pub input: &'static str,
    /// What is recorded.
    pub recorded: Option<Digest>,
    /// What the rebuild used.
    pub used: Option<Digest>,
}

/// Builds `input` and compares the result with `image`. `input.output` is where the rebuilt image goes; it stays there.
/// The lock file stays as it is, whatever tags name by now.
///
/// # Errors
/// As [`build`] and [`diff`]. Reference values beside the image that are malformed are an error too.
pub fn verify(image: &Path, input: &BuildInput<'_>, progress: Progress<'_>) -> Result<Verification, Error> {
    // Before the long work: a wrong path is found at once.
    Image::open(image)?;
    let recorded = recorded(image)?;
    let registry = RegistryOptions { record_tags: false, reuse_compressed: false, ..input.registry.clone() };
    let report = build(&BuildInput { registry, ..input.clone() }, progress)?;
    let other_inputs = recorded.map(|recorded| other_inputs(&recorded, &report));
    let diff = diff(image, input.output, &Limits::default())?;
    let reproduced = diff.pcrs.iter().all(|pair| pair.same || pair.pcr == SIGNER_PCR);
    Ok(Verification { reproduced, diff, other_inputs })
}

/// The reference values beside an image.
fn recorded(image: &Path) -> Result<Option<BuildReport>, Error> {
    let path = reference_values_path(image);
    let unusable = |source| Error::File { doing: "read", path: path.clone(), source };
    match fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|e| unusable(e.into())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(unusable(e)),
    }
}

fn other_inputs(recorded: &BuildReport, used: &BuildReport) -> Vec<OtherInput> {
    [
        ("kernel", Some(recorded.kernel), Some(used.kernel)),
        ("guest binary", Some(recorded.guest_binary), Some(used.guest_binary)),
        ("nsm.ko", recorded.nsm_ko, used.nsm_ko),
        ("container image", recorded.image_manifest, used.image_manifest),
    ]
    .into_iter()
    .filter(|(_, recorded, used)| recorded != used)
    .map(|(input, recorded, used)| OtherInput { input, recorded, used })
    .collect()
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |digest: Option<Digest>| digest.map_or("none".to_owned(), |digest| digest.to_string());
        match &self.other_inputs {
            None => writeln!(f, "No reference values lie beside the image: its inputs are not on record.")?,
            Some(inputs) => {
                for OtherInput { input, recorded, used } in inputs {
                    writeln!(f, "another {input}: recorded {}, here {}", name(*recorded), name(*used))?;
                }
            }
        }
        if self.diff.identical {
            return writeln!(f, "Reproduced: the rebuilt image has the same bytes.");
        }
        self.diff.fmt(f)?;
        match self.reproduced {
            true => writeln!(f, "Reproduced: what differs is the signature, or nothing measures it."),
            false => writeln!(f, "Not reproduced."),
        }
    }
}
