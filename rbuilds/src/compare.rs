//! Where two streams of bytes differ, and, if they are text, in which line. One pass, two buffers.

use std::io::{self, Read};

use serde::Serialize;

const CHUNK_BYTES: usize = 128 << 10;

/// How much of a stream's beginning tells whether it is text, in bytes.
const SNIFFED_BYTES: usize = 8 << 10;

/// How much of a line is shown before and from the first difference on, in bytes.
const EXCERPT_BYTES: usize = 60;

/// The bytes that differ between two contents. What only the longer one has counts as differing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ByteRange {
    /// The first differing byte, counted from 0.
    pub offset: u64,
    /// From there to the last differing byte, both included, in bytes.
    pub length: u64,
    /// How many bytes in that range differ.
    pub differing: u64,
}

/// The first line that differs between two texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LineChange {
    /// Counted from 1.
    pub number: u64,
    /// What the first text has there, or an excerpt around the first difference.
    pub a: String,
    /// What the second has.
    pub b: String,
}

/// What a comparison found; both absent if there is no difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    pub(crate) bytes: Option<ByteRange>,
    pub(crate) line: Option<LineChange>,
}

/// Reads both to their ends.
pub(crate) fn compare(a: &mut dyn Read, b: &mut dyn Read) -> io::Result<Comparison> {
    let (mut chunk_a, mut chunk_b) = (Vec::new(), Vec::new());
    let (mut range, mut lines) = (None, Lines::default());
    let mut offset = 0_u64;
    loop {
        fill(a, &mut chunk_a)?;
        fill(b, &mut chunk_b)?;
        if chunk_a.is_empty() && chunk_b.is_empty() {
            return Ok(Comparison { bytes: range, line: lines.finish() });
        }
        if chunk_a != chunk_b {
            note_differences(offset, &chunk_a, &chunk_b, &mut range);
        }
        lines.take(offset, &chunk_a, &chunk_b);
        offset = offset.saturating_add(chunk_a.len().max(chunk_b.len()) as u64);
    }
}

fn fill(input: &mut dyn Read, chunk: &mut Vec<u8>) -> io::Result<()> {
    chunk.clear();
    input.take(CHUNK_BYTES as u64).read_to_end(chunk).map(drop)
}

fn note_differences(offset: u64, a: &[u8], b: &[u8], range: &mut Option<ByteRange>) {
    for at in 0..a.len().max(b.len()) {
        if a.get(at) != b.get(at) {
            let place = offset.saturating_add(at as u64);
            let range = range.get_or_insert(ByteRange { offset: place, length: 0, differing: 0 });
            range.length = place.saturating_sub(range.offset).saturating_add(1);
            range.differing = range.differing.saturating_add(1);
        }
    }
}

/// Follows the lines of two streams up to their first difference.
#[derive(Default)]
struct Lines {
    is_binary: bool,
    /// Line ends before the first difference.
    ended: u64,
    /// The end of what both have of the current line.
    common: Vec<u8>,
    after: Option<(Excerpt, Excerpt)>,
}

impl Lines {
    fn take(&mut self, offset: u64, a: &[u8], b: &[u8]) {
        if offset == 0 {
            self.is_binary = looks_binary(a) || looks_binary(b);
        }
        if self.is_binary {
            return;
        }
        let mut same = 0;
        if self.after.is_none() {
            same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
            self.pass(a.get(..same).unwrap_or_default());
        }
        if same < a.len().max(b.len()) {
            let (after_a, after_b) = self.after.get_or_insert_default();
            after_a.take(a.get(same..).unwrap_or_default());
            after_b.take(b.get(same..).unwrap_or_default());
        }
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.ended = self.ended.saturating_add(bytes.iter().filter(|byte| **byte == b'\n').count() as u64);
        match bytes.rsplit(|byte| *byte == b'\n').next() {
            Some(line) if line.len() < bytes.len() => self.common = line.to_vec(),
            _ => self.common.extend_from_slice(bytes),
        }
        let surplus = self.common.len().saturating_sub(EXCERPT_BYTES);
        self.common.drain(..surplus);
    }

    fn finish(self) -> Option<LineChange> {
        let (a, b) = self.after?;
        let text = |after: Excerpt| {
            String::from_utf8_lossy(&[self.common.clone(), after.bytes].concat()).into_owned()
        };
        Some(LineChange { number: self.ended.saturating_add(1), a: text(a), b: text(b) })
    }
}

/// The rest of a line, up to a limit.
#[derive(Default)]
struct Excerpt {
    bytes: Vec<u8>,
    is_complete: bool,
}

impl Excerpt {
    fn take(&mut self, bytes: &[u8]) {
        if self.is_complete {
            return;
        }
        let room = EXCERPT_BYTES.saturating_sub(self.bytes.len());
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        self.is_complete = line.len() < bytes.len() || line.len() >= room;
        self.bytes.extend(line.iter().take(room));
    }
}

fn looks_binary(start: &[u8]) -> bool {
    let is_text = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c | 0x1b | 0x20..=0x7e | 0x80..);
    !start.iter().take(SNIFFED_BYTES).all(is_text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compared(a: &[u8], b: &[u8]) -> Comparison {
        compare(&mut &*a, &mut &*b).unwrap()
    }

    #[test]
    fn equal_contents_have_no_difference() {
        assert_eq!(compared(b"", b""), Comparison::default());
        assert_eq!(compared(&[7; 300_000], &[7; 300_000]), Comparison::default());
    }

    #[test]
    fn names_the_line_of_a_text_and_none_of_what_is_binary() {
        let line = compared(b"one\ntwo\nthree\n", b"one\ntvo\nthree\n").line.unwrap();
        assert_eq!((line.number, line.a.as_str(), line.b.as_str()), (2, "two", "tvo"));
        let line = compared(b"one\n", b"one\nmore").line.unwrap();
        assert_eq!((line.number, line.a.as_str(), line.b.as_str()), (2, "", "more"));
        assert_eq!(compared(b"\0a", b"\0b").line, None);
    }

    #[test]
    fn lines_are_followed_across_chunks_and_cut_to_an_excerpt() {
        let mut a = vec![b'x'; CHUNK_BYTES - 2];
        a.splice(10..11, [b'\n']);
        let mut b = a.clone();
        a.extend(b"ab\nend");
        b.extend(b"ac\nend");
        let line = compared(&a, &b).line.unwrap();
        assert_eq!(line.number, 2);
        assert_eq!(line.a, format!("{}b", "x".repeat(EXCERPT_BYTES - 1) + "a"));
        let long = compared(&[b'y'; 9000], &[b'z'; 9000]).line.unwrap();
        assert_eq!((long.a.len(), long.b.len()), (EXCERPT_BYTES, EXCERPT_BYTES));
    }

    proptest! {
        #[test]
        fn finds_the_range_that_a_direct_comparison_finds(
            a in prop::collection::vec(0_u8..4, 0..40),
            b in prop::collection::vec(0_u8..4, 0..40),
            shift in prop::sample::select(vec![0, CHUNK_BYTES - 20, 3 * CHUNK_BYTES - 1]),
        ) {
            let (a, b) = ([vec![9; shift], a].concat(), [vec![9; shift], b].concat());
            let places: Vec<u64> =
                (0..a.len().max(b.len())).filter(|at| a.get(*at) != b.get(*at)).map(|at| at as u64).collect();
            let expected = places.first().zip(places.last()).map(|(first, last)| ByteRange {
                offset: *first,
                length: last - first + 1,
                differing: places.len() as u64,
            });
            prop_assert_eq!(compared(&a, &b).bytes, expected);
        }
    }
}
