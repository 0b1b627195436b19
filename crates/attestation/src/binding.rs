//! The binding statement: what an enclave says in `user_data` of its attestation document.
//!
//! One canonical CBOR map ties what lives in the enclave (the server's TLS key, one connection of the control channel,
//! an application's key or data, the state of the ledger) to what the hypervisor measured. What an application says has a kind of its own, so
//! it can never pass for the framework's word. Encoded by the enclave's servers, decoded by [`crate::appraise`].
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
/// The kind of a statement about one connection of the control channel.
pub const KIND_CHANNEL: &str = "channel";

const KEY_VERSION: u64 = 0;
const KEY_KIND: u64 = 1;
const KEY_TLS_KEY: u64 = 2;
const KEY_APPLICATION_KEY: u64 = 3;
const KEY_APPLICATION_DATA: u64 = 4;
const KEY_EXPORTER: u64 = 5;
const KEY_CONTROL_HEAD: u64 = 6;
const KEY_VRF_KEY: u64 = 7;
const KEY_CHECKPOINT: u64 = 8;
/// Size, log root and map root.
const CHECKPOINT_MEMBERS: u64 = 3;

/// A binding statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Made by the framework's server.
    Server {
        /// SHA-256 of the DER SubjectPublicKeyInfo of the server's TLS key.
        tls_key: Sha256,
        /// SHA-256 of the application's key, in a form that the application defines.
        application_key: Option<Sha256>,
        /// Head of the chain of control sessions; `None` when the enclave keeps none.
        control_head: Option<Sha256>,
        /// The ledger as the framework finds it; `None` when the enclave keeps none.
        ledger: Option<Ledger>,
    },
    /// Made on behalf of an application.
    Application {
        /// SHA-256 of the application's key, in a form that the application defines.
        application_key: Option<Sha256>,
        /// What the application wants to say.
        data: ApplicationData,
        /// The ledger as the framework finds it, whatever the application wants; `None` when the enclave keeps none.
        ledger: Option<Ledger>,
    },
    /// Made by the framework's control channel, about one connection.
    Channel {
        /// SHA-256 of the connection's exporter value (RFC 9266): no other connection has the same.
        exporter: Sha256,
        /// Head of the chain of control sessions; `None` when the enclave keeps none.
        control_head: Option<Sha256>,
        /// The ledger as the framework finds it; `None` when the enclave keeps none.
        ledger: Option<Ledger>,
    },
}

/// The state of the enclave's ledger: what its proofs are checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    /// The public key of the function that places files in the map (ECVRF-EDWARDS25519-SHA512-TAI, RFC 9381).
    pub vrf_key: [u8; 32],
    /// Entries in the log.
    pub size: u64,
    /// Root of the log's Merkle tree (RFC 6962) at that size.
    pub log_root: Sha256,
    /// Root of the map of subjects at that size.
    pub map_root: Sha256,
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
            Statement::Channel { .. } => KIND_CHANNEL,
        }
    }

    /// The head of the chain of control sessions, where the framework states one. An application cannot.
    pub fn control_head(&self) -> Option<Sha256> {
        match self {
            Statement::Server { control_head, .. } | Statement::Channel { control_head, .. } => *control_head,
            Statement::Application { .. } => None,
        }
    }

    /// The state of the ledger, where there is one. It is the framework's word in every kind.
    pub fn ledger(&self) -> Option<&Ledger> {
        match self {
            Statement::Server { ledger, .. }
            | Statement::Application { ledger, .. }
            | Statement::Channel { ledger, .. } => ledger.as_ref(),
        }
    }

    /// The statement's one encoding, at most [`MAX_STATEMENT_BYTES`] long.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes);
        let fields = self.fields();
        let present = fields.iter().flatten().map(|_| 1).fold(0, u64::saturating_add);
        let of_ledger: u64 = if self.ledger().is_some() { 2 } else { 0 };
        let infallible = "writing to a Vec cannot fail";
        encoder
            .map(present.saturating_add(of_ledger).saturating_add(2))
            .and_then(|e| e.u64(KEY_VERSION)?.u64(VERSION))
            .and_then(|e| e.u64(KEY_KIND)?.str(self.kind()))
            .expect(infallible);
        for (key, value) in fields.into_iter().flatten() {
            encoder.u64(key).and_then(|e| e.bytes(value)).expect(infallible);
        }
        if let Some(ledger) = self.ledger() {
            encoder
                .u64(KEY_VRF_KEY)
                .and_then(|e| e.bytes(&ledger.vrf_key))
                .and_then(|e| e.u64(KEY_CHECKPOINT)?.array(CHECKPOINT_MEMBERS)?.u64(ledger.size))
                .and_then(|e| e.bytes(&ledger.log_root.0)?.bytes(&ledger.map_root.0))
                .expect(infallible);
        }
        bytes
    }

    /// What lies between the kind and the ledger, in ascending order of keys.
    fn fields(&self) -> [Option<(u64, &[u8])>; 3] {
        match self {
            Statement::Server { tls_key, application_key, control_head, .. } => [
                Some((KEY_TLS_KEY, &tls_key.0)),
                application_key.as_ref().map(|key| (KEY_APPLICATION_KEY, &key.0[..])),
                control_head.as_ref().map(|head| (KEY_CONTROL_HEAD, &head.0[..])),
            ],
            Statement::Application { application_key, data, .. } => [
                application_key.as_ref().map(|key| (KEY_APPLICATION_KEY, &key.0[..])),
                Some((KEY_APPLICATION_DATA, data.as_bytes())),
                None,
            ],
            Statement::Channel { exporter, control_head, .. } => [
                Some((KEY_EXPORTER, &exporter.0)),
                control_head.as_ref().map(|head| (KEY_CONTROL_HEAD, &head.0[..])),
                None,
            ],
        }
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

/// The kinds of statement, before anything else of one is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Server,
    Application,
    Channel,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Server => KIND_SERVER,
            Kind::Application => KIND_APPLICATION,
            Kind::Channel => KIND_CHANNEL,
        }
    }

    fn has(self, key: u64) -> bool {
        if matches!(key, KEY_VRF_KEY | KEY_CHECKPOINT) {
            return true;
        }
        match self {
            Kind::Server => matches!(key, KEY_TLS_KEY | KEY_APPLICATION_KEY | KEY_CONTROL_HEAD),
            Kind::Application => matches!(key, KEY_APPLICATION_KEY | KEY_APPLICATION_DATA),
            Kind::Channel => matches!(key, KEY_EXPORTER | KEY_CONTROL_HEAD),
        }
    }
}

