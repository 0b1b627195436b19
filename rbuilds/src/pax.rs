//! PAX extended headers (POSIX.1-2017, `pax`, "pax Extended Header").
//!
//! Own code because records have to be cut by their length: values of extended attributes hold newlines, and a parser
//! that cuts at newlines loses the `path` and `size` after them.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use crate::{sparse::SparseRecords, xattrs::Xattrs};

/// With or without the padding, which `bsdtar` leaves out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What extended headers say of the entry after them. `None` where they say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link_path: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    /// How the entry is stored, if it is a sparse file.
    pub(crate) sparse: SparseRecords,
    /// The entry's extended attributes.
    pub(crate) xattrs: Xattrs,
}

impl Pax {
    /// Reads the records of one extended header on top of what is known. `None` if one is malformed.
    pub(crate) fn extend(mut self, mut records: &[u8]) -> Option<Self> {
        while !records.is_empty() {
            let (key, value, rest) = split_record(records)?;
            self.set(key, value)?;
            records = rest;
        }
        Some(self)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        // An empty value takes back what a global header said.
        let text = (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = text,
            b"linkpath" => self.link_path = text,
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            _ => match key.strip_prefix(b"GNU.sparse.") {
                Some(key) => self.sparse.set(key, value)?,
                None => self.set_xattr(key, value)?,
            },
        }
        Some(())
    }

    /// An attribute as `tar` writes it, or as `bsdtar` does. One without a value is none, as with every other key.
    fn set_xattr(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (name, value) = if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            (name.to_vec(), value.to_vec())
        } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            (percent_decoded(name)?, BASE64.decode(value).ok()?)
        } else {
            return Some(());
        };
        match value.as_slice() {
            b"" => self.xattrs.remove(&name),
            _ => self.xattrs.set(name, value),
        }
        Some(())
    }
}

/// Cuts `LENGTH KEY=VALUE\n` off, LENGTH being that of the whole record in decimal digits.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|b| *b == b' ')?;
    let digits = records.get(..space)?;
    let len = usize::try_from(number(digits)??).ok()?;
    let (record, rest) = records.split_at_checked(len)?;
    let body = record.get(space.checked_add(1)?..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|b| *b == b'=')?;
    let (key, value) = body.split_at_checked(equals)?;
    Some((key, value.strip_prefix(b"=")?, rest))
}

/// `%` and two hexadecimal digits stand for a byte.
fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut parts = text.split(|b| *b == b'%');
    let mut decoded = parts.next()?.to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        decoded.extend(hex::decode(digits).ok()?);
        decoded.extend(rest);
    }
    Some(decoded)
}

/// Decimal digits and nothing else; `Some(None)` for none at all.
fn number(text: &[u8]) -> Option<Option<u64>> {
    if text.is_empty() {
        return Some(None);
    }
    let text = std::str::from_utf8(text).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?;
    text.parse().ok().map(Some)
}

#[cfg(test)]
mod tests {
    use erofs::Xattr;
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::arithmetic_side_effects, reason = "the records of tests are short")]
    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut len = body.len() + 1;
        while len != body.len() + len.to_string().len() {
            len = body.len() + len.to_string().len();
        }
        [len.to_string().as_bytes(), &body].concat()
    }

    /// The well-known tar parser of our language cuts records at newlines. A file capability may hold byte 0x0a; all
    /// that came after it was lost, so a long name fell back to its first 100 bytes.
    #[test]
    fn a_newline_in_a_value_does_not_hide_the_next_record() {
        let records =
            [record("SCHILY.xattr.user.a", b"\x01\n\n\x0a\0"), record("path", b"a\nb"), record("size", b"5")];
        let pax = Pax::default().extend(&records.concat()).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(pax.size, Some(5));
        let xattr = Xattr { name: b"user.a".to_vec(), value: b"\x01\n\n\x0a\0".to_vec() };
        assert_eq!(*pax.xattrs.into_checked().unwrap(), [xattr]);
    }

    #[test]
    fn reads_attributes_of_both_kinds() {
        let records = [
            record("LIBARCHIVE.xattr.user.b%3Dc", b"AAE"),
            record("LIBARCHIVE.xattr.user.d", b"AA=="),
            record("SCHILY.xattr.user.a", b"text"),
            record("SCHILY.xattr.user.e", b"later taken back"),
            record("SCHILY.xattr.user.e", b""),
        ];
        let pax = Pax::default().extend(&records.concat()).unwrap();
        let xattr = |name: &str, value: &[u8]| Xattr { name: name.into(), value: value.to_vec() };
        let expected = [xattr("user.a", b"text"), xattr("user.b=c", &[0, 1]), xattr("user.d", &[0])];
        assert_eq!(*pax.xattrs.into_checked().unwrap(), expected);
    }

    #[test]
    fn refuses_malformed_records() {
        for text in [
            &b"5 a=b\n"[..], // one less than it is
            b"7 a=b\n",      // one more
            b"6 ab\n\n",     // no '='
            b"a=b\n",
            b"-6 a=b\n",
            b"0 a=b\n",
            b"99999999999999999999999 a=b\n",
            b"10 size=x\n",
            b"6 a=b",
            b"28 LIBARCHIVE.xattr.a=AAAAA\n",
            b"28 LIBARCHIVE.xattr.%4=AAAA\n",
        ] {
            assert_eq!(Pax::default().extend(text), None, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn an_empty_value_takes_back_an_earlier_one() {
        let global = Pax::default().extend(&record("path", b"x")).unwrap();
        assert_eq!(global.extend(&record("path", b"")).unwrap().path, None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pax::default().extend(&bytes);
        }

        #[test]
        fn reads_what_is_written(
            path in proptest::collection::vec(any::<u8>(), 1..200),
            link in proptest::collection::vec(any::<u8>(), 1..20),
            uid in any::<u64>(),
        ) {
            let records = [
                record("path", &path),
                record("mtime", b"1.5"),
                record("linkpath", &link),
                record("uid", uid.to_string().as_bytes()),
            ];
            let pax = Pax::default().extend(&records.concat()).unwrap();
            let expected = Pax { path: Some(path), link_path: Some(link), uid: Some(uid), ..Pax::default() };
            prop_assert_eq!(pax, expected);
        }
    }
}
