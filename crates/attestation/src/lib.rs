//! Decodes, verifies and appraises AWS Nitro attestation documents.
//!
//! [`verify`] checks signatures and certificate chains, [`appraise`] then compares the verified claims with
//! reference values under a [`Policy`] (the words are those of RFC 9334). Both are pure functions: the time,
//! the trusted roots, the nonce and the reference values are all passed in. Nothing here opens a file or a
//! socket or reads a clock, no root is ever taken from a document, and there is no way to get a [`Verified`]
//! without a verified signature.
//!
//! The procedures, with the numbers that the code follows, are in `docs/spec/attestation-document.md`; what a
//! document says in `user_data` is in `docs/spec/binding-statement.md`, how one document answers many verifiers in
//! `docs/spec/nonce-batch.md`.
//!
//! Called by the `glasshouse` command, by the enclave's servers (which only encode [`binding`] statements)
//! and by whoever verifies an enclave in a program of their own.
//!
//! ```
//! use attestation::{Policy, ReferenceValues, Roots, UnixTime, appraise, verify};
//! # let document = include_bytes!("../testdata/evervault_valid.cose");
//! let at: UnixTime = "2022-10-13T08:58:02Z".parse()?;
//! let verified = verify(document, &Roots::aws(), at)?;
//! let policy = Policy::new(ReferenceValues::AnyImage);
//! let appraisal = appraise(&verified, &policy)?;
//! assert!(!appraisal.is_simulated());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod batch;
pub mod binding;
pub mod bundle;
pub mod certificate;
pub mod form;

mod appraise;
mod cbor;
mod chain;
mod cose;
mod digest;
mod document;
mod key_usage;
mod pcr;
mod roots;
mod time;
mod verifier;
mod verify;

pub use appraise::{
    Appraisal, BindingPolicy, Check, ControlPolicy, ControlState, Policy, ReferenceValues, Refusal, Refused,
    Status, Subject, appraise,
};
pub use digest::{ParseHexError, Sha256};
pub use document::{
    DecodeError, Document, MAX_CABUNDLE_CERTIFICATES, MAX_CERTIFICATE_BYTES, MAX_DOCUMENT_BYTES,
    MAX_MODULE_ID_BYTES, MAX_OPTIONAL_FIELD_BYTES, MAX_PAYLOAD_FIELDS,
};
pub use pcr::{PCR_COUNT, Pcr, PcrIndex, PcrIndexError, framework_pcr};
pub use roots::{MAX_ROOTS, Roots, RootsError, TrustedRoot};
pub use time::{ParseTimeError, UnixTime};
pub use verifier::{MAX_CACHED_ISSUERS, Verifier};
pub use verify::{CertificatePosition, Verified, VerifyError, verify};
