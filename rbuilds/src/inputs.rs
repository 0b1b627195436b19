//! Whether what `[image]` in the manifest names is there and of the kind that its key takes, before any work begins.
//!
//! It looks at what a path leads to and no further: what is in an archive or a layout is for those who read it. The message
//! is for somebody who wrote the wrong key or the wrong path, and names both.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use manifest::{Dockerfile, ImageSource};

/// The document that makes an image layout of a directory.
const LAYOUT_MARKER: &str = "oci-layout";

/// What `[image]` names cannot be an input of its kind.
#[derive(Debug, thiserror::Error)]
#[error("`{key}` in glasshouse.toml: {}: {problem}", path.display())]
pub struct InputError {
    /// The key of the manifest, as `image.rootfs`.
    pub key: &'static str,
    /// What it names, as it was looked for.
    pub path: PathBuf,
    /// What is wrong.
    pub problem: InputProblem,
}

/// Why a path cannot be an input.
#[derive(Debug)]
#[non_exhaustive]
pub enum InputProblem {
    /// There is nothing, or nothing that can be reached. What the key takes, and what the system said.
    Unreachable(&'static str, io::Error),
    /// It is something else. What it is, and what to do.
    Kind(&'static str, &'static str),
}

impl fmt::Display for InputProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(takes, error) if error.kind() == io::ErrorKind::NotFound => {
                write!(f, "there is nothing of that name: give {takes}; paths begin at the manifest's folder")
            }
            Self::Unreachable(takes, error) => write!(f, "it cannot be reached ({error}): give {takes}"),
            Self::Kind(found, remedy) => write!(f, "it is {found}: {remedy}"),
        }
    }
}

/// Refuses an input that is not there or is something else. Paths are relative to `base_dir`.
///
/// # Errors
/// [`InputError`] names the key and the path.
pub fn check_input(source: &ImageSource, base_dir: &Path) -> Result<(), InputError> {
    match source {
        ImageSource::Oci { layout, .. } => check("image.oci", base_dir.join(layout), LAYOUT, layout_problem),
        ImageSource::Archive { path, .. } => {
            check("image.archive", base_dir.join(path), ARCHIVE, archive_problem)
        }
        ImageSource::Rootfs(path) => check("image.rootfs", base_dir.join(path), ROOTFS, rootfs_problem),
        ImageSource::Dockerfile(dockerfile) => check_dockerfile(dockerfile, base_dir),
        ImageSource::Registry(_) => Ok(()),
    }
}

const LAYOUT: &str = "an OCI image layout directory, which has a file `oci-layout`";
const ARCHIVE: &str = "an archive, as `docker save` writes it";
const ROOTFS: &str = "a directory or a tar archive of files";
const DOCKERFILE: &str = "a Dockerfile";
const CONTEXT: &str = "the folder whose files the Dockerfile may take";

const FILES_UNDER_ROOTFS: &str = "files that are to be the enclave's go under `image.rootfs`";
const LAYOUT_UNDER_OCI: &str = "say `image.oci` instead";

fn check_dockerfile(dockerfile: &Dockerfile, base_dir: &Path) -> Result<(), InputError> {
    check("image.dockerfile", base_dir.join(&dockerfile.file), DOCKERFILE, |path| match Found::at(path)? {
        Found::File => Ok(None),
        Found::Layout | Found::Directory => Ok(Some(("a directory", "name the Dockerfile in it"))),
        Found::Other(what) => Ok(Some((what, "a Dockerfile has to be a regular file"))),
    })?;
    check("image.context", base_dir.join(dockerfile.context()), CONTEXT, |path| match Found::at(path)? {
        Found::Layout | Found::Directory => Ok(None),
        Found::File => Ok(Some(("a file", "name the folder that it is in"))),
        Found::Other(what) => Ok(Some((what, "name a folder"))),
    })
}

/// What a path leads to and what to do about it, if it cannot be taken.
type Problem = Option<(&'static str, &'static str)>;

fn layout_problem(path: &Path) -> io::Result<Problem> {
    Ok(match Found::at(path)? {
        Found::Layout => None,
        Found::Directory => Some(("a directory without `oci-layout`", FILES_UNDER_ROOTFS)),
        Found::File => Some(("a file", "an archive of an image goes under `image.archive`")),
        Found::Other(what) => Some((what, "name an OCI image layout directory")),
    })
}

fn archive_problem(path: &Path) -> io::Result<Problem> {
    Ok(match Found::at(path)? {
        Found::File => None,
        Found::Layout => Some(("an OCI image layout directory", LAYOUT_UNDER_OCI)),
        Found::Directory => Some(("a directory", FILES_UNDER_ROOTFS)),
        Found::Other(what) => Some((what, "an archive has to be a regular file, since it is read twice")),
    })
}

fn rootfs_problem(path: &Path) -> io::Result<Problem> {
    Ok(match Found::at(path)? {
        Found::File | Found::Directory => None,
        Found::Layout => Some(("an OCI image layout directory", LAYOUT_UNDER_OCI)),
        Found::Other(what) => Some((what, "an archive has to be a regular file, since it is read twice")),
    })
}

fn check(
    key: &'static str,
    path: PathBuf,
    takes: &'static str,
    look: impl FnOnce(&Path) -> io::Result<Problem>,
) -> Result<(), InputError> {
    let problem = match look(&path) {
        Ok(None) => return Ok(()),
        Ok(Some((found, remedy))) => InputProblem::Kind(found, remedy),
        Err(error) => InputProblem::Unreachable(takes, error),
    };
    Err(InputError { key, path, problem })
}

/// What a path leads to.
enum Found {
    File,
    Directory,
    /// A directory that is an image layout.
    Layout,
    Other(&'static str),
}

impl Found {
    fn at(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::FileTypeExt;
        let kind = path.metadata()?.file_type();
        Ok(if kind.is_file() {
            Self::File
        } else if kind.is_dir() {
            let is_layout = path.join(LAYOUT_MARKER).is_file() && path.join("index.json").is_file();
            if is_layout { Self::Layout } else { Self::Directory }
        } else if kind.is_fifo() {
            Self::Other("a named pipe")
        } else if kind.is_socket() {
            Self::Other("a socket")
        } else {
            Self::Other("a device")
        })
    }
}
