//! The part of BER (ITU-T X.690, section 8) that messages of KMS need: tags of one byte, and lengths of all three forms.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// How deep elements of indefinite length may be nested.
const MAX_DEPTH: usize = 16;

/// Most bytes that say a length.
const MAX_LENGTH_BYTES: usize = 4;

/// The end of an element of indefinite length.
const END_OF_CONTENTS: [u8; 2] = [0, 0];

/// The bytes are no BER, or not of this part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// One element. Its tag says whether its content is elements again (bit 0x20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
}

/// Elements that follow each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element if it has this tag.
    pub(crate) fn next_if(&mut self, tag: u8) -> Result<Option<&'a [u8]>, Malformed> {
        if self.0.first() != Some(&tag) {
            return Ok(None);
        }
        self.next().map(|element| Some(element.content))
    }

    /// The content of the next element, which has to have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        self.next_if(tag)?.ok_or(Malformed)
    }

    pub(crate) fn next(&mut self) -> Result<Element<'a>, Malformed> {
        let (element, rest) = split(self.0, MAX_DEPTH)?;
        self.0 = rest;
        Ok(element)
    }

    /// Nothing may follow.
    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// The first element of `bytes`, and what follows it.
fn split(bytes: &[u8], depth: usize) -> Result<(Element<'_>, &[u8]), Malformed> {
    let (&[tag, length], rest) = bytes.split_first_chunk().ok_or(Malformed)?;
    // Tag numbers from 31 on take more bytes (8.1.2.4), and 0 is the end of something.
    if tag & 0x1f == 0x1f || tag == 0 {
        return Err(Malformed);
    }
    let (content, rest) = match length {
        0x80 if tag & 0x20 != 0 => until_end(rest, depth)?,
        0..=0x7f => rest.split_at_checked(length.into()).ok_or(Malformed)?,
        _ => {
            let (length, rest) = long_length(length, rest)?;
            rest.split_at_checked(length).ok_or(Malformed)?
        }
    };
    Ok((Element { tag, content }, rest))
}

/// A length of more than one byte (8.1.3.5).
fn long_length(first: u8, rest: &[u8]) -> Result<(usize, &[u8]), Malformed> {
    let count = usize::from(first & 0x7f);
    if !(1..=MAX_LENGTH_BYTES).contains(&count) {
        return Err(Malformed);
    }
    let (digits, rest) = rest.split_at_checked(count).ok_or(Malformed)?;
    let length = digits.iter().fold(0_u32, |length, byte| length << 8 | u32::from(*byte));
    Ok((usize::try_from(length).map_err(|_| Malformed)?, rest))
}

/// Content of indefinite length (8.1.3.6): elements up to the end mark.
fn until_end(bytes: &[u8], depth: usize) -> Result<(&[u8], &[u8]), Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed)?;
    let mut rest = bytes;
    loop {
        if let Some(after) = rest.strip_prefix(&END_OF_CONTENTS) {
            let length = bytes.len().checked_sub(rest.len()).ok_or(Malformed)?;
            return Ok((bytes.get(..length).ok_or(Malformed)?, after));
        }
        (_, rest) = split(rest, depth)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_have_three_forms() {
        let long = [&[0x04, 0x81, 3][..], b"abc"].concat();
        let indefinite = [&[0x24, 0x80][..], &[4, 3], b"abc", &[0x30, 0x80, 0, 0], &[0, 0]].concat();
        for (bytes, content) in [
            (&[4, 3, b'a', b'b', b'c'][..], &b"abc"[..]),
            (&long, b"abc"),
            (&indefinite, b"\x04\x03abc\x30\x80\0\0"),
        ] {
            let mut elements = Elements::new(bytes);
            assert_eq!(elements.next().unwrap().content, content);
            elements.end().unwrap();
        }
    }

    #[test]
    fn what_is_cut_too_long_or_too_deep_is_refused() {
        let deep = [0x30, 0x80].repeat(MAX_DEPTH + 1);
        let deep = [deep, vec![0; 2 * MAX_DEPTH + 2]].concat();
        for bytes in [
            &[][..],
            &[4],
            &[4, 1],
            &[4, 0x80, 0, 0],
            &[0x30, 0x80, 0],
            &[0x1f, 1, 0],
            &[0, 0],
            &[4, 0x85, 0, 0, 0, 0, 1, 9],
            &[4, 0x84, 0xff, 0xff, 0xff, 0xff],
            &deep,
        ] {
            assert_eq!(Elements::new(bytes).next(), Err(Malformed), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut elements = Elements::new(&bytes);
            while let Ok(element) = elements.next() {
                prop_assert!(element.content.len() < bytes.len());
            }
        }
    }
}
