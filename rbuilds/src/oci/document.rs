//! The JSON documents of an image layout (OCI image specification 1.1), as far as a build needs them.
//!
//! Unknown members are ignored, as the specification asks. Docker's schema 2 documents have the same members.

use std::{collections::BTreeMap, fmt};

use eif::Architecture;
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use crate::{Digest, platform};

/// The annotation that holds a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation in which containerd, and with it `docker save`, writes the whole name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The annotation with which BuildKit says that a manifest is attached to an image.
const ATTACHMENT: &str = "vnd.docker.reference.type";

/// `oci-layout`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayoutMarker {
    pub(crate) image_layout_version: String,
}

/// Names a blob.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    /// In bytes.
    pub(crate) size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    /// What it is instead of a container image (image specification 1.1).
    #[serde(default)]
    artifact_type: Option<String>,
}

/// What an image runs on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    /// Which generation of the processors, as `v3`.
    #[serde(default)]
    pub(crate) variant: Option<String>,
}

/// What a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlobKind {
    Index,
    Manifest,
    Layer,
}

/// `index.json`, or an index that it names.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) manifests: Vec<Descriptor>,
}

/// An image manifest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    pub(crate) config: Descriptor,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) layers: Vec<Descriptor>,
}

/// An image configuration.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    pub(crate) platform: Platform,
    #[serde(default)]
    config: Option<Execution>,
    pub(crate) rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RootFs {
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) diff_ids: Vec<Digest>,
}

/// How the image wants to be run. Members are absent, `null` or empty where the image does not say.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Execution {
    entrypoint: Option<Words>,
    cmd: Option<Words>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    healthcheck: Option<manifest::ImageHealthcheck>,
    shell: Option<Vec<String>>,
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
}

/// A command. Images of Docker's first years have one word without the list around it, and engines still take that.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Words {
    Many(Vec<String>),
    One(String),
}

impl Words {
    fn to_vec(words: Option<&Self>) -> Vec<String> {
        match words {
            Some(Self::Many(words)) => words.clone(),
            Some(Self::One(word)) => vec![word.clone()],
            None => Vec::new(),
        }
    }
}

/// Programs written in Go have `null` for an empty list.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

impl Descriptor {
    /// Names an image manifest.
    pub(crate) fn of_manifest(digest: Digest, size: u64) -> Self {
        let media_type = "application/vnd.oci.image.manifest.v1+json".to_owned();
        Self { media_type, digest, size, annotations: None, platform: None, artifact_type: None }
    }

    /// What the image is called, if it is called something.
    pub(crate) fn tag(&self) -> Option<&str> {
        self.annotation(CONTAINERD_NAME).or_else(|| self.annotation(REF_NAME))
    }

    /// Whether the image is asked for by this tag.
    pub(crate) fn has_tag(&self, tag: &str) -> bool {
        let names = [REF_NAME, CONTAINERD_NAME].map(|name| self.annotation(name));
        names.iter().flatten().any(|name| answers_to(name, tag))
    }

