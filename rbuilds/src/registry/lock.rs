//! `glasshouse.lock`: which image a tag named when it was first built (docs/spec/lock.md).

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use eif::Architecture;
use manifest::ImageReference;
use serde::{Deserialize, Serialize};

use super::error::RegistryError;
use crate::{Digest, output::Output, platform::oci_name};

/// The file's name, beside the manifest.
const NAME: &str = "glasshouse.lock";
/// The version of its form.
const VERSION: u32 = 1;
/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;
const PREFACE: &str =
    "# Written by `glasshouse build`; `--update` resolves the tags again. Keep it under version control.\n";

/// The file's content.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    images: BTreeMap<Key, Digest>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    version: u32,
    #[serde(default)]
    image: Vec<RawImage>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawImage {
    reference: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    digest: Digest,
}

/// What a digest is of: a tag, and the platform if it is not linux/amd64.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    reference: String,
    platform: Option<String>,
}

/// Only the version, so that a file of another version is refused for that and nothing else.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Lock {
    /// Reads the file in a manifest's folder. Where there is none, nothing is locked.
    pub(super) fn read(folder: &Path) -> Result<Self, RegistryError> {
        let path = folder.join(NAME);
        let text = match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path, images: BTreeMap::new() });
            }
            Ok(metadata) if metadata.len() > MAX_BYTES => {
                return Err(RegistryError::Lock {
                    path,
                    reason: format!("it has more than {MAX_BYTES} bytes"),
                });
            }
            _ => fs::read_to_string(&path),
        };
        let text =
            text.map_err(|source| RegistryError::File { doing: "read", path: path.clone(), source })?;
        match parse(&text) {
            Ok(images) => Ok(Self { path, images }),
            Err(reason) => Err(RegistryError::Lock { path, reason }),
        }
    }

    /// What the image's tag named.
    pub(super) fn digest_of(&self, image: &ImageReference, architecture: Architecture) -> Option<Digest> {
        self.images.get(&key_of(image, architecture)).copied()
    }

    /// Records what the image's tag names, and writes the file if that is news.
    pub(super) fn record(
        &mut self,
        image: &ImageReference,
        architecture: Architecture,
        digest: Digest,
    ) -> Result<(), RegistryError> {
        if self.images.insert(key_of(image, architecture), digest) == Some(digest) {
            return Ok(());
        }
        let text = write(&self.images);
        let written = Output::create(&self.path)
            .and_then(|mut output| output.file().write_all(text.as_bytes()).map(|()| output))
            .and_then(Output::commit);
        written.map_err(|source| RegistryError::File { doing: "write", path: self.path.clone(), source })
    }
}

fn key_of(image: &ImageReference, architecture: Architecture) -> Key {
    Key { reference: image.to_string(), platform: platform_of(architecture) }
}

/// As it is written: x86-64 by absence, which is what there was first.
fn platform_of(architecture: Architecture) -> Option<String> {
    (architecture != Architecture::X86_64).then(|| oci_name(architecture).to_owned())
}

fn parse(text: &str) -> Result<BTreeMap<Key, Digest>, String> {
    let malformed = |e: toml::de::Error| format!("it is malformed: {}", e.message());
    let Versioned { version } = toml::from_str(text).map_err(malformed)?;
    if version != VERSION {
        return Err(format!("it has version {version}, this program reads version {VERSION}"));
    }
    let raw: Raw = toml::from_str(text).map_err(malformed)?;
    let mut images = BTreeMap::new();
    for RawImage { reference, platform, digest } in raw.image {
        if let Some(other) = platform.as_ref().filter(|text| **text != oci_name(Architecture::Aarch64)) {
            return Err(format!("{reference}: platform {other} is not one that is written"));
        }
        if images.insert(Key { reference: reference.clone(), platform }, digest).is_some() {
            return Err(format!("{reference} stands there twice"));
        }
    }
    Ok(images)
}

fn write(images: &BTreeMap<Key, Digest>) -> String {
    let image = images.iter().map(|(Key { reference, platform }, digest)| RawImage {
        reference: reference.clone(),
        platform: platform.clone(),
        digest: *digest,
    });
    let raw = Raw { version: VERSION, image: image.collect() };
    format!("{PREFACE}{}", toml::to_string(&raw).expect("strings and numbers can be written as TOML"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(reference: &str, architecture: Architecture) -> Key {
        Key { reference: reference.to_owned(), platform: platform_of(architecture) }
    }

    #[test]
    fn writes_the_specified_form() {
        let digest = Digest::of(b"");
        let images = BTreeMap::from([(key("registry.example/web:1", Architecture::X86_64), digest)]);
        let expected = format!(
            "{PREFACE}version = 1\n\n[[image]]\nreference = \"registry.example/web:1\"\ndigest = \"{digest}\"\n"
        );
        assert_eq!(write(&images), expected);
        assert_eq!(parse(&expected).unwrap(), images);
        assert_eq!(parse("version = 1\n").unwrap(), BTreeMap::new());
        let both = BTreeMap::from([
            (key("registry.example/web:1", Architecture::X86_64), digest),
            (key("registry.example/web:1", Architecture::Aarch64), digest),
        ]);
        let more = format!(
            "\n[[image]]\nreference = \"registry.example/web:1\"\nplatform = \"linux/arm64\"\ndigest = \"{digest}\"\n"
        );
        assert_eq!(write(&both), format!("{expected}{more}"));
        assert_eq!(parse(&write(&both)).unwrap(), both);
    }

    #[test]
    fn refuses_other_versions_and_what_it_does_not_know() {
        let digest = Digest::of(b"");
        let entry = format!("[[image]]\nreference = \"a\"\ndigest = \"{digest}\"\n");
        for (text, reason) in [
            ("version = 2\nnew = 1\n".to_owned(), "version 2"),
            ("".to_owned(), "version"),
            ("version = 1\nmore = 1\n".to_owned(), "more"),
            ("version = 1\n[[image]]\nreference = \"a\"\ndigest = \"sha256:1\"\n".to_owned(), "digest"),
            (format!("version = 1\n{entry}{entry}"), "twice"),
            (format!("version = 1\n{entry}platform = \"linux/amd64\"\n"), "linux/amd64"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(names in proptest::collection::btree_set(any::<String>(), 0..4)) {
            let images: BTreeMap<_, _> = names.into_iter().map(|n| (key(&n, Architecture::Aarch64), Digest::of(n.as_bytes()))).collect();
            prop_assert_eq!(parse(&write(&images)).unwrap(), images);
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
