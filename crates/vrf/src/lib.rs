//! Verifiable random functions over elliptic curves (ECVRF, RFC 9381): a keyed hash whose owner can prove single values.
//!
//! Who holds the secret key maps any bytes to an output that nobody else can compute; a proof convinces whoever holds
//! the public key that an output belongs to an input, and of nothing about other inputs. The ledger places files in its
//! map by the output for their path, so that a proof about one path says nothing of the others.
//!
//! The arithmetic is `vrf-rfc9381`'s. This crate decodes strictly in front of it: every value has one encoding, and
//! another one is refused (RFC 9381, sections 5.4.4 and 5.4.5; RFC 8032, section 5.1.3), so that proofs cannot be altered by
//! those who pass them on. It does no IO and draws no random numbers.
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod edwards25519;
mod strict;

use std::fmt;

use vrf_rfc9381::{
    Proof as _, Prover, VRF, Verifier,
    ec::{
        edwards25519::tai::{
            EdVrfEdwards25519Tai, EdVrfEdwards25519TaiPublicKey, EdVrfEdwards25519TaiSecretKey,
        },
        p256::tai::{EcVrfP256Tai, EcVrfP256TaiPublicKey, EcVrfP256TaiSecretKey},
    },
};
use zeroize::Zeroizing;

/// Bytes of a secret key of either suite.
pub const SECRET_KEY_BYTES: usize = 32;

/// Which curve, hash and encoding. The number is RFC 9381's `suite_string`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// ECVRF-P256-SHA256-TAI: public keys of 33 bytes, proofs of 81, outputs of 32.
    P256Sha256Tai = 0x01,
    /// ECVRF-EDWARDS25519-SHA512-TAI: public keys of 32 bytes, proofs of 80, outputs of 64.
    Edwards25519Sha512Tai = 0x03,
}

/// Why bytes are refused. What they hold is in none of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number that names no suite of this crate.
    #[error("VRF suite {0:#04x} is not known; known are 0x01 (P-256) and 0x03 (Ed25519)")]
    UnknownSuite(u8),
    /// Too many or too few bytes.
    #[error("{what} has {found} bytes, expected {expected}")]
    Length {
        /// Which value.
        what: &'static str,
        /// Its length in bytes.
        found: usize,
        /// The length that its suite has, in bytes.
        expected: usize,
    },
    /// Zero, or not below the order of the group. Ed25519 has no such key.
    #[error("the VRF secret key is out of range")]
    SecretKey,
    /// Not on the curve, of small order, or not in the one encoding that it has.
    #[error("the VRF public key is no point of its group in canonical form")]
    PublicKey,
    /// `Gamma` is no point in canonical form, or `s` is not below the order of the group.
    #[error("the VRF proof is not in canonical form")]
    ProofEncoding,
    /// The proof belongs to another key or input.
    #[error("the VRF proof does not hold for this key and input")]
    Proof,
}

impl Suite {
    /// Bytes of a public key.
    pub const fn public_key_bytes(self) -> usize {
        match self {
            Self::P256Sha256Tai => 33,
            Self::Edwards25519Sha512Tai => 32,
        }
    }

    /// Bytes of a proof: a point, a challenge of 16 and a scalar of 32.
    pub const fn proof_bytes(self) -> usize {
        match self {
            Self::P256Sha256Tai => 81,
            Self::Edwards25519Sha512Tai => 80,
        }
    }

    /// Bytes of an output.
    pub const fn output_bytes(self) -> usize {
        match self {
            Self::P256Sha256Tai => 32,
            Self::Edwards25519Sha512Tai => 64,
        }
    }
}

impl TryFrom<u8> for Suite {
    type Error = Error;

    fn try_from(number: u8) -> Result<Self, Error> {
        match number {
            0x01 => Ok(Self::P256Sha256Tai),
            0x03 => Ok(Self::Edwards25519Sha512Tai),
            other => Err(Error::UnknownSuite(other)),
        }
    }
}

/// The key of who proves. Wiped when dropped; its debug form shows the public key only.
pub struct SecretKey {
    prover: Secret,
    public: PublicKey,
}

enum Secret {
    P256(EcVrfP256TaiSecretKey),
    Ed25519(EdVrfEdwards25519TaiSecretKey, edwards25519::Evaluator),
}

impl SecretKey {
    /// Makes a key of 32 random bytes: of Ed25519 the seed (RFC 8032, section 5.1.5), of P-256 the scalar, big-endian.
    ///
    /// # Errors
    /// [`Error::SecretKey`] if the scalar of P-256 is zero or not below the group's order, which random bytes are with a
    /// probability of 2^-32: draw again.
    pub fn from_bytes(suite: Suite, bytes: &[u8; SECRET_KEY_BYTES]) -> Result<Self, Error> {
        let bytes = Zeroizing::new(*bytes);
        let prover = match suite {
            Suite::P256Sha256Tai => Secret::P256(
                EcVrfP256TaiSecretKey::from_slice(bytes.as_slice()).map_err(|_| Error::SecretKey)?,
            ),
            Suite::Edwards25519Sha512Tai => Secret::Ed25519(
                EdVrfEdwards25519TaiSecretKey::from_slice(bytes.as_slice()).map_err(|_| Error::SecretKey)?,
                edwards25519::Evaluator::new(&bytes),
            ),
        };
        let public = PublicKey { suite, bytes: strict::public_key_of(suite, &bytes)? };
        Ok(Self { prover, public })
    }

