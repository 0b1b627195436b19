//! Measures the manifest into PCR16 and locks it, so that every attestation document says what init was told to run.

use aws_lc_rs::digest::{Context, SHA384};
use nsm::{PCR_BYTES, Pcr, PcrIndex, Provider};

/// The register of the framework's state at boot.
const MANIFEST_PCR: u8 = 16;

/// Why the manifest is not measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeasureError {
    #[error("cannot extend PCR16")]
    Extend(#[source] nsm::Error),
    /// Somebody extended it before; a verifier would see neither value it knows.
    #[error("PCR16 is {found} after extending it with the manifest, expected {expected}")]
    Value { found: Pcr, expected: Pcr },
    #[error("cannot lock PCR16")]
    Lock(#[source] nsm::Error),
}

/// Extends PCR16 with the SHA-384 of `manifest`, checks its value and locks it. Returns the digest.
pub(crate) fn measure(module: &dyn Provider, manifest: &[u8]) -> Result<[u8; PCR_BYTES], MeasureError> {
    let pcr = PcrIndex::new(MANIFEST_PCR).expect("16 is below 32");
    let digest = sha384(&[manifest]);
    let expected = Pcr(sha384(&[&Pcr::ZERO.0, &digest]));
    let found = module.extend_pcr(pcr, &digest).map_err(MeasureError::Extend)?;
    if found != expected {
        return Err(MeasureError::Value { found, expected });
    }
    module.lock_pcr(pcr).map_err(MeasureError::Lock)?;
    Ok(digest)
}

fn sha384(parts: &[&[u8]]) -> [u8; PCR_BYTES] {
    let mut context = Context::new(&SHA384);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("a SHA-384 digest has 48 bytes")
}