/// The fields of a statement as they are found.
struct Fields {
    kind: Kind,
    tls_key: Option<Sha256>,
    application_key: Option<Sha256>,
    data: Option<ApplicationData>,
    exporter: Option<Sha256>,
    control_head: Option<Sha256>,
    vrf_key: Option<Sha256>,
    checkpoint: Option<(u64, Sha256, Sha256)>,
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
            kind: kind(&mut decoder, entries)?,
            tls_key: None,
            application_key: None,
            data: None,
            exporter: None,
            control_head: None,
            vrf_key: None,
            checkpoint: None,
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
        if !self.kind.has(key) {
            return Err(DecodeError::UnknownKey { kind: self.kind.name(), found: key });
        }
        if key == KEY_APPLICATION_DATA {
            self.data = Some(data(decoder)?);
            return Ok(());
        }
        if key == KEY_CHECKPOINT {
            self.checkpoint = Some(checkpoint(decoder)?);
            return Ok(());
        }
        let digest = Some(digest(key, decoder)?);
        match key {
            KEY_TLS_KEY => self.tls_key = digest,
            KEY_APPLICATION_KEY => self.application_key = digest,
            KEY_EXPORTER => self.exporter = digest,
            KEY_VRF_KEY => self.vrf_key = digest,
            _ => self.control_head = digest,
        }
        Ok(())
    }

    fn into_statement(self) -> Result<Statement, DecodeError> {
        let kind = self.kind.name();
        let missing = |expected| DecodeError::MissingKey { kind, expected };
        let Fields { application_key, control_head, .. } = self;
        let ledger = match (self.vrf_key, self.checkpoint) {
            (None, None) => None,
            (Some(vrf_key), Some((size, log_root, map_root))) => {
                Some(Ledger { vrf_key: vrf_key.0, size, log_root, map_root })
            }
            (None, Some(_)) => return Err(missing(KEY_VRF_KEY)),
            (Some(_), None) => return Err(missing(KEY_CHECKPOINT)),
        };
        Ok(match self.kind {
            Kind::Server => {
                let tls_key = self.tls_key.ok_or(missing(KEY_TLS_KEY))?;
                Statement::Server { tls_key, application_key, control_head, ledger }
            }
            Kind::Application => {
                let data = self.data.ok_or(missing(KEY_APPLICATION_DATA))?;
                Statement::Application { application_key, data, ledger }
            }
            Kind::Channel => {
                let exporter = self.exporter.ok_or(missing(KEY_EXPORTER))?;
                Statement::Channel { exporter, control_head, ledger }
            }
        })
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

fn kind(decoder: &mut Decoder<'_>, entries: u64) -> Result<Kind, DecodeError> {
    expect_key(decoder, entries, KEY_KIND)?;
    match decoder.str().map_err(|source| DecodeError::Cbor { source })? {
        KIND_SERVER => Ok(Kind::Server),
        KIND_APPLICATION => Ok(Kind::Application),
        KIND_CHANNEL => Ok(Kind::Channel),
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

fn checkpoint(decoder: &mut Decoder<'_>) -> Result<(u64, Sha256, Sha256), DecodeError> {
    let malformed = |source| DecodeError::Cbor { source };
    match decoder.array().map_err(malformed)? {
        Some(CHECKPOINT_MEMBERS) => {}
        Some(found) => return Err(DecodeError::CheckpointMembers { found }),
        None => return Err(DecodeError::NotCanonical),
    }
    let size = decoder.u64().map_err(malformed)?;
    Ok((size, digest(KEY_CHECKPOINT, decoder)?, digest(KEY_CHECKPOINT, decoder)?))
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
    #[error("expected kind {KIND_SERVER:?}, {KIND_APPLICATION:?} or {KIND_CHANNEL:?}, found {found:?}")]
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
    /// A checkpoint is not size, log root and map root.
    #[error("key {KEY_CHECKPOINT}: expected an array of {CHECKPOINT_MEMBERS}, found one of {found}")]
    CheckpointMembers {
        /// How many members it has.
        found: u64,
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
