//! What the codecs of this crate share on top of minicbor: counting items of definite and indefinite
//! containers against a limit, and noticing the end.
//!
//! Not a CBOR library, and it knows no format. Used by the COSE envelope, the document and the binding statement.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use minicbor::data::Type;
use minicbor::decode::{Decoder, Error};

/// Counts the items of one array or the entries of one map, of definite or indefinite length.
pub(crate) struct Items {
    declared: Option<u64>,
    seen: u64,
}

impl Items {
    /// `declared` is what [`Decoder::array`] or [`Decoder::map`] returned.
    pub(crate) fn new(declared: Option<u64>) -> Self {
        Items { declared, seen: 0 }
    }

    /// Whether another item follows; consumes the break that ends an indefinite container.
    pub(crate) fn more(&mut self, decoder: &mut Decoder<'_>) -> Result<bool, Error> {
        let more = match self.declared {
            Some(declared) => self.seen < declared,
            None => !take_break(decoder)?,
        };
        if more {
            self.seen = self.seen.saturating_add(1);
        }
        Ok(more)
    }

    /// Items begun so far, the current one included.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }
}

fn take_break(decoder: &mut Decoder<'_>) -> Result<bool, Error> {
    let ends = decoder.datatype()? == Type::Break;
    if ends {
        decoder.set_position(decoder.position().saturating_add(1));
    }
    Ok(ends)
}

/// Bytes left after the decoder's position.
pub(crate) fn remaining(decoder: &Decoder<'_>) -> usize {
    decoder.input().len().saturating_sub(decoder.position())
}
