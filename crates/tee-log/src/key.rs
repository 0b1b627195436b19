//! The log's key: ECDSA over secp256k1 with SHA-256, nonces of RFC 6979, signatures in DER.

use std::fmt;

use aws_lc_rs::rand;
use k256::ecdsa::{
    DerSignature, Signature, VerifyingKey,
    signature::hazmat::{PrehashSigner, PrehashVerifier},
};

/// A key that was made here.
pub struct SigningKey(k256::ecdsa::SigningKey);

/// A compressed point: 33 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 33]);

impl SigningKey {
    /// A fresh key; none if there are no random bytes.
    pub fn generate() -> Option<Self> {
        // Four in 2^128 draws are no key; a generator that draws those again and again is broken.
        (0..4).find_map(|_| {
            let mut bytes = [0; 32];
            rand::fill(&mut bytes).ok()?;
            Self::from_bytes(&bytes)
        })
    }

    /// The key with these bytes; none for zero and what is not below the group's order.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        k256::ecdsa::SigningKey::from_slice(bytes).map(Self).ok()
    }

    /// Its public half.
    pub fn public_key(&self) -> PublicKey {
        let mut bytes = [0; 33];
        bytes.copy_from_slice(self.0.verifying_key().to_sec1_point(true).as_bytes());
        PublicKey(bytes)
    }

    /// Signs a digest: DER.
    pub fn sign(&self, digest: &[u8; 32]) -> Vec<u8> {
        let signature: Signature = self.0.sign_prehash(digest).expect("a digest of 32 bytes can be signed");
        signature.to_der().as_bytes().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public_key())
    }
}

impl PublicKey {
    /// The same for DER with s in either half.
    pub(crate) fn verifies_either(&self, digest: &[u8; 32], signature: &[u8]) -> bool {
        let signature = DerSignature::from_bytes(signature).and_then(Signature::try_from);
        signature.is_ok_and(|signature| self.verifies(digest, signature.normalize_s().to_der().as_bytes()))
    }

    /// Whether `signature` (DER, s in the lower half) is this key's over `digest`.
    pub fn verifies(&self, digest: &[u8; 32], signature: &[u8]) -> bool {
        let Ok(key) = VerifyingKey::from_sec1_bytes(&self.0) else { return false };
        let Ok(signature) = DerSignature::from_bytes(signature).and_then(Signature::try_from) else {
            return false;
        };
        // The other half would be a second signature of the same entry.
        signature.normalize_s() == signature && key.verify_prehash(digest, &signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
