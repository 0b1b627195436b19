//! Public keys: how they are written in `authorized_keys`, how they are encoded, how they are named.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::sshsig::SignatureError;
use super::wire::{Cut, Reader, put_string};

/// Longest line of a public key, comment included.
pub const MAX_LINE_BYTES: usize = 8 * 1024;

pub(super) const ED25519_NAME: &str = "ssh-ed25519";
pub(super) const ECDSA_NAME: &str = "ecdsa-sha2-nistp256";
pub(super) const ECDSA_CURVE: &str = "nistp256";
pub(super) const ED25519_BYTES: usize = 32;
/// 4, x, y (SEC 1, section 2.3.3, not compressed).
pub(super) const ECDSA_POINT_BYTES: usize = 65;

/// An OpenSSH public key that can be verified with.
///
/// Its text is that of a line in `authorized_keys`, without a comment: `ssh-ed25519 AAAA...`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(Kind);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    Ed25519([u8; ED25519_BYTES]),
    EcdsaP256([u8; ECDSA_POINT_BYTES]),
}

impl PublicKey {
    /// Reads a line as it is in a `.pub` file or, without options, in `authorized_keys`: type, key, and perhaps a comment,
    /// which is not kept.
    ///
    /// # Errors
    /// When it is no such line, or a key of a type that is not taken.
    pub fn from_line(line: &str) -> Result<Self, KeyError> {
        if line.len() > MAX_LINE_BYTES {
            return Err(KeyError::Line);
        }
        let line = line.trim_matches(['\r', '\n', ' ', '\t']);
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(encoded)) = (words.next(), words.next()) else { return Err(KeyError::Line) };
        if line.contains(['\n', '\r']) {
            return Err(KeyError::Line);
        }
        known(name)?;
        let blob = STANDARD.decode(encoded).map_err(|_| KeyError::Line)?;
        let key = Self::from_blob(&blob)?;
        if key.algorithm() != name {
            return Err(KeyError::Line);
        }
        Ok(key)
    }

    /// Decodes a key (RFC 4253, section 6.6).
    ///
    /// # Errors
    /// When it is no key, or of a type that is not taken.
    pub fn from_blob(blob: &[u8]) -> Result<Self, KeyError> {
        let mut reader = Reader::new(blob);
        let name = std::str::from_utf8(reader.string()?).map_err(|_| KeyError::Malformed)?;
        known(name)?;
        let kind = if name == ED25519_NAME {
            Kind::Ed25519(reader.string()?.try_into().map_err(|_| KeyError::Malformed)?)
        } else {
            if reader.string()? != ECDSA_CURVE.as_bytes() {
                return Err(KeyError::Malformed);
            }
            Kind::EcdsaP256(reader.string()?.try_into().map_err(|_| KeyError::Malformed)?)
        };
        if !reader.rest().is_empty() {
            return Err(KeyError::Malformed);
        }
        let key = PublicKey(kind);
        // Refuses what is no point of the curve. A compressed or hybrid point would be a second name for a key.
        ParsedPublicKey::new(key.verification(), key.bytes()).map_err(|_| KeyError::Invalid)?;
        if matches!(kind, Kind::EcdsaP256([first, ..]) if first != 4) {
            return Err(KeyError::Invalid);
        }
        Ok(key)
    }

    /// The key's encoding (RFC 4253, section 6.6).
    pub fn to_blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        put_string(&mut blob, self.algorithm().as_bytes());
        if let Kind::EcdsaP256(_) = self.0 {
            put_string(&mut blob, ECDSA_CURVE.as_bytes());
        }
        put_string(&mut blob, self.bytes());
        blob
    }

    /// `ssh-ed25519` or `ecdsa-sha2-nistp256`.
    pub fn algorithm(&self) -> &'static str {
        match self.0 {
            Kind::Ed25519(_) => ED25519_NAME,
            Kind::EcdsaP256(_) => ECDSA_NAME,
        }
    }

    /// What `ssh-keygen -l` prints: `SHA256:` and the digest of the encoding in base64 without padding.
    pub fn fingerprint(&self) -> String {
        let digest = attestation::Sha256::of(&self.to_blob());
        format!("SHA256:{}", STANDARD_NO_PAD.encode(digest.0))
    }

    /// The curve's point.
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.0 {
            Kind::Ed25519(bytes) => bytes,
            Kind::EcdsaP256(bytes) => bytes,
        }
    }

    fn verification(&self) -> &'static dyn VerificationAlgorithm {
        match self.0 {
            Kind::Ed25519(_) => &ED25519,
            Kind::EcdsaP256(_) => &ECDSA_P256_SHA256_FIXED,
        }
    }

    /// Verifies `signature`, algorithm and value as SSH strings, over `data`.
    pub(super) fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let mut reader = Reader::new(signature);
        let algorithm = reader.string()?;
        if algorithm != self.algorithm().as_bytes() {
            return Err(SignatureError::Algorithm);
        }
        let value = reader.string()?;
        if !reader.rest().is_empty() {
            return Err(SignatureError::Malformed);
        }
        let fixed = match self.0 {
            Kind::Ed25519(_) => value.try_into().map_err(|_| SignatureError::Malformed)?,
            Kind::EcdsaP256(_) => fixed_ecdsa(value)?,
        };
        let fixed: [u8; 64] = fixed;
        let key = UnparsedPublicKey::new(self.verification(), self.bytes());
        key.verify(data, &fixed).map_err(|_| SignatureError::Invalid)
    }
}

