//! What rpm keeps of one installed package: a header (RPM, "Package File Format", version 4), without its magic.
//!
//! Two big-endian numbers say how many entries the index has and how long the data is. An entry is a tag, a type, where in
//! the data its value begins, and how many there are.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// Length of the two numbers before the index, in bytes.
const INTRO_BYTES: usize = 8;
/// Length of an entry of the index, in bytes.
const ENTRY_BYTES: usize = 16;
/// Most entries, as rpm itself has it.
const MAX_ENTRIES: usize = 0xffff;

const TYPE_INT32: u32 = 4;
const TYPE_STRING: u32 = 6;
/// A string in several languages, the first of which is not a translation.
const TYPE_I18N_STRING: u32 = 9;

const TAG_NAME: u32 = 1000;
const TAG_VERSION: u32 = 1001;
const TAG_RELEASE: u32 = 1002;
const TAG_EPOCH: u32 = 1003;
const TAG_LICENCE: u32 = 1014;
const TAG_ARCH: u32 = 1022;
const TAG_SOURCE: u32 = 1044;

/// What an inventory wants of a header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) epoch: Option<u32>,
    pub(crate) version: Option<&'a str>,
    pub(crate) release: Option<&'a str>,
    pub(crate) arch: Option<&'a str>,
    pub(crate) licence: Option<&'a str>,
    /// The file name of the source package.
    pub(crate) source: Option<&'a str>,
}

/// Reads a header. `None` if it is cut short, or a value that is wanted lies outside of it or is no text. Of a tag that
/// comes again, the first counts.
pub(crate) fn read(bytes: &[u8]) -> Option<Header<'_>> {
    let entries = usize::try_from(u32_at(bytes, 0)?).ok().filter(|entries| *entries <= MAX_ENTRIES)?;
    let data_bytes = usize::try_from(u32_at(bytes, 4)?).ok()?;
    let index_bytes = entries.checked_mul(ENTRY_BYTES)?;
    let (index, rest) = bytes.get(INTRO_BYTES..)?.split_at_checked(index_bytes)?;
    let data = rest.get(..data_bytes)?;
    let mut header = Header::default();
    for entry in index.chunks_exact(ENTRY_BYTES) {
        let text = || string(data, entry);
        match u32_at(entry, 0)? {
            TAG_NAME => header.name = header.name.or(Some(text()?)),
            TAG_VERSION => header.version = header.version.or(Some(text()?)),
            TAG_RELEASE => header.release = header.release.or(Some(text()?)),
            TAG_EPOCH => header.epoch = header.epoch.or(Some(number(data, entry)?)),
            // Of any language, and not what a package is found by.
            TAG_LICENCE => header.licence = header.licence.or_else(text),
            TAG_ARCH => header.arch = header.arch.or(Some(text()?)),
            TAG_SOURCE => header.source = header.source.or(Some(text()?)),
            _ => {}
        }
    }
    Some(header)
}

/// The bytes from where an entry's value begins, if there is one of one of these types.
fn value<'a>(data: &'a [u8], entry: &[u8], types: &[u32]) -> Option<&'a [u8]> {
    let (kind, offset, count) = (u32_at(entry, 4)?, u32_at(entry, 8)?, u32_at(entry, 12)?);
    if count == 0 || !types.contains(&kind) {
        return None;
    }
    data.get(usize::try_from(offset).ok()?..)
}

fn string<'a>(data: &'a [u8], entry: &[u8]) -> Option<&'a str> {
    let value = value(data, entry, &[TYPE_STRING, TYPE_I18N_STRING])?;
    let end = value.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(value.get(..end)?).ok()
}

fn number(data: &[u8], entry: &[u8]) -> Option<u32> {
    u32_at(value(data, entry, &[TYPE_INT32])?, 0)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header with these strings, and this epoch.
    pub(in super::super) fn header(strings: &[(u32, &str)], epoch: Option<u32>) -> Vec<u8> {
        let (mut index, mut data) = (Vec::new(), Vec::new());
        let mut entry = |tag: u32, kind: u32, offset: usize| {
            for number in [tag, kind, u32::try_from(offset).unwrap(), 1] {
                index.extend_from_slice(&number.to_be_bytes());
            }
        };
        if let Some(epoch) = epoch {
            entry(TAG_EPOCH, TYPE_INT32, 0);
            data.extend_from_slice(&epoch.to_be_bytes());
        }
        for (tag, text) in strings {
            entry(*tag, TYPE_STRING, data.len());
            data.extend_from_slice(text.as_bytes());
            data.push(0);
        }
        let count = u32::try_from(index.len() / ENTRY_BYTES).unwrap();
        let len = u32::try_from(data.len()).unwrap();
        [&count.to_be_bytes()[..], &len.to_be_bytes(), &index, &data].concat()
    }

    #[test]
    fn reads_what_is_wanted_and_of_a_tag_the_first() {
        let strings = [(1000, "bash"), (1004, "A shell"), (1001, "5.2"), (1000, "zsh"), (1022, "x86_64")];
        let bytes = header(&strings, Some(7));
        let expected = Header {
            name: Some("bash"),
            epoch: Some(7),
            version: Some("5.2"),
            arch: Some("x86_64"),
            ..Header::default()
        };
        assert_eq!(read(&bytes), Some(expected));
        assert_eq!(read(&header(&[], None)), Some(Header::default()));
    }

    #[test]
    fn refuses_what_leads_outside() {
        let good = header(&[(1000, "bash")], None);
        assert!(read(&good).is_some());
        for cut in 0..good.len() {
            assert_eq!(read(&good[..cut]), None, "cut at {cut}");
        }
        let changed = |at: usize, to: [u8; 4]| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&to);
            read(&bytes).is_some()
        };
        assert!(!changed(0, [0, 1, 0, 0]), "more entries than rpm knows");
        assert!(!changed(0, [0xff; 4]));
        assert!(!changed(4, [0xff; 4]));
        assert!(!changed(16, [0x7f, 0xff, 0xff, 0xff]), "a value outside of the data");
        assert!(!changed(12, [0, 0, 0, 4]), "a name that is a number");
        assert!(!changed(20, [0; 4]), "a name of which there is none");
        assert!(!changed(24, [0xff; 4]), "a name that is no text");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            flips in proptest::collection::vec((0usize..100, any::<u8>()), 0..6),
        ) {
            read(&bytes);
            let mut damaged = header(&[(1000, "bash"), (1001, "5.2")], Some(1));
            for (at, byte) in flips {
                if let Some(place) = damaged.get_mut(at) {
                    *place = byte;
                }
            }
            read(&damaged);
        }
    }
}
