//! Pulls an image from a registry (OCI distribution specification 1.1) into a local cache of blobs.
//!
//! A tag is resolved once and remembered in the lock file, [`lock`]; from then on the image is found by its digest, and
//! without network if its blobs are in the [`cache`]. The layers are not read here: the cache looks like an image layout.

mod auth;
mod cache;
mod client;
mod credentials;
mod error;
mod helper;
mod lock;
mod mirrors;
mod retry;

use std::{
    collections::BTreeSet,
    io::Read,
    path::{Path, PathBuf},
};

use eif::Architecture;
use manifest::{ImageReference, ImageVersion};
use serde::Deserialize;
use ureq::{
    Body,
    http::{
        Response,
        header::{CONTENT_LENGTH, CONTENT_RANGE},
    },
};

pub use error::{Answer, DocumentError, RegistryError};

use self::{
    cache::{Cache, Partial},
    client::{Client, header},
    lock::Lock,
    mirrors::Mirrored,
    retry::Retries,
};
use crate::{
    Digest, Progress, Step,
    error::OciError,
    limits::{MAX_INDEX_DEPTH, MAX_JSON_BYTES, MAX_LAYERS},
    oci::{Descriptor, for_enclave},
};

/// What manifests are asked for as: those of the OCI and those of Docker's schema 2.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json, \
                         application/vnd.docker.distribution.manifest.v2+json";
const BLOBS: &str = "*/*";
/// How many bytes the cache keeps unless it is told otherwise.
const DEFAULT_CACHE_LIMIT_BYTES: u64 = 20 << 30;
/// Bytes received at once.
const BUFFER_BYTES: usize = 1 << 17;
/// How much of a blob has to come for a broken connection to be forgiven.
const PROGRESS_BYTES: u64 = 1 << 20;

/// How images are pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryOptions {
    /// When a registry is asked.
    pub network: Network,
    /// The folder of the blob cache. Default: `glasshouse` in the user's cache folder.
    pub cache: Option<PathBuf>,
    /// Most bytes the cache keeps after a build; the image just built stays in any case. Default 20 GiB.
    pub cache_limit_bytes: u64,
    /// Whether the lock file is told which image a tag names. Whoever only looks leaves it as it is.
    pub record_tags: bool,
    /// Whether compressed files that an earlier build left in the cache are taken. Their digests say only that they are as
    /// they were left, so whoever verifies compresses anew.
    pub reuse_compressed: bool,
    /// A file of credentials in the form of Docker's `config.json`, read instead of those of the container engines.
    pub credentials: Option<PathBuf>,
    /// A file of mirrors, read instead of `glasshouse/registries.toml` in the user's configuration folder.
    pub mirrors: Option<PathBuf>,
}

/// When a registry is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// For tags that are not in the lock file and blobs that are not in the cache.
    #[default]
    Missing,
    /// For what every tag names now.
    Update,
    /// Never.
    Offline,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        let (network, cache_limit_bytes) = (Network::default(), DEFAULT_CACHE_LIMIT_BYTES);
        Self {
            network,
            cache: None,
            cache_limit_bytes,
            record_tags: true,
            reuse_compressed: true,
            credentials: None,
            mirrors: None,
        }
    }
}

/// An image in the cache, which stays as it is while this lives.
#[derive(Debug)]
pub(crate) struct Pulled {
    cache: Cache,
    /// The image manifest.
    pub(crate) manifest: Descriptor,
}

impl Pulled {
    /// The folder in which the blobs lie as in an image layout.
    pub(crate) fn blobs(&self) -> &Path {
        self.cache.root()
    }

    /// Removes a blob that turned out not to be what its name says: it was right when it came, and can be fetched again.
    pub(crate) fn forget(&self, blob: &Digest) {
        self.cache.remove(blob);
    }
}

/// Brings an image into the cache. The lock file is in `folder`.
pub(crate) fn pull(
    image: &ImageReference,
    folder: &Path,
    options: &RegistryOptions,
    architecture: Architecture,
    progress: Progress<'_>,
) -> Result<Pulled, RegistryError> {
    let cache = Cache::open(cache_folder(options)?)?;
    let mut source = Source { image, options, architecture, cache, places: None };
    let mut lock = Lock::read(folder)?;
    let wanted = match image.version() {
        ImageVersion::Digest(digest) => {
            Some(digest.parse().expect("the reference was checked to hold a digest"))
        }
        ImageVersion::Tag(_) if options.network == Network::Update => None,
        ImageVersion::Tag(_) => lock.digest_of(image, architecture),
    };
    let (manifest, parts) = source.resolve(wanted)?;
    let of = parts.len();
    for (number, part) in (1..).zip(&parts) {
        source.fetch(part, Step::Pull { number, of, bytes: part.size }, progress)?;
    }
    if let (ImageVersion::Tag(_), true) = (image.version(), options.record_tags) {
        lock.record(image, architecture, manifest.digest)?;
    }
    let used: BTreeSet<Digest> = parts.iter().chain([&manifest]).map(|blob| blob.digest).collect();
    source.cache.evict(options.cache_limit_bytes, &used)?;
    Ok(Pulled { cache: source.cache, manifest })
}

