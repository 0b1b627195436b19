//! The files that are watched, and how one is reached: by its path as the application sees it, without following any link
//! on the way.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::{
    listing::MAX_PATH_BYTES,
    patterns::Patterns,
    state::{Kind, Unread},
};

/// File systems that show the kernel's state (`include/uapi/linux/magic.h`). Their files have no content to record.
const PSEUDO: [u64; 12] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x1cd1,      // devpts
    0x27_e0eb,   // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x1980_0202, // mqueue
    0x6265_6570, // configfs
    0xf97c_ff8c, // selinuxfs
];

/// The watched part of a file system.
#[derive(Debug)]
pub struct Tree {
    base: OwnedFd,
    base_path: PathBuf,
    roots: Vec<Box<[u8]>>,
    patterns: Patterns,
}

/// Why files cannot be watched as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The directory in which the application's files lie cannot be opened.
    #[error("cannot open {path}")]
    Base {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// A root is not a path in its one spelling.
    #[error("{root:?} is not an absolute path without `.`, `..` and a `/` at its end")]
    Spelling {
        /// The root.
        root: String,
    },
    /// A root is not there, or leads over a symbolic link.
    #[error("cannot watch {root}: {}", unreachable_text(*source))]
    Root {
        /// The root.
        root: String,
        /// Why not.
        source: Errno,
    },
    /// A pattern cannot be used.
    #[error("cannot use the patterns of what is ignored")]
    Pattern(#[from] ignore::Error),
}

fn unreachable_text(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "there is no such file".to_owned(),
        Errno::LOOP => "it is, or leads over, a symbolic link: name the place where that leads".to_owned(),
        other => other.to_string(),
    }
}

/// An open directory and its path.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) file: OwnedFd,
    pub(crate) path: Box<[u8]>,
}

impl Tree {
    /// The files at and below `roots`, paths that begin at `base`.
    ///
    /// # Errors
    /// When one of them cannot be reached.
    pub fn open(base: &Path, roots: &[impl AsRef<[u8]>], patterns: Patterns) -> Result<Self, TreeError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base_error = |source| TreeError::Base { path: base.to_owned(), source };
        let file = rustix::fs::openat(CWD, base, flags, Mode::empty()).map_err(base_error)?;
        let base_path = std::fs::canonicalize(base).unwrap_or_else(|_| base.to_owned());
        let roots: Vec<Box<[u8]>> = roots.iter().map(|root| root.as_ref().into()).collect();
        let tree = Self { base: file, base_path, roots, patterns };
        for root in &tree.roots {
            if !is_plain_path(root) {
                return Err(TreeError::Spelling { root: text(root) });
            }
            let unreachable = |source| TreeError::Root { root: text(root), source };
            let found = tree.open_path(root, OFlags::PATH).map_err(unreachable)?;
            let stat = crate::observe::look_at(found.as_fd()).map_err(unreachable)?;
            if Kind::of(&stat) == Kind::Symlink {
                return Err(unreachable(Errno::LOOP));
            }
        }
        Ok(tree)
    }

    /// What is watched.
    pub fn roots(&self) -> &[Box<[u8]>] {
        &self.roots
    }

    /// Where the application's files lie for the monitor.
    pub fn base(&self) -> &Path {
        &self.base_path
    }

    /// The root at or above `path`.
    pub fn root_of(&self, path: &[u8]) -> Option<&[u8]> {
        self.roots.iter().map(|root| &**root).find(|root| is_within(path, root))
    }

    /// Whether a file at this path is recorded.
    pub fn covers(&self, path: &[u8], is_directory: bool) -> bool {
        let Some(root) = self.root_of(path) else { return false };
        path.len() <= MAX_PATH_BYTES
            && (path == root || !self.patterns.ignores_within(root, path, is_directory))
    }

    /// Whether a name in a directory is ignored that is not ignored itself.
    pub(crate) fn ignores(&self, directory: &[u8], name: &[u8], is_directory: bool) -> bool {
        self.patterns.ignores(&join(directory, name), is_directory)
    }

    /// Opens the directory in which a path lies; the root of all lies in itself.
    pub(crate) fn open_parent<'p>(&self, path: &'p [u8]) -> Result<(Arc<Directory>, &'p [u8]), Errno> {
        let (parent, name) = split(path);
        let file = self.open_path(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok((Arc::new(Directory { file, path: parent.into() }), name))
    }

    /// Opens the directory at a path, to list and to watch it.
    pub(crate) fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open_path(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn open_path(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let below = match path.strip_prefix(b"/").unwrap_or(path) {
            [] => b".".as_slice(),
            below => below,
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        loop {
            match rustix::fs::openat2(&self.base, below, flags, Mode::empty(), resolve) {
                // A component was renamed meanwhile; the kernel asks for another try.
                Err(Errno::AGAIN | Errno::INTR) => {}
                outcome => return outcome,
            }
        }
    }
}

/// Whether a directory belongs to a file system without content of its own.
pub(crate) fn pseudo(directory: impl AsFd) -> Option<Unread> {
    let kind = rustix::fs::fstatfs(directory).ok()?.f_type;
    u64::try_from(kind).is_ok_and(|kind| PSEUDO.contains(&kind)).then_some(Unread::Pseudo)
}

/// A name in a directory.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Box<[u8]> {
    match directory {
        b"/" => [b"/", name].concat().into(),
        _ => [directory, b"/", name].concat().into(),
    }
}

/// The directory of a path and its name there; `/` is `.` in itself.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        _ if path == b"/" => (b"/", b"."),
        Some(0) => (b"/", path.get(1..).unwrap_or_default()),
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (b"/", path),
    }
}

