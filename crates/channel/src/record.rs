//! TLS 1.3 records under keys that a finished handshake has left (RFC 8446, section 5).
//!
//! The handshake itself is rustls'. Its record layer copies each byte twice and reads some 16 KiB at a time; on bulk data
//! these copies cost more than the encryption. This one seals from the caller's memory into the socket's buffer, and
//! opens in the buffer that the socket filled. It knows no handshake, no key update and no tickets: whoever sends
//! one breaks the channel's protocol.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;
use std::ops::Range;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

/// Most plaintext in one record (RFC 8446, section 5.1).
pub const MAX_PLAINTEXT_BYTES: usize = 1 << 14;
/// What a record adds to its plaintext: header, content type and tag.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + 1 + TAG_BYTES;
/// Most records each way. AES-GCM is safe for 2^24.5 full ones under one key (RFC 8446, section 5.5).
pub const MAX_RECORDS: u64 = 1 << 24;

const HEADER_BYTES: usize = 5;
const TAG_BYTES: usize = 16;
/// Longest body: plaintext, padding and type, and up to 255 bytes for the cipher (RFC 8446, section 5.2).
const MAX_BODY_BYTES: usize = MAX_PLAINTEXT_BYTES + 256;

const TYPE_APPLICATION_DATA: u8 = 23;
const TYPE_ALERT: u8 = 21;
const TYPE_CHANGE_CIPHER_SPEC: u8 = 20;
const LEGACY_VERSION: [u8; 2] = [3, 3];
const ALERT_WARNING: u8 = 1;
const ALERT_CLOSE_NOTIFY: u8 = 0;

/// Why records cannot be read or written any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The header is not that of a record that belongs here: encrypted, once the handshake is done.
    #[error("TLS record: expected a TLS record of this stage, found other bytes")]
    Header,
    /// The header announces more than a record may have.
    #[error("TLS record: expected a body of 17 to {MAX_BODY_BYTES} bytes, found {found}")]
    Length {
        /// Length that the header announces.
        found: usize,
    },
    /// It was not sealed by the peer, not in this place, or was changed on the way.
    #[error("TLS record: not authentic")]
    NotAuthentic,
    /// What is inside is neither data nor an alert.
    #[error("TLS record: expected data or an alert, found content type {found}")]
    ContentType {
        /// The inner content type; 0 when there is none.
        found: u8,
    },
    /// The peer gave up.
    #[error("TLS alert {description} from the peer")]
    Alert {
        /// Its number (RFC 8446, section 6).
        description: u8,
    },
    /// More than [`MAX_RECORDS`] in one direction.
    #[error("the connection's keys are used up after {MAX_RECORDS} records")]
    Exhausted,
    /// The handshake agreed on a cipher that this module does not know.
    #[error("TLS: expected AES-GCM")]
    Cipher,
}

