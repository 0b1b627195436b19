//! Measures the manifest into PCR16 and locks it, so that every attestation document says what init was told to run.
//!
//! Where files are watched, the state of the ledger once all of them are recorded goes there too, before the lock.

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
    #[error("PCR16 is {found} after extending it, expected {expected}")]
    Value { found: Pcr, expected: Pcr },
    #[error("cannot lock PCR16")]
    Lock(#[source] nsm::Error),
}

/// What PCR16 is to hold, while it can still be extended.
pub(crate) struct Measurement {
    module: Box<dyn Provider>,
    value: Pcr,
}

impl Measurement {
    /// Extends PCR16, which has to be as after boot, with the SHA-384 of `manifest`. Returns the digest, too.
    pub(crate) fn begin(
        module: Box<dyn Provider>,
        manifest: &[u8],
    ) -> Result<(Self, [u8; PCR_BYTES]), MeasureError> {
        let mut measurement = Self { module, value: Pcr::ZERO };
        let digest = measurement.extend(manifest)?;
        Ok((measurement, digest))
    }

    /// Extends PCR16 with the SHA-384 of the ledger's `baseline`.
    pub(crate) fn add(&mut self, baseline: &[u8]) -> Result<(), MeasureError> {
        self.extend(baseline).map(drop)
    }

    /// Locks PCR16.
    pub(crate) fn lock(self) -> Result<(), MeasureError> {
        self.module.lock_pcr(register()).map_err(MeasureError::Lock)
    }

    fn extend(&mut self, data: &[u8]) -> Result<[u8; PCR_BYTES], MeasureError> {
        let digest = sha384(&[data]);
        let expected = Pcr(sha384(&[&self.value.0, &digest]));
        let found = self.module.extend_pcr(register(), &digest).map_err(MeasureError::Extend)?;
        if found != expected {
            return Err(MeasureError::Value { found, expected });
        }
        self.value = expected;
        Ok(digest)
    }
}

impl std::fmt::Debug for Measurement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Measurement").field("value", &self.value).finish_non_exhaustive()
    }
}

fn register() -> PcrIndex {
    PcrIndex::new(MANIFEST_PCR).expect("16 is below 32")
}

fn sha384(parts: &[&[u8]]) -> [u8; PCR_BYTES] {
    let mut context = Context::new(&SHA384);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("a SHA-384 digest has 48 bytes")
}
