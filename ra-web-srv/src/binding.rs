//! What the server says of itself in every document: a binding statement of kind `server`.

use std::{fs, io, path::PathBuf};

use attestation::{Sha256, binding::Statement};

/// What goes into the statement.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    /// Of the TLS key; the same as long as this process lives.
    pub(crate) tls_key: Sha256,
    /// Where the control channel keeps the head of its chain; `None` in an image that has no control channel.
    pub(crate) control_head: Option<PathBuf>,
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
    /// When the image has a control channel and the head of its chain cannot be read: a statement without it would say
    /// that there is none.
    pub(crate) fn statement(&self) -> Result<Statement, ControlHeadError> {
        let head = self.control_head.as_ref().map(|path| {
            let failed = |source| ControlHeadError { path: path.clone(), source };
            let bytes = fs::read(path).map_err(failed)?;
            let length = || failed(io::Error::other(format!("it has {} bytes, not 32", bytes.len())));
            bytes.as_slice().try_into().map(Sha256).map_err(|_| length())
        });
        Ok(Statement::Server {
            tls_key: self.tls_key,
            application_key: None,
            control_head: head.transpose()?,
            ledger: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_the_files_and_never_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head");
        let binding = Binding { tls_key: Sha256([1; 32]), control_head: Some(path.clone()) };
        binding.statement().unwrap_err();
        fs::write(&path, [7; 31]).unwrap();
        assert!(binding.statement().unwrap_err().source.to_string().contains("31 bytes"));
        for byte in [7, 8] {
            fs::write(&path, [byte; 32]).unwrap();
            let Statement::Server { control_head, .. } = binding.statement().unwrap() else {
                panic!("of the server")
            };
            assert_eq!(control_head, Some(Sha256([byte; 32])));
        }
    }
}
