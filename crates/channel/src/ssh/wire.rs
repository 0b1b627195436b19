//! SSH's data types (RFC 4251, section 5), read from bytes that nobody vouches for.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// Reads one value after the other. Nothing is allocated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

/// The bytes end before a value does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut;

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Cut> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Cut)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Cut> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Cut)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*taken))
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8], Cut> {
        let length = usize::try_from(self.u32()?).map_err(|_| Cut)?;
        self.take(length)
    }

    /// A positive integer as `N` bytes, big-endian, with zeros in front. Only its one encoding is taken.
    pub(super) fn positive<const N: usize>(&mut self) -> Result<[u8; N], Cut> {
        let magnitude = match self.string()? {
            [0, rest @ ..] if rest.first().is_some_and(|first| *first >= 0x80) => rest,
            digits @ [1..0x80, ..] => digits,
            _ => return Err(Cut),
        };
        let mut value = [0; N];
        let start = N.checked_sub(magnitude.len()).ok_or(Cut)?;
        value.get_mut(start..).ok_or(Cut)?.copy_from_slice(magnitude);
        Ok(value)
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }
}

/// Appends `value` as a string.
pub(super) fn put_string(out: &mut Vec<u8>, value: &[u8]) {
    let length = u32::try_from(value.len()).expect("no string here comes near 4 GiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
}

/// Appends `magnitude`, a big-endian number, as a positive integer.
pub(super) fn put_positive(out: &mut Vec<u8>, magnitude: &[u8]) {
    let start = magnitude.iter().position(|byte| *byte != 0).unwrap_or(magnitude.len());
    let digits = magnitude.get(start..).unwrap_or_default();
    let sign: &[u8] = if digits.first().is_some_and(|first| *first >= 0x80) { &[0] } else { &[] };
    put_string(out, &[sign, digits].concat());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn positive(encoding: &[u8]) -> Result<[u8; 4], Cut> {
        let mut bytes = Vec::new();
        put_string(&mut bytes, encoding);
        Reader::new(&bytes).positive()
    }

    #[test]
    fn a_number_has_one_encoding() {
        assert_eq!(positive(&[1]), Ok([0, 0, 0, 1]));
        assert_eq!(positive(&[0, 0x80]), Ok([0, 0, 0, 0x80]));
        assert_eq!(positive(&[0, 0xff, 2, 3, 4]), Ok([0xff, 2, 3, 4]));
        for other in
            [&[][..], &[0], &[0, 1], &[0x80], &[0, 0, 0x80], &[1, 2, 3, 4, 5], &[0, 0xff, 2, 3, 4, 5]]
        {
            assert_eq!(positive(other), Err(Cut), "{other:?}");
        }
    }

    #[test]
    fn lengths_beyond_the_input_are_refused() {
        for bytes in [&[][..], &[0, 0, 0], &[0, 0, 0, 2, 1], &[0xff; 12]] {
            assert_eq!(Reader::new(bytes).string(), Err(Cut));
        }
    }

    proptest! {
        #[test]
        fn reading_undoes_writing(number: [u8; 8], text in prop::collection::vec(any::<u8>(), 0..50)) {
            prop_assume!(number != [0; 8]);
            let mut bytes = Vec::new();
            put_positive(&mut bytes, &number);
            put_string(&mut bytes, &text);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.positive(), Ok(number));
            prop_assert_eq!(reader.string(), Ok(&text[..]));
            prop_assert_eq!(reader.rest(), &[] as &[u8]);
        }
    }
}
