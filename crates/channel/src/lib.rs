//! A TLS 1.3 connection to an enclave that is attested before anything is sent over it.
//!
//! Both ends run an ordinary TLS handshake. Then the client sends a challenge, and the enclave answers with an
//! attestation document that names this very connection: the digest of its exporter value (RFC 9266). Somebody who
//! stands between and hands on the enclave's genuine document has another connection on either side, and another
//! value. The client appraises the document before it sends anything else; what it does send is read by that enclave or
//! by nobody. Last, a client may show who it is with an OpenSSH key, which signs the same exporter value.
//!
//! Glasshouse's control channel (`pipeline`) is one user of this crate. An application may offer a channel of its own in
//! the same way, with documents from the application API (`docs/spec/application-api.md`): its data is
//! [`Challenge::application_data`], and its clients appraise with [`Evidence::application_binding`].
//!
//! [`Client`] and [`Server`] are the protocol without IO. [`io`] runs them over any stream. The crate makes no documents
//! and judges none: documents come from a [`Gate`](io::Gate), and the caller appraises them.
//!
//! Spec: `docs/spec/channel.md`.
//!
//! # Example
//!
//! Both ends in one process, over a stream in memory. The enclave is simulated: its documents are genuine, but under a
//! development root, which the client here trusts by name. A real client says `Roots::aws()` and takes the reference values
//! from the image's `.eif.json`.
//!
//! ```
//! use attestation::{Policy, ReferenceValues, Roots, UnixTime, appraise, verify};
//! use channel::io::{ClientConfig, Denied, Gate, Peer, ServerConfig, accept, connect};
//! use channel::{Challenge, Evidence};
//! use nsm::sim::{DevelopmentRoot, SimulatedNsm};
//! use nsm::{AttestationRequest, PcrIndex, Provider};
//! use std::time::SystemTime;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! /// The enclave's side: where documents come from, and who may enter.
//! struct Enclave(SimulatedNsm);
//!
//! impl Gate for Enclave {
//!     type Admitted = ();
//!
//!     async fn attest(&self, challenge: Challenge) -> Result<Vec<u8>, Denied> {
//!         // A real module is slow and blocks: ask it on a thread of its own.
//!         let request = AttestationRequest {
//!             nonce: Some(challenge.nonce.to_vec()),
//!             user_data: Some(challenge.statement(None, None).encode()),
//!             ..AttestationRequest::default()
//!         };
//!         let refusal = channel::Refusal::NoEvidence;
//!         self.0.attest(&request).map_err(|error| Denied { refusal, source: Some(error.into()) })
//!     }
//!
//!     async fn authorize(&self, _peer: &Peer) -> Result<(), Denied> {
//!         Ok(()) // Everybody. A control channel looks `peer.key` up.
//!     }
//! }
//!
//! /// The client's side: is this the enclave that was wanted?
//! fn wanted(
//!     evidence: &Evidence,
//!     roots: &Roots,
//! ) -> Result<attestation::Appraisal, Box<dyn std::error::Error + Send + Sync>> {
//!     let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
//!     let verified = verify(&evidence.document, roots, UnixTime::from_secs(now.as_secs()))?;
//!     let pcr0 = (attestation::PcrIndex::new(0)?, attestation::Pcr([1; 48]));
//!     let policy = Policy {
//!         nonce: Some(evidence.nonce.to_vec()),
//!         binding: evidence.binding(),
//!         ..Policy::new(ReferenceValues::Pcrs([pcr0].into()))
//!     };
//!     Ok(appraise(&verified, &policy)?)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let root = DevelopmentRoot::load_or_create(folder.path())?;
//! let enclave = Enclave(SimulatedNsm::new(&root, "i-0-enc0", &[(PcrIndex::new(0_u8)?, [1; 48])])?);
//! let roots = Roots::custom(root.root_pem().as_bytes())?;
//! let config = ServerConfig::generate()?;
//! let (near, far) = tokio::io::duplex(64 * 1024);
//!
//! let server = async {
//!     let (mut session, _peer, ()) = accept(far, &config, &enclave).await?;
//!     let mut question = String::new();
//!     session.read_to_string(&mut question).await?;
//!     session.write_all(format!("you said: {question}").as_bytes()).await?;
//!     session.shutdown().await?;
//!     Ok::<_, Box<dyn std::error::Error>>(())
//! };
//! let client = async {
//!     let appraise = |evidence: &Evidence| wanted(evidence, &roots);
//!     let (mut session, appraisal) = connect(near, ClientConfig::default(), appraise).await?;
//!     assert!(appraisal.is_simulated());
//!     session.write_all(b"a secret").await?;
//!     session.shutdown().await?;
//!     let mut answer = String::new();
//!     session.read_to_string(&mut answer).await?;
//!     assert_eq!(answer, "you said: a secret");
//!     Ok::<_, Box<dyn std::error::Error>>(())
//! };
//! let (served, asked) = tokio::join!(server, client);
//! served.and(asked)
//! # }
//! ```
//!
//! To enter as an operator, give [`ClientConfig::identity`](io::ClientConfig::identity) a
//! [`PrivateKey`](ssh::PrivateKey) or a key of the [`Agent`](ssh::Agent).

#![forbid(unsafe_code)]

pub mod io;
pub mod ssh;

mod any_certificate;
mod client;
mod error;
mod exporter;
mod link;
mod message;
mod record;
mod server;
mod tls;

pub use any_certificate::AnyCertificate;
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
