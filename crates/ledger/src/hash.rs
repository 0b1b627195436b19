//! SHA-256 (FIPS 180-4) as the log and the map use it.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256, digest};

/// Inputs up to this size are put together on the stack: every node and leaf of the trees.
const SMALL_BYTES: usize = 192;

/// A SHA-256 digest: of a leaf, of a node, of a tree. Its text form is 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; Hash::BYTES]);

impl Hash {
    /// Bytes of a digest.
    pub const BYTES: usize = 32;

    /// The digest of `parts`, one after the other.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let mut small = [0; SMALL_BYTES];
        let mut length = 0_usize;
        for part in parts {
            let end = length.saturating_add(part.len());
            let Some(room) = small.get_mut(length..end) else { return Self::of_many(parts) };
            room.copy_from_slice(part);
            length = end;
        }
        Self::from_digest(digest(&SHA256, small.get(..length).unwrap_or_default()).as_ref())
    }

    fn of_many(parts: &[&[u8]]) -> Self {
        let mut context = Context::new(&SHA256);
        parts.iter().for_each(|part| context.update(part));
        Self::from_digest(context.finish().as_ref())
    }

    fn from_digest(bytes: &[u8]) -> Self {
        Self(bytes.try_into().expect("SHA-256 gives 32 bytes"))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl FromStr for Hash {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; Self::BYTES];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_hashed_as_one_whatever_their_size() {
        let long = vec![7; 3 * SMALL_BYTES];
        for cut in [0, 1, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, long.len()] {
            let (a, b) = long.split_at(cut);
            assert_eq!(Hash::of(&[a, b]), Hash::from_digest(digest(&SHA256, &long).as_ref()));
            assert_eq!(Hash::of(&[a]), Hash::from_digest(digest(&SHA256, a).as_ref()));
        }
    }

    #[test]
    fn text_is_hexadecimal_of_32_bytes() {
        let hash = Hash::of(&[b""]);
        assert_eq!(hash.to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("e3".parse::<Hash>().is_err() && "zz".repeat(32).parse::<Hash>().is_err());
    }
}