fn cache_folder(options: &RegistryOptions) -> Result<PathBuf, RegistryError> {
    let usual = || crate::cache_folder().ok();
    options.cache.clone().or_else(usual).ok_or(RegistryError::NoCacheFolder)
}

/// An image's documents and blobs, from the cache or from the registry.
struct Source<'a> {
    image: &'a ImageReference,
    options: &'a RegistryOptions,
    architecture: Architecture,
    cache: Cache,
    /// The mirrors that have not failed yet, and last the registry itself. Made when they are needed.
    places: Option<Vec<Place<'a>>>,
}

/// Where an image may be had.
struct Place<'a> {
    client: Client<'a>,
    is_mirror: bool,
    /// Whether it may say what a tag names.
    answers_tags: bool,
}

/// A manifest or an index, as far as finding blobs needs it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

impl<'a> Source<'a> {
    /// Follows indexes to the image manifest. Returns it and everything it names.
    fn resolve(&mut self, wanted: Option<Digest>) -> Result<(Descriptor, Vec<Descriptor>), RegistryError> {
        let mut wanted = wanted;
        for _ in 0..=MAX_INDEX_DEPTH {
            let what = self.manifest_path(wanted);
            let unusable = |source| RegistryError::Document { what: what.clone(), source };
            let (digest, bytes) = self.document(wanted)?;
            let document: Document = serde_json::from_slice(&bytes).map_err(|e| unusable(e.into()))?;
            match document {
                Document { schema_version: 2, manifests: Some(all), config: None, layers: None } => {
                    wanted =
                        Some(for_enclave(&all, self.architecture).map_err(|e| unusable(e.into()))?.digest);
                }
                Document {
                    schema_version: 2,
                    manifests: None,
                    config: Some(config),
                    layers: Some(layers),
                } => {
                    if layers.len() > MAX_LAYERS {
                        return Err(unusable(OciError::TooManyLayers { found: layers.len() }.into()));
                    }
                    let parts = [vec![config], layers].concat();
                    return Ok((Descriptor::of_manifest(digest, bytes.len() as u64), parts));
                }
                _ => return Err(unusable(DocumentError::Unknown)),
            }
        }
        let what = self.manifest_path(wanted);
        Err(RegistryError::Document { what, source: OciError::IndexTooDeep.into() })
    }

    /// A manifest or index: the one with this digest, or what the tag names.
    fn document(&mut self, wanted: Option<Digest>) -> Result<(Digest, Vec<u8>), RegistryError> {
        if let Some((digest, bytes)) = wanted.and_then(|d| Some((d, self.cache.read(&d, MAX_JSON_BYTES)?))) {
            return Ok((digest, bytes));
        }
        let what = self.manifest_path(wanted);
        let bytes = self.anywhere(&what, wanted.is_none(), |place| receive_document(place, &what, wanted))?;
        Ok((self.cache.write(&bytes)?, bytes))
    }

    /// Asks one place after the other, the registry itself last. A mirror that failed is asked no more.
    fn anywhere<T>(
        &mut self,
        what: &str,
        is_tag: bool,
        mut ask: impl FnMut(&mut Client<'a>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let places = self.places(what)?;
        let mut index = 0;
        loop {
            let place = places.get_mut(index).expect("the registry itself is the last and ends the loop");
            if is_tag && !place.answers_tags {
                index += 1;
                continue;
            }
            match ask(&mut place.client) {
                // It may have other images, and not this one.
                Err(RegistryError::NotFound { .. }) if place.is_mirror => index += 1,
                Err(_) if place.is_mirror => drop(places.remove(index)),
                answer => return answer,
            }
        }
    }

    /// Brings a blob into the cache, unless it is there.
    fn fetch(
        &mut self,
        blob: &Descriptor,
        step: Step<'_>,
        progress: Progress<'_>,
    ) -> Result<(), RegistryError> {
        if self.cache.len_of(&blob.digest) == Some(blob.size) {
            return Ok(());
        }
        let what = format!("blobs/{}", blob.digest);
        self.places(&what)?;
        progress(step);
        let mut partial = self.cache.begin(&blob.digest)?;
        if partial.is_done() && self.cache.len_of(&blob.digest) == Some(blob.size) {
            return Ok(());
        }
        self.anywhere(&what, false, |client| receive_blob(client, &what, blob, &mut partial))?;
        partial.finish()
    }

    fn places(&mut self, what: &str) -> Result<&mut Vec<Place<'a>>, RegistryError> {
        if self.options.network == Network::Offline {
            return Err(RegistryError::Offline { what: what.to_owned() });
        }
        if self.places.is_none() {
            let (options, auth_file) = (self.options, self.options.credentials.as_deref());
            let mut places = Vec::new();
            for Mirrored { image, tags } in mirrors::of(self.image, options.mirrors.as_deref())? {
                let client = Client::new(image, auth_file)?;
                places.push(Place { client, is_mirror: true, answers_tags: tags });
            }
            let client = Client::new(self.image.clone(), auth_file)?;
            places.push(Place { client, is_mirror: false, answers_tags: true });
            self.places = Some(places);
        }
        Ok(self.places.as_mut().expect("they were made just now"))
    }

