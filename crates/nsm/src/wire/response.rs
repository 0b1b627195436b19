//! What a module answers.

use std::collections::BTreeSet;
use std::fmt;

use minicbor::{Decoder, Encoder};

use super::fields::{
    Opening, Written, array_len, decode_whole, each_field, encoded, keep, opening, required, unknown,
};
use super::{DecodeError, MAX_RESPONSE_BYTES};
use crate::pcr::PcrIndex;

/// One response from a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// State of a PCR.
    DescribePcr {
        /// Whether it is locked.
        lock: bool,
        /// Its value.
        data: Vec<u8>,
    },
    /// A PCR was extended.
    ExtendPcr {
        /// Its new value.
        data: Vec<u8>,
    },
    /// A PCR was locked.
    LockPcr,
    /// PCRs were locked.
    LockPcrs,
    /// What the module is.
    DescribeNsm(Description),
    /// A signed attestation document.
    Attestation {
        /// An untagged `COSE_Sign1`.
        document: Vec<u8>,
    },
    /// Random bytes.
    GetRandom {
        /// 256 of them, from a real module.
        random: Vec<u8>,
    },
    /// The module refused.
    Error(ErrorCode),
}

/// What a module says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Changes when the protocol breaks.
    pub version_major: u16,
    /// Changes when the protocol grows.
    pub version_minor: u16,
    /// Changes otherwise.
    pub version_patch: u16,
    /// The module's name, on AWS `i-INSTANCE-encENCLAVE`.
    pub module_id: String,
    /// How many PCRs there are.
    pub max_pcrs: u16,
    /// The PCRs that are locked.
    pub locked_pcrs: BTreeSet<u16>,
    /// The hash the PCRs are made with.
    pub digest: Digest,
}

impl Description {
    /// Whether a PCR is locked.
    pub fn is_locked(&self, index: PcrIndex) -> bool {
        self.locked_pcrs.contains(&index.into())
    }
}

/// A hash a PCR bank may be made with; every module so far uses SHA-384.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Digest {
    const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// The name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let name = d.str()?;
        let found = Self::ALL.into_iter().find(|digest| digest.name() == name);
        found.ok_or_else(|| unknown("digest", name))
    }
}

/// Why a module refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// No error; a module does not answer it.
    Success,
    /// An argument makes no sense.
    InvalidArgument,
    /// There is no such PCR.
    InvalidIndex,
    /// The response does not belong to the request.
    InvalidResponse,
    /// The PCR is locked.
    ReadOnlyIndex,
    /// There is no such request, or it could not be read.
    InvalidOperation,
    /// The response does not fit.
    BufferTooSmall,
    /// The request, or a field of it, is too large.
    InputTooLarge,
    /// The module failed.
    InternalError,
}

impl ErrorCode {
    const ALL: [Self; 9] = [
        Self::Success,
        Self::InvalidArgument,
        Self::InvalidIndex,
        Self::InvalidResponse,
        Self::ReadOnlyIndex,
        Self::InvalidOperation,
        Self::BufferTooSmall,
        Self::InputTooLarge,
        Self::InternalError,
    ];

    /// The name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::InvalidArgument => "InvalidArgument",
            Self::InvalidIndex => "InvalidIndex",
            Self::InvalidResponse => "InvalidResponse",
            Self::ReadOnlyIndex => "ReadOnlyIndex",
            Self::InvalidOperation => "InvalidOperation",
            Self::BufferTooSmall => "BufferTooSmall",
            Self::InputTooLarge => "InputTooLarge",
            Self::InternalError => "InternalError",
        }
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let name = d.str()?;
        let found = Self::ALL.into_iter().find(|code| code.name() == name);
        found.ok_or_else(|| unknown("error code", name))
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Response {
    /// The name in the protocol.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DescribePcr { .. } => "DescribePCR",
            Self::ExtendPcr { .. } => "ExtendPCR",
            Self::LockPcr => "LockPCR",
            Self::LockPcrs => "LockPCRs",
            Self::DescribeNsm(_) => "DescribeNSM",
            Self::Attestation { .. } => "Attestation",
            Self::GetRandom { .. } => "GetRandom",
            Self::Error(_) => "Error",
        }
    }

    /// The response's encoding.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|e| self.write(e))
    }

    fn write(&self, e: &mut Encoder<Vec<u8>>) -> Written {
        if !matches!(self, Self::LockPcr | Self::LockPcrs) {
            e.map(1)?;
        }
        e.str(self.name())?;
        match self {
            Self::LockPcr | Self::LockPcrs => {}
            Self::DescribePcr { lock, data } => {
                e.map(2)?.str("lock")?.bool(*lock)?;
                e.str("data")?.bytes(data)?;
            }
            Self::ExtendPcr { data } => {
                e.map(1)?.str("data")?.bytes(data)?;
            }
            Self::DescribeNsm(description) => write_description(e, description)?,
            Self::Attestation { document } => {
                e.map(1)?.str("document")?.bytes(document)?;
            }
            Self::GetRandom { random } => {
                e.map(1)?.str("random")?.bytes(random)?;
            }
            Self::Error(code) => {
                e.str(code.name())?;
            }
        }
        Ok(())
    }

    /// Reads a response. Unknown fields are passed over.
    ///
    /// # Errors
    /// Everything else that is not exactly one response with all its fields.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_whole(bytes, MAX_RESPONSE_BYTES, |d| match opening(d)? {
            Opening::Bare("LockPCR") => Ok(Self::LockPcr),
            Opening::Bare("LockPCRs") => Ok(Self::LockPcrs),
            Opening::WithBody("DescribePCR") => read_pcr(d),
            Opening::WithBody("ExtendPCR") => Ok(Self::ExtendPcr { data: only_bytes(d, "data")? }),
            Opening::WithBody("DescribeNSM") => read_description(d).map(Self::DescribeNsm),
            Opening::WithBody("Attestation") => {
                Ok(Self::Attestation { document: only_bytes(d, "document")? })
            }
            Opening::WithBody("GetRandom") => Ok(Self::GetRandom { random: only_bytes(d, "random")? }),
            Opening::WithBody("Error") => ErrorCode::read(d).map(Self::Error),
            Opening::Bare(name) | Opening::WithBody(name) => Err(unknown("response", name)),
        })
    }
}

