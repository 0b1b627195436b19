//! One image, found and checked, whose layers are still to be read.

use eif::Architecture;

use super::{document::Config, files::Files};
use crate::{
    Digest, content::Content, error::OciError, layers::Expected, limits::MAX_LAYERS, platform::oci_name,
};

/// An image in a store.
#[derive(Debug)]
pub(crate) struct Image {
    /// Of the image manifest, which names everything else, if the store has one.
    pub(crate) manifest: Option<Digest>,
    pub(crate) config: Config,
    /// The lowest first.
    pub(crate) layers: Vec<StoredLayer>,
}

/// Where a layer is and what it must be.
#[derive(Debug)]
pub(crate) struct StoredLayer {
    /// Its name in the store.
    pub(crate) file: String,
    /// Its length as it is stored.
    pub(crate) bytes: u64,
    pub(crate) expected: Expected,
}

impl StoredLayer {
    /// Opens it after checking its length. Its digests are for the reader to check.
    pub(crate) fn open(&self, files: &Files) -> Result<Content, OciError> {
        open_sized(files, &self.file, self.expected.name(), self.bytes)
    }
}

/// Opens a file of which the length is known.
pub(crate) fn open_sized(
    files: &Files,
    file: &str,
    digest: Digest,
    expected: u64,
) -> Result<Content, OciError> {
    let content = files.open(file)?;
    let found = content.len();
    if found == expected { Ok(content) } else { Err(OciError::BlobSize { digest, expected, found }) }
}

/// Checks the number of layers, and that the image is for these processors.
pub(crate) fn check_layers(
    layers: usize,
    config: &Config,
    architecture: Architecture,
) -> Result<(), OciError> {
    if layers > MAX_LAYERS {
        return Err(OciError::TooManyLayers { found: layers });
    }
    if !config.platform.is_for(architecture) {
        let found = vec![config.platform.to_string()];
        return Err(OciError::NoPlatform { wanted: oci_name(architecture), found });
    }
    let diff_ids = config.rootfs.diff_ids.len();
    if layers != diff_ids {
        return Err(OciError::LayerCount { layers, diff_ids });
    }
    Ok(())
}
