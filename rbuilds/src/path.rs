//! Paths inside an image: bytes, relative to its root, never leading out of it.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{borrow::Borrow, fmt};

use crate::{
    error::EntryError,
    limits::{MAX_COMPONENT_BYTES, MAX_PATH_BYTES, MAX_RAMDISK_NAME_BYTES},
};

/// A path inside an image: components joined by `/`, without `.`, `..`, empty components or NUL bytes. The root is the
/// empty path. Ordered by bytes, so that a directory comes before what is in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EntryPath(Vec<u8>);

impl EntryPath {
    /// The root directory.
    pub(crate) const fn root() -> Self {
        Self(Vec::new())
    }

    /// Reads the name of an application's file as archives write it. A leading `/` means the image's root, as it does
    /// for every extractor: there is no other root that it could mean.
    ///
    /// # Errors
    /// [`EntryError`] for `..`, NUL and over-long names.
    pub(crate) fn parse(name: &[u8]) -> Result<Self, EntryError> {
        Self::parse_up_to(name, MAX_PATH_BYTES)
    }

    /// Reads the name of a ramdisk's entry, which may be longer by the name of the directory that the application is in.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub(crate) fn parse_ramdisk_name(name: &[u8]) -> Result<Self, EntryError> {
        Self::parse_up_to(name, MAX_RAMDISK_NAME_BYTES)
    }

    fn parse_up_to(name: &[u8], limit: usize) -> Result<Self, EntryError> {
        let mut path = Vec::with_capacity(name.len());
        for component in name.split(|b| *b == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(EntryError::ParentComponent),
                _ if component.contains(&0) => return Err(EntryError::NulByte),
                _ if component.len() > MAX_COMPONENT_BYTES => {
                    return Err(EntryError::ComponentTooLong { found: component.len() });
                }
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
        }
        if path.len() > limit {
            return Err(EntryError::PathTooLong { found: path.len(), limit });
        }
        Ok(Self(path))
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a leading `/`.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The directory this is in and its name there; `None` for the root.
    pub(crate) fn split(&self) -> Option<(Self, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => {
                let (parent, name) = self.0.split_at(at);
                (Self(parent.to_vec()), name.strip_prefix(b"/").unwrap_or(name))
            }
            None => (Self::root(), &self.0),
        })
    }

    /// Every directory above this one, the root first.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &[u8]> {
        let root = (!self.is_root()).then_some(&[][..]);
        let slashes = self.0.iter().enumerate().filter(|(_, b)| **b == b'/');
        root.into_iter().chain(slashes.filter_map(|(at, _)| self.0.get(..at)))
    }

    /// The path of `name` in this directory. `name` is one component.
    pub(crate) fn join(&self, name: &[u8]) -> Result<Self, EntryError> {
        let mut path = self.0.clone();
        path.push(b'/');
        path.extend_from_slice(name);
        Self::parse(&path)
    }

    /// Whether this is below the top-level directory `dir`.
    pub(crate) fn is_below(&self, dir: &[u8]) -> bool {
        self.0.strip_prefix(dir).is_some_and(|rest| rest.first() == Some(&b'/'))
    }
}

// Sound because the derived order, equality and hash are those of the bytes.
impl Borrow<[u8]> for EntryPath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", printable(&self.0))
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A name as a person can read it: as it is if it is clean UTF-8, else with escapes.
pub(crate) fn printable(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => name.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(name: &[u8]) -> EntryPath {
        EntryPath::parse(name).unwrap()
    }

    #[test]
    fn spellings_of_one_path_are_one_path() {
        for name in ["usr/bin", "./usr/bin", "/usr/bin", "usr//bin/", "././usr/./bin/."] {
            assert_eq!(parse(name.as_bytes()).as_bytes(), b"usr/bin");
        }
        for name in ["", ".", "./", "/", "//"] {
            assert!(parse(name.as_bytes()).is_root());
        }
    }

    #[test]
    fn refuses_names_that_lead_out_or_cannot_exist() {
        for name in [&b"../x"[..], b"a/../b", b"..", b"/..", b"a/.."] {
            assert!(matches!(EntryPath::parse(name), Err(EntryError::ParentComponent)));
        }
        assert!(matches!(EntryPath::parse(b"a\0b"), Err(EntryError::NulByte)));
        assert!(EntryPath::parse(&[b'x'; 255]).is_ok());
        assert!(matches!(EntryPath::parse(&[b'x'; 256]), Err(EntryError::ComponentTooLong { found: 256 })));
    }

    #[test]
    fn takes_paths_up_to_the_kernels_limit_and_none_longer() {
        let name = |len: usize| b"abc/".iter().copied().cycle().take(len).collect::<Vec<_>>();
        assert_eq!(parse(&name(MAX_PATH_BYTES - 1)).as_bytes().len(), MAX_PATH_BYTES - 1);
        assert_eq!(MAX_PATH_BYTES % 4, 0, "the name below must not end in a slash");
        let longest = [&name(MAX_PATH_BYTES - 1)[..], b"d"].concat();
        assert_eq!(parse(&longest).as_bytes().len(), MAX_PATH_BYTES);
        let longer = [&longest[..], b"d"].concat();
        assert!(matches!(EntryPath::parse(&longer), Err(EntryError::PathTooLong { .. })));
    }

    #[test]
    fn ancestors_begin_at_the_root() {
        let path = parse(b"a/b/c");
        assert_eq!(path.ancestors().collect::<Vec<_>>(), [&b""[..], b"a", b"a/b"]);
        assert_eq!(parse(b"").ancestors().count(), 0);
        assert_eq!(path.split(), Some((parse(b"a/b"), &b"c"[..])));
        assert_eq!(parse(b"a").split(), Some((EntryPath::root(), &b"a"[..])));
    }

    proptest! {
        #[test]
        fn a_parsed_path_parses_to_itself(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(path) = EntryPath::parse(&name) {
                prop_assert_eq!(EntryPath::parse(path.as_bytes()).unwrap(), path);
            }
        }
    }
}
