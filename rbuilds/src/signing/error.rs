//! Why an image was not signed. Nothing here holds any byte of a key.

use std::{io, path::PathBuf, process::ExitStatus};

use eif::{SignatureError, SignerError};

use super::material::MAX_PEM_BYTES;
use crate::Error;

/// Why an image was not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// A file could not be used, or the image is malformed.
    #[error(transparent)]
    Image(#[from] Error),
    /// A key or certificate file is longer than any real one.
    #[error("{} has more than the {MAX_PEM_BYTES} bytes allowed for a key, certificate or signature", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The key is protected by a passphrase.
    #[error(
        "{} is an encrypted private key, which is not read: sign through a command that decrypts it, \
         such as --command 'openssl dgst -sha384 -sign {}'",
        path.display(), path.display()
    )]
    EncryptedKey {
        /// The key file.
        path: PathBuf,
    },
    /// There is no private key in the file.
    #[error("{} holds no private key in PEM form (PKCS#8 or SEC 1)", path.display())]
    KeyForm {
        /// The key file.
        path: PathBuf,
    },
    /// The private key is for another algorithm or curve.
    #[error(
        "{} is not a private key on P-256, P-384 or P-521, the curves for signing images: \
         `openssl ecparam -name secp384r1 -genkey -noout` makes one",
        path.display()
    )]
    KeyType {
        /// The key file.
        path: PathBuf,
    },
    /// The certificate cannot be used.
    #[error("{} cannot be used as signing certificate", path.display())]
    Certificate {
        /// The certificate file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: SignatureError,
    },
    /// The key is not the certificate's.
    #[error(
        "the key in {} is not the one that {} certifies: name the certificate made for this key",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The key file.
        key: PathBuf,
        /// The certificate file.
        certificate: PathBuf,
    },
    /// The certificate is not valid at the time of signing.
    #[error(
        "{} is valid from {not_before} to {not_after}, not at {at}: renew the certificate, which changes PCR8",
        path.display()
    )]
    Validity {
        /// The certificate file.
        path: PathBuf,
        /// The first moment of its validity (RFC 3339).
        not_before: String,
        /// The last moment of its validity.
        not_after: String,
        /// The time given.
        at: String,
    },
    /// The image has a signature.
    #[error("{} is signed already: --replace puts the new signature in the place of the old one", image.display())]
    AlreadySigned {
        /// The image file.
        image: PathBuf,
    },
    /// There is no signature, or it is not one of this image.
    #[error("cannot sign {}", image.display())]
    Sign {
        /// The image file.
        image: PathBuf,
        /// Why not.
        #[source]
        source: SignerError,
    },
    /// The signed image could not be written.
    #[error("cannot write the image file {}", path.display())]
    Write {
        /// The image file asked for.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: eif::WriteError,
    },
    /// The reference values beside the image are not the builder's.
    #[error("the reference values in {} are malformed: move them away, or build the image again", path.display())]
    MalformedReferenceValues {
        /// Their file.
        path: PathBuf,
        /// Line, column and reason.
        #[source]
        source: serde_json::Error,
    },
    /// The reference values beside the image are of something else.
    #[error(
        "the reference values in {} are not those of {}: move them away, or build the image again",
        path.display(), image.display()
    )]
    OtherReferenceValues {
        /// The image file.
        image: PathBuf,
        /// Their file.
        path: PathBuf,
    },
    /// The provenance beside the image is of something else, or none.
    #[error(
        "{} is not the provenance of {}: move it away, or build the image again",
        path.display(), image.display()
    )]
    OtherProvenance {
        /// The image file.
        image: PathBuf,
        /// Its file.
        path: PathBuf,
    },
    /// The image is signed, what stands beside it is still that of the unsigned one.
    #[error("{} is signed, but PCR8 could not be added to {}", image.display(), path.display())]
    Beside {
        /// The signed image.
        image: PathBuf,
        /// The reference values or the provenance.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl SignError {
    /// Whether what was asked for is at fault, rather than this machine or the image.
    pub fn is_mistake(&self) -> bool {
        match self {
            Self::Image(_) | Self::Write { .. } | Self::Beside { .. } => false,
            Self::Sign { source, .. } => {
                matches!(source, SignerError::Foreign | SignerError::SignatureForm { .. })
            }
            _ => true,
        }
    }
}

/// Why a signing command gave no signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// It could not be started, or not be talked to.
    #[error("cannot run the signing command")]
    Run(#[from] io::Error),
    /// It failed.
    #[error("the signing command ended with {status}; what it wrote to stderr says why")]
    Failed {
        /// How it ended.
        status: ExitStatus,
    },
    /// It did not end in time.
    #[error("the signing command took longer than {} seconds and was ended", super::hook::TIMEOUT.as_secs())]
    TimedOut,
}
