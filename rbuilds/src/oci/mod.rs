//! Container images as they lie in an OCI image layout or in what `docker save` writes, in a directory or an archive.
//!
//! Finds an image, checks every document it reads against its digest, and hands the layers to the archive reader.
//! It does not talk to registries: what is pulled from one is read here like a layout.

mod docker_archive;
mod document;
mod files;
mod image;
mod layout;

pub(crate) use document::Descriptor;
pub(crate) use files::Files;
pub(crate) use image::{Image, StoredLayer};
pub(crate) use layout::for_enclave;

use eif::Architecture;

use crate::error::OciError;

/// The image for these processors with this tag, or the only one, in an image layout.
pub(crate) fn image_in_layout(
    files: &Files,
    tag: Option<&str>,
    architecture: Architecture,
) -> Result<Image, OciError> {
    layout::Layout::open(files, architecture)?.image(tag)
}

/// The same in an archive, whose contents show what it is. `docker save` of today writes an image layout with a
/// `manifest.json` for older readers; the layout counts then, since digests bind all of it.
pub(crate) fn image_in_archive(
    files: &Files,
    tag: Option<&str>,
    architecture: Architecture,
) -> Result<Image, OciError> {
    if files.has(layout::MARKER) {
        image_in_layout(files, tag, architecture)
    } else if files.has(docker_archive::MANIFEST) {
        docker_archive::image(files, tag, architecture)
    } else {
        Err(OciError::NotAnImage)
    }
}

/// The image of a manifest whose blobs lie as in an image layout, of which the rest need not be there.
pub(crate) fn image_of_manifest(
    files: &Files,
    manifest: &Descriptor,
    architecture: Architecture,
) -> Result<Image, OciError> {
    layout::Layout::of_blobs(files, architecture).read_image(manifest)
}
