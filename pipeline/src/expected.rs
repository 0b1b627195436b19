//! Which enclave a client expects: the image's registers, and the root under which it is evidence.
//!
//! The options are those of `glasshouse verify`, read by the same code.

use std::time::SystemTime;

use attestation::{Appraisal, Policy, ReferenceValues, UnixTime, appraise, binding::Statement, verify};
use channel::Evidence;

pub use ::expected::{ExpectedArgs, ExpectedError};

/// What a client expects of the enclave it talks to.
#[derive(Clone, Debug)]
pub struct Expected(::expected::Expected);

/// Nothing says which image.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "nothing says which image has to run there: give --image, --reference or --pcr, or --any-image to talk to any"
)]
pub struct Nothing;

/// The enclave is not the one expected.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Unexpected(pub Vec<String>);

impl TryFrom<::expected::Expected> for Expected {
    type Error = Nothing;

    fn try_from(expected: ::expected::Expected) -> Result<Self, Nothing> {
        match &expected.reference_values {
            ReferenceValues::Pcrs(registers) if registers.is_empty() => Err(Nothing),
            _ => Ok(Self(expected)),
        }
    }
}

impl Expected {
    /// Whether a channel's evidence is that of the enclave expected, about this very connection. Returns the head of the
    /// enclave's control chain.
    ///
    /// # Errors
    /// [`Unexpected`] with every reason.
    pub fn appraise(&self, evidence: &Evidence) -> Result<Option<[u8; 32]>, Unexpected> {
        let one = |reason: &dyn std::fmt::Display| Unexpected(vec![reason.to_string()]);
        let now = UnixTime::try_from(SystemTime::now()).map_err(|error| one(&error))?;
        let verified = verify(&evidence.document, &self.0.roots, now).map_err(|error| one(&error))?;
        let policy = Policy {
            nonce: Some(evidence.nonce.to_vec()),
            binding: evidence.binding(),
            allow_debug: self.0.allow_debug,
            ..Policy::new(self.0.reference_values.clone())
        };
        let Appraisal { statement, .. } = appraise(&verified, &policy)
            .map_err(|refused| Unexpected(refused.refusals.iter().map(ToString::to_string).collect()))?;
        Ok(match statement {
            Some(Statement::Channel { control_head, .. }) => control_head.map(|head| head.0),
            _ => None,
        })
    }
}
