//! Signed notes (C2SP `signed-note`) with Ed25519, and the cosignatures of witnesses (C2SP `tlog-cosignature`).
//!
//! No text is understood here. [`crate::Checkpoint`] writes and reads the text of its notes.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::Hash;

/// Longest note.
pub const MAX_NOTE_BYTES: usize = 64 << 10;
/// Most signatures below a note.
pub const MAX_SIGNATURES: usize = 64;

const DASH: &str = "\u{2014} ";
const KEY_ID_BYTES: usize = 4;
/// The C2SP number of Ed25519 over the note's text.
const TYPE_ED25519: u8 = 1;
/// The C2SP number of a cosignature: Ed25519 over a time and the note's text.
const TYPE_COSIGNATURE: u8 = 4;

/// Why a note shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// More than [`MAX_NOTE_BYTES`] or [`MAX_SIGNATURES`].
    #[error("the note is longer than {MAX_NOTE_BYTES} bytes or has more than {MAX_SIGNATURES} signatures")]
    TooLong,
    /// Not the text and signatures that the format has.
    #[error("the note is malformed: {what}")]
    Malformed {
        /// What is wrong with it.
        what: &'static str,
    },
    /// Nothing below it is by that key.
    #[error("the note is not signed by this key")]
    NotSigned,
    /// A signature names that key and does not hold.
    #[error("the signature does not hold")]
    Signature,
    /// A name that cannot be one of a key: empty, with spaces, or with a plus sign.
    #[error("not a name that a key can have")]
    Name,
    /// A text that is no key's.
    #[error("not a key as name+id+key, of Ed25519, with the id that is its")]
    Key,
}

/// Who can have signed a note: a name and an Ed25519 key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteKey {
    name: String,
    key: [u8; 32],
}

impl NoteKey {
    /// # Errors
    /// [`NoteError::Name`]
    pub fn new(name: &str, key: &[u8; 32]) -> Result<Self, NoteError> {
        check_name(name)?;
        Ok(Self { name: name.to_owned(), key: *key })
    }

    /// The name below notes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text by which tools take the key: `name+id+key`.
    pub fn verifier_text(&self) -> String {
        let id = hex::encode(self.id(TYPE_ED25519));
        format!("{}+{id}+{}", self.name, BASE64.encode([&[TYPE_ED25519][..], &self.key].concat()))
    }

    fn id(&self, signature_type: u8) -> [u8; KEY_ID_BYTES] {
        let hash = Hash::of(&[self.name.as_bytes(), b"\n", &[signature_type], &self.key]);
        *hash.0.first_chunk().expect("a hash has 4 bytes")
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), NoteError> {
        let key = UnparsedPublicKey::new(&ED25519, &self.key);
        key.verify(message, signature).map_err(|_| NoteError::Signature)
    }
}

/// As [`NoteKey::verifier_text`], and as C2SP has it for a witness's key, which differs in its type.
impl FromStr for NoteKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let (name, rest) = text.split_once('+').ok_or(NoteError::Key)?;
        let (id, key) = rest.split_once('+').ok_or(NoteError::Key)?;
        let bytes = BASE64.decode(key).map_err(|_| NoteError::Key)?;
        let (&signature_type, key) = bytes.split_first().ok_or(NoteError::Key)?;
        let key = Self::new(name, key.try_into().map_err(|_| NoteError::Key)?)?;
        let is_known = matches!(signature_type, TYPE_ED25519 | TYPE_COSIGNATURE);
        if !is_known || id != hex::encode(key.id(signature_type)) {
            return Err(NoteError::Key);
        }
        Ok(key)
    }
}

/// A key that signs notes.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: NoteKey,
}

