//! Why a channel does not open.

use crate::message::{MessageError, Refusal};
use crate::record::RecordError;
use crate::ssh::SignatureError;

/// Why a channel does not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The TLS handshake failed.
    #[error("TLS handshake")]
    Tls(#[from] rustls::Error),
    /// The peer speaks TLS, but not this protocol in it.
    #[error("TLS handshake: expected the protocol glasshouse-channel/1, found none")]
    Protocol,
    /// A record is broken, or the peer gave up.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A message is broken.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A message that does not belong here.
    #[error("expected {expected}, found {found}")]
    Unexpected {
        /// What belongs here.
        expected: &'static str,
        /// What came.
        found: &'static str,
    },
    /// The peer sends more than a handshake takes.
    #[error("the peer sent more than a handshake takes")]
    TooMuch,
    /// The peer closed the channel before it was open.
    #[error("the peer closed the channel before it was open")]
    Closed,
    /// The client's signature is not valid. The client was told.
    #[error("the client's signature")]
    Signature(#[from] SignatureError),
    /// The client speaks a version that this server does not. It was told.
    #[error("expected version {}, found {found}", crate::message::VERSION)]
    Version {
        /// The client's.
        found: u8,
    },
    /// The server refuses this client.
    #[error("{}{refusal}", if *.attested { "refused by the enclave: " } else { "refused (by whoever answers there; nothing is attested): " })]
    Refused {
        /// Its reason.
        refusal: Refusal,
        /// Whether it had shown evidence that was appraised: before that, anybody in between can say this.
        attested: bool,
    },
    /// A step was taken out of order, or after an error.
    #[error("the handshake is over, or not there yet")]
    Over,
}