/// r and s, 32 bytes each (RFC 5656, section 3.1.2).
fn fixed_ecdsa(value: &[u8]) -> Result<[u8; 64], SignatureError> {
    let mut reader = Reader::new(value);
    let (r, s): ([u8; 32], [u8; 32]) = (reader.positive()?, reader.positive()?);
    if !reader.rest().is_empty() {
        return Err(SignatureError::Malformed);
    }
    let mut fixed = [0; 64];
    let (first, second) = fixed.split_at_mut(32);
    first.copy_from_slice(&r);
    second.copy_from_slice(&s);
    Ok(fixed)
}

fn known(name: &str) -> Result<(), KeyError> {
    match name {
        ED25519_NAME | ECDSA_NAME => Ok(()),
        "ssh-rsa" | "rsa-sha2-256" | "rsa-sha2-512" => Err(KeyError::Rsa),
        other if is_type(other) => Err(KeyError::Type { found: other.to_owned() }),
        _ => Err(KeyError::Line),
    }
}

/// Whether it is the name of some type of key, which is safe to repeat to a person.
fn is_type(name: &str) -> bool {
    let starts = ["ssh-", "ecdsa-", "sk-", "rsa-"].iter().any(|prefix| name.starts_with(prefix));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-@._".contains(c);
    starts && name.len() <= 64 && name.chars().all(plain)
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(line: &str) -> Result<Self, KeyError> {
        Self::from_line(line)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm(), STANDARD.encode(self.to_blob()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// Why something is no public key that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a line of type, key and comment.
    #[error("expected a public key as in a .pub file, without options: TYPE KEY [COMMENT]")]
    Line,
    /// RSA, which is not taken.
    #[error("RSA keys are not taken: make one with ssh-keygen -t ed25519")]
    Rsa,
    /// Another type that is not taken.
    #[error("keys of type {found} are not taken: only {ED25519_NAME} and {ECDSA_NAME}")]
    Type {
        /// The type's name.
        found: String,
    },
    /// The encoding is broken.
    #[error("the public key is malformed")]
    Malformed,
    /// The encoding is right, but the value is no key.
    #[error("the public key is not a point of its curve")]
    Invalid,
}

impl From<Cut> for KeyError {
    fn from(_: Cut) -> Self {
        KeyError::Malformed
    }
}
