//! The two lines of the hybrid vsock handshake. Specified in `docs/spec/hybrid-vsock.md`.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::Port;
use crate::addr::decimal;

/// The longest line either side may send, newline included.
pub const MAX_LINE_BYTES: usize = 32;

/// What is wrong with a handshake line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// No newline within the limit.
    #[error("line is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// Not the expected word, one space, a port and a newline.
    #[error("expected `{expected} PORT`, found {found:?}")]
    Malformed {
        /// `CONNECT` or `OK`.
        expected: &'static str,
        /// What came, with anything that is not text replaced.
        found: String,
    },
}

pub(super) fn connect(port: Port) -> Vec<u8> {
    format!("CONNECT {port}\n").into_bytes()
}

pub(super) fn ok(port: Port) -> Vec<u8> {
    format!("OK {port}\n").into_bytes()
}

pub(super) fn parse_connect(line: &[u8]) -> Result<Port, LineError> {
    parse("CONNECT", line)
}

pub(super) fn parse_ok(line: &[u8]) -> Result<Port, LineError> {
    parse("OK", line)
}

fn parse(expected: &'static str, line: &[u8]) -> Result<Port, LineError> {
    if line.len() > MAX_LINE_BYTES {
        return Err(LineError::TooLong);
    }
    let text = str::from_utf8(line).ok();
    let port = text
        .and_then(|text| text.strip_prefix(expected))
        .and_then(|rest| rest.strip_prefix(' '))
        .and_then(|rest| rest.strip_suffix('\n'))
        .and_then(decimal);
    port.map(Port)
        .ok_or_else(|| LineError::Malformed { expected, found: String::from_utf8_lossy(line).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VECTORS: &str = include_str!("../../../../docs/spec/vectors/hybrid-vsock.txt");

    fn unescape(text: &str) -> String {
        text.replace("\\n", "\n").replace("\\r", "\r").replace("\\t", "\t").replace("\\0", "\0")
    }

    #[test]
    fn vectors_of_the_specification_hold() {
        let mut seen = 0;
        for vector in VECTORS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let mut fields = vector.splitn(3, '|');
            let (kind, verdict, line) =
                (fields.next().unwrap(), fields.next().unwrap(), unescape(fields.next().unwrap()));
            let found = match kind {
                "connect" => parse_connect(line.as_bytes()),
                "ok" => parse_ok(line.as_bytes()),
                other => panic!("unknown kind {other}"),
            };
            let expected = decimal(verdict).map(Port);
            assert!(expected.is_some() || verdict == "refuse", "{vector}");
            assert_eq!(found.ok(), expected, "{vector}");
            seen += 1;
        }
        assert!(seen > 20, "only {seen} vectors");
    }

    proptest! {
        #[test]
        fn lines_decode_to_what_was_encoded(port in any::<u32>()) {
            prop_assert_eq!(parse_connect(&connect(Port(port))), Ok(Port(port)));
            prop_assert_eq!(parse_ok(&ok(Port(port))), Ok(Port(port)));
            prop_assert!(connect(Port(port)).len() <= MAX_LINE_BYTES);
        }

        #[test]
        fn decoding_never_panics_and_accepts_one_form(line in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(port) = parse_connect(&line) {
                prop_assert_eq!(connect(port), line.clone());
            }
            if let Ok(port) = parse_ok(&line) {
                prop_assert_eq!(ok(port), line);
            }
        }
    }
}
