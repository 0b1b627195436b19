//! Names and paths that came from somebody else, checked before anything is opened.
//!
//! What passes here is only well-formed. That it stays inside its root is the work of [`super::confine`].

use std::fmt;

/// Longest path, in bytes, as the kernel counts it without the final zero.
pub const MAX_PATH_BYTES: usize = 4095;
/// Longest name of one entry of a directory, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// How names of unfinished files begin. Nothing that is transferred may be named so.
pub(crate) const PARTIAL_PREFIX: &[u8] = b".glasshouse-";
/// How names of unfinished files end.
pub(crate) const PARTIAL_SUFFIX: &[u8] = b".partial";

/// Why a name or path was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Nothing, or no name behind the last `/`.
    #[error("the path names nothing")]
    Empty,
    /// A path for the other side that does not begin with `/`.
    #[error("the path is not absolute")]
    NotAbsolute,
    /// `..` somewhere.
    #[error("the path contains \"..\"")]
    Parent,
    /// `.` or a `/` where one plain name belongs.
    #[error("the name is not that of an entry of a directory")]
    NotAName,
    /// A zero byte.
    #[error("the path contains a zero byte")]
    Nul,
    /// Longer than a kernel takes.
    #[error("the path is longer than {MAX_PATH_BYTES} bytes, or one of its names than {MAX_NAME_BYTES}")]
    TooLong,
    /// The name of an unfinished file.
    #[error("the name is one of those kept for unfinished transfers")]
    Reserved,
}

/// Checks the name of one entry of a directory.
///
/// # Errors
///
/// Anything that could lead out of the directory, or that no directory can hold.
pub fn check_name(name: &[u8]) -> Result<(), PathError> {
    match name {
        b"" => return Err(PathError::Empty),
        b".." => return Err(PathError::Parent),
        b"." => return Err(PathError::NotAName),
        _ if name.len() > MAX_NAME_BYTES => return Err(PathError::TooLong),
        _ => {}
    }
    if name.contains(&0) {
        return Err(PathError::Nul);
    }
    if name.contains(&b'/') {
        return Err(PathError::NotAName);
    }
    if is_partial_name(name) {
        return Err(PathError::Reserved);
    }
    Ok(())
}

/// Checks a path below the root of a transfer, as in `a/b/c`.
///
/// # Errors
///
/// An absolute path, a component that [`check_name`] refuses, or one too long.
pub fn check_relative(path: &[u8]) -> Result<(), PathError> {
    if path.len() > MAX_PATH_BYTES {
        return Err(PathError::TooLong);
    }
    path.split(|&byte| byte == b'/').try_for_each(check_name)
}

/// Whether `name` is one that an unfinished file may have.
pub(crate) fn is_partial_name(name: &[u8]) -> bool {
    name.starts_with(PARTIAL_PREFIX) && name.ends_with(PARTIAL_SUFFIX)
}

/// The name under which a file is kept until it is whole: the same for every attempt, and never too long.
pub(crate) fn partial_name(name: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(name).to_hex();
    [PARTIAL_PREFIX, &hash.as_bytes()[..32], PARTIAL_SUFFIX].concat()
}

/// An absolute path on the server, without `.`, `..` and empty components, as operators and capabilities name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotePath {
    /// Components joined by `/`, with no `/` in front; empty for the root.
    joined: Vec<u8>,
}