/// The keys of one direction.
struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Keys {
    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, RecordError> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            _ => return Err(RecordError::Cipher),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| RecordError::Cipher)?;
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::Cipher)?;
        Ok(Keys { key: LessSafeKey::new(key), iv, sequence })
    }

    /// The next record's nonce (RFC 8446, section 5.3).
    fn next_nonce(&mut self) -> Result<Nonce, RecordError> {
        if self.sequence >= MAX_RECORDS {
            return Err(RecordError::Exhausted);
        }
        let mut nonce = self.iv;
        let counter = nonce.iter_mut().rev().zip(self.sequence.to_le_bytes());
        counter.for_each(|(byte, sequence)| *byte ^= sequence);
        self.sequence = self.sequence.saturating_add(1);
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// Seals what is sent.
#[derive(Debug)]
pub struct Sealer(Keys);

impl Sealer {
    pub(crate) fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, RecordError> {
        Keys::new(sequence, secrets).map(Sealer)
    }

    /// Writes one record with `plaintext` to the beginning of `out`; returns its length.
    ///
    /// # Errors
    /// [`RecordError::Exhausted`].
    ///
    /// # Panics
    /// When `plaintext` is longer than [`MAX_PLAINTEXT_BYTES`], or `out` shorter than it and [`OVERHEAD_BYTES`].
    pub fn seal(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, RecordError> {
        self.seal_as(TYPE_APPLICATION_DATA, plaintext, out)
    }

    /// Writes the record that says nothing more will be sent to `out`; returns its length, at most 64.
    ///
    /// # Errors
    /// [`RecordError::Exhausted`].
    ///
    /// # Panics
    /// When `out` has less than 64 bytes.
    pub fn seal_close(&mut self, out: &mut [u8]) -> Result<usize, RecordError> {
        self.seal_as(TYPE_ALERT, &[ALERT_WARNING, ALERT_CLOSE_NOTIFY], out)
    }

    fn seal_as(&mut self, kind: u8, plaintext: &[u8], out: &mut [u8]) -> Result<usize, RecordError> {
        assert!(plaintext.len() <= MAX_PLAINTEXT_BYTES, "one record's plaintext");
        let body = plaintext.len().saturating_add(1 + TAG_BYTES);
        let header = header(body);
        let total = body.saturating_add(HEADER_BYTES);
        let (head, rest) = out.get_mut(..total).expect("room for the record").split_at_mut(HEADER_BYTES);
        let (ciphertext, tag) = rest.split_at_mut(plaintext.len());
        head.copy_from_slice(&header);
        let nonce = self.0.next_nonce()?;
        self.0
            .key
            .seal_out_of_place_scatter(nonce, Aad::from(header), plaintext, ciphertext, &[kind], tag)
            .expect("all lengths fit");
        Ok(total)
    }
}

fn header(body: usize) -> [u8; HEADER_BYTES] {
    let [high, low] = u16::try_from(body).expect("a record's length has 16 bits").to_be_bytes();
    [TYPE_APPLICATION_DATA, LEGACY_VERSION[0], LEGACY_VERSION[1], high, low]
}

/// What a record held.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// Data, in this part of the memory that the record was opened to. It may be empty.
    Data(Range<usize>),
    /// The peer sends nothing more.
    Closed,
}

/// Opens what is received.
#[derive(Debug)]
pub struct Opener(Keys);

impl Opener {
    pub(crate) fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, RecordError> {
        Keys::new(sequence, secrets).map(Opener)
    }

    /// Opens `record`, a whole one as [`record_length`] found it, in place.
    ///
    /// # Errors
    /// All but [`RecordError::Cipher`]. After one, nothing else that the peer sends can be opened.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Content, RecordError> {
        let (header, body) = record.split_at_mut_checked(HEADER_BYTES).ok_or(RecordError::Header)?;
        let header: [u8; HEADER_BYTES] = (&*header).try_into().map_err(|_| RecordError::Header)?;
        let nonce = self.0.next_nonce()?;
        let opened = self.0.key.open_in_place(nonce, Aad::from(header), body);
        content(opened.map_err(|_| RecordError::NotAuthentic)?, HEADER_BYTES)
    }

    /// The same, into `out`, which must have [`Opener::room`] bytes. Bytes behind the data are overwritten as well.
    ///
    /// # Errors
    /// As [`Opener::open`]. Nothing in `out` means anything then.
    pub fn open_into(&mut self, record: &[u8], out: &mut [u8]) -> Result<Content, RecordError> {
        let (header, body) = record.split_first_chunk::<HEADER_BYTES>().ok_or(RecordError::Header)?;
        let (ciphertext, tag) = body.split_last_chunk::<TAG_BYTES>().ok_or(RecordError::Header)?;
        let nonce = self.0.next_nonce()?;
        let opened = self.0.key.open_separate_gather(nonce, Aad::from(header), ciphertext, tag, out);
        opened.map_err(|_| RecordError::NotAuthentic)?;
        content(out, 0)
    }

    /// Bytes that a record of `length` bytes takes to be opened into.
    pub fn room(length: usize) -> usize {
        length.saturating_sub(HEADER_BYTES + TAG_BYTES)
    }
}

/// What was in a record; `offset` bytes come before it in the memory that it was opened to.
fn content(opened: &[u8], offset: usize) -> Result<Content, RecordError> {
    // The content type is the last byte that is not padding.
    let at = opened.iter().rposition(|byte| *byte != 0);
    let kind = at.and_then(|at| opened.get(at)).copied().unwrap_or(0);
    let content = opened.get(..at.unwrap_or(0)).unwrap_or_default();
    match (kind, content) {
        (TYPE_APPLICATION_DATA, _) if content.len() > MAX_PLAINTEXT_BYTES => {
            Err(RecordError::Length { found: content.len() })
        }
        (TYPE_APPLICATION_DATA, _) => Ok(Content::Data(offset..offset.saturating_add(content.len()))),
        (TYPE_ALERT, [_, ALERT_CLOSE_NOTIFY]) => Ok(Content::Closed),
        (TYPE_ALERT, [_, description]) => Err(RecordError::Alert { description: *description }),
        (found, _) => Err(RecordError::ContentType { found }),
    }
}

/// The length of the encrypted record that `bytes` begin with, or `None` while it is not complete.
///
/// # Errors
/// [`RecordError::Header`] and [`RecordError::Length`], as soon as they can be known.
pub fn record_length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    match bytes {
        [TYPE_APPLICATION_DATA, 3, 3, ..] => complete(bytes, 1 + TAG_BYTES),
        [_, _, _, ..] => Err(RecordError::Header),
        _ => Ok(None),
    }
}

/// The same for a record of the handshake. What is in it is rustls' to judge; what is no TLS at all is refused here,
/// before anybody waits for the rest of it.
pub(crate) fn handshake_record_length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
    match bytes {
        [] | [TYPE_CHANGE_CIPHER_SPEC..=TYPE_APPLICATION_DATA] => Ok(None),
        [TYPE_CHANGE_CIPHER_SPEC..=TYPE_APPLICATION_DATA, 3] => Ok(None),
        // A first greeting may say version 1 in its header (RFC 8446, section 5.1).
        [TYPE_CHANGE_CIPHER_SPEC..=TYPE_APPLICATION_DATA, 3, 1 | 3, ..] => complete(bytes, 1),
        _ => Err(RecordError::Header),
    }
}

fn complete(bytes: &[u8], shortest: usize) -> Result<Option<usize>, RecordError> {
    let &[_, _, _, high, low, ref body @ ..] = bytes else { return Ok(None) };
    let found = usize::from(u16::from_be_bytes([high, low]));
    if !(shortest..=MAX_BODY_BYTES).contains(&found) {
        return Err(RecordError::Length { found });
    }
    Ok((body.len() >= found).then(|| found.saturating_add(HEADER_BYTES)))
}
