//! Finds one image in an image layout directory and checks what it reads.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

use super::document::{BlobKind, Config, Descriptor, Index, LayoutMarker, Manifest};
use crate::{
    Digest,
    archive::Expected,
    error::OciError,
    limits::{MAX_INDEX_DEPTH, MAX_JSON_BYTES, MAX_LAYERS},
};

/// An image layout directory.
#[derive(Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

/// An image in a layout.
#[derive(Debug)]
pub(crate) struct Image {
    /// Of the image manifest, which names everything else.
    pub(crate) manifest: Digest,
    pub(crate) config: Config,
    /// The lowest first.
    pub(crate) layers: Vec<(Descriptor, Expected)>,
}

impl Layout {
    pub(crate) fn open(root: &Path) -> Result<Self, OciError> {
        let layout = Self { root: root.to_owned() };
        let marker: LayoutMarker = parse("oci-layout", &layout.read_json("oci-layout")?)?;
        if !marker.image_layout_version.starts_with("1.") {
            return Err(OciError::LayoutVersion { found: marker.image_layout_version });
        }
        Ok(layout)
    }

    /// The image for linux/amd64 with this tag, or the only one.
    pub(crate) fn image(&self, tag: Option<&str>) -> Result<Image, OciError> {
        let index: Index = parse("index.json", &self.read_json("index.json")?)?;
        check_schema("index.json", index.schema_version)?;
        let descriptor = self.select(&index.manifests, tag)?;
        self.read_image(&self.resolve(descriptor)?)
    }

    /// Opens a blob after checking its length. Its digest is for the reader to check.
    pub(crate) fn open_blob(&self, blob: &Descriptor) -> Result<File, OciError> {
        let file = blob_path(&blob.digest);
        let read = |source| OciError::Read { file: file.clone(), source };
        let handle = File::open(self.root.join(&file)).map_err(read)?;
        let metadata = handle.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(read(io::Error::other("not a regular file")));
        }
        if metadata.len() != blob.size {
            let (expected, found) = (blob.size, metadata.len());
            return Err(OciError::BlobSize { digest: blob.digest, expected, found });
        }
        Ok(handle)
    }

    fn select<'d>(&self, all: &'d [Descriptor], tag: Option<&str>) -> Result<&'d Descriptor, OciError> {
        let tagged: Vec<&Descriptor> = match tag {
            Some(tag) => all.iter().filter(|d| d.tag() == Some(tag)).collect(),
            None => all.iter().collect(),
        };
        let tags = || all.iter().filter_map(|d| d.tag().map(str::to_owned)).collect();
        if let (Some(tag), true) = (tag, tagged.is_empty()) {
            return Err(OciError::NoSuchTag { tag: tag.to_owned(), tags: tags() });
        }
        match for_enclaves(&tagged)?[..] {
            [one] => Ok(one),
            ref several => Err(OciError::Ambiguous { found: several.len(), tags: tags() }),
        }
    }

    /// Follows indexes to the image manifest.
    fn resolve(&self, descriptor: &Descriptor) -> Result<Descriptor, OciError> {
        let mut descriptor = descriptor.clone();
        for _ in 0..=MAX_INDEX_DEPTH {
            match descriptor.kind() {
                Some(BlobKind::Manifest) => return Ok(descriptor),
                Some(BlobKind::Index) => {
                    let index: Index = self.read_document(&descriptor)?;
                    check_schema(&blob_path(&descriptor.digest), index.schema_version)?;
                    descriptor = self.select(&index.manifests, None)?.clone();
                }
                _ => return Err(wrong_media_type(&descriptor)),
            }
        }
        Err(OciError::IndexTooDeep)
    }

    fn read_image(&self, descriptor: &Descriptor) -> Result<Image, OciError> {
        let manifest: Manifest = self.read_document(descriptor)?;
        check_schema(&blob_path(&descriptor.digest), manifest.schema_version)?;
        if manifest.layers.len() > MAX_LAYERS {
            return Err(OciError::TooManyLayers { found: manifest.layers.len() });
        }
        if let Some(other) = manifest.layers.iter().find(|l| l.kind() != Some(BlobKind::Layer)) {
            return Err(wrong_media_type(other));
        }
        let config: Config = self.read_document(&manifest.config)?;
        if !config.platform.is_enclave() {
            return Err(OciError::NoPlatform { found: vec![config.platform.to_string()] });
        }
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(OciError::LayerCount { layers, diff_ids });
        }
        let expect = |(layer, diff_id): (Descriptor, &Digest)| {
            let expected = Expected { blob: layer.digest, diff_id: *diff_id };
            (layer, expected)
        };
        let layers = manifest.layers.into_iter().zip(&config.rootfs.diff_ids).map(expect).collect();
        Ok(Image { manifest: descriptor.digest, layers, config })
    }

    /// Reads a JSON blob and checks its digest.
    fn read_document<T: DeserializeOwned>(&self, blob: &Descriptor) -> Result<T, OciError> {
        let file = blob_path(&blob.digest);
        let bytes = read_bounded(self.open_blob(blob)?, &file)?;
        let found = Digest::of(&bytes);
        if found != blob.digest {
            return Err(OciError::BlobDigest { expected: blob.digest, found });
        }
        parse(&file, &bytes)
    }

    fn read_json(&self, file: &str) -> Result<Vec<u8>, OciError> {
        let open = File::open(self.root.join(file));
        read_bounded(open.map_err(|source| OciError::Read { file: file.to_owned(), source })?, file)
    }
}

/// Those that are for enclaves or do not say what they are for.
fn for_enclaves<'d>(all: &[&'d Descriptor]) -> Result<Vec<&'d Descriptor>, OciError> {
    let suits = |d: &&&Descriptor| d.platform.as_ref().is_none_or(|p| p.is_enclave());
    let suitable: Vec<&Descriptor> = all.iter().filter(suits).copied().collect();
    if suitable.is_empty() {
        let found = all.iter().filter_map(|d| d.platform.as_ref()).map(ToString::to_string).collect();
        return Err(OciError::NoPlatform { found });
    }
    Ok(suitable)
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.to_hex())
}

fn wrong_media_type(blob: &Descriptor) -> OciError {
    OciError::MediaType { digest: blob.digest, found: blob.media_type.clone() }
}

fn check_schema(file: &str, found: u32) -> Result<(), OciError> {
    if found == 2 { Ok(()) } else { Err(OciError::SchemaVersion { file: file.to_owned(), found }) }
}

fn parse<T: DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, OciError> {
    serde_json::from_slice(bytes).map_err(|source| OciError::Json { file: file.to_owned(), source })
}

fn read_bounded(handle: File, file: &str) -> Result<Vec<u8>, OciError> {
    let read = |source| OciError::Read { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    handle.take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes).map_err(read)?;
    let found = bytes.len() as u64;
    if found > MAX_JSON_BYTES {
        return Err(OciError::JsonTooLong { file: file.to_owned(), found });
    }
    Ok(bytes)
}