impl RemotePath {
    /// Reads a path. Repeated `/`, a `/` at the end and `.` mean nothing and are left out.
    ///
    /// # Errors
    ///
    /// A path that is not absolute, has `..` or a zero byte, or is too long.
    pub fn parse(path: &[u8]) -> Result<Self, PathError> {
        if path.is_empty() {
            return Err(PathError::Empty);
        }
        if path.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        let Some(below) = path.strip_prefix(b"/") else { return Err(PathError::NotAbsolute) };
        let mut joined = Vec::with_capacity(below.len());
        for name in below.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b".")) {
            check_name(name)?;
            if !joined.is_empty() {
                joined.push(b'/');
            }
            joined.extend_from_slice(name);
        }
        Ok(Self { joined })
    }

    /// Whether this path is `above` or below it, component by component.
    pub fn is_within(&self, above: &Self) -> bool {
        self.below(above).is_some()
    }

    /// What remains of this path below `above`: empty if they are the same.
    pub(crate) fn below(&self, above: &Self) -> Option<&[u8]> {
        if above.joined.is_empty() {
            return Some(&self.joined);
        }
        match self.joined.strip_prefix(above.joined.as_slice())? {
            [] => Some(&[]),
            [b'/', rest @ ..] => Some(rest),
            _ => None,
        }
    }

    /// The last component, unless this is the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.joined.rsplit(|&byte| byte == b'/').next().filter(|name| !name.is_empty())
    }

    /// The path without its `/` in front, for use with a descriptor of the root.
    pub(crate) fn relative(&self) -> &[u8] {
        &self.joined
    }

    /// The path's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        [b"/", self.joined.as_slice()].concat()
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", printable(&self.joined))
    }
}

/// A name for people: bytes that are not UTF-8 or that a terminal would obey are written as `\xNN`.
pub fn printable(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_lose_what_means_nothing() {
        for (given, kept) in [("/", "/"), ("//a/./b//", "/a/b"), ("/.", "/"), ("/a..b/...", "/a..b/...")] {
            assert_eq!(RemotePath::parse(given.as_bytes()).unwrap().to_bytes(), kept.as_bytes());
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for (given, why) in [
            (&b""[..], PathError::Empty),
            (b"a/b", PathError::NotAbsolute),
            (b"..", PathError::NotAbsolute),
            (b"/a/../b", PathError::Parent),
            (b"/..", PathError::Parent),
            (b"/a\0b", PathError::Nul),
            (b"/a/.glasshouse-00.partial", PathError::Reserved),
        ] {
            assert_eq!(RemotePath::parse(given), Err(why), "{}", printable(given));
        }
        assert_eq!(RemotePath::parse(&[b"/", [b'a'; 256].as_slice()].concat()), Err(PathError::TooLong));
        assert_eq!(RemotePath::parse(&b"/a".repeat(2048)), Err(PathError::TooLong));
    }

    #[test]
    fn names_are_single_components() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"/a", b"a\0", &[b'n'; 256]] {
            assert!(check_name(bad).is_err(), "{}", printable(bad));
        }
        for good in [&b"a"[..], b"...", b"..a", b"\xff\xfe", b" ", b"\n", &[b'n'; 255]] {
            assert_eq!(check_name(good), Ok(()));
        }
        for bad in [&b"/a"[..], b"a//b", b"a/", b"a/../b", b"../a", b""] {
            assert!(check_relative(bad).is_err(), "{}", printable(bad));
        }
        assert_eq!(check_relative(b"a/b/\xff"), Ok(()));
    }

    #[test]
    fn prefixes_are_compared_by_component() {
        let path = |text: &str| RemotePath::parse(text.as_bytes()).unwrap();
        assert!(path("/srv/data/x").is_within(&path("/srv/data")));
        assert!(path("/srv/data").is_within(&path("/srv/data")));
        assert!(path("/anything").is_within(&path("/")));
        assert!(!path("/srv/database").is_within(&path("/srv/data")));
        assert!(!path("/srv").is_within(&path("/srv/data")));
        assert_eq!(path("/srv/data/x/y").below(&path("/srv/data")), Some(&b"x/y"[..]));
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(printable(b"a\x1b[2J\xff\xc3\xa9"), "a\\u{1b}[2J\\xff\u{e9}");
    }

    #[test]
    fn partial_names_are_names_of_nothing_else() {
        let name = partial_name(&[b'x'; 255]);
        assert!(name.len() <= MAX_NAME_BYTES && is_partial_name(&name));
        assert_eq!(check_name(&name), Err(PathError::Reserved));
        assert_ne!(name, partial_name(b"x"));
    }

    proptest! {
        #[test]
        fn an_accepted_path_has_one_spelling(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(path) = RemotePath::parse(&[b"/", bytes.as_slice()].concat()) {
                prop_assert_eq!(RemotePath::parse(&path.to_bytes()).unwrap(), path.clone());
                prop_assert!(!path.to_bytes().split(|b| *b == b'/').any(|name| name == b".."));
            }
        }
    }
}
