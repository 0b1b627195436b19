//! Entries and agents as JSON: members and order of the first logs of this kind, and what makes them verifiable after them.

use serde::{Deserialize, Serialize};

use crate::{Entry, EntryError, Position, PublicKey, SignedEntry, legacy::LEGACY};

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Row {
    /// A UUID of version 4.
    pub id: String,
    /// Whose.
    pub agent_id: String,
    /// Where.
    pub room_id: String,
    /// With whom.
    pub user_id: String,
    /// What kind of deed.
    pub r#type: String,
    /// What exactly.
    pub content: String,
    /// Milliseconds since 1970.
    pub timestamp: u64,
    /// `0x` and DER in hex.
    pub signature: String,
    /// The entry's number, from 0.
    pub sequence: u64,
    /// The digest of the entry before, in hex.
    pub previous: String,
    /// The key that signed, compressed, in hex.
    pub public_key: String,
    /// The signature, where `signature` is one of the legacy form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry_signature: Option<String>,
    /// [`LEGACY`](crate::legacy::LEGACY) in such a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature_form: Option<String>,
}

impl Row {
    /// With a legacy signature (DER) in the place of the sound one, for clients that know no other.
    pub fn with_legacy_signature(mut self, signature: &[u8]) -> Self {
        let sound = std::mem::replace(&mut self.signature, format!("0x{}", hex::encode(signature)));
        self.entry_signature = Some(sound);
        self.signature_form = Some(LEGACY.to_owned());
        self
    }
}

/// A program that keeps this log, at one of its starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Agent {
    /// A UUID of version 4.
    pub id: String,
    /// Its name in entries.
    pub agent_id: String,
    /// Its name for people.
    pub agent_name: String,
    /// Milliseconds since 1970.
    pub created_at: u64,
    /// The key of this start, compressed, in hex.
    pub public_key: String,
    /// The document about the key; empty where nobody attests.
    pub attestation: String,
    /// How many entries there were when the key was made.
    pub sequence: u64,
    /// The digest of the last of them, in hex.
    pub previous: String,
}

/// A part of a query's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Page {
    /// Which, from 1.
    pub page: u64,
    /// How many entries a page has.
    pub page_size: u64,
    /// How many entries the whole answer has.
    pub total: u64,
    /// The entries, oldest first.
    pub data: Vec<Row>,
}

impl From<&SignedEntry> for Row {
    fn from(SignedEntry { entry, signature }: &SignedEntry) -> Self {
        Self {
            id: uuid(&entry.id),
            agent_id: entry.agent_id.clone(),
            room_id: entry.room_id.clone(),
            user_id: entry.user_id.clone(),
            r#type: entry.kind.clone(),
            content: entry.content.clone(),
            timestamp: entry.timestamp,
            signature: format!("0x{}", hex::encode(signature)),
            sequence: entry.after.sequence,
            previous: hex::encode(entry.after.head),
            public_key: entry.key.to_string(),
            entry_signature: None,
            signature_form: None,
        }
    }
}

impl TryFrom<&Row> for SignedEntry {
    type Error = EntryError;

    /// Only the form that is written is read: lower case, and hyphens where they belong. A legacy signature is not looked at: it would say
    /// nothing that the sound one does not.
    fn try_from(row: &Row) -> Result<Self, EntryError> {
        let digits = |text: &str| text.strip_prefix("0x").and_then(|digits| hex::decode(digits).ok());
        let legacy = match row.entry_signature {
            Some(_) => Some(digits(&row.signature).ok_or(EntryError::NotCanonical)?),
            None => None,
        };
        let signature = digits(row.entry_signature.as_ref().unwrap_or(&row.signature));
        let entry = Entry {
            after: Position { sequence: row.sequence, head: bytes(&row.previous)? },
            key: PublicKey(bytes(&row.public_key)?),
            id: bytes(&row.id.replace('-', ""))?,
            agent_id: row.agent_id.clone(),
            room_id: row.room_id.clone(),
            user_id: row.user_id.clone(),
            kind: row.r#type.clone(),
            content: row.content.clone(),
            timestamp: row.timestamp,
        };
        entry.check()?;
        let signed = Self { entry, signature: signature.ok_or(EntryError::NotCanonical)? };
        let written = Row::from(&signed);
        let written = match legacy {
            Some(legacy) => written.with_legacy_signature(&legacy),
            None => written,
        };
        if written != *row {
            return Err(EntryError::NotCanonical);
        }
        Ok(signed)
    }
}

/// Sixteen bytes as a UUID's text.
pub(crate) fn uuid(bytes: &[u8; 16]) -> String {
    let digits = hex::encode(bytes);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| digits.get(part).unwrap_or_default());
    parts.join("-")
}

fn bytes<const N: usize>(digits: &str) -> Result<[u8; N], EntryError> {
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| EntryError::NotCanonical)?;
    Ok(bytes)
}
