//! Finds one image in an image layout and checks what it reads.

use std::collections::BTreeSet;

use eif::Architecture;
use serde::de::DeserializeOwned;

use super::{
    document::{BlobKind, Config, Descriptor, Index, LayoutMarker, Manifest, is_image_config},
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
        let mut suitable = suitable(&tagged, self.architecture, tag.is_some())?;
        if suitable.len() > 1 {
            // What says nothing of itself may still be no image.
            suitable.retain(|d| d.platform.is_some() || self.may_be_image(d));
        }
        match suitable[..] {
            [one] => Ok(one),
            ref several => Err(OciError::Ambiguous {
                wanted: oci_name(self.architecture),
                found: several.len(),
                tags: tags(),
            }),
        }
    }

    /// Whether a manifest has the configuration of a container image. What cannot be read is told when it is taken.
    fn may_be_image(&self, descriptor: &Descriptor) -> bool {
        descriptor.kind() != Some(BlobKind::Manifest)
            || self
                .read_document::<Manifest>(descriptor)
                .map_or(true, |manifest| is_image_config(&manifest.config.media_type))
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
        if let (false, kind) = (is_image_config(&manifest.config.media_type), &manifest.config.media_type)
            && manifest.layers.iter().all(|layer| layer.kind() != Some(BlobKind::Layer))
            && !kind.is_empty()
        {
            return Err(OciError::NoImage { digest: descriptor.digest, found: kind.clone() });
        }
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
    match suitable(&all.iter().collect::<Vec<_>>(), architecture, false)?[..] {
        [one] => Ok(one),
        ref several => Err(OciError::Ambiguous {
            wanted: oci_name(architecture),
            found: several.len(),
            tags: Vec::new(),
        }),
    }
}

/// Those that are for these processors or do not say what they are for. What is attached to images is none, unless it was
/// asked for by name; an image that has several names counts once.
fn suitable<'d>(
    all: &[&'d Descriptor],
    architecture: Architecture,
    is_named: bool,
) -> Result<Vec<&'d Descriptor>, OciError> {
    let images = || all.iter().copied().filter(|d| is_named || !d.is_attachment());
    let suits = |d: &&Descriptor| d.platform.as_ref().is_none_or(|p| p.is_for(architecture));
    let mut suitable: Vec<&Descriptor> = images().filter(suits).collect();
    if suitable.is_empty() {
        let found = images().filter_map(|d| d.platform.as_ref()).map(ToString::to_string).collect();
        return Err(OciError::NoPlatform { wanted: oci_name(architecture), found });
    }
    // Of images with names of their own it is not for us to choose.
    if suitable.iter().filter_map(|d| d.tag()).collect::<BTreeSet<_>>().len() < 2 {
        // Who says what it is for comes before who says nothing, and of those the one for the oldest processors.
        let rank = |d: &&Descriptor| match &d.platform {
            Some(platform) => (0, platform.generation().to_owned()),
            None => (1, String::new()),
        };
        let best = suitable.iter().map(rank).min();
        suitable.retain(|d| Some(rank(d)) == best);
    }
    let mut seen = BTreeSet::new();
    suitable.retain(|d| seen.insert(d.digest));
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
