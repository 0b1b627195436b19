//! The enclave's half of AWS KMS's answers to attested callers.
//!
//! `Decrypt`, `GenerateDataKey` and `GenerateRandom` take a `Recipient`: an attestation document whose `public_key` is the
//! enclave's. KMS checks it against the key's policy, and answers with `CiphertextForRecipient` in the place of the
//! plaintext. The request itself, its signature and its TLS connection are any AWS SDK's, inside the enclave; [`Recipient`]
//! is the key, and opens the answer; an [`Envelope`] is data sealed with a data key of KMS. No IO.
//!
//! Format: AWS KMS Developer Guide, "Cryptographic attestation for AWS Nitro Enclaves"; the message is `EnvelopedData` of
//! RFC 5652, section 6, in BER.

#![forbid(unsafe_code)]

mod ber;
pub mod enveloped;
mod recipient;
pub mod sealed;

pub use enveloped::{EnvelopedError, MAX_MESSAGE_BYTES};
pub use recipient::{GenerateError, OpenError, Recipient};
pub use sealed::{Envelope, SealError};

/// What a request's `Recipient.KeyEncryptionAlgorithm` has to say for a [`Recipient`].
pub const KEY_ENCRYPTION_ALGORITHM: &str = "RSAES_OAEP_SHA_256";
