//! Sealing: AES-256-GCM-SIV, because a file that the host put back makes the same numbers be written again.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};

/// What a log is sealed with: 32 bytes, from a key service or random.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// A given key.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A fresh key; none if there are no random bytes. A log that is sealed with it ends with the program.
    pub fn random() -> Option<Self> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

#[derive(Debug)]
pub(super) struct Sealer(LessSafeKey);

impl Sealer {
    pub(super) fn new(key: &Key) -> Self {
        let key = UnboundKey::new(&AES_256_GCM_SIV, &key.0).expect("the key has the algorithm's length");
        Self(LessSafeKey::new(key))
    }

    /// A random nonce, and the bytes sealed for this place; none if there are no random bytes.
    pub(super) fn seal(&self, table: &str, number: u64, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = bytes.to_vec();
        let nonce_used = Nonce::assume_unique_for_key(nonce);
        self.0.seal_in_place_append_tag(nonce_used, place(table, number), &mut sealed).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    /// What was sealed for this place; none if it was not, or was changed.
    pub(super) fn open(&self, table: &str, number: u64, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut bytes = sealed.to_vec();
        let opened =
            self.0.open_in_place(Nonce::assume_unique_for_key(*nonce), place(table, number), &mut bytes);
        let length = opened.ok()?.len();
        bytes.truncate(length);
        Some(bytes)
    }
}

fn place(table: &str, number: u64) -> Aad<Vec<u8>> {
    Aad::from([b"tee-log ", table.as_bytes(), b" ", &number.to_be_bytes()].concat())
}