    /// Whether it says that it is something else than a container image: what is attached to one, as a signature or a list of
    /// packages.
    pub(crate) fn is_attachment(&self) -> bool {
        let is_tag_of_another = |tag: &str| {
            tag.starts_with("sha256-") && [".sig", ".att", ".sbom"].iter().any(|end| tag.ends_with(end))
        };
        self.artifact_type.as_deref().is_some_and(|kind| !is_image_config(kind))
            || self.annotation(ATTACHMENT).is_some()
            || self.annotation(REF_NAME).is_some_and(is_tag_of_another)
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// What the media type says it is. The types of Docker's schema 2 mean the same.
    pub(crate) fn kind(&self) -> Option<BlobKind> {
        Some(match self.media_type.as_str() {
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => BlobKind::Index,
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => BlobKind::Manifest,
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => BlobKind::Layer,
            _ => return None,
        })
    }
}

/// Whether a media type is that of the configuration of a container image.
pub(crate) fn is_image_config(media_type: &str) -> bool {
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"]
        .contains(&media_type)
}

/// Whether an image of this name, `docker.io/library/web:1.2`, is asked for by `wanted`: the whole name, the name without
/// the registry that Docker leaves out, `web:1.2`, or the tag alone, `1.2`.
pub(crate) fn answers_to(name: &str, wanted: &str) -> bool {
    let familiar = name.strip_prefix("docker.io/").unwrap_or(name);
    let familiar = familiar.strip_prefix("library/").unwrap_or(familiar);
    let tag = name.rsplit_once(':').map(|(_, tag)| tag);
    [Some(name), Some(familiar), tag].contains(&Some(wanted))
}

impl Platform {
    /// Whether it is what an enclave's kernel for these processors runs.
    pub(crate) fn is_for(&self, architecture: Architecture) -> bool {
        let (os, processors) = (self.os.to_ascii_lowercase(), self.architecture.to_ascii_lowercase());
        // As engines do, names of the processors are taken for those of the specification.
        let processors = match processors.as_str() {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        format!("{os}/{processors}") == platform::oci_name(architecture)
    }

    /// Of several that are for the same processors, that for the oldest generation of them runs anywhere.
    pub(crate) fn generation(&self) -> &str {
        self.variant.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

impl Config {
    /// What the image says of the program in it.
    pub(crate) fn image_config(&self) -> manifest::ImageConfig {
        let Some(run) = &self.config else { return manifest::ImageConfig::default() };
        manifest::ImageConfig {
            entrypoint: Words::to_vec(run.entrypoint.as_ref()),
            cmd: Words::to_vec(run.cmd.as_ref()),
            env: run.env.clone().unwrap_or_default(),
            workdir: run.working_dir.clone().unwrap_or_default(),
            user: run.user.clone().unwrap_or_default(),
            stop_signal: run.stop_signal.clone().unwrap_or_default(),
            healthcheck: run.healthcheck.clone().unwrap_or_default(),
            shell: run.shell.clone().unwrap_or_default(),
            exposed_ports: run.exposed_ports.iter().flat_map(BTreeMap::keys).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Docker writes the member names of OCI and two of its own, `Healthcheck` and `Shell`.
    #[test]
    fn what_an_image_says_of_its_program_is_read_whole() {
        let config = |run: &str| -> manifest::ImageConfig {
            let text = format!(
                r#"{{"os":"linux","architecture":"amd64","rootfs":{{"diff_ids":[]}},"config":{run}}}"#
            );
            serde_json::from_str::<Config>(&text).unwrap().image_config()
        };
        let full = config(
            r#"{"StopSignal":"SIGQUIT","Shell":["/bin/bash","-c"],"ExposedPorts":{"80/tcp":{},"53/udp":{}},
                "Healthcheck":{"Test":["CMD-SHELL","exit 0"],"Interval":5000000000,"Retries":2}}"#,
        );
        assert_eq!((full.stop_signal.as_str(), full.shell.len()), ("SIGQUIT", 2));
        assert_eq!(full.exposed_ports, ["53/udp", "80/tcp"]);
        assert_eq!(full.healthcheck.test, ["CMD-SHELL", "exit 0"]);
        assert_eq!((full.healthcheck.interval, full.healthcheck.retries), (5_000_000_000, 2));
        let null = config(r#"{"StopSignal":null,"Shell":null,"ExposedPorts":null,"Healthcheck":null}"#);
        assert_eq!(null, manifest::ImageConfig::default());
        let words = config(r#"{"Entrypoint":"/app","Cmd":["a","b"]}"#);
        assert_eq!(
            (words.entrypoint, words.cmd),
            (vec!["/app".to_owned()], vec!["a".to_owned(), "b".to_owned()])
        );
        let no_test = config(r#"{"Healthcheck":{"Test":null}}"#);
        assert_eq!(no_test, manifest::ImageConfig::default());
    }

    #[test]
    fn an_image_is_asked_for_by_its_name_or_its_tag() {
        for wanted in ["docker.io/library/web:1.2", "web:1.2", "1.2"] {
            assert!(answers_to("docker.io/library/web:1.2", wanted), "{wanted}");
        }
        for wanted in ["web", "eb:1.2", "library/web:1.2", "1", "2", ""] {
            assert!(!answers_to("docker.io/library/web:1.2", wanted), "{wanted}");
        }
        assert!(answers_to("registry:5000/team/web:1", "1"));
        assert!(!answers_to("registry:5000/team/web:1", "team/web:1"));
    }
}
