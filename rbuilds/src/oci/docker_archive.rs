//! Finds one image in what `docker save` wrote before it wrote image layouts, and what skopeo and podman still call
//! `docker-archive`.
//!
//! `manifest.json` lists the images (moby, `image/tarexport`): the file of the configuration, tags, and the files of the
//! layers, the lowest first. It gives no digests, but the configuration's file is named after its own, and the
//! configuration has those of the unpacked layers.

use eif::Architecture;
use serde::Deserialize;

use super::{
    document::{Config, answers_to},
    files::{Files, parse, read_bounded},
    image::{Image, StoredLayer, check_layers},
};
use crate::{Digest, error::OciError, layers::Expected, platform::oci_name};

/// The document that lists the images.
pub(crate) const MANIFEST: &str = "manifest.json";

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Saved {
    fn tags(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }
}

/// The image for these processors with this tag, or the only one.
pub(crate) fn image(files: &Files, tag: Option<&str>, architecture: Architecture) -> Result<Image, OciError> {
    let all: Vec<Saved> = parse(MANIFEST, &files.read_json(MANIFEST)?)?;
    let saved = select(&all, tag, architecture)?;
    let config = read_config(files, &saved.config)?;
    let names = saved.layers.as_deref().unwrap_or_default();
    check_layers(names.len(), &config, architecture)?;
    let layer = |(file, diff_id): (&String, &Digest)| -> Result<StoredLayer, OciError> {
        let expected = Expected { blob: digest_in_name(file), diff_id: *diff_id };
        Ok(StoredLayer { file: file.clone(), bytes: files.open(file)?.len(), expected })
    };
    let layers = names.iter().zip(&config.rootfs.diff_ids).map(layer).collect::<Result<_, _>>()?;
    Ok(Image { manifest: None, config, layers })
}

fn select<'s>(
    all: &'s [Saved],
    tag: Option<&str>,
    architecture: Architecture,
) -> Result<&'s Saved, OciError> {
    let wanted = oci_name(architecture);
    let has = |saved: &&Saved| tag.is_none_or(|tag| saved.tags().iter().any(|t| answers_to(t, tag)));
    let found: Vec<&Saved> = all.iter().filter(has).collect();
    let tags = || all.iter().flat_map(|saved| saved.tags().iter().cloned()).collect();
    match (&found[..], tag) {
        ([one], _) => Ok(one),
        ([], Some(tag)) => Err(OciError::NoSuchTag { tag: tag.to_owned(), tags: tags() }),
        ([], None) => Err(OciError::NoPlatform { wanted, found: Vec::new() }),
        (several, _) => Err(OciError::Ambiguous { wanted, found: several.len(), tags: tags() }),
    }
}

fn read_config(files: &Files, file: &str) -> Result<Config, OciError> {
    let bytes = read_bounded(&files.open(file)?, file)?;
    let found = Digest::of(&bytes);
    if let Some(expected) = digest_in_name(file).filter(|expected| *expected != found) {
        return Err(OciError::BlobDigest { expected, found });
    }
    parse(file, &bytes)
}

/// The digest after which a file is named: `HEX.json`, as configurations are, or `blobs/sha256/HEX`.
fn digest_in_name(file: &str) -> Option<Digest> {
    let digits = file.strip_prefix("blobs/sha256/").or_else(|| file.strip_suffix(".json"))?;
    format!("sha256:{digits}").parse().ok()
}
