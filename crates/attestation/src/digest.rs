//! A SHA-256 digest as a value that is not confused with other 32 bytes.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A SHA-256 digest (FIPS 180-4). Its text form is 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let mut array = [0; 32];
        array.copy_from_slice(digest.as_ref());
        Sha256(array)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

/// As its text form.
impl Serialize for Sha256 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl FromStr for Sha256 {
    type Err = ParseHexError;

    fn from_str(text: &str) -> Result<Self, ParseHexError> {
        parse_hex(text).map(Sha256)
    }
}

/// A text that is not the hexadecimal form of the value asked for.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("expected {expected_digits} hexadecimal digits, found {found_chars} characters")]
pub struct ParseHexError {
    /// Number of digits that the value has.
    pub expected_digits: usize,
    /// Number of characters given; equal to the digits expected when one of them is not hexadecimal.
    pub found_chars: usize,
    /// What was wrong.
    #[source]
    pub source: hex::FromHexError,
}

/// Parses exactly `N` bytes of hexadecimal, in either case.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseHexError> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|source| ParseHexError {
        expected_digits: N * 2,
        found_chars: text.chars().count(),
        source,
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_of_the_empty_input_is_the_published_one() {
        let expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Sha256::of(b"").to_string(), expected);
        assert_eq!(expected.parse(), Ok(Sha256::of(b"")));
    }

    #[test]
    fn refuses_short_and_non_hexadecimal_text() {
        assert_eq!("ab".parse::<Sha256>().unwrap_err().found_chars, 2);
        assert!("z".repeat(64).parse::<Sha256>().is_err());
    }
}
