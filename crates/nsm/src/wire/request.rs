//! What a module is asked.

use minicbor::{Decoder, Encoder};

use super::fields::{
    Opening, Written, decode_whole, each_field, encoded, keep, opening, optional_bytes, required, unknown,
    write_optional,
};
use super::{
    DecodeError, InputTooLarge, MAX_NONCE_BYTES, MAX_PUBLIC_KEY_BYTES, MAX_REQUEST_BYTES, MAX_USER_DATA_BYTES,
};
use crate::error::Error;

/// One request to a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Value and lock of one PCR.
    DescribePcr {
        /// Which; whether it exists is for the module to say.
        index: u16,
    },
    /// Extends a PCR.
    ExtendPcr {
        /// Which.
        index: u16,
        /// What to extend it with.
        data: Vec<u8>,
    },
    /// Locks one PCR.
    LockPcr {
        /// Which.
        index: u16,
    },
    /// Locks the PCRs below a number.
    LockPcrs {
        /// The first that is left alone.
        range: u16,
    },
    /// Version, identity, PCRs.
    DescribeNsm,
    /// A signed attestation document.
    Attestation(AttestationRequest),
    /// Random bytes.
    GetRandom,
}

/// What the caller wants to have in an attestation document. An absent field is null there, which differs from empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttestationRequest {
    /// At most 512 bytes: the binding statement.
    pub user_data: Option<Vec<u8>>,
    /// At most 512 bytes: the verifier's nonce, as it came.
    pub nonce: Option<Vec<u8>>,
    /// At most 1024 bytes: a key to encrypt to.
    pub public_key: Option<Vec<u8>>,
}

impl AttestationRequest {
    /// Checks each field against what a module takes.
    ///
    /// # Errors
    /// Names the first field over its limit.
    pub fn check_sizes(&self) -> Result<(), InputTooLarge> {
        let fields = [
            ("user_data", &self.user_data, MAX_USER_DATA_BYTES),
            ("nonce", &self.nonce, MAX_NONCE_BYTES),
            ("public_key", &self.public_key, MAX_PUBLIC_KEY_BYTES),
        ];
        for (field, value, limit) in fields {
            let found = value.as_ref().map_or(0, Vec::len);
            if found > limit {
                return Err(InputTooLarge { field, found, limit });
            }
        }
        Ok(())
    }
}

impl Request {
    /// The name in the protocol.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DescribePcr { .. } => "DescribePCR",
            Self::ExtendPcr { .. } => "ExtendPCR",
            Self::LockPcr { .. } => "LockPCR",
            Self::LockPcrs { .. } => "LockPCRs",
            Self::DescribeNsm => "DescribeNSM",
            Self::Attestation(_) => "Attestation",
            Self::GetRandom => "GetRandom",
        }
    }

    /// The request's encoding, whatever its size.
    pub fn encode(&self) -> Vec<u8> {
        encoded(|e| self.write(e))
    }

    /// The request's encoding if a module takes one of that size.
    pub(crate) fn encode_within_limit(&self) -> Result<Vec<u8>, Error> {
        let bytes = self.encode();
        match bytes.len() {
            found if found > MAX_REQUEST_BYTES => {
                Err(Error::RequestTooLarge { found, limit: MAX_REQUEST_BYTES })
            }
            _ => Ok(bytes),
        }
    }

    fn write(&self, e: &mut Encoder<Vec<u8>>) -> Written {
        match self {
            Self::DescribeNsm | Self::GetRandom => {
                e.str(self.name())?;
            }
            Self::DescribePcr { index } | Self::LockPcr { index } => {
                e.map(1)?.str(self.name())?;
                e.map(1)?.str("index")?.u16(*index)?;
            }
            Self::LockPcrs { range } => {
                e.map(1)?.str(self.name())?;
                e.map(1)?.str("range")?.u16(*range)?;
            }
            Self::ExtendPcr { index, data } => {
                e.map(1)?.str(self.name())?;
                e.map(2)?.str("index")?.u16(*index)?;
                e.str("data")?.bytes(data)?;
            }
            Self::Attestation(request) => {
                e.map(1)?.str(self.name())?.map(3)?;
                write_optional(e, "user_data", request.user_data.as_deref())?;
                write_optional(e, "nonce", request.nonce.as_deref())?;
                write_optional(e, "public_key", request.public_key.as_deref())?;
            }
        }
        Ok(())
    }

    /// Reads a request.
    ///
    /// # Errors
    /// Everything that is not exactly one request with exactly its fields; absent optional fields count as null. Whether
    /// indices and sizes make sense is for the module to say.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_whole(bytes, MAX_REQUEST_BYTES, |d| match opening(d)? {
            Opening::Bare("DescribeNSM") => Ok(Self::DescribeNsm),
            Opening::Bare("GetRandom") => Ok(Self::GetRandom),
            Opening::WithBody("DescribePCR") => Ok(Self::DescribePcr { index: only_number(d, "index")? }),
            Opening::WithBody("LockPCR") => Ok(Self::LockPcr { index: only_number(d, "index")? }),
            Opening::WithBody("LockPCRs") => Ok(Self::LockPcrs { range: only_number(d, "range")? }),
            Opening::WithBody("ExtendPCR") => read_extend(d),
            Opening::WithBody("Attestation") => read_attestation(d).map(Self::Attestation),
            Opening::Bare(name) | Opening::WithBody(name) => Err(unknown("request", name)),
        })
    }
}

/// A body whose one field is a 16-bit number.
fn only_number(d: &mut Decoder<'_>, field: &'static str) -> Result<u16, DecodeError> {
    let mut number = None;
    each_field(d, |name, d| match name {
        name if name == field => keep(&mut number, field, d.u16()?),
        other => Err(unknown("field", other)),
    })?;
    required(number, field)
}

fn read_extend(d: &mut Decoder<'_>) -> Result<Request, DecodeError> {
    let (mut index, mut data) = (None, None);
    each_field(d, |name, d| match name {
        "index" => keep(&mut index, "index", d.u16()?),
        "data" => keep(&mut data, "data", d.bytes()?.to_vec()),
        other => Err(unknown("field", other)),
    })?;
    Ok(Request::ExtendPcr { index: required(index, "index")?, data: required(data, "data")? })
}

fn read_attestation(d: &mut Decoder<'_>) -> Result<AttestationRequest, DecodeError> {
    let (mut user_data, mut nonce, mut public_key) = (None, None, None);
    each_field(d, |name, d| match name {
        "user_data" => keep(&mut user_data, "user_data", optional_bytes(d)?),
        "nonce" => keep(&mut nonce, "nonce", optional_bytes(d)?),
        "public_key" => keep(&mut public_key, "public_key", optional_bytes(d)?),
        other => Err(unknown("field", other)),
    })?;
    Ok(AttestationRequest {
        user_data: user_data.flatten(),
        nonce: nonce.flatten(),
        public_key: public_key.flatten(),
    })
}
