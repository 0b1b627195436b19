//! Private keys as `ssh-keygen` writes them (OpenSSH, `PROTOCOL.key`), with or without a passphrase.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;
use std::fs::File;
use std::future::ready;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::public_key::{ECDSA_CURVE, ECDSA_NAME, ED25519_BYTES, ED25519_NAME, KeyError, PublicKey};
use super::wire::{Cut, Reader, put_positive, put_string};
use super::{Identity, SignError, Signing};

/// Largest key file.
pub const MAX_KEY_FILE_BYTES: u64 = 64 * 1024;
/// Most rounds of the key derivation: about a minute of work. `ssh-keygen` uses 16 or 24 unless told otherwise.
pub const MAX_KDF_ROUNDS: u32 = 4096;

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";
const CIPHER_NONE: &[u8] = b"none";
const CIPHER_AES: &[u8] = b"aes256-ctr";
const KEY_BYTES: usize = 32;
const IV_BYTES: usize = 16;

/// A passphrase, wiped when it is dropped.
pub type Passphrase = Zeroizing<String>;

/// A private key in memory.
pub struct PrivateKey {
    public: PublicKey,
    pair: Pair,
}

enum Pair {
    Ed25519(Box<Ed25519KeyPair>),
    EcdsaP256(Box<EcdsaKeyPair>),
}

impl PrivateKey {
    /// Reads the key in the file `path`, which nobody else may be able to read. `passphrase` is asked only if the key is
    /// encrypted, and once.
    ///
    /// # Errors
    /// When the file cannot be read or is readable by others, and as [`PrivateKey::parse`].
    pub fn load(
        path: &Path,
        passphrase: &mut dyn FnMut() -> Option<Passphrase>,
    ) -> Result<Self, PrivateKeyError> {
        let unreadable = |source| PrivateKeyError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let mode = metadata.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(PrivateKeyError::Permissions { path: path.to_owned(), mode: mode & 0o777 });
        }
        if metadata.len() > MAX_KEY_FILE_BYTES {
            return Err(PrivateKeyError::Malformed);
        }
        let mut text = Zeroizing::new(String::new());
        file.by_ref().take(MAX_KEY_FILE_BYTES).read_to_string(&mut text).map_err(unreadable)?;
        Self::parse(&text, passphrase)
    }

    /// Reads a key from the text of its file.
    ///
    /// # Errors
    /// When it is no key, of a type that is not taken, or cannot be decrypted.
    pub fn parse(
        text: &str,
        passphrase: &mut dyn FnMut() -> Option<Passphrase>,
    ) -> Result<Self, PrivateKeyError> {
        let blob = unarmoured(text)?;
        let mut reader = Reader::new(&blob);
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(PrivateKeyError::Malformed);
        }
        let (cipher, kdf, options) = (reader.string()?, reader.string()?, reader.string()?);
        if reader.u32()? != 1 {
            return Err(PrivateKeyError::Malformed);
        }
        // Refuses a type before anybody is asked for a passphrase.
        let public = PublicKey::from_blob(reader.string()?)?;
        let mut secret = Zeroizing::new(reader.string()?.to_vec());
        if !reader.rest().is_empty() {
            return Err(PrivateKeyError::Malformed);
        }
        let encrypted = match (cipher, kdf) {
            (CIPHER_NONE, b"none") => false,
            (CIPHER_AES, b"bcrypt") => true,
            _ => return Err(PrivateKeyError::Cipher { found: printable(cipher) }),
        };
        if encrypted {
            let passphrase = passphrase().ok_or(PrivateKeyError::NoPassphrase)?;
            decrypt(&mut secret, &passphrase, options)?;
        }
        let pair = secret_pair(&secret, &public).map_err(|error| match error {
            // What a wrong passphrase decrypts to is no key.
            PrivateKeyError::Malformed if encrypted => PrivateKeyError::WrongPassphrase,
            other => other,
        })?;
        Ok(PrivateKey { public, pair })
    }

    fn signature(&self, data: &[u8]) -> Option<Vec<u8>> {
        let value = match &self.pair {
            Pair::Ed25519(pair) => pair.sign(data).as_ref().to_vec(),
            Pair::EcdsaP256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), data).ok()?;
                let (r, s) = signature.as_ref().split_at_checked(32)?;
                let mut value = Vec::new();
                put_positive(&mut value, r);
                put_positive(&mut value, s);
                value
            }
        };
        let mut signature = Vec::new();
        put_string(&mut signature, self.public.algorithm().as_bytes());
        put_string(&mut signature, &value);
        Some(signature)
    }
}

impl Identity for PrivateKey {
    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn sign<'a>(&'a self, data: &'a [u8]) -> Signing<'a> {
        let refused = || SignError::Refused { fingerprint: self.public.fingerprint() };
        Box::pin(ready(self.signature(data).ok_or_else(refused)))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("public", &self.public).finish_non_exhaustive()
    }
}

fn unarmoured(text: &str) -> Result<Zeroizing<Vec<u8>>, PrivateKeyError> {
    if text.contains("-----BEGIN RSA PRIVATE KEY-----") {
        return Err(KeyError::Rsa.into());
    }
    let body = text.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END));
    let body = body.ok_or(PrivateKeyError::Format)?;
    let base64: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
    STANDARD.decode(base64.as_bytes()).map(Zeroizing::new).map_err(|_| PrivateKeyError::Malformed)
}