impl SigningKey {
    /// Of 32 random bytes (RFC 8032), under the name that `name` gives for the public key.
    ///
    /// # Errors
    /// [`NoteError::Name`]
    pub fn from_seed(seed: &[u8; 32], name: impl FnOnce(&[u8; 32]) -> String) -> Result<Self, NoteError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("32 bytes are a seed");
        let key = pair.public_key().as_ref().try_into().expect("a public key of 32 bytes");
        let public = NoteKey::new(&name(&key), &key)?;
        Ok(Self { pair, public })
    }

    /// The name below notes.
    pub fn name(&self) -> &str {
        &self.public.name
    }

    /// For those who verify.
    pub fn public(&self) -> &NoteKey {
        &self.public
    }

    /// The public key's bytes.
    pub fn public_bytes(&self) -> &[u8; 32] {
        &self.public.key
    }

    /// The note with this text, which ends with a newline, and this key's signature.
    pub(crate) fn sign_note(&self, text: &str) -> String {
        let signature = self.pair.sign(text.as_bytes());
        format!("{text}\n{}", self.line(TYPE_ED25519, &[signature.as_ref()]))
    }

    /// The line that a witness with this key adds to a note with this text: seen at `time`, in seconds since 1970.
    pub fn cosign(&self, text: &str, time: u64) -> String {
        let signature = self.pair.sign(cosigned(text, time).as_bytes());
        self.line(TYPE_COSIGNATURE, &[&time.to_be_bytes(), signature.as_ref()])
    }

    fn line(&self, signature_type: u8, parts: &[&[u8]]) -> String {
        let bytes = [&self.public.id(signature_type)[..], &parts.concat()].concat();
        format!("{DASH}{} {}\n", self.public.name, BASE64.encode(bytes))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// A note that was decoded, and says nothing before a signature was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Signature {
    name: String,
    /// Key ID and signature.
    bytes: Vec<u8>,
}

impl Note {
    /// Takes a note apart.
    ///
    /// # Errors
    /// [`NoteError::TooLong`] and [`NoteError::Malformed`]
    pub fn decode(bytes: &[u8]) -> Result<Self, NoteError> {
        let malformed = |what| NoteError::Malformed { what };
        if bytes.len() > MAX_NOTE_BYTES {
            return Err(NoteError::TooLong);
        }
        let note = std::str::from_utf8(bytes).map_err(|_| malformed("UTF-8"))?;
        if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(malformed("control characters"));
        }
        let (text, lines) = note.rsplit_once("\n\n").ok_or(malformed("signatures"))?;
        let lines = lines.strip_suffix('\n').ok_or(malformed("end of line"))?;
        if lines.split('\n').count() > MAX_SIGNATURES {
            return Err(NoteError::TooLong);
        }
        let signatures = lines.split('\n').map(|line| signature(line).ok_or(malformed("signature")));
        Ok(Self { text: format!("{text}\n"), signatures: signatures.collect::<Result<_, _>>()? })
    }

    /// The note again.
    pub fn encode(&self) -> String {
        let lines = self.signatures.iter();
        let lines = lines.map(|line| format!("{DASH}{} {}\n", line.name, BASE64.encode(&line.bytes)));
        format!("{}\n{}", self.text, lines.collect::<String>())
    }

    /// The text, which ends with a newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Checks that `key` signed the text.
    ///
    /// # Errors
    /// [`NoteError::NotSigned`] and [`NoteError::Signature`]
    pub fn verify(&self, key: &NoteKey) -> Result<(), NoteError> {
        let mut signatures = self.signatures_of(key, TYPE_ED25519).peekable();
        signatures.peek().ok_or(NoteError::NotSigned)?;
        signatures.try_for_each(|signature| key.verify(self.text.as_bytes(), signature))
    }

    /// Checks that `witness` cosigned the text, and returns when: in seconds since 1970 by the witness's clock.
    ///
    /// # Errors
    /// [`NoteError::NotSigned`] and [`NoteError::Signature`]
    pub fn verify_witness(&self, witness: &NoteKey) -> Result<u64, NoteError> {
        let mut last = None;
        for bytes in self.signatures_of(witness, TYPE_COSIGNATURE) {
            let (time, signature) = bytes.split_first_chunk().ok_or(NoteError::Signature)?;
            let time = u64::from_be_bytes(*time);
            witness.verify(cosigned(&self.text, time).as_bytes(), signature)?;
            last = last.max(Some(time));
        }
        last.ok_or(NoteError::NotSigned)
    }

    fn signatures_of(&self, key: &NoteKey, signature_type: u8) -> impl Iterator<Item = &[u8]> {
        let id = key.id(signature_type);
        let named = self.signatures.iter().filter(|signature| signature.name == key.name);
        named.filter_map(move |signature| signature.bytes.strip_prefix(&id))
    }
}

fn signature(line: &str) -> Option<Signature> {
    let (name, base64) = line.strip_prefix(DASH)?.split_once(' ')?;
    check_name(name).ok()?;
    let bytes = BASE64.decode(base64).ok()?;
    (bytes.len() > KEY_ID_BYTES).then(|| Signature { name: name.to_owned(), bytes })
}

fn cosigned(text: &str, time: u64) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}

fn check_name(name: &str) -> Result<(), NoteError> {
    let refused = |c: char| c.is_whitespace() || c == '+' || c.is_control();
    if name.is_empty() || name.contains(refused) { Err(NoteError::Name) } else { Ok(()) }
}
