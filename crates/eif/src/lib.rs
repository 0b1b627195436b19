//! Writes, reads and measures enclave image files (EIF v4).
//!
//! An image is a header and a row of sections: kernel, command line, metadata, one or more ramdisks and, when it
//! is signed, a signature. [`Writer`] streams one out and returns its [`Measurements`]; [`Eif`] opens one, refuses
//! what is malformed and measures it again. [`cpio`] reads and writes the newc archives that ramdisks are made of.
//! The layout, the limits and what is refused are specified in `docs/spec/eif.md`.
//!
//! This crate decides nothing about what goes into an image, replaces no file atomically and knows no clock:
//! the builder and the verifier, which call it, do.

#![forbid(unsafe_code)]

pub mod cpio;
mod curve;
mod format;
mod hashing;
mod measurements;
mod metadata;
mod reader;
mod resign;
mod signature;
mod signer;
mod source;
mod writer;

pub use curve::Curve;
pub use format::{Architecture, HEADER_BYTES, MAX_SECTIONS, SECTION_HEADER_BYTES, SectionKind, VERSION};
pub use measurements::{Measurements, PCR_BYTES};
pub use metadata::{BuildMetadata, MAX_METADATA_BYTES, Metadata};
pub use reader::{Eif, Header, ReadError, Section};
pub use signature::{ImageSignature, MAX_SIGNATURE_BYTES, SignatureError, bytes_to_sign};
pub use signer::{Signer, SignerError};
pub use source::Source;
pub use writer::{MAX_CMDLINE_BYTES, MAX_RAMDISKS, Options, SectionWriter, WriteError, Writer};