    fn manifest_path(&self, wanted: Option<Digest>) -> String {
        match (wanted, self.image.version()) {
            (Some(digest), _) => format!("manifests/{digest}"),
            (None, ImageVersion::Tag(name) | ImageVersion::Digest(name)) => format!("manifests/{name}"),
        }
    }
}

/// The bytes of a manifest or index, which have the digest that is wanted, if there is one.
fn receive_document(
    client: &mut Client<'_>,
    what: &str,
    wanted: Option<Digest>,
) -> Result<Vec<u8>, RegistryError> {
    let answer = client.fetch(what, MANIFESTS, 0)?;
    let claimed = header(&answer, "docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
    let mut bytes = Vec::new();
    let read = answer.into_body().into_reader().take(MAX_JSON_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| RegistryError::NoAnswer { url: what.to_owned(), source })?;
    if bytes.len() as u64 > MAX_JSON_BYTES {
        return Err(RegistryError::Document { what: what.to_owned(), source: DocumentError::TooLong });
    }
    let found = Digest::of(&bytes);
    match wanted.or(claimed) {
        Some(expected) if expected != found => Err(RegistryError::WrongDigest { expected, found }),
        _ => Ok(bytes),
    }
}

/// Receives a blob until it has its digest.
fn receive_blob(
    client: &mut Client<'_>,
    what: &str,
    blob: &Descriptor,
    partial: &mut Partial,
) -> Result<(), RegistryError> {
    // What an earlier build or another place left may be damaged; what this one sent is not asked for again.
    let mut is_left_over = partial.len() > 0;
    loop {
        complete(client, what, blob, partial)?;
        let found = partial.digest();
        if found == blob.digest {
            return Ok(());
        }
        partial.restart()?;
        if !is_left_over {
            return Err(RegistryError::WrongDigest { expected: blob.digest, found });
        }
        is_left_over = false;
    }
}

/// Receives a blob until it is as long as it should be, however often the connection breaks.
fn complete(
    client: &mut Client<'_>,
    what: &str,
    blob: &Descriptor,
    partial: &mut Partial,
) -> Result<(), RegistryError> {
    if partial.len() > blob.size {
        partial.restart()?;
    }
    let mut retries = Retries::default();
    let mut furthest = partial.len();
    while partial.len() < blob.size {
        let answer = match client.fetch(what, BLOBS, partial.len()) {
            Err(RegistryError::Status { status: 416, .. }) if partial.len() > 0 => {
                partial.restart()?;
                continue;
            }
            answer => answer?,
        };
        if let Err(error) = receive(answer, blob, partial) {
            if partial.len() >= furthest + PROGRESS_BYTES {
                furthest = partial.len();
                retries = Retries::default();
            }
            retries.after(error)?;
        }
    }
    Ok(())
}

/// Puts what an answer brings behind what is there, or in its place if the registry begins anew.
fn receive(answer: Response<Body>, blob: &Descriptor, partial: &mut Partial) -> Result<(), RegistryError> {
    let goes_on = format!("bytes {}-", partial.len());
    let is_part = answer.status().as_u16() == 206;
    if !is_part || !header(&answer, CONTENT_RANGE.as_str()).is_some_and(|range| range.starts_with(&goes_on)) {
        partial.restart()?;
        if is_part {
            let (digest, expected) = (blob.digest, blob.size);
            return Err(RegistryError::BrokenOff { digest, received: 0, expected, source: None });
        }
    }
    let wrong_length = |found| RegistryError::WrongLength { digest: blob.digest, expected: blob.size, found };
    let promised = header(&answer, CONTENT_LENGTH.as_str()).and_then(|len| len.parse::<u64>().ok());
    match promised.map(|rest| partial.len().saturating_add(rest)) {
        Some(found) if found != blob.size => return Err(wrong_length(found)),
        _ => {}
    }
    let mut reader = answer.into_body().into_reader();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let broken_off = |received, source| RegistryError::BrokenOff {
            digest: blob.digest,
            received,
            expected: blob.size,
            source,
        };
        let n = reader.read(&mut buffer).map_err(|e| broken_off(partial.len(), Some(e)))?;
        if n == 0 && partial.len() < blob.size {
            return Err(broken_off(partial.len(), None));
        }
        if n == 0 {
            return Ok(());
        }
        let found = partial.len() + n as u64;
        if found > blob.size {
            partial.restart()?;
            return Err(wrong_length(found));
        }
        partial.append(&buffer[..n])?;
    }
}
