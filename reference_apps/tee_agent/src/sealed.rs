//! Sealed values: what only the agent can read, although the host carries it.
//!
//! The agent's port is plain HTTP, and the host sees what passes. A value is sealed to the key that the enclave attests: an
//! ephemeral key, ECDH over secp256k1, HKDF-SHA256, AES-256-GCM. Layout: the agent's `README.md`.

use aws_lc_rs::{aead, digest, hkdf};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    eth::{AgentKey, KeyError},
    variables::MAX_VALUE_BYTES,
};

/// What the derived key is for.
const CONTEXT: &[u8] = b"tee_agent sealed v1";
/// Bytes of an uncompressed public key.
const POINT_BYTES: usize = 65;
/// Longest sealed value in base64.
const MAX_SEALED_CHARS: usize = (POINT_BYTES + MAX_VALUE_BYTES + 16).div_ceil(3) * 4;

/// Why a sealed value cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Not base64 of a public key and what follows it.
    #[error("a sealed value is base64 of a public key of 65 bytes and what was sealed with it")]
    Form,
    /// For another key or another variable, or changed.
    #[error("the value was not sealed for this agent's key and this variable")]
    NotForUs,
}

/// Opens a value that was sealed for this key and the variable `name`; with it the SHA-256 of the sealed bytes.
///
/// # Errors
/// [`SealError`].
pub fn open(key: &AgentKey, name: &str, sealed: &str) -> Result<(String, [u8; 32]), SealError> {
    if sealed.len() > MAX_SEALED_CHARS {
        return Err(SealError::Form);
    }
    let bytes = STANDARD.decode(sealed).map_err(|_| SealError::Form)?;
    let (ephemeral, ciphertext) = bytes.split_first_chunk::<POINT_BYTES>().ok_or(SealError::Form)?;
    let shared = key.agree(ephemeral).map_err(|_| SealError::Form)?;
    let cipher = cipher(&shared, ephemeral, &key.public_key());
    let mut value = ciphertext.to_vec();
    let opened = cipher.open_in_place(no_nonce(), aead::Aad::from(name), &mut value);
    let value = String::from_utf8(opened.map_err(|_| SealError::NotForUs)?.to_vec());
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, &bytes).as_ref());
    Ok((value.map_err(|_| SealError::Form)?, digest))
}

/// Seals a value for the agent whose public key (65 bytes) that is: base64.
///
/// # Errors
/// [`KeyError`] if there are no random bytes, or that is no public key.
pub fn seal(recipient: &[u8; POINT_BYTES], name: &str, value: &str) -> Result<String, KeyError> {
    seal_with(&AgentKey::generate()?, recipient, name, value)
}

fn seal_with(
    ephemeral: &AgentKey,
    recipient: &[u8; POINT_BYTES],
    name: &str,
    value: &str,
) -> Result<String, KeyError> {
    let shared = ephemeral.agree(recipient)?;
    let cipher = cipher(&shared, &ephemeral.public_key(), recipient);
    let mut bytes = value.as_bytes().to_vec();
    let sealed = cipher.seal_in_place_append_tag(no_nonce(), aead::Aad::from(name), &mut bytes);
    sealed.map_err(|_| KeyError::Random)?;
    Ok(STANDARD.encode([&ephemeral.public_key()[..], &bytes].concat()))
}

fn cipher(
    shared: &[u8; 32],
    ephemeral: &[u8; POINT_BYTES],
    recipient: &[u8; POINT_BYTES],
) -> aead::LessSafeKey {
    let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(shared);
    let info = [CONTEXT, ephemeral, recipient];
    let key = secret.expand(&info, &aead::AES_256_GCM).expect("the key is short");
    aead::LessSafeKey::new(aead::UnboundKey::from(key))
}

/// Each derived key encrypts once, so the nonce may always be zero.
fn no_nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> AgentKey {
        AgentKey::from_bytes(&[byte; 32]).unwrap()
    }

    /// Made by other libraries from the same keys: `clients/`.
    #[test]
    fn what_other_clients_seal_is_what_we_seal() {
        let clients: serde_json::Value =
            serde_json::from_str(include_str!("../testdata/clients.json")).unwrap();
        for made in [&clients["sealed"], &clients["ethers"]["sealed"]] {
            let (name, value) = (made["name"].as_str().unwrap(), made["value"].as_str().unwrap());
            let sealed = made["sealed"].as_str().unwrap();
            assert_eq!(seal_with(&key(0x55), &key(9).public_key(), name, value).unwrap(), sealed);
            assert_eq!(open(&key(9), name, sealed).unwrap().0, value);
        }
    }

    #[test]
    fn it_opens_for_one_key_and_one_variable_only() {
        let sealed = seal(&key(9).public_key(), "api_key", "sk").unwrap();
        let (value, digest) = open(&key(9), "api_key", &sealed).unwrap();
        assert_eq!(value, "sk");
        let bytes = STANDARD.decode(&sealed).unwrap();
        assert_eq!(digest, digest::digest(&digest::SHA256, &bytes).as_ref());
        assert_eq!(open(&key(8), "api_key", &sealed), Err(SealError::NotForUs));
        assert_eq!(open(&key(9), "motto", &sealed), Err(SealError::NotForUs));
        for index in [70, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[index - 1] ^= 1;
            assert_eq!(open(&key(9), "api_key", &STANDARD.encode(changed)), Err(SealError::NotForUs));
        }
        assert_ne!(seal(&key(9).public_key(), "api_key", "sk").unwrap(), sealed);
        for bad in ["", "????", &STANDARD.encode([4; 80]), &"A".repeat(MAX_SEALED_CHARS + 1)] {
            assert_eq!(open(&key(9), "api_key", bad), Err(SealError::Form));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn no_bytes_end_the_opener(bytes in proptest::collection::vec(any::<u8>(), 0..200), value in ".{0,50}") {
            let _ = open(&key(9), "n", &STANDARD.encode(bytes));
            let sealed = seal(&key(9).public_key(), "n", &value).unwrap();
            prop_assert_eq!(open(&key(9), "n", &sealed).unwrap().0, value);
        }
    }
}
