//! ECVRF-EDWARDS25519-SHA512-TAI without a proof (RFC 9381, sections 5.2, 5.4.1.1 and 5.5): a hash to the curve and one
//! multiplication, in the constant time that the curve's library gives.

use curve25519_dalek::{EdwardsPoint, edwards::CompressedEdwardsY, traits::IsIdentity as _};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use crate::{SECRET_KEY_BYTES, Suite};

const SUITE: u8 = Suite::Edwards25519Sha512Tai as u8;
const ENCODE_TO_CURVE_FRONT: u8 = 0x01;
const PROOF_TO_HASH_FRONT: u8 = 0x03;
const BACK: u8 = 0x00;

/// What outputs are made of. Wiped when dropped.
pub(crate) struct Evaluator {
    /// Not clamped: the lower half of the seed's hash (RFC 8032, section 5.1.5).
    scalar: Zeroizing<[u8; 32]>,
    /// The public key's encoding, which salts the hash to the curve.
    salt: [u8; 32],
}

impl Evaluator {
    pub(crate) fn new(seed: &[u8; SECRET_KEY_BYTES]) -> Self {
        let hash = Zeroizing::new(<[u8; 64]>::from(Sha512::digest(seed)));
        let (lower, _) = hash.split_first_chunk::<32>().expect("64 bytes have a first half");
        Self {
            scalar: Zeroizing::new(*lower),
            salt: EdwardsPoint::mul_base_clamped(*lower).compress().to_bytes(),
        }
    }

    /// The output of each input. Points are encoded together, which saves each but one its inversion.
    pub(crate) fn outputs<'a>(&self, inputs: impl Iterator<Item = &'a [u8]>) -> Vec<[u8; 64]> {
        let points: Vec<_> =
            inputs.map(|input| self.point(input).mul_clamped(*self.scalar).mul_by_cofactor()).collect();
        EdwardsPoint::compress_batch_alloc(&points).iter().map(hash).collect()
    }

    /// Try and increment: half of all hashes are points.
    fn point(&self, input: &[u8]) -> EdwardsPoint {
        let front = Sha512::new().chain_update([SUITE, ENCODE_TO_CURVE_FRONT]).chain_update(self.salt);
        let front = front.chain_update(input);
        (0..=u8::MAX)
            .find_map(|counter| {
                let hash: [u8; 64] = front.clone().chain_update([counter, BACK]).finalize().into();
                let (encoding, _) = hash.split_first_chunk::<32>().expect("64 bytes have a first half");
                let point = CompressedEdwardsY(*encoding).decompress()?.mul_by_cofactor();
                (!point.is_identity()).then_some(point)
            })
            .expect("one of 256 hashes is a point")
    }
}

fn hash(encoding: &CompressedEdwardsY) -> [u8; 64] {
    let front = Sha512::new().chain_update([SUITE, PROOF_TO_HASH_FRONT]);
    front.chain_update(encoding.as_bytes()).chain_update([BACK]).finalize().into()
}
