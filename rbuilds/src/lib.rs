//! Builds reproducible enclave images: a container image or a root file system becomes an EIF and its reference
//! values.
//!
//! [`build`] takes a [`manifest::Manifest`], the application's files, the guest binary and a kernel, and writes one
//! image file. The same inputs give the same bytes: no clock, user, umask, locale, path or directory order shows in
//! them. Layers are put on each other in memory, names and modes only, while the files' bytes stay on disk; nothing is
//! ever extracted. [`measured_manifest`] and [`unpack_ramdisks`] read an image again; [`inspect`] shows what one holds, and
//! [`diff`] why two do not measure the same.
//!
//! It runs no program but the signing command that its caller names, needs no privilege, uses the network only to pull an
//! image from a registry, and prints nothing: the `glasshouse` command and the thin program `rbuilds` call it.

#![forbid(unsafe_code)]

mod archive;
mod build;
mod compare;
mod content;
mod dialogue;
mod diff;
mod digest;
mod documents;
mod error;
mod format;
mod image;
mod inputs;
mod inspect;
mod intake;
mod json_changes;
mod layer_cache;
mod layers;
mod limits;
mod listing;
mod memory;
mod notes;
mod oci;
mod output;
mod parts;
mod path;
mod pax;
mod platform;
mod ports;
mod project;
mod provenance;
mod ramdisk;
mod registry;
mod report;
mod rootfs;
mod rootfs_image;
mod runs;
mod sbom;
mod services;
mod signing;
mod sniff;
mod source;
mod sparse;
mod stream;
mod time;
mod tree;
mod unpack;
mod unpacked;
mod verify;
mod xattrs;
mod zstd;

/// What is tried with bytes of a fuzzer's alone.
#[doc(hidden)]
pub mod fuzz {
    /// Whether the bytes are a header of rpm's.
    pub fn is_rpm_header(bytes: &[u8]) -> bool {
        crate::sbom::is_rpm_header(bytes)
    }
}

pub use build::{
    BuildInput, DEFAULT_CMDLINE, DEFAULT_CMDLINE_WITH_MODULE, Kernel, Progress, Step, build, build_documented,
};
pub use compare::{ByteRange, LineChange};
pub use diff::{Change, Diff, Difference, PcrPair, Side, diff};
pub use digest::{Digest, DigestError};
pub use documents::{DocumentPaths, Documents};
pub use error::{EntryError, Error, LayerError, OciError, UnpackError, WriteError};
pub use image::Part;
pub use inputs::{InputError, InputProblem, check_input};
pub use inspect::{
    FileInfo, HeaderInfo, InspectOptions, Inspection, RamdiskInfo, SectionInfo, SignerInfo, Space, inspect,
};
pub use json_changes::JsonChange;
pub use limits::Limits;
pub use listing::{Compression, NoArchive};
pub use memory::{Held, held_by, memory_needed};
pub use notes::{Note, NoteKind};
pub use parts::{PartError, cache_folder, find_guest_binary, find_kernel, pinned_kernel};
pub use project::{Project, ProjectError, source_date_epoch};
pub use registry::{Answer, DocumentError, Network, RegistryError, RegistryOptions};
pub use report::{BuildReport, PcrValue, PcrValueError, REPORT_VERSION, reference_values_path, registers};
pub use signing::{
    Curve, HookError, KeySource, MeasuredImage, SignError, SignInput, SignatureCheck, SignatureRefusal,
    SignedImage, Trust, certificates, check_signature, measure, sign, signer,
};
pub use unpack::{MANIFEST_PATH, Ownership, measured_manifest, unpack_ramdisks};
pub use verify::{OtherInput, Verification, verify};