    /// The key for those who verify.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Proves which output belongs to `input`.
    pub fn prove(&self, input: &[u8]) -> Proof {
        // Fails only if none of 256 hashes is a point, with a probability of 2^-256.
        const POINT: &str = "one of 256 hashes is a point";
        let bytes = match &self.prover {
            Secret::P256(key) => EcVrfP256Tai.prove(key, input).expect(POINT),
            Secret::Ed25519(key, _) => EdVrfEdwards25519Tai.prove(key, input).expect(POINT),
        };
        Proof { suite: self.public.suite, bytes }
    }
}

impl SecretKey {
    /// The output that belongs to `input`, without a proof: on Ed25519 at a third of the cost of one.
    pub fn output(&self, input: &[u8]) -> Output {
        self.outputs([input]).pop().expect("one output for each input")
    }

    /// The outputs of several inputs, in their order: on Ed25519 for less than one at a time.
    pub fn outputs<'a>(&self, inputs: impl IntoIterator<Item = &'a [u8]>) -> Vec<Output> {
        let inputs = inputs.into_iter();
        match &self.prover {
            Secret::P256(_) => inputs.map(|input| self.prove(input).output()).collect(),
            Secret::Ed25519(_, evaluator) => {
                evaluator.outputs(inputs).iter().map(|output| Output(output.to_vec())).collect()
            }
        }
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// The key of who verifies: a point that is on its curve, of large order, and in its one encoding.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    suite: Suite,
    bytes: Vec<u8>,
}

impl PublicKey {
    /// Decodes and validates (RFC 9381, section 5.4.5): 33 bytes compressed (SEC 1) or 32 bytes (RFC 8032).
    ///
    /// # Errors
    /// [`Error::Length`] and [`Error::PublicKey`].
    pub fn from_bytes(suite: Suite, bytes: &[u8]) -> Result<Self, Error> {
        check_length("a VRF public key", bytes, suite.public_key_bytes())?;
        strict::check_public_key(suite, bytes)?;
        Ok(Self { suite, bytes: bytes.to_vec() })
    }

    /// Its suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Its encoding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Checks that `proof` was made by this key's owner for `input`, and returns the output it proves.
    ///
    /// # Errors
    /// [`Error::Proof`] for any other key, input or suite.
    pub fn verify(&self, input: &[u8], proof: &Proof) -> Result<Output, Error> {
        if proof.suite != self.suite {
            return Err(Error::Proof);
        }
        match self.suite {
            Suite::P256Sha256Tai => {
                let key = EcVrfP256TaiPublicKey::from_slice(&self.bytes).map_err(|_| Error::PublicKey)?;
                EcVrfP256Tai.verify(&key, input, &proof.bytes).map(|beta| Output(beta.to_vec()))
            }
            Suite::Edwards25519Sha512Tai => {
                let key =
                    EdVrfEdwards25519TaiPublicKey::from_slice(&self.bytes).map_err(|_| Error::PublicKey)?;
                EdVrfEdwards25519Tai.verify(&key, input, &proof.bytes).map(|beta| Output(beta.to_vec()))
            }
        }
        .map_err(|_| Error::Proof)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?}, ", self.suite)?;
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// What convinces others of an output: RFC 9381's `pi_string`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proof {
    suite: Suite,
    bytes: Vec<u8>,
}

impl Proof {
    /// Decodes 81 bytes (P-256) or 80 (Ed25519).
    ///
    /// # Errors
    /// [`Error::Length`], and [`Error::ProofEncoding`] for another encoding of a valid proof as much as for none at all.
    pub fn from_bytes(suite: Suite, bytes: &[u8]) -> Result<Self, Error> {
        check_length("a VRF proof", bytes, suite.proof_bytes())?;
        strict::check_proof(suite, bytes)?;
        Ok(Self { suite, bytes: bytes.to_vec() })
    }

    /// Its suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Its encoding.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The output that the proof is about, which is proven only by [`PublicKey::verify`]: for who made the proof.
    pub fn output(&self) -> Output {
        const DECODED: &str = "a proof was made or decoded here";
        match self.suite {
            Suite::P256Sha256Tai => {
                let proof = <EcVrfP256Tai as VRF>::Proof::decode_pi(&self.bytes).expect(DECODED);
                let beta = proof.proof_to_hash(EcVrfP256Tai.ciphersuite());
                Output(beta.expect(DECODED).to_vec())
            }
            Suite::Edwards25519Sha512Tai => {
                let proof = <EdVrfEdwards25519Tai as VRF>::Proof::decode_pi(&self.bytes).expect(DECODED);
                let beta = proof.proof_to_hash(EdVrfEdwards25519Tai.ciphersuite());
                Output(beta.expect(DECODED).to_vec())
            }
        }
    }
}

/// A value of the function: RFC 9381's `beta_string`, 32 bytes (P-256) or 64 (Ed25519), which look random to who has
/// no proof.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Output(Vec<u8>);

impl Output {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn check_length(what: &'static str, bytes: &[u8], expected: usize) -> Result<(), Error> {
    if bytes.len() == expected { Ok(()) } else { Err(Error::Length { what, found: bytes.len(), expected }) }
}
