//! Cuts a service's output into lines of bounded length.
//!
//! Bytes in, lines out; reading the pipe is the caller's.

use crate::event::Line;

/// Longest part of a line in one event, in bytes. A longer line goes on in the next event.
pub const MAX_LINE_BYTES: usize = 8 * 1024;

/// Collects bytes until a line is complete.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    partial: Vec<u8>,
}

impl LineSplitter {
    /// Takes bytes as they were read and gives each line they complete.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(Line)) {
        while !bytes.is_empty() {
            let room = MAX_LINE_BYTES - self.partial.len();
            let (window, ends) = match bytes.iter().take(room + 1).position(|b| *b == b'\n') {
                Some(end) => (end, true),
                None => (room.min(bytes.len()), false),
            };
            self.partial.extend_from_slice(&bytes[..window]);
            bytes = &bytes[window + usize::from(ends)..];
            if ends {
                emit(Line { bytes: std::mem::take(&mut self.partial), continues: false });
            } else if self.partial.len() == MAX_LINE_BYTES && !bytes.is_empty() {
                let rest = self.partial.split_off(cut(&self.partial));
                emit(Line { bytes: std::mem::replace(&mut self.partial, rest), continues: true });
            }
        }
    }

    /// Gives what came after the last end-of-line, once the output has ended.
    pub(crate) fn finish(&mut self, mut emit: impl FnMut(Line)) {
        if !self.partial.is_empty() {
            emit(Line { bytes: std::mem::take(&mut self.partial), continues: false });
        }
    }
}

/// Where to cut a full buffer: before a character of UTF-8 that is not all there, so that text stays text.
fn cut(full: &[u8]) -> usize {
    let is_continuation = |b: &u8| b & 0xC0 == 0x80;
    let tail = full.iter().rev().take(3).take_while(|b| is_continuation(b)).count();
    let lead = full.len() - tail - 1;
    let wanted = match full[lead] {
        0xC0..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF7 => 4,
        _ => 0,
    };
    if wanted > tail + 1 { lead } else { full.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(chunks: &[&[u8]]) -> Vec<Line> {
        let mut splitter = LineSplitter::default();
        let mut lines = Vec::new();
        for chunk in chunks {
            splitter.push(chunk, |line| lines.push(line));
        }
        splitter.finish(|line| lines.push(line));
        lines
    }

    fn whole(bytes: &[u8]) -> Line {
        Line { bytes: bytes.to_vec(), continues: false }
    }

    #[test]
    fn joins_chunks_and_keeps_empty_lines_and_an_unfinished_last_one() {
        assert_eq!(
            lines(&[b"a", b"b\n\nc", b"\r\nd"]),
            [whole(b"ab"), whole(b""), whole(b"c\r"), whole(b"d")]
        );
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_one_event() {
        let mut text = vec![b'x'; MAX_LINE_BYTES];
        text.push(b'\n');
        assert_eq!(lines(&[&text]), [whole(&text[..MAX_LINE_BYTES])]);
        assert_eq!(lines(&[&text[..MAX_LINE_BYTES], b"\n"]), [whole(&text[..MAX_LINE_BYTES])]);
    }

    #[test]
    fn a_long_line_is_not_cut_within_a_character() {
        let text = format!("{}\u{20ac}tail\n", "x".repeat(MAX_LINE_BYTES - 1));
        let got = lines(&[text.as_bytes()]);
        assert_eq!(got.len(), 2);
        assert!(got[0].continues);
        assert_eq!(got[1], whole("\u{20ac}tail".as_bytes()));
    }

    proptest! {
        /// However the bytes arrive, joining the lines gives them back and no line is over the limit.
        #[test]
        fn loses_and_reorders_nothing(
            runs in prop::collection::vec((prop::sample::select(vec![b'a', b'\n', 0x80, 0xF0, 0xFF]), 1_usize..5000), 0..12),
            step in 1_usize..9000,
        ) {
            let bytes: Vec<u8> = runs.iter().flat_map(|(b, n)| std::iter::repeat_n(*b, *n)).collect();
            let chunks: Vec<&[u8]> = bytes.chunks(step).collect();
            let mut joined = Vec::new();
            for line in lines(&chunks) {
                prop_assert!(line.bytes.len() <= MAX_LINE_BYTES);
                joined.extend_from_slice(&line.bytes);
                if !line.continues {
                    joined.push(b'\n');
                }
            }
            if bytes.last().is_some_and(|b| *b != b'\n') {
                joined.pop();
            }
            prop_assert_eq!(joined, bytes);
        }
    }
}
