//! Extended attributes as they stand behind an inode.

use super::{WriteError, escaped};
use crate::{
    Xattr,
    format::{XATTR_ENTRY_BYTES, XATTR_HEADER_BYTES, XATTR_PREFIXES},
};

/// The longest list of attributes: their length is counted in steps of four bytes, in 16 bits.
const MAX_BYTES: usize = 0xffff * XATTR_ENTRY_BYTES;

/// The attributes of an inode, in order of their names; nothing if there are none.
pub(super) fn encode(xattrs: &[Xattr]) -> Result<Vec<u8>, WriteError> {
    if xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let mut sorted: Vec<&Xattr> = xattrs.iter().collect();
    sorted.sort();
    let mut bytes = vec![0; XATTR_HEADER_BYTES];
    let mut last: Option<&[u8]> = None;
    for xattr in sorted {
        let unusable = || WriteError::Xattr { name: escaped(&xattr.name) };
        let (number, rest) = split(&xattr.name).ok_or_else(unusable)?;
        let name_len = u8::try_from(rest.len()).map_err(|_| unusable())?;
        let value_len = u16::try_from(xattr.value.len()).map_err(|_| unusable())?;
        if last.replace(&xattr.name) == Some(&xattr.name) {
            return Err(unusable());
        }
        bytes.extend([name_len, number]);
        bytes.extend(value_len.to_le_bytes());
        bytes.extend(rest);
        bytes.extend(&xattr.value);
        bytes.resize(bytes.len().next_multiple_of(XATTR_ENTRY_BYTES), 0);
        if bytes.len() > MAX_BYTES {
            return Err(unusable());
        }
    }
    Ok(bytes)
}

/// How the inode says how long its attributes are.
pub(super) fn count(encoded: &[u8]) -> u16 {
    let Some(entries) = encoded.len().checked_sub(XATTR_HEADER_BYTES) else { return 0 };
    u16::try_from(entries / XATTR_ENTRY_BYTES + 1).expect("longer ones are refused")
}

/// The number of a name's beginning, and the rest of it.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    XATTR_PREFIXES.iter().find_map(|(number, prefix)| {
        let rest = name.strip_prefix(*prefix)?;
        // A name that ends with a dot has a rest; those without one have none.
        (rest.is_empty() != prefix.ends_with(b".")).then_some((*number, rest))
    })
}
