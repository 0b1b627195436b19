//! Reading steps the messages have in common.

use std::convert::Infallible;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder, encode};

use super::{ClippedName, DecodeError};

/// What writing to memory can fail with: nothing.
pub(crate) type Written = Result<(), encode::Error<Infallible>>;

/// The bytes `write` produces.
pub(crate) fn encoded(write: impl FnOnce(&mut Encoder<Vec<u8>>) -> Written) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    write(&mut encoder).expect("writing to memory cannot fail");
    encoder.into_writer()
}

/// Decodes all of `bytes` with `read`, and no more than `limit` of them.
pub(crate) fn decode_whole<'b, T>(
    bytes: &'b [u8],
    limit: usize,
    read: impl FnOnce(&mut Decoder<'b>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge { found: bytes.len(), limit });
    }
    let mut decoder = Decoder::new(bytes);
    let value = read(&mut decoder)?;
    match bytes.len().saturating_sub(decoder.position()) {
        0 => Ok(value),
        found => Err(DecodeError::TrailingBytes { found }),
    }
}

/// A message's beginning.
pub(crate) enum Opening<'b> {
    /// A name by itself.
    Bare(&'b str),
    /// A name whose body comes next.
    WithBody(&'b str),
}

/// Reads a message up to its name.
pub(crate) fn opening<'b>(d: &mut Decoder<'b>) -> Result<Opening<'b>, DecodeError> {
    if d.datatype()? == Type::String {
        return Ok(Opening::Bare(d.str()?));
    }
    expect_length("message", 1, map_len(d)?)?;
    Ok(Opening::WithBody(d.str()?))
}

/// Reads the map of a message's fields: `take` reads the value of the field it is given the name of.
pub(crate) fn each_field<'b>(
    d: &mut Decoder<'b>,
    mut take: impl FnMut(&'b str, &mut Decoder<'b>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    for _ in 0..map_len(d)? {
        let name = d.str()?;
        take(name, d)?;
    }
    Ok(())
}

/// Length of the definite map that comes next. Nothing may be sized by it before its entries are there.
pub(crate) fn map_len(d: &mut Decoder<'_>) -> Result<u64, DecodeError> {
    d.map()?.ok_or(DecodeError::IndefiniteLength)
}

/// Length of the definite array that comes next. Nothing may be sized by it before its entries are there.
pub(crate) fn array_len(d: &mut Decoder<'_>) -> Result<u64, DecodeError> {
    d.array()?.ok_or(DecodeError::IndefiniteLength)
}

/// Refuses a map or array of the wrong length.
pub(crate) fn expect_length(what: &'static str, expected: u64, found: u64) -> Result<(), DecodeError> {
    if found == expected {
        return Ok(());
    }
    Err(DecodeError::WrongLength { what, expected, found })
}

/// A byte string or null.
pub(crate) fn optional_bytes(d: &mut Decoder<'_>) -> Result<Option<Vec<u8>>, DecodeError> {
    if d.datatype()? == Type::Null {
        d.null()?;
        return Ok(None);
    }
    Ok(Some(d.bytes()?.to_vec()))
}

/// Writes a named byte string or null.
pub(crate) fn write_optional(e: &mut Encoder<Vec<u8>>, name: &str, value: Option<&[u8]>) -> Written {
    e.str(name)?;
    match value {
        Some(bytes) => e.bytes(bytes)?,
        None => e.null()?,
    };
    Ok(())
}

/// Keeps the value of a field, once.
pub(crate) fn keep<T>(slot: &mut Option<T>, field: &'static str, value: T) -> Result<(), DecodeError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(DecodeError::DuplicateField { field }),
    }
}

/// The value of a field that must have come.
pub(crate) fn required<T>(slot: Option<T>, field: &'static str) -> Result<T, DecodeError> {
    slot.ok_or(DecodeError::MissingField { field })
}

/// The error for a name that is not in the protocol.
pub(crate) fn unknown(what: &'static str, name: &str) -> DecodeError {
    DecodeError::UnknownName { what, name: ClippedName::new(name) }
}
