//! Entries: their one encoding, the digest that chains them, the signature over it (`docs/spec/tee-log.md#entry`).

#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use aws_lc_rs::digest::{self, SHA256};
use minicbor::{Decoder, Encoder, decode, encode::write::Write};

use crate::{PublicKey, SigningKey};

/// Longest of the agent's, room's and user's names, and of a type.
pub const MAX_NAME_BYTES: usize = 256;
/// Longest content.
pub const MAX_CONTENT_BYTES: usize = 64 * 1024;
/// Longest encoded entry.
const MAX_ENTRY_BYTES: usize = 4 * (MAX_NAME_BYTES + 3) + MAX_CONTENT_BYTES + 256;
/// Begins the types that the log itself writes.
pub const RESERVED: &str = "tee-log:";
/// The first entry of every start of the program.
pub const OPENED: &str = "tee-log:opened";
/// The last entry of a start that ended as it should.
pub const CLOSED: &str = "tee-log:closed";

const VERSION: u8 = 1;
const MEMBERS: u64 = 11;
/// What keeps an entry's digest from being any other digest of the same bytes.
const DOMAIN: &[u8] = b"glasshouse tee-log entry v1\0";

/// A place in the log: how many entries come before it, and the digest of the last of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Number of entries before, which is the number of the next one.
    pub sequence: u64,
    /// Digest of the last one; zeros where there is none.
    pub head: [u8; 32],
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, the digest of the one before.
    pub after: Position,
    /// The key that signs it.
    pub key: PublicKey,
    /// A random name.
    pub id: [u8; 16],
    /// Whose.
    pub agent_id: String,
    /// Where.
    pub room_id: String,
    /// With whom.
    pub user_id: String,
    /// What kind of deed.
    pub kind: String,
    /// What exactly.
    pub content: String,
    /// Milliseconds since 1970 by the enclave's clock, which is the host's.
    pub timestamp: u64,
}

/// An entry and its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedEntry {
    /// The entry.
    pub entry: Entry,
    /// DER.
    pub signature: Vec<u8>,
}

/// Why bytes are no entry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Longer than any entry.
    #[error("an entry of {found} bytes, more than {MAX_ENTRY_BYTES}")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// Not the CBOR of an entry.
    #[error("not an entry")]
    Cbor(#[from] decode::Error),
    /// Another version.
    #[error("version {0}")]
    Version(u8),
    /// A name or content that is too long, or a number beyond what JSON keeps exact.
    #[error("{what} is too long or too large")]
    Limit {
        /// What.
        what: &'static str,
    },
    /// Something after it, or another encoding of the same.
    #[error("not the one encoding of an entry")]
    NotCanonical,
}

impl Entry {
    /// The encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.content.len().saturating_add(256));
        self.write(&mut Encoder::new(&mut bytes)).expect("a vector can be written to");
        bytes
    }

    fn write<W: Write>(&self, e: &mut Encoder<W>) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.array(MEMBERS)?
            .u8(VERSION)?
            .u64(self.after.sequence)?
            .bytes(&self.after.head)?
            .bytes(&self.key.0)?;
        e.bytes(&self.id)?.str(&self.agent_id)?.str(&self.room_id)?.str(&self.user_id)?;
        e.str(&self.kind)?.str(&self.content)?.u64(self.timestamp)?;
        Ok(())
    }

    /// Reads an encoding.
    ///
    /// # Errors
    /// [`EntryError`] as its variants say.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(EntryError::TooLong { found: bytes.len() });
        }
        let mut d = Decoder::new(bytes);
        if d.array()? != Some(MEMBERS) {
            return Err(EntryError::NotCanonical);
        }
        let version = d.u8()?;
        if version != VERSION {
            return Err(EntryError::Version(version));
        }
        let entry = Self {
            after: Position { sequence: d.u64()?, head: fixed(d.bytes()?)? },
            key: PublicKey(fixed(d.bytes()?)?),
            id: fixed(d.bytes()?)?,
            agent_id: d.str()?.to_owned(),
            room_id: d.str()?.to_owned(),
            user_id: d.str()?.to_owned(),
            kind: d.str()?.to_owned(),
            content: d.str()?.to_owned(),
            timestamp: d.u64()?,
        };
        entry.check()?;
        if entry.encode() != bytes {
            return Err(EntryError::NotCanonical);
        }
        Ok(entry)
    }

    /// Whether it is within the limits.
    ///
    /// # Errors
    /// [`EntryError::Limit`].
    pub fn check(&self) -> Result<(), EntryError> {
        const EXACT: u64 = 1 << 53;
        let limits = [
            ("agentId", self.agent_id.len() <= MAX_NAME_BYTES),
            ("roomId", self.room_id.len() <= MAX_NAME_BYTES),
            ("userId", self.user_id.len() <= MAX_NAME_BYTES),
            ("type", self.kind.len() <= MAX_NAME_BYTES),
            ("content", self.content.len() <= MAX_CONTENT_BYTES),
            ("timestamp", self.timestamp < EXACT),
            ("sequence", self.after.sequence < EXACT),
        ];
        match limits.into_iter().find(|(_, within)| !within) {
            Some((what, _)) => Err(EntryError::Limit { what }),
            None => Ok(()),
        }
    }

    /// What is signed, and what the next entry names.
    pub fn digest(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&SHA256);
        context.update(DOMAIN);
        context.update(&self.encode());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(context.finish().as_ref());
        bytes
    }

    /// Signed by `key`, which has to be the one that it names.
    pub fn sign(self, key: &SigningKey) -> SignedEntry {
        let signature = key.sign(&self.digest());
        SignedEntry { entry: self, signature }
    }
}

