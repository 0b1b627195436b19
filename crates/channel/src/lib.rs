//! A TLS 1.3 connection to an enclave that is attested before anything is sent over it.
//!
//! Both ends run an ordinary TLS handshake. Then the client sends a challenge, and the enclave answers with an
//! attestation document that names this very connection: the digest of its exporter value (RFC 9266). Somebody who
//! stands between and hands on the enclave's genuine document has another connection on either side, and another
//! value. The client appraises the document before it sends anything else; what it does send is read by that enclave or
//! by nobody. Last, a client may show who it is with an OpenSSH key, which signs the same exporter value.
//!
//! Glasshouse's control channel (`pipeline`) is one user of this crate. An application may offer a channel of its own in
//! the same way, with documents from the [application API]: its data is [`Challenge::application_data`], and its
//! clients appraise with [`Evidence::application_binding`].
//!
//! [`Client`] and [`Server`] are the protocol without IO. [`io`] runs them over any stream. The crate makes no documents
//! and judges none: documents come from a [`Gate`](io::Gate), and the caller appraises them.
//!
//! Spec: `docs/spec/channel.md`.
//!
//! [application API]: https://github.com/glasshouse/glasshouse/blob/main/docs/spec/application-api.md

#![forbid(unsafe_code)]

pub mod io;
pub mod ssh;

mod client;
mod error;
mod exporter;
mod link;
mod message;
mod record;
mod server;
mod tls;

pub use client::{Client, ClientStep, Evidence};
pub use error::Error;
pub use exporter::{EXPORTER_BYTES, Exporter};
pub use link::{Established, MAX_HANDSHAKE_BYTES};
pub use message::{MAX_SIGNATURE_BYTES, Message, MessageError, NONCE_BYTES, Refusal, VERSION};
pub use record::{
    Content, MAX_PLAINTEXT_BYTES, MAX_RECORDS, OVERHEAD_BYTES, Opener, RecordError, Sealer, record_length,
};
pub use server::{Challenge, Server, ServerStep};
pub use tls::{ALPN, IdentityError, ServerIdentity};

/// The SSHSIG namespace of a client's signature.
pub const NAMESPACE: &str = "glasshouse-channel-v1";

/// What precedes the exporter value in what a client signs. It names the version and the role, so that the signature
/// means nothing else.
const CLIENT_LABEL: &[u8] = b"glasshouse-channel-v1 client";

/// What precedes the exporter's digest in the data of an application's document.
const APPLICATION_LABEL: &[u8] = b"glasshouse-channel-v1";

/// What a client signs to authenticate: a label of 28 bytes and the exporter value.
pub fn client_message(exporter: &Exporter) -> Vec<u8> {
    [CLIENT_LABEL, &exporter.0].concat()
}

/// What an application puts into its document: a label of 21 bytes and the digest of the exporter value.
fn application_data(exporter: &attestation::Sha256) -> Vec<u8> {
    [APPLICATION_LABEL, &exporter.0].concat()
}
