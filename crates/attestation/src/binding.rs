//! The binding statement: what an enclave says in `user_data` of its attestation document.
//!
//! One canonical CBOR map ties what lives in the enclave (the server's TLS key, an application's key or data) to what
//! the hypervisor measured. What an application says has a kind of its own, so it can never pass for the framework's
//! word. Encoded by the enclave's server, decoded by [`crate::appraise`].
//!
//! Spec: `docs/spec/binding-statement.md`, with vectors in `docs/spec/vectors/binding-statement.json`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use minicbor::decode::Decoder;
use minicbor::encode::Encoder;

use crate::cbor::remaining;
use crate::digest::Sha256;

/// Longest encoded statement: what the Nitro security module accepts as `user_data`.
pub const MAX_STATEMENT_BYTES: usize = 512;
/// Longest application data.
pub const MAX_APPLICATION_DATA_BYTES: usize = 256;
/// The version that this module writes and reads.
pub const VERSION: u64 = 1;
/// The kind of a statement that the framework's server makes.
pub const KIND_SERVER: &str = "server";
/// The kind of a statement that is made on an application's behalf.
pub const KIND_APPLICATION: &str = "application";

const KEY_VERSION: u64 = 0;
const KEY_KIND: u64 = 1;
const KEY_TLS_KEY: u64 = 2;
const KEY_APPLICATION_KEY: u64 = 3;
const KEY_APPLICATION_DATA: u64 = 4;

/// A binding statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Made by the framework's server.
    Server {
        /// SHA-256 of the DER SubjectPublicKeyInfo of the server's TLS key.
        tls_key: Sha256,
        /// SHA-256 of the application's key, in a form that the application defines.
        application_key: Option<Sha256>,
    },
    /// Made on behalf of an application.
    Application {
        /// SHA-256 of the application's key, in a form that the application defines.
        application_key: Option<Sha256>,
        /// What the application wants to say.
        data: ApplicationData,
    },
}

/// What an application says in a statement: 0 to [`MAX_APPLICATION_DATA_BYTES`] bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplicationData(Vec<u8>);

impl ApplicationData {
    /// Takes `bytes` if they are not too many.
    ///
    /// # Errors
    /// When there are more than [`MAX_APPLICATION_DATA_BYTES`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, ApplicationDataTooLong> {
        match bytes.len() {
            0..=MAX_APPLICATION_DATA_BYTES => Ok(ApplicationData(bytes)),
            found => Err(ApplicationDataTooLong { found }),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Application data that does not fit into a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("application data: expected at most {MAX_APPLICATION_DATA_BYTES} bytes, found {found}")]
pub struct ApplicationDataTooLong {
    /// Its length in bytes.
    pub found: usize,
}

impl Statement {
    /// The statement's kind as it is encoded.
    pub fn kind(&self) -> &'static str {
        match self {
            Statement::Server { .. } => KIND_SERVER,
            Statement::Application { .. } => KIND_APPLICATION,
        }
    }

    /// The statement's one encoding, at most [`MAX_STATEMENT_BYTES`] long.
    pub fn encode(&self) -> Vec<u8> {
        let (tls_key, application_key, data) = match self {
            Statement::Server { tls_key, application_key } => (Some(tls_key), application_key, None),
            Statement::Application { application_key, data } => (None, application_key, Some(data)),
        };
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes);
        let present = [tls_key.is_some(), application_key.is_some(), data.is_some()];
        let optional = present.into_iter().map(u64::from).fold(0, u64::saturating_add);
        let infallible = "writing to a Vec cannot fail";
        encoder
            .map(optional.saturating_add(2))
            .and_then(|e| e.u64(KEY_VERSION)?.u64(VERSION))
            .and_then(|e| e.u64(KEY_KIND)?.str(self.kind()))
            .expect(infallible);
        let fields = [
            (KEY_TLS_KEY, tls_key.map(|key| &key.0[..])),
            (KEY_APPLICATION_KEY, application_key.as_ref().map(|key| &key.0[..])),
            (KEY_APPLICATION_DATA, data.map(ApplicationData::as_bytes)),
        ];
        for (key, value) in fields {
            if let Some(value) = value {
                encoder.u64(key).and_then(|e| e.bytes(value)).expect(infallible);
            }
        }
        bytes
    }

    /// Decodes a statement. Exactly the bytes that [`Statement::encode`] makes are accepted.
    ///
    /// # Errors
    /// Whatever deviates from `docs/spec/binding-statement.md`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_STATEMENT_BYTES {
            return Err(DecodeError::TooLong { found: bytes.len() });
        }
        let statement = Fields::decode(bytes)?.into_statement()?;
        // Catches what a lenient CBOR decoder lets pass: integers and lengths that are longer than needed.
        if statement.encode() != bytes {
            return Err(DecodeError::NotCanonical);
        }
        Ok(statement)
    }
}

/// The fields of a statement as they are found.
struct Fields {
    is_server: bool,
    tls_key: Option<Sha256>,
    application_key: Option<Sha256>,
    data: Option<ApplicationData>,
}

