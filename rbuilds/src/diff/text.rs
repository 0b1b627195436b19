//! A [`Diff`] for people.

use std::fmt::{self, Display, Formatter};

use super::{Change, Diff, Difference};
use crate::{compare::ByteRange, json_changes::JsonChange, path::printable};

/// How much of a register's value is shown, in digits.
const PCR_DIGITS: usize = 16;

/// Registers side by side, then every difference below its part and entry, then what it means. Every line is text without
/// control characters, whatever the images hold.
impl Display for Diff {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for pair in &self.pcrs {
            let value = |value: Option<crate::PcrValue>| match value {
                Some(value) => value.to_string().chars().take(PCR_DIGITS).chain("...".chars()).collect(),
                None => "none".to_owned(),
            };
            let register = format!("PCR{}", pair.pcr);
            match pair.same {
                true => writeln!(f, "{register:5}  same     {}", value(pair.a))?,
                false => writeln!(f, "{register:5}  differs  {:19}  {}", value(pair.a), value(pair.b))?,
            }
        }
        for in_part in self.differences.chunk_by(|a, b| a.part == b.part) {
            write_part(f, in_part)?;
        }
        writeln!(f, "\n{}", self.verdict())
    }
}

impl Diff {
    /// The answer in one sentence.
    pub fn verdict(&self) -> &'static str {
        match (self.identical, self.same_measurements) {
            (true, _) => "The images are the same, byte for byte.",
            (false, true) => {
                "The measurements are the same; the files differ only in what no register holds."
            }
            (false, false) => "The measurements differ.",
        }
    }
}

/// The differences of one part, of which there is at least one.
fn write_part(f: &mut Formatter<'_>, differences: &[Difference]) -> fmt::Result {
    let [first, ..] = differences else { return Ok(()) };
    let moved_by_all = |pcr: &u8| differences.iter().all(|difference| difference.pcrs.contains(pcr));
    let common: Vec<u8> = first.pcrs.iter().copied().filter(moved_by_all).collect();
    let heading = match differences.iter().any(|difference| !difference.pcrs.is_empty()) {
        true => registers("moves", &common),
        false => "  (moves no PCR)".to_owned(),
    };
    writeln!(f, "\n{}{heading}", first.part)?;
    for in_entry in differences.chunk_by(|a, b| a.entry == b.entry && a.pcrs == b.pcrs) {
        write_entry(f, in_entry, &common)?;
    }
    Ok(())
}

/// The differences of one entry, or of a part that has no entries. One line if that is enough.
fn write_entry(f: &mut Formatter<'_>, differences: &[Difference], common: &[u8]) -> fmt::Result {
    let [first, ..] = differences else { return Ok(()) };
    let more: Vec<u8> = first.pcrs.iter().copied().filter(|pcr| !common.contains(pcr)).collect();
    let more = registers(if common.is_empty() { "moves" } else { "also moves" }, &more);
    let lines: Vec<String> = differences.iter().flat_map(|difference| difference.change.lines()).collect();
    let lines = lines.iter().map(|line| printable(line.as_bytes()));
    match (&first.entry, lines.len()) {
        (None, _) => lines.into_iter().try_for_each(|line| writeln!(f, "  {line}{more}")),
        (Some(entry), 1) => lines.into_iter().try_for_each(|line| writeln!(f, "  {entry}: {line}{more}")),
        (Some(entry), _) => {
            writeln!(f, "  {entry}{more}")?;
            lines.into_iter().try_for_each(|line| writeln!(f, "    {line}"))
        }
    }
}

fn registers(verb: &str, pcrs: &[u8]) -> String {
    if pcrs.is_empty() {
        return String::new();
    }
    let names: Vec<String> = pcrs.iter().map(|pcr| format!("PCR{pcr}")).collect();
    format!("  ({verb} {})", names.join(", "))
}

impl Change {
    /// This change for people, a line or a few.
    fn lines(&self) -> Vec<String> {
        match self {
            Self::OnlyInA { is } => vec![format!("only in A: {is}")],
            Self::OnlyInB { is } => vec![format!("only in B: {is}")],
            Self::Attribute { name, a, b } => {
                let [a, b] = [a, b].map(|value| if value.is_empty() { "none" } else { value });
                match a.len() + b.len() {
                    0..60 => vec![format!("{name}: {a} -> {b}")],
                    _ => vec![format!("{name}:"), format!("  A: {a}"), format!("  B: {b}")],
                }
            }
            Self::Content { a_bytes, b_bytes, bytes, line } => {
                let mut lines = vec![format!("content: {}{}", range(*bytes), sizes(*a_bytes, *b_bytes))];
                if let Some(line) = line {
                    lines.push(format!("line {}:", line.number));
                    lines.extend([format!("  A: {}", line.a), format!("  B: {}", line.b)]);
                }
                lines
            }
            Self::Json(JsonChange { pointer, a, b }) => {
                let value = |value: &Option<serde_json::Value>| {
                    value.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string)
                };
                vec![format!("{pointer}: {} -> {}", value(a), value(b))]
            }
            Self::Written { how, bytes } => vec![format!("written otherwise: {how}; {}", range(*bytes))],
        }
    }
}

fn range(bytes: Option<ByteRange>) -> String {
    match bytes {
        None => "differs".to_owned(),
        Some(ByteRange { offset, differing: 1, .. }) => format!("1 byte differs at offset {offset}"),
        Some(ByteRange { offset, length, differing }) => {
            format!("{differing} bytes differ within {length} bytes from offset {offset} on")
        }
    }
}

fn sizes(a: u64, b: u64) -> String {
    if a == b { format!(" (of {a} bytes)") } else { format!(" ({a} bytes -> {b} bytes)") }
}
