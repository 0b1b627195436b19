//! Where an application's files come from, made into a tree.

use std::path::Path;

use manifest::{ImageConfig, ImageReference, ImageSource};

use crate::{
    Digest, Error, Progress, RegistryOptions, Step,
    archive::{Role, read},
    content::Content,
    error::LayerError,
    intake::Intake,
    layers::unpack_layers,
    oci::{Files, Image, image_in_archive, image_in_layout, image_of_manifest},
    registry::{RegistryError, pull},
    rootfs::read_directory,
    tree::Tree,
    unpacked::unpack,
};

/// An input taken in whole.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) tree: Tree,
    /// What the image says of its program; empty for a plain root file system.
    pub(crate) config: ImageConfig,
    /// The image manifest's digest, if the input was a container image.
    pub(crate) image_manifest: Option<Digest>,
    /// Its layers, the lowest first, as they are stored if the image says so, else unpacked.
    pub(crate) layers: Vec<Digest>,
    /// The same layers unpacked.
    pub(crate) origins: Vec<Origin>,
}

/// A layer that was unpacked and checked.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) diff_id: Digest,
    pub(crate) archive: Content,
}

/// Takes an input in. Relative paths are relative to `base_dir`.
pub(crate) fn take_in(
    source: &ImageSource,
    base_dir: &Path,
    registry: &RegistryOptions,
    intake: &mut Intake,
    progress: Progress<'_>,
) -> Result<Application, Error> {
    match source {
        ImageSource::Oci { layout, tag } => {
            take_in_layout(&base_dir.join(layout), tag.as_deref(), intake, progress)
        }
        ImageSource::Archive { path, tag } => {
            take_in_archive(&base_dir.join(path), tag.as_deref(), intake, progress)
        }
        ImageSource::Registry(image) => take_in_pulled(image, base_dir, registry, intake, progress),
        ImageSource::Rootfs(path) => take_in_rootfs(&base_dir.join(path), intake, progress),
        ImageSource::Dockerfile(source) => Err(Error::Dockerfile { path: base_dir.join(&source.file) }),
    }
}

fn take_in_layout(
    root: &Path,
    tag: Option<&str>,
    intake: &mut Intake,
    progress: Progress<'_>,
) -> Result<Application, Error> {
    let files = Files::of_directory(root);
    let image = image_in_layout(&files, tag, intake.architecture)
        .map_err(|source| Error::Oci { layout: root.to_owned(), source })?;
    take_in_layers(&files, image, intake, progress)
}

fn take_in_archive(
    path: &Path,
    tag: Option<&str>,
    intake: &mut Intake,
    progress: Progress<'_>,
) -> Result<Application, Error> {
    progress(Step::Archive { path });
    let at_archive = |source| Error::Archive { path: path.to_owned(), source };
    let archive = open(path)?;
    let container = unpack(&archive, &intake.room_of_its_own(), || tempfile::tempfile_in(&intake.folder));
    let files = container
        .map_err(|failure| failure.error)
        .and_then(|unpacked| read(&unpacked.archive, Role::Container, intake))
        .and_then(Files::of_archive)
        .map_err(at_archive)?;
    let image =
        image_in_archive(&files, tag, intake.architecture).map_err(|source| at_archive(source.into()))?;
    take_in_layers(&files, image, intake, progress)
}

fn take_in_pulled(
    image: &ImageReference,
    base_dir: &Path,
    options: &RegistryOptions,
    intake: &mut Intake,
    progress: Progress<'_>,
) -> Result<Application, Error> {
    let in_registry = |source| Error::Registry { image: image.to_string(), source: Box::new(source) };
    // Held while the layers are read: it keeps other builds from removing them.
    let pulled = pull(image, base_dir, options, intake.architecture, progress).map_err(in_registry)?;
    let files = Files::of_directory(pulled.blobs());
    let found = image_of_manifest(&files, &pulled.manifest, intake.architecture)
        .map_err(|source| in_registry(RegistryError::Image { cache: pulled.blobs().to_owned(), source }))?;
    take_in_layers(&files, found, intake, progress).inspect_err(|error| {
        if let Error::Layer { digest, .. } = error {
            pulled.forget(digest);
        }
    })
}

fn take_in_layers(
    files: &Files,
    image: Image,
    intake: &mut Intake,
    progress: Progress<'_>,
) -> Result<Application, Error> {
    let mut tree = Tree::new();
    let archives = unpack_layers(&image, files, intake, progress)?;
    let layers: Vec<Digest> = image.layers.iter().map(|layer| layer.expected.name()).collect();
    let of = layers.len();
    for (number, (archive, digest)) in (1..).zip(archives.iter().zip(&layers)) {
        read(archive, Role::Layer, intake)
            .and_then(|changes| tree.apply(changes))
            .map_err(|source| Error::Layer { number, of, digest: *digest, source })?;
    }
    let diff_ids = image.layers.iter().map(|layer| layer.expected.diff_id);
    let origins = diff_ids.zip(archives).map(|(diff_id, archive)| Origin { diff_id, archive }).collect();
    let config = image.config.image_config();
    Ok(Application { tree, config, image_manifest: image.manifest, layers, origins })
}

fn take_in_rootfs(path: &Path, intake: &mut Intake, progress: Progress<'_>) -> Result<Application, Error> {
    progress(Step::Rootfs { path });
    let in_rootfs = |source| Error::Rootfs { path: path.to_owned(), source };
    let unusable = |source| Error::File { doing: "open", path: path.to_owned(), source };
    let tree = if path.metadata().map_err(unusable)?.is_dir() {
        read_directory(path, intake).map_err(in_rootfs)?
    } else {
        let mut tree = Tree::new();
        unpack(&open(path)?, &intake.room, || tempfile::tempfile_in(&intake.folder))
            .map_err(|failure| failure.error)
            .and_then(|unpacked| read(&unpacked.archive, Role::Rootfs, intake))
            .and_then(|layer| tree.apply(layer))
            .and_then(|()| refuse_image(&tree))
            .map_err(in_rootfs)?;
        tree
    };
    let (config, layers, origins) = (ImageConfig::default(), Vec::new(), Vec::new());
    Ok(Application { tree, config, image_manifest: None, layers, origins })
}

/// An archive of an image, named where one of files is expected, would become an enclave without a program.
fn refuse_image(tree: &Tree) -> Result<(), LayerError> {
    let has = |path: &str| tree.lookup(path.as_bytes()).is_some();
    let marker = match () {
        () if has("oci-layout") && has("index.json") => "oci-layout",
        () if has("repositories") && has("manifest.json") => "manifest.json",
        () => return Ok(()),
    };
    Err(LayerError::ImageAsRootfs { marker, key: "image.archive" })
}

fn open(path: &Path) -> Result<Content, Error> {
    Content::open_file(path).map_err(|source| Error::File { doing: "open", path: path.to_owned(), source })
}