impl Fields {
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let malformed = |source| DecodeError::Cbor { source };
        let entries = decoder.map().map_err(malformed)?.ok_or(DecodeError::NotCanonical)?;
        // Version and kind come first, which the order of keys demands and which lets a reader of this version say
        // "another version" of a statement it cannot read.
        version(&mut decoder, entries)?;
        let mut fields = Fields {
            is_server: kind_is_server(&mut decoder, entries)?,
            tls_key: None,
            application_key: None,
            data: None,
        };
        let mut previous = KEY_KIND;
        for _ in 2..entries {
            let key = decoder.u64().map_err(malformed)?;
            if key <= previous {
                return Err(DecodeError::KeyOrder { previous, found: key });
            }
            fields.take(key, &mut decoder)?;
            previous = key;
        }
        match remaining(&decoder) {
            0 => Ok(fields),
            found => Err(DecodeError::TrailingBytes { found }),
        }
    }

    fn take(&mut self, key: u64, decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
        match key {
            KEY_TLS_KEY if self.is_server => self.tls_key = Some(digest(key, decoder)?),
            KEY_APPLICATION_KEY => self.application_key = Some(digest(key, decoder)?),
            KEY_APPLICATION_DATA if !self.is_server => self.data = Some(data(decoder)?),
            found => return Err(DecodeError::UnknownKey { kind: self.kind(), found }),
        }
        Ok(())
    }

    fn kind(&self) -> &'static str {
        if self.is_server { KIND_SERVER } else { KIND_APPLICATION }
    }

    fn into_statement(self) -> Result<Statement, DecodeError> {
        let missing = |expected| DecodeError::MissingKey { kind: self.kind(), expected };
        let application_key = self.application_key;
        if self.is_server {
            let tls_key = self.tls_key.ok_or(missing(KEY_TLS_KEY))?;
            return Ok(Statement::Server { tls_key, application_key });
        }
        let data = self.data.clone().ok_or(missing(KEY_APPLICATION_DATA))?;
        Ok(Statement::Application { application_key, data })
    }
}

/// Reads the key that must come first or second.
fn expect_key(decoder: &mut Decoder<'_>, entries: u64, expected: u64) -> Result<(), DecodeError> {
    let missing = DecodeError::MissingKey { kind: "any", expected };
    if entries <= expected {
        return Err(missing);
    }
    let key = decoder.u64().map_err(|source| DecodeError::Cbor { source })?;
    if key != expected {
        return Err(missing);
    }
    Ok(())
}

fn version(decoder: &mut Decoder<'_>, entries: u64) -> Result<(), DecodeError> {
    expect_key(decoder, entries, KEY_VERSION)?;
    match decoder.u64().map_err(|source| DecodeError::Cbor { source })? {
        VERSION => Ok(()),
        found => Err(DecodeError::Version { found }),
    }
}

fn kind_is_server(decoder: &mut Decoder<'_>, entries: u64) -> Result<bool, DecodeError> {
    expect_key(decoder, entries, KEY_KIND)?;
    match decoder.str().map_err(|source| DecodeError::Cbor { source })? {
        KIND_SERVER => Ok(true),
        KIND_APPLICATION => Ok(false),
        other => Err(DecodeError::Kind { found: other.to_owned() }),
    }
}

fn digest(key: u64, decoder: &mut Decoder<'_>) -> Result<Sha256, DecodeError> {
    let bytes = decoder.bytes().map_err(|source| DecodeError::Cbor { source })?;
    let digest =
        <[u8; 32]>::try_from(bytes).map_err(|_| DecodeError::DigestLength { key, found: bytes.len() })?;
    Ok(Sha256(digest))
}

fn data(decoder: &mut Decoder<'_>) -> Result<ApplicationData, DecodeError> {
    let bytes = decoder.bytes().map_err(|source| DecodeError::Cbor { source })?;
    Ok(ApplicationData::new(bytes.to_vec())?)
}

/// Why bytes are no binding statement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Longer than [`MAX_STATEMENT_BYTES`].
    #[error("expected at most {MAX_STATEMENT_BYTES} bytes, found {found}")]
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// The CBOR is broken, ends early or has another type than expected.
    #[error("not the CBOR expected")]
    Cbor {
        /// What the decoder found, and where.
        #[source]
        source: minicbor::decode::Error,
    },
    /// A version that this module cannot read.
    #[error("expected version {VERSION}, found {found}")]
    Version {
        /// The version found.
        found: u64,
    },
    /// A kind that the version does not have.
    #[error("expected kind {KIND_SERVER:?} or {KIND_APPLICATION:?}, found {found:?}")]
    Kind {
        /// The kind found.
        found: String,
    },
    /// A mandatory key is not there, or not in its place.
    #[error("kind {kind}: expected key {expected}, found none")]
    MissingKey {
        /// The kind of statement.
        kind: &'static str,
        /// The key's number.
        expected: u64,
    },
    /// A key that the kind does not have.
    #[error("kind {kind}: expected only its own keys, found key {found}")]
    UnknownKey {
        /// The kind of statement.
        kind: &'static str,
        /// The key's number.
        found: u64,
    },
    /// Keys are not in ascending order, or one is there twice.
    #[error("expected a key above {previous}, found key {found}")]
    KeyOrder {
        /// The key before.
        previous: u64,
        /// The key found.
        found: u64,
    },
    /// A digest does not have the length of one.
    #[error("key {key}: expected 32 bytes, found {found}")]
    DigestLength {
        /// The key's number.
        key: u64,
        /// Its length in bytes.
        found: usize,
    },
    /// There is too much application data.
    #[error(transparent)]
    ApplicationData(#[from] ApplicationDataTooLong),
    /// Bytes follow the map.
    #[error("expected nothing after the map, found {found} bytes")]
    TrailingBytes {
        /// How many bytes.
        found: usize,
    },
    /// The same statement has a shorter encoding, which is its only one.
    #[error("expected the deterministic encoding, found another one")]
    NotCanonical,
}

#[cfg(test)]
mod tests;