fn write_description(e: &mut Encoder<Vec<u8>>, description: &Description) -> Written {
    e.map(7)?;
    e.str("version_major")?.u16(description.version_major)?;
    e.str("version_minor")?.u16(description.version_minor)?;
    e.str("version_patch")?.u16(description.version_patch)?;
    e.str("module_id")?.str(&description.module_id)?;
    e.str("max_pcrs")?.u16(description.max_pcrs)?;
    let locked = &description.locked_pcrs;
    e.str("locked_pcrs")?.array(locked.len() as u64)?;
    for index in locked {
        e.u16(*index)?;
    }
    e.str("digest")?.str(description.digest.name())?;
    Ok(())
}

fn read_description(d: &mut Decoder<'_>) -> Result<Description, DecodeError> {
    let (mut major, mut minor, mut patch) = (None, None, None);
    let (mut module_id, mut max_pcrs, mut locked, mut digest) = (None, None, None, None);
    each_field(d, |name, d| match name {
        "version_major" => keep(&mut major, "version_major", d.u16()?),
        "version_minor" => keep(&mut minor, "version_minor", d.u16()?),
        "version_patch" => keep(&mut patch, "version_patch", d.u16()?),
        "module_id" => keep(&mut module_id, "module_id", d.str()?.to_owned()),
        "max_pcrs" => keep(&mut max_pcrs, "max_pcrs", d.u16()?),
        "locked_pcrs" => keep(&mut locked, "locked_pcrs", read_indices(d)?),
        "digest" => keep(&mut digest, "digest", Digest::read(d)?),
        _ => Ok(d.skip()?),
    })?;
    Ok(Description {
        version_major: required(major, "version_major")?,
        version_minor: required(minor, "version_minor")?,
        version_patch: required(patch, "version_patch")?,
        module_id: required(module_id, "module_id")?,
        max_pcrs: required(max_pcrs, "max_pcrs")?,
        locked_pcrs: required(locked, "locked_pcrs")?,
        digest: required(digest, "digest")?,
    })
}

fn read_indices(d: &mut Decoder<'_>) -> Result<BTreeSet<u16>, DecodeError> {
    (0..array_len(d)?).map(|_| Ok(d.u16()?)).collect()
}

fn read_pcr(d: &mut Decoder<'_>) -> Result<Response, DecodeError> {
    let (mut lock, mut data) = (None, None);
    each_field(d, |name, d| match name {
        "lock" => keep(&mut lock, "lock", d.bool()?),
        "data" => keep(&mut data, "data", d.bytes()?.to_vec()),
        _ => Ok(d.skip()?),
    })?;
    Ok(Response::DescribePcr { lock: required(lock, "lock")?, data: required(data, "data")? })
}

/// A body whose one field is a byte string.
fn only_bytes(d: &mut Decoder<'_>, field: &'static str) -> Result<Vec<u8>, DecodeError> {
    let mut bytes = None;
    each_field(d, |name, d| match name {
        name if name == field => keep(&mut bytes, field, d.bytes()?.to_vec()),
        _ => Ok(d.skip()?),
    })?;
    required(bytes, field)
}
