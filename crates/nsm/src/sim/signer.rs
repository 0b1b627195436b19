//! Signing what QEMU leaves unsigned.

use std::time::Duration;

use super::chain::{Chains, IssueError};
use super::root::DevelopmentRoot;
use super::unsigned::{self, UnsignedError};
use super::x509::since_epoch;

/// Re-issues unsigned attestation documents under a [`DevelopmentRoot`].
#[derive(Debug)]
pub struct Signer {
    chains: Chains,
}

/// Why a document was not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResignError {
    /// It is no unsigned document, or says what a real module would not.
    #[error(transparent)]
    Document(#[from] UnsignedError),
    /// It says it was made at a time when its certificate is not valid.
    #[error(
        "the document's time, {timestamp_ms} ms since the Unix epoch, is not within the life of a certificate made now"
    )]
    Timestamp {
        /// The document's timestamp.
        timestamp_ms: u64,
    },
    /// The signature could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

impl Signer {
    /// A signer under `root`.
    pub fn new(root: &DevelopmentRoot) -> Self {
        Self { chains: Chains::new(root) }
    }

    /// The document `unsigned`, an untagged `COSE_Sign1` as QEMU makes it, with certificate, bundle, protected header and
    /// signature replaced by genuine ones. Everything else stays as it is: `module_id`, `digest`, `timestamp`, `pcrs`,
    /// `public_key`, `user_data`, `nonce`.
    ///
    /// # Errors
    /// When a part to be replaced is not blank, a field is over the real module's limit (QEMU has none), or the time is
    /// not this machine's.
    pub fn resign(&self, unsigned: &[u8]) -> Result<Vec<u8>, ResignError> {
        let claims = unsigned::read(unsigned)?;
        let chain = self.chains.at(&claims.module_id, since_epoch())?;
        let timestamp_ms = claims.timestamp_ms;
        if !chain.covers(Duration::from_millis(timestamp_ms)) {
            return Err(ResignError::Timestamp { timestamp_ms });
        }
        Ok(claims.sign(&chain)?)
    }
}
