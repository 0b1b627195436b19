//! What can go wrong between a caller and a module.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::frame::FrameError;
use crate::wire::{DecodeError, ErrorCode, InputTooLarge};

/// Why a module could not be opened or a call on it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing is at the path.
    #[error(
        "no Nitro Security Module at {path}: in an enclave, boot a kernel with CONFIG_NSM or load nsm.ko from the image; \
         on the local backend, the supervisor binds a Unix socket there; outside an enclave there is none"
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Something is at the path, but neither a device nor a socket.
    #[error("{path} is a {kind}; a Nitro Security Module is a character device or, simulated, a Unix socket")]
    NotAModule {
        /// The path.
        path: PathBuf,
        /// What is there instead, such as `directory`.
        kind: &'static str,
    },
    /// The path or the device could not be opened.
    #[error("cannot open {path}")]
    Open {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The driver refused the ioctl; the errno is the kernel's own.
    #[error("the NSM driver behind {path} refused the request (ioctl)")]
    Ioctl {
        /// The device.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
    /// Nobody answers on the simulated module's socket.
    #[error("cannot connect to the simulated module at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The conversation with the simulated module broke off.
    #[error("the simulated module at {path} did not answer properly")]
    Exchange {
        /// The socket.
        path: PathBuf,
        /// Where it broke.
        #[source]
        source: FrameError,
    },
    /// A field of an attestation request is larger than a module takes. Nothing was sent.
    #[error(transparent)]
    InputTooLarge(#[from] InputTooLarge),
    /// The encoded request is larger than a module takes. Nothing was sent.
    #[error("the request encodes to {found} bytes, a module takes at most {limit}")]
    RequestTooLarge {
        /// Size of the encoded request in bytes.
        found: usize,
        /// [`crate::wire::MAX_REQUEST_BYTES`].
        limit: usize,
    },
    /// The response is not what the module's protocol allows.
    #[error("the module's response cannot be decoded")]
    Response(#[from] DecodeError),
    /// The module answered with an error code.
    #[error("the module answered {0}")]
    Module(ErrorCode),
    /// The module answered something other than what was asked.
    #[error("asked the module for {asked}, it answered {answered}")]
    UnexpectedResponse {
        /// Name of the request.
        asked: &'static str,
        /// Name of the response.
        answered: &'static str,
    },
    /// A PCR value of a length other than SHA-384's.
    #[error("the module gave a PCR value of {found} bytes, expected {}", crate::PCR_BYTES)]
    PcrLength {
        /// Its length in bytes.
        found: usize,
    },
    /// The module answered a request for entropy with nothing.
    #[error("the module gave no random bytes")]
    NoEntropy,
}