impl SignedEntry {
    /// Whether the key that the entry names signed it. Whose key that is, only an attestation says.
    pub fn is_signed(&self) -> bool {
        self.entry.key.verifies(&self.entry.digest(), &self.signature)
    }

    /// The place after it.
    pub fn position(&self) -> Position {
        Position { sequence: self.entry.after.sequence.saturating_add(1), head: self.entry.digest() }
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], EntryError> {
    bytes.try_into().map_err(|_| EntryError::NotCanonical)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> Entry {
        let key = SigningKey::from_bytes(&[7; 32]).unwrap();
        Entry {
            after: Position { sequence: 5, head: [1; 32] },
            key: key.public_key(),
            id: [2; 16],
            agent_id: "agent".to_owned(),
            room_id: "room".to_owned(),
            user_id: "user".to_owned(),
            kind: "Action:CONTINUE".to_owned(),
            content: "é|\"".to_owned(),
            timestamp: 1_735_000_000_000,
        }
    }

    #[test]
    fn every_part_is_signed() {
        let key = SigningKey::from_bytes(&[7; 32]).unwrap();
        let signed = entry().sign(&key);
        assert!(signed.is_signed());
        let changes: [fn(&mut Entry); 9] = [
            |e| e.after.sequence += 1,
            |e| e.after.head[31] ^= 1,
            |e| e.id[0] ^= 1,
            |e| e.agent_id.push('x'),
            |e| e.room_id = e.room_id.to_uppercase(),
            |e| e.user_id.clear(),
            |e| e.kind.push(' '),
            |e| e.content = e.content.replace('é', "e"),
            |e| e.timestamp += 1,
        ];
        for change in changes {
            let mut other = signed.clone();
            change(&mut other.entry);
            assert!(!other.is_signed());
            assert_ne!(other.position().head, signed.position().head);
        }
        let mut other = signed.clone();
        other.entry.key = SigningKey::from_bytes(&[8; 32]).unwrap().public_key();
        assert!(!other.is_signed());
        // What separators make of it: text moved from one part to the next is another entry.
        let mut moved = signed.clone();
        moved.entry.agent_id = "agentr".to_owned();
        moved.entry.room_id = "oom".to_owned();
        assert!(!moved.is_signed());
    }

    #[test]
    fn only_the_one_encoding_is_read() {
        let bytes = entry().encode();
        assert_eq!(Entry::decode(&bytes).unwrap(), entry());
        assert!(matches!(Entry::decode(&[&bytes[..], &[0]].concat()), Err(EntryError::NotCanonical)));
        for cut in 0..bytes.len() {
            assert!(Entry::decode(&bytes[..cut]).is_err());
        }
        let mut version = bytes.clone();
        version[1] = 2;
        assert!(matches!(Entry::decode(&version), Err(EntryError::Version(2))));
        // The number 5 in two bytes.
        let longer = [&bytes[..2], &[0x18, 5], &bytes[3..]].concat();
        assert!(matches!(Entry::decode(&longer), Err(EntryError::NotCanonical)));
        let long = Entry { room_id: "x".repeat(MAX_NAME_BYTES + 1), ..entry() };
        assert!(matches!(Entry::decode(&long.encode()), Err(EntryError::Limit { what: "roomId" })));
        let largest = Entry { content: "x".repeat(MAX_CONTENT_BYTES), ..entry() };
        assert_eq!(Entry::decode(&largest.encode()).unwrap(), largest);
        assert!(matches!(Entry::decode(&[0; MAX_ENTRY_BYTES + 1]), Err(EntryError::TooLong { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_written_is_read_again(text in prop::array::uniform5(".{0,20}"), numbers in prop::array::uniform2(0_u64..1 << 53), head in any::<[u8; 32]>()) {
            let [agent_id, room_id, user_id, kind, content] = text;
            let [sequence, timestamp] = numbers;
            let entry = Entry { after: Position { sequence, head }, agent_id, room_id, user_id, kind, content, timestamp, ..entry() };
            prop_assert_eq!(Entry::decode(&entry.encode()).unwrap(), entry);
        }

        #[test]
        fn no_bytes_end_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(entry) = Entry::decode(&bytes) {
                prop_assert_eq!(entry.encode(), bytes);
            }
        }
    }
}
