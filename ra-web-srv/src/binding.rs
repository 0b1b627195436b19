//! What the server says of itself in every document: a binding statement of kind `server`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use attestation::{Sha256, binding::Statement};

use crate::error::ApiError;
use crate::ledger::Ledger;

/// The digest of the key that the application has named, if it has.
#[derive(Clone, Debug, Default)]
pub(crate) struct ApplicationKey(Arc<Mutex<Option<Sha256>>>);

impl ApplicationKey {
    /// The key that counts from now on.
    pub(crate) fn name(&self, digest: Sha256) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest);
    }

    /// The key that counts.
    pub(crate) fn digest(&self) -> Option<Sha256> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What goes into the statement.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    /// Of the TLS key; the same as long as this process lives.
    pub(crate) tls_key: Sha256,
    /// What the application has named.
    pub(crate) application_key: ApplicationKey,
    /// Where the control channel keeps the head of its chain; `None` in an image that has no control channel.
    pub(crate) control_head: Option<PathBuf>,
    /// Who knows the state of the ledger; `None` in an image that keeps none.
    pub(crate) ledger: Option<Arc<Ledger>>,
}

/// The head of the control channel's chain cannot be stated.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the head of the control chain, {}", path.display())]
pub(crate) struct ControlHeadError {
    path: PathBuf,
    source: io::Error,
}

impl Binding {
    /// The statement as of now.
    ///
    /// # Errors
    /// When the image has a control channel and the head of its chain cannot be read, or a ledger that does not answer: a
    /// statement without them would say that there is none.
    pub(crate) async fn statement(&self) -> Result<Statement, ApiError> {
        let ledger = match &self.ledger {
            Some(ledger) => Some(ledger.checkpoint().await?),
            None => None,
        };
        Ok(Statement::Server {
            tls_key: self.tls_key,
            application_key: self.application_key.digest(),
            control_head: self.head()?,
            ledger,
        })
    }

    fn head(&self) -> Result<Option<Sha256>, ControlHeadError> {
        let head = self.control_head.as_ref().map(|path| {
            let failed = |source| ControlHeadError { path: path.clone(), source };
            let bytes = fs::read(path).map_err(failed)?;
            let length = || failed(io::Error::other(format!("it has {} bytes, not 32", bytes.len())));
            bytes.as_slice().try_into().map(Sha256).map_err(|_| length())
        });
        head.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_head_is_the_files_and_never_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head");
        let binding = Binding {
            tls_key: Sha256([1; 32]),
            application_key: ApplicationKey::default(),
            control_head: Some(path.clone()),
            ledger: None,
        };
        binding.head().unwrap_err();
        fs::write(&path, [7; 31]).unwrap();
        assert!(binding.head().unwrap_err().source.to_string().contains("31 bytes"));
        for byte in [7, 8] {
            fs::write(&path, [byte; 32]).unwrap();
            assert_eq!(binding.statement().await.unwrap().control_head(), Some(Sha256([byte; 32])));
        }
    }
}
