//! Finds one image in an image layout and checks what it reads.

use eif::Architecture;
use serde::de::DeserializeOwned;

use super::{
    document::{BlobKind, Config, Descriptor, Index, LayoutMarker, Manifest},
    files::{Files, parse, read_bounded},
    image::{Image, StoredLayer, check_layers, open_sized},
};
use crate::{Digest, error::OciError, layers::Expected, limits::MAX_INDEX_DEPTH, platform::oci_name};

/// The document that makes a layout of a directory or archive.
pub(crate) const MARKER: &str = "oci-layout";

/// An image layout.
#[derive(Debug)]
pub(crate) struct Layout<'f> {
    files: &'f Files,
    /// Of images for several platforms, those for these processors are taken.
    architecture: Architecture,
}

impl<'f> Layout<'f> {
    pub(crate) fn open(files: &'f Files, architecture: Architecture) -> Result<Self, OciError> {
        let layout = Self { files, architecture };
        let marker: LayoutMarker = parse(MARKER, &files.read_json(MARKER)?)?;
        if !marker.image_layout_version.starts_with("1.") {
            return Err(OciError::LayoutVersion { found: marker.image_layout_version });
        }
        Ok(layout)
    }

    /// The blobs of a layout, without what says that it is one.
    pub(crate) fn of_blobs(files: &'f Files, architecture: Architecture) -> Self {
        Self { files, architecture }
    }

    /// The image with this tag, or the only one.
    pub(crate) fn image(&self, tag: Option<&str>) -> Result<Image, OciError> {
        let index: Index = parse("index.json", &self.files.read_json("index.json")?)?;
        check_schema("index.json", index.schema_version)?;
        let descriptor = self.select(&index.manifests, tag)?;
        self.read_image(&self.resolve(descriptor)?)
    }

    fn select<'d>(&self, all: &'d [Descriptor], tag: Option<&str>) -> Result<&'d Descriptor, OciError> {
        let tagged: Vec<&Descriptor> = match tag {
            Some(tag) => all.iter().filter(|d| d.has_tag(tag)).collect(),
            None => all.iter().collect(),
        };
        let tags = || all.iter().filter_map(|d| d.tag().map(str::to_owned)).collect();
        if let (Some(tag), true) = (tag, tagged.is_empty()) {
            return Err(OciError::NoSuchTag { tag: tag.to_owned(), tags: tags() });
        }
        match suitable(&tagged, self.architecture)?[..] {
            [one] => Ok(one),
            ref several => Err(OciError::Ambiguous {
                wanted: oci_name(self.architecture),
                found: several.len(),
                tags: tags(),
            }),
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

    pub(crate) fn read_image(&self, descriptor: &Descriptor) -> Result<Image, OciError> {
        let manifest: Manifest = self.read_document(descriptor)?;
        check_schema(&blob_path(&descriptor.digest), manifest.schema_version)?;
        if let Some(other) = manifest.layers.iter().find(|l| l.kind() != Some(BlobKind::Layer)) {
            return Err(wrong_media_type(other));
        }
        let config: Config = self.read_document(&manifest.config)?;
        check_layers(manifest.layers.len(), &config, self.architecture)?;
        let expect = |(layer, diff_id): (&Descriptor, &Digest)| StoredLayer {
            file: blob_path(&layer.digest),
            bytes: layer.size,
            expected: Expected { blob: Some(layer.digest), diff_id: *diff_id },
        };
        let layers = manifest.layers.iter().zip(&config.rootfs.diff_ids).map(expect).collect();
        Ok(Image { manifest: Some(descriptor.digest), layers, config })
    }

    /// Reads a JSON blob and checks its digest.
    fn read_document<T: DeserializeOwned>(&self, blob: &Descriptor) -> Result<T, OciError> {
        let file = blob_path(&blob.digest);
        let bytes = read_bounded(&open_sized(self.files, &file, blob.digest, blob.size)?, &file)?;
        let found = Digest::of(&bytes);
        if found != blob.digest {
            return Err(OciError::BlobDigest { expected: blob.digest, found });
        }
        parse(&file, &bytes)
    }
}

/// The only one of an index that is for these processors.
pub(crate) fn for_enclave(all: &[Descriptor], architecture: Architecture) -> Result<&Descriptor, OciError> {
    match suitable(&all.iter().collect::<Vec<_>>(), architecture)?[..] {
        [one] => Ok(one),
        ref several => Err(OciError::Ambiguous {
            wanted: oci_name(architecture),
            found: several.len(),
            tags: Vec::new(),
        }),
    }
}

/// Those that are for these processors or do not say what they are for.
fn suitable<'d>(all: &[&'d Descriptor], architecture: Architecture) -> Result<Vec<&'d Descriptor>, OciError> {
    let suits = |d: &&&Descriptor| d.platform.as_ref().is_none_or(|p| p.is_for(architecture));
    let suitable: Vec<&Descriptor> = all.iter().filter(suits).copied().collect();
    if suitable.is_empty() {
        let found = all.iter().filter_map(|d| d.platform.as_ref()).map(ToString::to_string).collect();
        return Err(OciError::NoPlatform { wanted: oci_name(architecture), found });
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
