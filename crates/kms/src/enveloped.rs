//! `CiphertextForRecipient`: an `EnvelopedData` for one recipient with an RSA key (RFC 5652, sections 3 and 6), as KMS
//! writes it. Anything that could be meant otherwise is refused.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::ber::{Elements, Malformed};

/// Longest message, in bytes. KMS gives at most 4096 bytes of plaintext.
pub const MAX_MESSAGE_BYTES: usize = 16 << 10;

/// Bytes of an initialisation vector of AES-CBC.
pub const IV_BYTES: usize = 16;

const OBJECT_IDENTIFIER: u8 = 0x06;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OCTET_STRING_OF_PARTS: u8 = 0x24;
const NULL: u8 = 0x05;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0]` with a value, and with elements.
const CONTEXT_0: u8 = 0x80;
const CONTEXT_0_OF_PARTS: u8 = 0xa0;
const CONTEXT_1_OF_PARTS: u8 = 0xa1;

// Object identifiers, encoded (X.690, section 8.19).
/// 1.2.840.113549.1.7.1
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
/// 1.2.840.113549.1.7.3
const ENVELOPED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 3];
/// 1.2.840.113549.1.1.7
const RSAES_OAEP: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 7];
/// 1.2.840.113549.1.1.8
const MGF1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8];
/// 2.16.840.1.101.3.4.2.1
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 101, 3, 4, 2, 1];
/// 2.16.840.1.101.3.4.1.42
const AES256_CBC: &[u8] = &[0x60, 0x86, 0x48, 1, 101, 3, 4, 1, 42];

/// What is in a message, still encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enveloped<'a> {
    /// The content's key (AES-256), encrypted with RSAES-OAEP, SHA-256 and MGF1 with SHA-256 (RFC 8017, section 7.1).
    pub encrypted_key: &'a [u8],
    /// The initialisation vector of AES-256-CBC.
    pub iv: [u8; IV_BYTES],
    /// The content, padded (RFC 5652, section 6.3) and encrypted.
    pub encrypted_content: Vec<u8>,
}

/// Why bytes are not such a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopedError {
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("the message has {found} bytes, more than the {MAX_MESSAGE_BYTES} allowed")]
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// Not the structure of such a message.
    #[error("the message is no EnvelopedData for one recipient with an RSA key")]
    Malformed,
    /// The structure is right, and says another algorithm than KMS says for `RSAES_OAEP_SHA_256`.
    #[error("the message has another {0}")]
    Algorithm(&'static str),
}

impl From<Malformed> for EnvelopedError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl<'a> Enveloped<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// [`EnvelopedError`] for anything that is not the one structure with the one set of algorithms.
    pub fn parse(message: &'a [u8]) -> Result<Self, EnvelopedError> {
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(EnvelopedError::TooLong { found: message.len() });
        }
        let mut outer = Elements::new(message);
        let mut info = Elements::new(outer.expect(SEQUENCE)?);
        outer.end()?;
        same(info.expect(OBJECT_IDENTIFIER)?, ENVELOPED_DATA, "content type")?;
        let mut explicit = Elements::new(info.expect(CONTEXT_0_OF_PARTS)?);
        info.end()?;
        let mut data = Elements::new(explicit.expect(SEQUENCE)?);
        explicit.end()?;
        // With a key identifier for recipients the version is 2, and theirs as well (section 6.1).
        data.expect(INTEGER)?;
        let mut recipients = Elements::new(data.expect(SET)?);
        let encrypted_key = recipient(recipients.expect(SEQUENCE)?)?;
        recipients.end()?;
        let (iv, encrypted_content) = content(data.expect(SEQUENCE)?)?;
        data.end()?;
        Ok(Self { encrypted_key, iv, encrypted_content })
    }
}

/// `KeyTransRecipientInfo`. Who the recipient is is not looked at: the key opens it or not.
fn recipient(bytes: &[u8]) -> Result<&[u8], EnvelopedError> {
    let mut info = Elements::new(bytes);
    info.expect(INTEGER)?;
    if info.next_if(CONTEXT_0)?.is_none() {
        info.expect(SEQUENCE)?;
    }
    let mut algorithm = Elements::new(info.expect(SEQUENCE)?);
    same(algorithm.expect(OBJECT_IDENTIFIER)?, RSAES_OAEP, "key encryption algorithm")?;
    oaep_parameters(algorithm.expect(SEQUENCE)?)?;
    algorithm.end()?;
    let encrypted_key = info.expect(OCTET_STRING)?;
    info.end()?;
    Ok(encrypted_key)
}

/// `RSAES-OAEP-params` (RFC 4055, section 4.1): SHA-256 both times, and no label.
fn oaep_parameters(bytes: &[u8]) -> Result<(), EnvelopedError> {
    const WHAT: &str = "hash of the key encryption";
    let mut parameters = Elements::new(bytes);
    let mut hash =
        Elements::new(parameters.next_if(CONTEXT_0_OF_PARTS)?.ok_or(EnvelopedError::Algorithm(WHAT))?);
    is_sha256(&mut hash, WHAT)?;
    hash.end()?;
    let mask = parameters.next_if(CONTEXT_1_OF_PARTS)?.ok_or(EnvelopedError::Algorithm(WHAT))?;
    let mut mask = Elements::new(mask);
    let mut generator = Elements::new(mask.expect(SEQUENCE)?);
    mask.end()?;
    same(generator.expect(OBJECT_IDENTIFIER)?, MGF1, "mask generation")?;
    is_sha256(&mut generator, WHAT)?;
    generator.end()?;
    Ok(parameters.end()?)
}

fn is_sha256(elements: &mut Elements<'_>, what: &'static str) -> Result<(), EnvelopedError> {
    let mut algorithm = Elements::new(elements.expect(SEQUENCE)?);
    same(algorithm.expect(OBJECT_IDENTIFIER)?, SHA256, what)?;
    algorithm.next_if(NULL)?;
    Ok(algorithm.end()?)
}

/// `EncryptedContentInfo`.
fn content(bytes: &[u8]) -> Result<([u8; IV_BYTES], Vec<u8>), EnvelopedError> {
    let mut info = Elements::new(bytes);
    same(info.expect(OBJECT_IDENTIFIER)?, DATA, "type of the encrypted content")?;
    let mut algorithm = Elements::new(info.expect(SEQUENCE)?);
    same(algorithm.expect(OBJECT_IDENTIFIER)?, AES256_CBC, "content encryption algorithm")?;
    let iv = algorithm.expect(OCTET_STRING)?.try_into().map_err(|_| EnvelopedError::Malformed)?;
    algorithm.end()?;
    let content = match info.next_if(CONTEXT_0)? {
        Some(whole) => whole.to_vec(),
        None => join(info.expect(CONTEXT_0_OF_PARTS)?)?,
    };
    info.end()?;
    Ok((iv, content))
}

/// An octet string in parts (X.690, section 8.7.3), which may be in parts themselves, once.
fn join(bytes: &[u8]) -> Result<Vec<u8>, EnvelopedError> {
    let mut joined = Vec::new();
    let mut parts = Elements::new(bytes);
    while !parts.is_empty() {
        match parts.next_if(OCTET_STRING_OF_PARTS)? {
            Some(inner) => {
                let mut inner = Elements::new(inner);
                while !inner.is_empty() {
                    joined.extend_from_slice(inner.expect(OCTET_STRING)?);
                }
            }
            None => joined.extend_from_slice(parts.expect(OCTET_STRING)?),
        }
    }
    Ok(joined)
}

fn same(found: &[u8], expected: &[u8], what: &'static str) -> Result<(), EnvelopedError> {
    if found == expected { Ok(()) } else { Err(EnvelopedError::Algorithm(what)) }
}