/// The name of a cipher, safe to repeat to a person.
fn printable(name: &[u8]) -> String {
    name.iter().take(32).map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' }).collect()
}

/// AES-256 in counter mode, key and counter from bcrypt.
fn decrypt(secret: &mut [u8], passphrase: &str, options: &[u8]) -> Result<(), PrivateKeyError> {
    let mut reader = Reader::new(options);
    let (salt, rounds) = (reader.string()?, reader.u32()?);
    if !reader.rest().is_empty() || salt.is_empty() {
        return Err(PrivateKeyError::Malformed);
    }
    if !(1..=MAX_KDF_ROUNDS).contains(&rounds) {
        return Err(PrivateKeyError::Rounds { found: rounds });
    }
    let mut derived = Zeroizing::new([0; KEY_BYTES + IV_BYTES]);
    bcrypt_pbkdf::bcrypt_pbkdf(passphrase.as_bytes(), salt, rounds, derived.as_mut())
        .map_err(|_| PrivateKeyError::WrongPassphrase)?;
    let (key, iv) = derived.split_at(KEY_BYTES);
    let iv = FixedLength::<IV_BYTES>::try_from(iv).map_err(|_| PrivateKeyError::Malformed)?;
    let key = UnboundCipherKey::new(&AES_256, key).and_then(DecryptingKey::ctr);
    let key = key.map_err(|_| PrivateKeyError::Malformed)?;
    key.decrypt(secret, DecryptionContext::Iv128(iv)).map_err(|_| PrivateKeyError::Malformed)?;
    Ok(())
}

fn secret_pair(secret: &[u8], public: &PublicKey) -> Result<Pair, PrivateKeyError> {
    let mut reader = Reader::new(secret);
    // Twice the same random number, which a wrong passphrase does not give.
    if reader.u32()? != reader.u32()? {
        return Err(PrivateKeyError::Malformed);
    }
    if reader.string()? != public.algorithm().as_bytes() {
        return Err(PrivateKeyError::Malformed);
    }
    let pair = match public.algorithm() {
        ED25519_NAME => ed25519(&mut reader, public)?,
        ECDSA_NAME => ecdsa(&mut reader, public)?,
        _ => return Err(PrivateKeyError::Malformed),
    };
    let _comment = reader.string()?;
    let padding = reader.rest().iter().zip(1_u8..).all(|(found, expected)| *found == expected);
    if !padding || reader.rest().len() >= IV_BYTES {
        return Err(PrivateKeyError::Malformed);
    }
    Ok(pair)
}

fn ed25519(reader: &mut Reader<'_>, public: &PublicKey) -> Result<Pair, PrivateKeyError> {
    let (point, secret) = (reader.string()?, reader.string()?);
    let (seed, again) = secret.split_at_checked(ED25519_BYTES).ok_or(PrivateKeyError::Malformed)?;
    if point != public.bytes() || again != point {
        return Err(PrivateKeyError::Malformed);
    }
    let pair = Ed25519KeyPair::from_seed_and_public_key(seed, point);
    Ok(Pair::Ed25519(Box::new(pair.map_err(|_| PrivateKeyError::Malformed)?)))
}

fn ecdsa(reader: &mut Reader<'_>, public: &PublicKey) -> Result<Pair, PrivateKeyError> {
    if reader.string()? != ECDSA_CURVE.as_bytes() || reader.string()? != public.bytes() {
        return Err(PrivateKeyError::Malformed);
    }
    let scalar = Zeroizing::new(reader.positive::<32>()?);
    let pair = EcdsaKeyPair::from_private_key_and_public_key(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        scalar.as_ref(),
        public.bytes(),
    );
    Ok(Pair::EcdsaP256(Box::new(pair.map_err(|_| PrivateKeyError::Malformed)?)))
}

/// Why there is no private key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrivateKeyError {
    /// The file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others can read the file, so the key is theirs as well.
    #[error("{} is open to others (mode {mode:03o}): chmod 600 it", .path.display())]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not in OpenSSH's own format.
    #[error(
        "expected a private key in OpenSSH's own format (\"{BEGIN}\"), into which ssh-keygen -p rewrites others"
    )]
    Format,
    /// The key's type is not taken, or its public half is broken.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Encrypted by a cipher that is not supported.
    #[error("the private key is encrypted with {found}; only aes256-ctr, ssh-keygen's default, is supported")]
    Cipher {
        /// The cipher's name.
        found: String,
    },
    /// The key derivation would take too long, or nothing.
    #[error("the private key's passphrase is hashed {found} times; 1 to {MAX_KDF_ROUNDS} are supported")]
    Rounds {
        /// How often.
        found: u32,
    },
    /// It is encrypted, and nobody gave a passphrase.
    #[error("the private key is encrypted, and there is nobody to ask for its passphrase: ssh-add it")]
    NoPassphrase,
    /// The passphrase is not the key's.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// The file is broken.
    #[error("the private key is malformed")]
    Malformed,
}

impl From<Cut> for PrivateKeyError {
    fn from(_: Cut) -> Self {
        PrivateKeyError::Malformed
    }
}
