//! One encoding for every value: what decodes is encoded again and compared.

use curve25519_dalek::{EdwardsPoint, Scalar, edwards::CompressedEdwardsY};
use p256::elliptic_curve::sec1::ToSec1Point;
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use crate::{Error, SECRET_KEY_BYTES, Suite};

/// Bytes of a point and of a challenge in a proof on Ed25519.
const ED25519_POINT_BYTES: usize = 32;
/// Bytes of a compressed point of P-256.
const P256_POINT_BYTES: usize = 33;
/// Bytes of the challenge in a proof.
const CHALLENGE_BYTES: usize = 16;

pub(crate) fn public_key_of(suite: Suite, secret: &[u8; SECRET_KEY_BYTES]) -> Result<Vec<u8>, Error> {
    match suite {
        Suite::P256Sha256Tai => {
            let key = p256::SecretKey::from_slice(secret).map_err(|_| Error::SecretKey)?;
            Ok(key.public_key().to_sec1_point(true).as_bytes().to_vec())
        }
        Suite::Edwards25519Sha512Tai => {
            // RFC 8032, section 5.1.5: the lower half of the hash is the scalar.
            let hash = Zeroizing::new(<[u8; 64]>::from(Sha512::digest(secret)));
            let (lower, _) = hash.split_first_chunk::<32>().expect("64 bytes have a first half");
            Ok(EdwardsPoint::mul_base_clamped(*lower).compress().as_bytes().to_vec())
        }
    }
}

pub(crate) fn check_public_key(suite: Suite, bytes: &[u8]) -> Result<(), Error> {
    let valid = match suite {
        Suite::P256Sha256Tai => is_p256_point(bytes),
        Suite::Edwards25519Sha512Tai => ed25519_point(bytes).is_some_and(|point| !point.is_small_order()),
    };
    if valid { Ok(()) } else { Err(Error::PublicKey) }
}

pub(crate) fn check_proof(suite: Suite, bytes: &[u8]) -> Result<(), Error> {
    let valid = match suite {
        Suite::P256Sha256Tai => split(bytes, P256_POINT_BYTES).is_some_and(|(gamma, challenge, s)| {
            // The arithmetic has neither as zero, which a proof holds with a probability of 2^-128.
            let scalar = p256::SecretKey::from_slice(s).is_ok();
            is_p256_point(gamma) && scalar && challenge.iter().any(|byte| *byte != 0)
        }),
        Suite::Edwards25519Sha512Tai => split(bytes, ED25519_POINT_BYTES).is_some_and(|(gamma, _, s)| {
            let scalar =
                <[u8; 32]>::try_from(s).ok().and_then(|s| Scalar::from_canonical_bytes(s).into_option());
            ed25519_point(gamma).is_some() && scalar.is_some()
        }),
    };
    if valid { Ok(()) } else { Err(Error::ProofEncoding) }
}

/// A proof's point, challenge and scalar.
fn split(proof: &[u8], point_bytes: usize) -> Option<(&[u8], &[u8], &[u8])> {
    let (point, rest) = proof.split_at_checked(point_bytes)?;
    let (challenge, scalar) = rest.split_at_checked(CHALLENGE_BYTES)?;
    Some((point, challenge, scalar))
}

/// The decoder takes other forms of 33 bytes than the compressed one too.
fn is_p256_point(bytes: &[u8]) -> bool {
    p256::PublicKey::from_sec1_bytes(bytes).is_ok_and(|point| point.to_sec1_point(true).as_bytes() == bytes)
}

/// The decoder reduces coordinates modulo p and ignores the sign of zero.
fn ed25519_point(bytes: &[u8]) -> Option<EdwardsPoint> {
    let compressed = CompressedEdwardsY::from_slice(bytes).ok()?;
    compressed.decompress().filter(|point| point.compress() == compressed)
}
