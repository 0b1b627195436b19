//! The parameters of a request, read strictly: known names, each once, and values of any bytes.

use ledger::MAX_PATH_BYTES;

use super::error::ApiError;
use crate::tree::is_plain_path;

/// Most entries of one answer.
pub(super) const MAX_AT_ONCE: u64 = 1000;
/// Entries of one answer, unless it is said.
const AT_ONCE: u64 = 100;
/// Longest query: the longest path, percent-encoded, and room for the others.
const MAX_QUERY_BYTES: usize = 3 * MAX_PATH_BYTES + 256;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameters(Vec<(&'static str, Vec<u8>)>);

impl Parameters {
    /// Reads a query; `known` are the names that it may have.
    pub(super) fn parse(query: Option<&str>, known: &[&'static str]) -> Result<Self, ApiError> {
        let malformed = |what: &str| ApiError::Malformed(what.to_owned());
        let query = query.unwrap_or_default();
        if query.len() > MAX_QUERY_BYTES {
            return Err(malformed("the query is too long"));
        }
        let mut parameters = Self(Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = known.iter().find(|known| **known == name);
            let name = name.ok_or_else(|| malformed(&format!("this path takes: {}", known.join(", "))))?;
            if parameters.value(name).is_some() {
                return Err(malformed(&format!("{name} is there twice")));
            }
            let value =
                decode(value).ok_or_else(|| malformed("a percent sign without two hexadecimal digits"))?;
            parameters.0.push((name, value));
        }
        Ok(parameters)
    }

    fn value(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_slice())
    }

    /// The path, absolute and in its one spelling.
    pub(super) fn path(&self) -> Result<Vec<u8>, ApiError> {
        let path = self.value("path").filter(|path| is_plain_path(path));
        path.map(<[u8]>::to_vec).ok_or_else(|| {
            ApiError::Malformed(format!(
                "send path=, absolute, without `.`, `..` and a `/` at its end, of at most {MAX_PATH_BYTES} bytes, percent-encoded"
            ))
        })
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
        number.map(Some).ok_or_else(|| ApiError::Malformed(format!("{name} is a number")))
    }

    pub(super) fn required_number(&self, name: &str) -> Result<u64, ApiError> {
        self.number(name)?.ok_or_else(|| ApiError::Malformed(format!("send {name}=")))
    }

    /// How many entries are asked for.
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        let limit = self.number("limit")?.unwrap_or(AT_ONCE);
        match usize::try_from(limit) {
            Ok(number) if (1..=MAX_AT_ONCE).contains(&limit) => Ok(number),
            _ => Err(ApiError::Malformed(format!("limit is 1 to {MAX_AT_ONCE}"))),
        }
    }
}

/// Percent-encoding (RFC 3986, section 2.1); `None` if it is none.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
            bytes.push(high << 4 | low);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

/// Bytes as a value of a query.
pub(crate) fn encode(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(char::from(*byte))
            }
            other => write!(text, "%{other:02X}").expect("a string takes everything"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(query: &str) -> Option<Vec<u8>> {
        Parameters::parse(Some(query), &["path", "at"]).and_then(|parameters| parameters.path()).ok()
    }

    #[test]
    fn a_path_is_bytes_in_one_spelling() {
        assert_eq!(path("path=/a%0A%ff+b&at=3").unwrap(), b"/a\n\xff+b");
        for bad in [
            "",
            "path",
            "path=a",
            "path=/a/",
            "path=/%",
            "path=/%0g",
            "path=/a&path=/b",
            "path=/a&x=1",
            "path=/%00",
        ] {
            assert_eq!(path(bad), None, "{bad}");
        }
        assert_eq!(path(&format!("path=/{}", "%61".repeat(4095))).unwrap().len(), 4096);
        assert_eq!(path(&format!("path=/{}", "%61".repeat(4096))), None);
    }

    #[test]
    fn numbers_are_digits_within_their_range() {
        let limit = |text: &str| Parameters::parse(Some(text), &["limit"]).and_then(|p| p.limit()).ok();
        assert_eq!((limit(""), limit("limit=1"), limit("limit=1000")), (Some(100), Some(1), Some(1000)));
        for bad in ["limit=0", "limit=1001", "limit=+1", "limit=", "limit=99999999999999999999"] {
            assert_eq!(limit(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }

        #[test]
        fn any_query_is_read_or_refused(query in "\\PC{0,64}") {
            let _ = Parameters::parse(Some(&query), &["path", "at", "limit"]);
        }
    }
}
