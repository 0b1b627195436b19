//! SSHSIG: signatures by SSH keys over anything, in a namespace (OpenSSH, `PROTOCOL.sshsig`). Without its armour.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use aws_lc_rs::digest::{SHA512, digest};

use super::public_key::{KeyError, PublicKey};
use super::wire::{Cut, Reader, put_string};

const MAGIC: &[u8] = b"SSHSIG";
const VERSION: u32 = 1;
/// The only hash that is made and taken; ssh-keygen's default.
const HASH: &str = "sha512";

/// What the key signs.
pub(super) fn signed_data(namespace: &str, message: &[u8]) -> Vec<u8> {
    let mut data = MAGIC.to_vec();
    put_string(&mut data, namespace.as_bytes());
    put_string(&mut data, b"");
    put_string(&mut data, HASH.as_bytes());
    put_string(&mut data, digest(&SHA512, message).as_ref());
    data
}

/// Puts a signature (algorithm and value) into its envelope.
pub(super) fn assemble(key: &PublicKey, namespace: &str, signature: &[u8]) -> Vec<u8> {
    let mut envelope = MAGIC.to_vec();
    envelope.extend_from_slice(&VERSION.to_be_bytes());
    put_string(&mut envelope, &key.to_blob());
    put_string(&mut envelope, namespace.as_bytes());
    put_string(&mut envelope, b"");
    put_string(&mut envelope, HASH.as_bytes());
    put_string(&mut envelope, signature);
    envelope
}

/// Verifies that `envelope` is an SSHSIG over `message` in `namespace`, and says whose. Whether that key may do
/// anything is the caller's question.
///
/// # Errors
/// Whatever deviates from the one form that is taken: version 1, SHA-512, nothing reserved, nothing after it.
pub fn verify_sshsig(envelope: &[u8], namespace: &str, message: &[u8]) -> Result<PublicKey, SignatureError> {
    let mut reader = Reader::new(envelope);
    if reader.take(MAGIC.len())? != MAGIC {
        return Err(SignatureError::Malformed);
    }
    match reader.u32()? {
        VERSION => {}
        found => return Err(SignatureError::Version { found }),
    }
    let key = PublicKey::from_blob(reader.string()?)?;
    if reader.string()? != namespace.as_bytes() {
        return Err(SignatureError::Namespace);
    }
    let (reserved, hash, signature) = (reader.string()?, reader.string()?, reader.string()?);
    if !reserved.is_empty() || !reader.rest().is_empty() {
        return Err(SignatureError::Malformed);
    }
    if hash != HASH.as_bytes() {
        return Err(SignatureError::Hash);
    }
    key.verify(&signed_data(namespace, message), signature)?;
    Ok(key)
}

/// Why a signature is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Cut short, too long, or with something reserved in it.
    #[error("not an SSHSIG signature")]
    Malformed,
    /// Another version of the format.
    #[error("SSHSIG: expected version {VERSION}, found {found}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The key in it cannot be used.
    #[error("SSHSIG: the signer's key")]
    Key(#[from] KeyError),
    /// It was made for another purpose.
    #[error("SSHSIG: made in another namespace")]
    Namespace,
    /// It is over another hash.
    #[error("SSHSIG: expected a signature over {HASH}")]
    Hash,
    /// It is of another algorithm than its key.
    #[error("SSHSIG: the signature is of another algorithm than its key")]
    Algorithm,
    /// It is not the key's signature over this message.
    #[error("SSHSIG: the signature is not valid")]
    Invalid,
}

impl From<Cut> for SignatureError {
    fn from(_: Cut) -> Self {
        SignatureError::Malformed
    }
}
