//! Where an application's files come from, made into a tree.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use manifest::{ImageConfig, ImageSource};

use crate::{
    Digest, Error, Progress, Step,
    archive::{read_layer, read_rootfs},
    error::LayerError,
    intake::Intake,
    oci::Layout,
    rootfs::read_directory,
    tree::Tree,
};

/// An input taken in whole.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) tree: Tree,
    /// What the image says of its program; empty for a plain root file system.
    pub(crate) config: ImageConfig,
    /// The image manifest's digest, if the input was a container image.
    pub(crate) image_manifest: Option<Digest>,
}

/// Takes an input in. Relative paths are relative to `base_dir`.
pub(crate) fn take_in(
    source: &ImageSource,
    base_dir: &Path,
    intake: &mut Intake,
    progress: Progress<'_>,
) -> Result<Application, Error> {
    match source {
        ImageSource::Oci { layout, tag } => {
            take_in_image(&base_dir.join(layout), tag.as_deref(), intake, progress)
        }
        ImageSource::Rootfs(path) => take_in_rootfs(&base_dir.join(path), intake, progress),
    }
}

fn take_in_image(
    root: &Path,
    tag: Option<&str>,
    intake: &mut Intake,
    progress: Progress<'_>,
) -> Result<Application, Error> {
    let at_layout = |source| Error::Oci { layout: root.to_owned(), source };
    let layout = Layout::open(root).map_err(at_layout)?;
    let image = layout.image(tag).map_err(at_layout)?;
    let mut tree = Tree::new();
    let of = image.layers.len();
    for (number, (blob, expected)) in (1..).zip(&image.layers) {
        progress(Step::Layer { number, of, bytes: blob.size });
        layout
            .open_blob(blob)
            .map_err(LayerError::from)
            .and_then(|file| read_layer(file, *expected, intake))
            .and_then(|layer| tree.apply(layer))
            .map_err(|source| Error::Layer { number, of, digest: blob.digest, source })?;
    }
    Ok(Application { tree, config: image.config.image_config(), image_manifest: Some(image.manifest) })
}

fn take_in_rootfs(path: &Path, intake: &mut Intake, progress: Progress<'_>) -> Result<Application, Error> {
    progress(Step::Rootfs { path });
    let in_rootfs = |source| Error::Rootfs { path: path.to_owned(), source };
    let open = |source| Error::File { doing: "open", path: PathBuf::from(path), source };
    let tree = if path.metadata().map_err(open)?.is_dir() {
        read_directory(path, intake).map_err(in_rootfs)?
    } else {
        let mut tree = Tree::new();
        read_rootfs(File::open(path).map_err(open)?, intake)
            .and_then(|layer| tree.apply(layer))
            .map_err(in_rootfs)?;
        tree
    };
    Ok(Application { tree, config: ImageConfig::default(), image_manifest: None })
}
