//! `Name: value` lines in stanzas, the form that dpkg, apk and Python's packages share.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::{self, BufRead, Read};

/// Longest line that is looked at, in bytes. The rest of a longer one is passed over.
const MAX_LINE_BYTES: u64 = 16 << 10;
/// Most fields of one stanza that are kept.
const MAX_FIELDS: usize = 256;

/// The wanted fields of one stanza, in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stanza(Vec<Field>);

#[derive(Debug, PartialEq, Eq)]
struct Field {
    name: &'static str,
    value: String,
    /// Whether lines follow that continue the value; they are not kept.
    goes_on: bool,
}

impl Stanza {
    /// Reads up to the next empty line. Fields that are not `wanted` are not kept.
    ///
    /// Returns `None` at the end of the input.
    pub(crate) fn read(reader: &mut impl BufRead, wanted: &[&'static str]) -> io::Result<Option<Self>> {
        let mut stanza = Self::default();
        let mut is_empty = true;
        let mut keeps_last = false;
        let mut line = Vec::new();
        while read_line(reader, &mut line)? {
            let text = line.trim_ascii_end();
            if text.is_empty() {
                if is_empty {
                    continue;
                }
                return Ok(Some(stanza));
            }
            is_empty = false;
            if line.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
                if let Some(last) = stanza.0.last_mut().filter(|_| keeps_last) {
                    last.goes_on = true;
                }
                continue;
            }
            keeps_last = stanza.keep(text, wanted);
        }
        Ok((!is_empty).then_some(stanza))
    }

    /// The first value of a field.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|field| field.name == name).map(|field| field.value.as_str())
    }

    /// All values of a field.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |field| field.name == name).map(|field| field.value.as_str())
    }

    /// The first value of a field unless it goes on over several lines.
    pub(crate) fn line(&self, name: &str) -> Option<&str> {
        let field = self.0.iter().find(|field| field.name == name)?;
        (!field.goes_on).then_some(&field.value)
    }

    fn keep(&mut self, line: &[u8], wanted: &[&'static str]) -> bool {
        let Some(colon) = line.iter().position(|b| *b == b':') else { return false };
        let (name, value) = line.split_at(colon);
        let Some(name) = wanted.iter().find(|wanted| wanted.as_bytes() == name) else { return false };
        if self.0.len() >= MAX_FIELDS {
            return false;
        }
        let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
        self.0.push(Field { name, value: String::from_utf8_lossy(value).into_owned(), goes_on: false });
        true
    }
}

/// Reads a line, cut at [`MAX_LINE_BYTES`]. Returns false at the end of the input.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', line)?;
    if line.len() as u64 == MAX_LINE_BYTES && !line.ends_with(b"\n") {
        reader.skip_until(b'\n')?;
    }
    Ok(!line.is_empty())
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(mut text: &[u8]) -> Vec<Stanza> {
        std::iter::from_fn(|| Stanza::read(&mut text, &["A", "B"]).unwrap()).collect()
    }

    #[test]
    fn stanzas_end_at_empty_lines() {
        let found = all(b"\n\nA: 1\nC: x\nB:2\n\n\nA: 3\n more\nC: y\n more\n\n");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].value("A"), found[0].line("B")), (Some("1"), Some("2")));
        assert_eq!((found[1].value("A"), found[1].line("A"), found[1].value("B")), (Some("3"), None, None));
    }

    #[test]
    fn an_endless_line_is_passed_over_and_the_next_one_read() {
        let long = [&b"B: "[..], &vec![b'x'; 100_000], b"\nA: 1\n"].concat();
        let found = all(&long);
        assert_eq!(found[0].value("A"), Some("1"));
        assert!(found[0].value("B").unwrap().len() < 17 << 10);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            all(&bytes);
        }
    }
}
