//! A folder with a `glasshouse.toml`, as the commands that build take it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use manifest::{ImageSource, Manifest, ManifestError};

use crate::{Kernel, PartError, find_kernel};

/// The manifest's usual name.
const MANIFEST: &str = "glasshouse.toml";

/// A manifest and where it lies.
#[derive(Clone, Debug)]
pub struct Project {
    /// What to build.
    pub manifest: Manifest,
    /// The directory that the manifest's paths are relative to.
    pub base_dir: PathBuf,
}

/// Why a project cannot be used. Each is a mistake of the caller's, and its message is whole: it has no sources.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectError {
    /// There is no readable manifest.
    #[error("{}: {reason}: name a manifest, or a folder with a {MANIFEST}", path.display())]
    Unreadable {
        /// The manifest looked for.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The manifest is wrong.
    #[error("{}: {reason}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Where and what is wrong.
        reason: ManifestError,
    },
    /// The archive in place of what the manifest names is not there.
    #[error("{}: {reason}: give the container image as an archive, as `docker save` writes it", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// `SOURCE_DATE_EPOCH` is no time.
    #[error("SOURCE_DATE_EPOCH is {found:?}, not a number of seconds since 1970")]
    BuildTime {
        /// Its value.
        found: String,
    },
}

impl Project {
    /// Reads a manifest, given itself or by its folder.
    ///
    /// # Errors
    /// [`ProjectError`] names the file and the place in it.
    pub fn open(path: &Path) -> Result<Self, ProjectError> {
        let path = if path.is_dir() { path.join(MANIFEST) } else { path.to_owned() };
        let text = fs::read_to_string(&path)
            .map_err(|reason| ProjectError::Unreadable { path: path.clone(), reason })?;
        let manifest =
            Manifest::parse(&text).map_err(|reason| ProjectError::Manifest { path: path.clone(), reason })?;
        let base_dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { manifest, base_dir: base_dir.to_owned() })
    }

    /// Takes the container image from this archive instead. The path is the caller's own, not relative to the manifest.
    ///
    /// # Errors
    /// [`ProjectError::Archive`] when it is not there or no file.
    pub fn take_archive(&mut self, path: &Path) -> Result<(), ProjectError> {
        let found = path.metadata().and_then(|found| match found.is_file() {
            true => std::path::absolute(path),
            false => Err(io::Error::other("not a regular file")),
        });
        let path = found.map_err(|reason| ProjectError::Archive { path: path.to_owned(), reason })?;
        self.manifest.image = ImageSource::Archive { path, tag: None };
        Ok(())
    }

    /// The kernel given, else the manifest's, else the pinned one.
    ///
    /// # Errors
    /// As [`find_kernel`].
    pub fn kernel(&self, given: Option<PathBuf>) -> Result<Kernel, PartError> {
        match (given, &self.manifest.kernel) {
            (None, Some(kernel)) => find_kernel(Some(self.base_dir.join(kernel)))
                .map_err(|error| PartError::InManifest(Box::new(error))),
            (given, _) => find_kernel(given),
        }
    }
}

/// The time that reproducible builds agree on, 0 if none is set
/// (<https://reproducible-builds.org/specs/source-date-epoch/>).
///
/// # Errors
/// [`ProjectError::BuildTime`] when it is set to something else.
pub fn source_date_epoch() -> Result<u64, ProjectError> {
    match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().map_err(|_| ProjectError::BuildTime { found: text }),
        Err(_) => Ok(0),
    }
}
