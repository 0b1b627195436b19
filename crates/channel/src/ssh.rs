//! OpenSSH keys as operators have them: public keys, private keys in files, the agent, and signatures (SSHSIG).
//!
//! Ed25519 and ECDSA P-256. RSA keys, certificates and keys in security tokens are refused by name. The formats are
//! small and parsed here, with a limit on everything; all cryptography is aws-lc-rs'. Nothing here speaks the SSH protocol.
//!
//! Sources: RFC 4253 section 6.6, RFC 5656 and RFC 8709 for keys and signatures; OpenSSH's `PROTOCOL.sshsig`,
//! `PROTOCOL.key` and `PROTOCOL.agent` for the rest.

mod agent;
mod private_key;
mod public_key;
mod sshsig;
mod wire;

use std::future::Future;
use std::pin::Pin;

pub use agent::{Agent, AgentError, AgentKey};
pub use private_key::{MAX_KDF_ROUNDS, MAX_KEY_FILE_BYTES, Passphrase, PrivateKey, PrivateKeyError};
pub use public_key::{KeyError, MAX_LINE_BYTES, PublicKey};
pub use sshsig::{SignatureError, verify_sshsig};

/// Whoever can sign with an OpenSSH key: a [`PrivateKey`], an [`AgentKey`], or a caller's own.
pub trait Identity: Send + Sync {
    /// The key that signs.
    fn public_key(&self) -> &PublicKey;

    /// Signs `data` itself, without any framing. The result is the algorithm's name and its signature, each as an SSH
    /// string (RFC 4253, section 6.6).
    ///
    /// It may take as long as a person who is asked takes.
    fn sign<'a>(&'a self, data: &'a [u8]) -> Signing<'a>;
}

/// A signature that is being made.
pub type Signing<'a> = Pin<Box<dyn Future<Output = Result<Vec<u8>, SignError>> + Send + 'a>>;

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The agent did not sign.
    #[error("cannot sign with the key {fingerprint}")]
    Agent {
        /// The key asked for.
        fingerprint: String,
        /// What went wrong.
        #[source]
        source: AgentError,
    },
    /// The cryptographic library refused.
    #[error("cannot sign with the key {fingerprint}: the cryptographic library refuses it")]
    Refused {
        /// The key asked for.
        fingerprint: String,
    },
    /// What came back is no signature of this key.
    #[error("the key {fingerprint} made a signature that is not valid")]
    Invalid {
        /// The key asked for.
        fingerprint: String,
        /// What is wrong with it.
        #[source]
        source: SignatureError,
    },
}

/// Signs `message` in `namespace` and gives the SSHSIG, not armoured. It is verified before it is given.
///
/// # Errors
/// When `identity` cannot sign, or makes what is no signature.
pub async fn sign_sshsig(
    identity: &dyn Identity,
    namespace: &str,
    message: &[u8],
) -> Result<Vec<u8>, SignError> {
    let data = sshsig::signed_data(namespace, message);
    let signature = identity.sign(&data).await?;
    let signature = sshsig::assemble(identity.public_key(), namespace, &signature);
    match verify_sshsig(&signature, namespace, message) {
        Ok(_) => Ok(signature),
        Err(source) => Err(SignError::Invalid { fingerprint: identity.public_key().fingerprint(), source }),
    }
}
