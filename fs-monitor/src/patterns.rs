//! What is not watched: patterns as in a `.gitignore` file that lies in the root of the application's files.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Compiled patterns.
#[derive(Clone, Debug)]
pub struct Patterns(Gitignore);

impl Default for Patterns {
    fn default() -> Self {
        Self(Gitignore::empty())
    }
}

impl Patterns {
    /// Compiles lines, in their order.
    ///
    /// # Errors
    /// The text of what is wrong with a line.
    pub fn new<T: AsRef<str>>(lines: &[T]) -> Result<Self, ignore::Error> {
        let mut builder = GitignoreBuilder::new("/");
        for line in lines {
            builder.add_line(None, line.as_ref())?;
        }
        builder.build().map(Self)
    }

    /// Whether this very path is ignored; what lies below an ignored directory is not asked for.
    pub fn ignores(&self, path: &[u8], is_directory: bool) -> bool {
        !self.0.is_empty() && self.0.matched(Path::new(OsStr::from_bytes(path)), is_directory).is_ignore()
    }

    /// Whether this path or a directory above it, but below `root`, is ignored.
    pub fn ignores_within(&self, root: &[u8], path: &[u8], is_directory: bool) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let from = root.len().max(1);
        let above = (from..path.len()).filter(|at| path.get(*at) == Some(&b'/'));
        let mut above = above.filter_map(|at| path.get(..at)).filter(|above| above.len() > from);
        above.any(|above| self.ignores(above, true)) || self.ignores(path, is_directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_lines_win_and_directories_take_what_is_below() {
        let patterns = Patterns::new(&["*.log", "!keep.log", "/app/cache/", "a\\ b"]).unwrap();
        let ignored = |path: &[u8]| patterns.ignores_within(b"/app", path, false);
        assert!(ignored(b"/app/x.log") && ignored(b"/app/d/x.log") && ignored(b"/app/a b"));
        assert!(!ignored(b"/app/keep.log") && !ignored(b"/app/x.logs"));
        assert!(ignored(b"/app/cache/x") && ignored(b"/app/cache/d/keep.log"));
        assert!(!ignored(b"/app/sub/cache/x"));
        assert!(!patterns.ignores(b"/app/cache", false), "the pattern is for directories");
    }

    #[test]
    fn what_lies_above_a_root_does_not_hide_it() {
        let patterns = Patterns::new(&["srv"]).unwrap();
        assert!(!patterns.ignores_within(b"/srv/app", b"/srv/app/x", false));
        assert!(patterns.ignores_within(b"/srv/app", b"/srv/app/srv/x", false));
        assert!(patterns.ignores_within(b"/", b"/srv/x", false));
        assert!(patterns.ignores_within(b"/", b"/x/srv/y", false));
    }

    #[test]
    fn names_that_are_no_text_are_compared_as_bytes() {
        let patterns = Patterns::new(&["*.tmp"]).unwrap();
        assert!(patterns.ignores_within(b"/", b"/\xff\n.tmp", false));
        assert!(!patterns.ignores_within(b"/", b"/\xff\n.tm", false));
    }
}
