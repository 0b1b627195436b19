//! What a request asks for behind the `?`: names and values, percent-encoded (RFC 3986, section 2.1).
//!
//! Values are bytes, since a path need not be UTF-8. `+` is a plus sign: paths have those, and forms are not sent here.
//! A parameter that a path does not know is refused rather than ignored: whoever asks a later version's question learns that
//! this version cannot answer it.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::ops::RangeInclusive;

use crate::error::ApiError;

/// Longest path of a file, in bytes: what the ledger has a place for.
pub(crate) const MAX_PATH_BYTES: usize = ledger::MAX_PATH_BYTES;

/// The parameters of one request, in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parameters(Vec<(&'static str, Vec<u8>)>);

impl Parameters {
    /// Reads a query in which only `known` names may be.
    pub(crate) fn parse(query: Option<&str>, known: &'static [&'static str]) -> Result<Self, ApiError> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let parameters = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            let found = known.iter().find(|known| known.as_bytes() == name);
            let name = found.ok_or_else(|| ApiError::UnknownParameter {
                name: String::from_utf8_lossy(&name).into_owned(),
                known,
            })?;
            Ok((*name, decode(value)?))
        });
        parameters.collect::<Result<_, _>>().map(Self)
    }

    /// Every value of `name`.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |(found, _)| *found == name).map(|(_, value)| value.as_slice())
    }

    /// The value of `name`, which may be there once.
    pub(crate) fn optional(&self, name: &'static str) -> Result<Option<&[u8]>, ApiError> {
        let mut values = self.all(name);
        let first = values.next();
        match values.count() {
            0 => Ok(first),
            more => Err(ApiError::ParameterRepeated { name, times: more.saturating_add(1) }),
        }
    }

    /// The value of `name`, which is there once and not empty.
    pub(crate) fn required(&self, name: &'static str) -> Result<&[u8], ApiError> {
        let value = self.optional(name)?.filter(|value| !value.is_empty());
        value.ok_or(ApiError::ParameterMissing { name })
    }

    /// The value of `name` as a decimal number within `range`.
    pub(crate) fn number(
        &self,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.optional(name)? else { return Ok(None) };
        let digits = value.first().is_some_and(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
        number.filter(|number| range.contains(number)).map(Some).ok_or(ApiError::Number { name, range })
    }

    /// The value of `name` as a path of the application's.
    pub(crate) fn path(&self, name: &'static str) -> Result<&[u8], ApiError> {
        path(self.required(name)?)
    }
}

/// `bytes` if they are a path in its one spelling: absolute, without `.`, `..`, empty components and NUL.
pub(crate) fn path(bytes: &[u8]) -> Result<&[u8], ApiError> {
    let components = bytes.strip_prefix(b"/").ok_or(ApiError::Path)?;
    let well = |component: &[u8]| !matches!(component, b"" | b"." | b"..") && !component.contains(&0);
    let spelt = components.is_empty() || components.split(|byte| *byte == b'/').all(well);
    if !spelt || bytes.len() > MAX_PATH_BYTES {
        return Err(ApiError::Path);
    }
    Ok(bytes)
}

/// The bytes that `text` stands for. A `%` that no two hex digits follow is refused.
fn decode(text: &str) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = behind;
            continue;
        }
        let (digits, behind) = behind.split_first_chunk::<2>().ok_or(ApiError::Query)?;
        let mut decoded = [0];
        hex::decode_to_slice(digits, &mut decoded).map_err(|_| ApiError::Query)?;
        bytes.extend(decoded);
        rest = behind;
    }
    Ok(bytes)
}

/// `bytes` as a query's value: what is not unreserved (RFC 3986, section 2.3) or a slash is percent-encoded.
pub(crate) fn encode(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a String takes every text");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: &[&str] = &["path", "at"];

    fn parse(query: &str) -> Result<Parameters, ApiError> {
        Parameters::parse(Some(query), KNOWN)
    }

    #[test]
    fn values_are_bytes_and_a_plus_is_a_plus() {
        let parameters = parse("path=/lib/c%2B+/%ff%00&at=7&path=").unwrap();
        assert_eq!(parameters.all("path").collect::<Vec<_>>(), [&b"/lib/c++/\xff\0"[..], b""]);
        assert_eq!(parameters.number("at", 0..=7).unwrap(), Some(7));
        assert_eq!(Parameters::parse(None, KNOWN).unwrap().optional("at").unwrap(), None);
    }

    #[test]
    fn what_cannot_be_read_or_is_not_known_is_refused() {
        for query in ["path=%", "path=%4", "path=%zz", "path=%+1", "%zz=1"] {
            assert!(matches!(parse(query), Err(ApiError::Query)), "{query}");
        }
        assert!(matches!(parse("Path=/"), Err(ApiError::UnknownParameter { name, .. }) if name == "Path"));
        assert!(matches!(
            parse("path=/a&path=/a").unwrap().path("path"),
            Err(ApiError::ParameterRepeated { .. })
        ));
        assert!(matches!(parse("path=").unwrap().path("path"), Err(ApiError::ParameterMissing { .. })));
    }

    #[test]
    fn a_number_is_digits_within_its_range() {
        for value in ["", "+1", "-1", "1.0", " 1", "8", "99999999999999999999", "%31%20"] {
            let refused = parse(&format!("at={value}")).unwrap().number("at", 0..=7);
            assert!(matches!(refused, Err(ApiError::Number { .. })), "{value:?}: {refused:?}");
        }
    }

    #[test]
    fn a_path_has_one_spelling() {
        for spelt in [&b"/"[..], b"/app/a b", b"/..a/.b/c.", b"/\xff"] {
            assert_eq!(path(spelt).unwrap(), spelt);
        }
        let long = [b"/".as_slice(), &[b'a'; MAX_PATH_BYTES]].concat();
        assert_eq!(path(long.split_last().unwrap().1).unwrap().len(), MAX_PATH_BYTES);
        for spelt in [
            &b""[..],
            b"app",
            b"./app",
            b"//",
            b"/app/",
            b"/app//a",
            b"/app/./a",
            b"/app/../etc/passwd",
            b"/..",
            b"/a\0b",
            &long,
        ] {
            assert!(matches!(path(spelt), Err(ApiError::Path)), "{}", String::from_utf8_lossy(spelt));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn what_is_encoded_is_read_again(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let query = format!("path={}", encode(&bytes));
            let parameters = parse(&query).unwrap();
            prop_assert_eq!(parameters.optional("path").unwrap(), Some(&bytes[..]));
        }

        #[test]
        fn no_query_makes_it_panic(query in "\\PC{0,64}") {
            if let Ok(parameters) = parse(&query) {
                let _ = (parameters.number("at", 0..=9), parameters.path("path"));
            }
        }
    }
}
