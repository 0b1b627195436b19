//! `GetKey`: keys derived from one that was made in this process, and the signatures that chain them to it.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use k256::ecdsa::SigningKey;
use serde_json::{Value, json};
use sha3::{Digest, Keccak256};

use super::Arguments;
use crate::error::ApiError;

/// The salt of every derivation.
const SALT: &[u8] = b"RATLS";

/// What the root signs of an application's key goes behind this.
const ISSUED: &[u8] = b"dstack-kms-issued:";

/// Bytes of every key.
const KEY_BYTES: usize = 32;

/// A root, as a key service would have it, and the application's key under it. Nobody outside knows either.
pub(in crate::application) struct Keys {
    root: SigningKey,
    application: SigningKey,
}

/// The length of what is derived.
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

impl Keys {
    /// Fresh keys.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub(in crate::application) fn generate() -> Result<Self, ApiError> {
        Ok(Self { root: signing_key()?, application: signing_key()? })
    }

    /// What `GetKey` answers.
    pub(super) fn answer(&self, arguments: &Arguments, app_id: &[u8]) -> Result<Value, ApiError> {
        let (path, purpose) = (arguments.text("path")?, arguments.text("purpose")?);
        let key = self.derived(path)?;
        let public = match arguments.text("algorithm")? {
            "" | "secp256k1" | "k256" => {
                let key = SigningKey::from_slice(&key).map_err(|_| ApiError::NoKey)?;
                compressed(&key)
            }
            "ed25519" => {
                let pair = Ed25519KeyPair::from_seed_unchecked(&key).map_err(|_| ApiError::NoKey)?;
                pair.public_key().as_ref().to_vec()
            }
            _ => {
                let known = &["secp256k1", "k256", "ed25519"];
                return Err(ApiError::Choice { name: "algorithm", known });
            }
        };
        let message = format!("{purpose}:{}", hex::encode(public));
        let issued = [ISSUED, app_id, &compressed(&self.application)].concat();
        Ok(json!({
            "key": hex::encode(key),
            "signature_chain": [sign(&self.application, message.as_bytes()), sign(&self.root, &issued)],
        }))
    }

    fn derived(&self, path: &str) -> Result<[u8; KEY_BYTES], ApiError> {
        let secret = self.application.to_bytes();
        let mut key = [0; KEY_BYTES];
        let info = [path.as_bytes()];
        let extracted = Salt::new(HKDF_SHA256, SALT).extract(secret.as_ref());
        let expanded = extracted.expand(&info, Length).and_then(|okm| okm.fill(&mut key));
        expanded.map(|()| key).map_err(|_| ApiError::NoKey)
    }
}

/// A random number below the curve's order; that the first 32 bytes are none happens once in 2^128 times.
fn signing_key() -> Result<SigningKey, ApiError> {
    let mut bytes = [0; KEY_BYTES];
    rand::fill(&mut bytes).map_err(|_| ApiError::NoKey)?;
    SigningKey::from_slice(&bytes).map_err(|_| ApiError::NoKey)
}

/// The public key in its compressed form (SEC 1, section 2.3.3).
fn compressed(key: &SigningKey) -> Vec<u8> {
    key.verifying_key().to_sec1_point(true).as_bytes().to_vec()
}

/// `r`, `s` and the recovery number, over the Keccak-256 of `message`, in hex.
fn sign(key: &SigningKey, message: &[u8]) -> String {
    let (signature, recovery) = key.sign_prehash_recoverable(&Keccak256::digest(message));
    hex::encode([&signature.to_bytes()[..], &[recovery.to_byte()]].concat())
}

#[cfg(test)]
mod tests {
    use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
    use serde_json::Map;

    use super::*;

    fn ask(keys: &Keys, path: &str, purpose: &str, algorithm: &str) -> Value {
        let text = |text: &str| Value::from(text);
        let arguments = [("path", text(path)), ("purpose", text(purpose)), ("algorithm", text(algorithm))];
        let arguments: Map<_, _> =
            arguments.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        keys.answer(&Arguments(arguments), &[5; 20]).unwrap()
    }

    fn recovered(signature: &Value, message: &[u8]) -> Vec<u8> {
        let bytes = hex::decode(signature.as_str().unwrap()).unwrap();
        let (pair, recovery) = bytes.split_at(64);
        let signature = Signature::from_slice(pair).unwrap();
        let recovery = RecoveryId::from_byte(recovery[0]).unwrap();
        let key = VerifyingKey::recover_from_prehash(&Keccak256::digest(message), &signature, recovery);
        key.unwrap().to_sec1_point(true).as_bytes().to_vec()
    }

    #[test]
    fn a_path_has_one_key_whatever_it_is_for() {
        let keys = Keys::generate().unwrap();
        let key = ask(&keys, "wallet", "", "")["key"].clone();
        assert_eq!(ask(&keys, "wallet", "signing", "ed25519")["key"], key);
        assert_eq!(ask(&keys, "wallet", "", "k256")["key"], key);
        assert_ne!(ask(&keys, "wallet/2", "", "")["key"], key);
        assert_ne!(ask(&Keys::generate().unwrap(), "wallet", "", "")["key"], key);
    }

    #[test]
    fn the_chain_leads_from_the_key_over_the_applications_to_the_root() {
        let keys = Keys::generate().unwrap();
        for algorithm in ["secp256k1", "ed25519"] {
            let answer = ask(&keys, "a", "p", algorithm);
            let key = hex::decode(answer["key"].as_str().unwrap()).unwrap();
            let public = match algorithm {
                "ed25519" => {
                    Ed25519KeyPair::from_seed_unchecked(&key).unwrap().public_key().as_ref().to_vec()
                }
                _ => compressed(&SigningKey::from_slice(&key).unwrap()),
            };
            let message = format!("p:{}", hex::encode(public));
            let application = recovered(&answer["signature_chain"][0], message.as_bytes());
            assert_eq!(application, compressed(&keys.application));
            let issued = [ISSUED, &[5; 20], &application].concat();
            assert_eq!(recovered(&answer["signature_chain"][1], &issued), compressed(&keys.root));
        }
    }

    #[test]
    fn another_algorithm_is_refused() {
        let keys = Keys::generate().unwrap();
        let arguments = Map::from_iter([("algorithm".to_owned(), Value::from("rsa"))]);
        assert!(matches!(keys.answer(&Arguments(arguments), &[]), Err(ApiError::Choice { .. })));
    }
}
