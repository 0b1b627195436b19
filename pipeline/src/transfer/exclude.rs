//! What is left out of a tree: patterns as in a `.gitignore` file.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Most patterns of one transfer.
pub const MAX_PATTERNS: usize = 256;
/// Longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1024;

/// Why patterns were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// More than [`MAX_PATTERNS`].
    #[error("{found} patterns, more than the {MAX_PATTERNS} allowed")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// Longer than [`MAX_PATTERN_BYTES`].
    #[error("a pattern longer than {MAX_PATTERN_BYTES} bytes")]
    TooLong,
    /// Not UTF-8, or not of the form that patterns have.
    #[error("{pattern:?} is not a pattern")]
    Form {
        /// The pattern.
        pattern: String,
    },
}

/// Patterns of what is left out.
#[derive(Clone, Debug)]
pub struct Excludes(Gitignore);

impl Default for Excludes {
    fn default() -> Self {
        Self(Gitignore::empty())
    }
}

impl Excludes {
    /// Reads patterns, each as a line of a `.gitignore` file at the root of the tree; the last that fits decides.
    ///
    /// # Errors
    ///
    /// Too many, one too long, or one that is none.
    pub fn parse<P: AsRef<[u8]>>(patterns: &[P]) -> Result<Self, PatternError> {
        if patterns.len() > MAX_PATTERNS {
            return Err(PatternError::TooMany { found: patterns.len() });
        }
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            let pattern = pattern.as_ref();
            if pattern.len() > MAX_PATTERN_BYTES {
                return Err(PatternError::TooLong);
            }
            let form = || PatternError::Form { pattern: String::from_utf8_lossy(pattern).into_owned() };
            let line = std::str::from_utf8(pattern).map_err(|_| form())?;
            builder.add_line(None, line).map_err(|_| form())?;
        }
        let built = builder.build().map_err(|error| PatternError::Form { pattern: error.to_string() })?;
        Ok(Self(built))
    }

    /// Whether the entry with this path below the root is left out.
    pub(crate) fn leaves_out(&self, path: &[u8], is_directory: bool) -> bool {
        !self.0.is_empty() && self.0.matched(Path::new(OsStr::from_bytes(path)), is_directory).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        let excludes = Excludes::parse(&["*.o", "/build/", "!keep.o", "docs/**/draft"]).unwrap();
        for (path, is_directory, out) in [
            (&b"a.o"[..], false, true),
            (b"deep/er/a.o", false, true),
            (b"keep.o", false, false),
            (b"build", true, true),
            (b"build", false, false),
            (b"sub/build", true, false),
            (b"docs/a/b/draft", false, true),
            (b"\xff.o", false, true),
            (b"\xff", false, false),
        ] {
            assert_eq!(excludes.leaves_out(path, is_directory), out, "{}", String::from_utf8_lossy(path));
        }
        assert!(!Excludes::default().leaves_out(b"a.o", false));
    }

    #[test]
    fn patterns_are_bounded() {
        assert_eq!(Excludes::parse(&[b"a"; 257]).unwrap_err(), PatternError::TooMany { found: 257 });
        assert_eq!(Excludes::parse(&[[b'a'; 1025]]).unwrap_err(), PatternError::TooLong);
        assert!(matches!(Excludes::parse(&[b"\xff"]), Err(PatternError::Form { .. })));
        assert!(matches!(Excludes::parse(&[b"[z-a]"]), Err(PatternError::Form { .. })));
    }
}
