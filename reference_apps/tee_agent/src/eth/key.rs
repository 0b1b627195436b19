//! Keys over secp256k1: the agent's own, which signs, and its operator's, which is checked.

use std::fmt;

use aws_lc_rs::rand;
use k256::{
    PublicKey, ecdh,
    ecdsa::{RecoveryId, SigningKey, VerifyingKey, signature::hazmat::PrehashVerifier},
};

use super::{Address, keccak256};

/// A key that was made here. It signs with nonces of RFC 6979 and s in the lower half.
pub struct AgentKey(SigningKey);

/// r, s, and which of the two points r stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// 32 bytes, the most significant first.
    pub r: [u8; 32],
    /// 32 bytes, the most significant first; in the lower half when signed here.
    pub s: [u8; 32],
    /// Whether the point's y is odd.
    pub y_is_odd: bool,
}

/// Whose signatures count as the operator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorKey {
    /// A public key, which signatures of any form can be checked against.
    PublicKey(Box<VerifyingKey>),
    /// An address, which only signatures that a key can be recovered from can be checked against.
    Address(Address),
}

/// Why there is no key, or why a signature is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The system's generator failed.
    #[error("no random bytes for a key")]
    Random,
    /// Not the bytes of a key.
    #[error("not a secp256k1 key: 128 hex digits of a point (x, y), or an address")]
    Form,
    /// Not 65 bytes r, s, v with v 27 or 28 (or 0 or 1), or no key could have made it.
    #[error("not a signature of 65 bytes r, s, v that a key can be recovered from")]
    Signature,
}

impl AgentKey {
    /// A fresh key.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        // Four in 2^128 draws are no key; a generator that draws those again and again is broken.
        for _ in 0..4 {
            let mut bytes = [0; 32];
            rand::fill(&mut bytes).map_err(|_| KeyError::Random)?;
            if let Ok(key) = Self::from_bytes(&bytes) {
                return Ok(key);
            }
        }
        Err(KeyError::Random)
    }

    /// The key with these 32 bytes.
    ///
    /// # Errors
    /// [`KeyError::Form`] for zero and what is not below the group's order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        SigningKey::from_slice(bytes).map(Self).map_err(|_| KeyError::Form)
    }

    /// The public key: 65 bytes, 04 x y.
    pub fn public_key(&self) -> [u8; 65] {
        uncompressed(self.0.verifying_key())
    }

    /// The address of the public key.
    pub fn address(&self) -> Address {
        address_of(self.0.verifying_key())
    }

    /// Signs a digest.
    pub fn sign_digest(&self, digest: &[u8; 32]) -> Signature {
        let (signature, recovery) = self.0.sign_prehash_recoverable(digest);
        let (r, s) = signature.split_bytes();
        Signature { r: r.into(), s: s.into(), y_is_odd: recovery.is_y_odd() }
    }

    /// The x coordinate that this key and the one whose public key is `point` (SEC1) have in common, and nobody else.
    ///
    /// # Errors
    /// [`KeyError::Form`] if `point` is no public key.
    pub fn agree(&self, point: &[u8]) -> Result<[u8; 32], KeyError> {
        let point = PublicKey::from_sec1_bytes(point).map_err(|_| KeyError::Form)?;
        let shared = ecdh::diffie_hellman(self.0.as_nonzero_scalar(), point.as_affine());
        Ok((*shared.raw_secret_bytes()).into())
    }

    /// Signs a message as `personal_sign` does (EIP-191, version 0x45).
    pub fn sign_message(&self, message: &[u8]) -> Signature {
        self.sign_digest(&message_digest(message))
    }
}

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentKey({})", self.address())
    }
}

impl Signature {
    /// 65 bytes r, s, v with v 27 or 28.
    pub fn to_bytes(&self) -> [u8; 65] {
        let mut bytes = [0; 65];
        bytes[..32].copy_from_slice(&self.r);
        bytes[32..64].copy_from_slice(&self.s);
        bytes[64] = 27 + u8::from(self.y_is_odd);
        bytes
    }
}

impl fmt::Display for Signature {
    /// `0x` and the 65 bytes in hex.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex::encode(self.to_bytes()))
    }
}

impl OperatorKey {
    /// 128 hex digits of x and y, as the first deployments write it, or an address.
    ///
    /// # Errors
    /// [`KeyError::Form`] for anything else, and for a point that is not on the curve.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let mut point = [4; 65];
        hex::decode_to_slice(text, &mut point[1..]).map_err(|_| KeyError::Form)?;
        let key = VerifyingKey::from_sec1_bytes(&point).map_err(|_| KeyError::Form)?;
        Ok(Self::PublicKey(Box::new(key)))
    }

    /// The address.
    pub fn address(&self) -> Address {
        match self {
            Self::PublicKey(key) => address_of(key),
            Self::Address(address) => *address,
        }
    }

    /// 128 hex digits of x and y, if they are known.
    pub fn public_key_hex(&self) -> Option<String> {
        match self {
            Self::PublicKey(key) => Some(hex::encode(&uncompressed(key)[1..])),
            Self::Address(_) => None,
        }
    }

    /// Whether r and s, 64 bytes, are this key's over `digest` of 16 to 32 bytes. False where only an address is known.
    /// s may be in either half: those who sign with general libraries do not lower it.
    pub fn verifies(&self, digest: &[u8], signature: &[u8; 64]) -> bool {
        let Self::PublicKey(key) = self else { return false };
        let Ok(signature) = k256::ecdsa::Signature::from_slice(signature) else { return false };
        key.verify_prehash(digest, &signature.normalize_s()).is_ok()
    }
}

/// What `personal_sign` signs: Keccak-256 over prefix, length in decimal, and message.
pub fn message_digest(message: &[u8]) -> [u8; 32] {
    let mut text = format!("\x19Ethereum Signed Message:\n{}", message.len()).into_bytes();
    text.extend_from_slice(message);
    keccak256(&text)
}

/// Whose signature it is.
///
/// # Errors
/// [`KeyError::Signature`].
pub fn recover(digest: &[u8; 32], signature: &[u8; 65]) -> Result<Address, KeyError> {
    let (pair, v) = (&signature[..64], signature[64]);
    let y_is_odd = match v {
        0 | 27 => false,
        1 | 28 => true,
        _ => return Err(KeyError::Signature),
    };
    let pair = k256::ecdsa::Signature::from_slice(pair).map_err(|_| KeyError::Signature)?;
    if pair.normalize_s() != pair {
        // With s in the upper half the same message would have a second signature.
        return Err(KeyError::Signature);
    }
    let key = VerifyingKey::recover_from_prehash(digest, &pair, RecoveryId::new(y_is_odd, false));
    key.map(|key| address_of(&key)).map_err(|_| KeyError::Signature)
}

fn uncompressed(key: &VerifyingKey) -> [u8; 65] {
    let mut bytes = [0; 65];
    bytes.copy_from_slice(key.to_sec1_point(false).as_bytes());
    bytes
}

fn address_of(key: &VerifyingKey) -> Address {
    let mut point = [0; 64];
    point.copy_from_slice(&uncompressed(key)[1..]);
    Address::of_public_key(&point)
}