/// Whether `path` is `root` or lies below it, by whole components.
pub(crate) fn is_within(path: &[u8], root: &[u8]) -> bool {
    root == b"/" || path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// `/`, or `/a/b`: one spelling for one place. What is longer than a file that is recorded can be asked of all the same, as long as
/// the ledger has a place for it.
pub(crate) fn is_plain_path(path: &[u8]) -> bool {
    let Some(below) = path.strip_prefix(b"/") else { return false };
    let plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
    path.len() <= ledger::MAX_PATH_BYTES && (below.is_empty() || below.split(|byte| *byte == b'/').all(plain))
}

/// A path for people, and unambiguous: `%` and whatever is not printable text are `%HH`.
pub(crate) fn text(path: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(path.len());
    let escape = |bytes: &[u8], text: &mut String| {
        for byte in bytes {
            write!(text, "%{byte:02X}").expect("a string takes everything");
        }
    };
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '%' => text.push_str("%25"),
                c if c.is_control() => escape(c.encode_utf8(&mut [0; 4]).as_bytes(), &mut text),
                c => text.push(c),
            }
        }
        escape(chunk.invalid(), &mut text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A prefix test on text would let `/app` cover `/apple`.
    #[test]
    fn roots_end_at_whole_components() {
        assert!(is_within(b"/app", b"/app") && is_within(b"/app/x", b"/app") && is_within(b"/x", b"/"));
        assert!(!is_within(b"/apple", b"/app") && !is_within(b"/", b"/app"));
    }

    #[test]
    fn a_path_has_one_spelling_and_one_parent() {
        for good in [b"/".as_slice(), b"/a", b"/a/b\n", b"/\xff"] {
            assert!(is_plain_path(good));
            let (parent, name) = split(good);
            assert!(good == b"/" || *join(parent, name) == *good);
        }
        for bad in [b"".as_slice(), b"a", b"/a/", b"//a", b"/a/../b", b"/.", b"/a\0"] {
            assert!(!is_plain_path(bad));
        }
        let long = |bytes: usize| [b"/".as_slice(), &vec![b'a'; bytes - 1]].concat();
        assert!(is_plain_path(&long(ledger::MAX_PATH_BYTES)));
        assert!(!is_plain_path(&long(ledger::MAX_PATH_BYTES + 1)));
    }

    #[test]
    fn paths_are_shown_so_that_none_looks_like_another() {
        assert_eq!(text(b"/a b/\xc3\xa9"), "/a b/\u{e9}");
        assert_eq!(text(b"/%0A"), "/%250A");
        assert_eq!(text(b"/\n\xff"), "/%0A%FF");
    }

    #[test]
    fn a_root_must_be_there_and_no_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let open = |root: &str| Tree::open(dir.path(), &[root], Patterns::default());
        assert!(open("/real").is_ok() && open("/").is_ok());
        assert!(open("/link").unwrap_err().to_string().contains("symbolic link"));
        assert!(open("/link/x").unwrap_err().to_string().contains("symbolic link"));
        assert!(open("/none").unwrap_err().to_string().contains("no such file"));
        assert!(matches!(open("/real/../real").unwrap_err(), TreeError::Spelling { .. }));
    }
}
