//! The name of a container image in a registry, read as container engines read it.
//!
//! `nginx:1.25` is Docker's shorthand for `docker.io/library/nginx:1.25`. The grammar is that of the distribution
//! specification 1.1 ("Pulling manifests"), with the registry before it.

use std::{fmt, str::FromStr};

/// The registry meant where a name has none, by the convention of container engines.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Where that registry keeps images that belong to nobody in particular.
const DEFAULT_FOLDER: &str = "library/";
/// What engines take when a name has neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// Longest repository name, in bytes: what registries accept with their own name before it.
const MAX_REPOSITORY_BYTES: usize = 255;
/// Longest tag, in bytes (distribution specification).
const MAX_TAG_BYTES: usize = 128;

/// An image in a registry, in full.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageReference {
    registry: String,
    repository: String,
    version: ImageVersion,
}

/// Which image of a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageVersion {
    /// The one a tag names at the moment.
    Tag(String),
    /// The one with this digest: `sha256:` and 64 lower-case hexadecimal digits. A tag beside it says nothing.
    Digest(String),
}

/// Why a text does not name an image in a registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} does not name an image in a registry ({part}): write HOST/NAME:TAG or HOST/NAME@sha256:DIGEST"
)]
pub struct ReferenceError {
    /// The text found, its beginning if it is long.
    pub text: String,
    /// The part that is malformed, and what it may be.
    pub part: &'static str,
}

impl ImageReference {
    /// The registry as engines call it: a host and perhaps a port.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The name inside the registry, such as `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Which image of the repository.
    pub fn version(&self) -> &ImageVersion {
        &self.version
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|part| ReferenceError { text: text.chars().take(300).collect(), part })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, repository, version } = self;
        match version {
            ImageVersion::Tag(tag) => write!(f, "{registry}/{repository}:{tag}"),
            ImageVersion::Digest(digest) => write!(f, "{registry}/{repository}@{digest}"),
        }
    }
}

fn parse(text: &str) -> Result<ImageReference, &'static str> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    // The colon of a port stands before the last slash.
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    if !tag.is_none_or(is_tag) {
        return Err("its tag: 1 to 128 letters, digits, `_`, `.` and `-`, not `.` or `-` first");
    }
    let version = match digest {
        Some(digest) if is_digest(digest) => ImageVersion::Digest(digest.to_owned()),
        Some(_) => return Err("its digest: `sha256:` and 64 lower-case hexadecimal digits"),
        None => ImageVersion::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
    };
    let (registry, repository) = split_registry(name);
    if !is_host(&registry) {
        return Err(
            "its registry: a host name, an IPv4 address or an IPv6 address in brackets, and perhaps a port",
        );
    }
    if !is_repository(&repository) {
        return Err(
            "its name: lower-case letters and digits, with `.`, `_`, `__` or `-` between them, and `/`",
        );
    }
    Ok(ImageReference { registry, repository, version })
}

/// The first component is a registry if it looks like a host, as engines decide it.
fn split_registry(name: &str) -> (String, String) {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    let folder = if registry == DEFAULT_REGISTRY && !repository.contains('/') { DEFAULT_FOLDER } else { "" };
    (registry.to_owned(), format!("{folder}{repository}"))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=MAX_TAG_BYTES).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_digest(digest: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    digest.strip_prefix("sha256:").is_some_and(|digits| digits.len() == 64 && digits.bytes().all(hex))
}

fn is_host(registry: &str) -> bool {
    // In brackets is an IPv6 address; its colons are not a port's.
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let is_name = || {
        let label =
            |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        host.len() <= 253 && host.split('.').all(label)
    };
    let is_v6 = || {
        let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
    };
    (is_name() || is_v6()) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|p| p != 0))
}

/// Components of `[a-z0-9]+`, joined by `/`; inside them `.`, `_`, `__` or any number of `-` may join.
fn is_repository(name: &str) -> bool {
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let component = |component: &str| {
        let bytes = component.as_bytes();
        let mut joints = bytes.split(word).filter(|joint| !joint.is_empty());
        bytes.first().is_some_and(word)
            && bytes.last().is_some_and(word)
            && joints.all(|joint| matches!(joint, b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-'))
    };
    name.len() <= MAX_REPOSITORY_BYTES && name.split('/').all(component)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn reads_names_as_container_engines_do() {
        for (text, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.25", "docker.io/library/nginx:1.25"),
            ("team/web:1", "docker.io/team/web:1"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/web", "localhost/web:latest"),
            ("localhost:5000/a/b__c:T_1", "localhost:5000/a/b__c:T_1"),
            ("[::1]:5000/web:1", "[::1]:5000/web:1"),
            ("registry.example/a-b/c.d:v1.0-rc", "registry.example/a-b/c.d:v1.0-rc"),
        ] {
            assert_eq!(text.parse::<ImageReference>().unwrap().to_string(), full);
        }
        let pinned: ImageReference = format!("registry.example/web:1@{DIGEST}").parse().unwrap();
        assert_eq!(pinned.version(), &ImageVersion::Digest(DIGEST.to_owned()));
        assert_eq!((pinned.registry(), pinned.repository()), ("registry.example", "web"));
    }

    #[test]
    fn refuses_what_could_mean_something_else_in_a_url_or_path() {
        let upper = format!("web@{}", DIGEST.to_uppercase());
        for text in [
            "",
            ":",
            "/",
            "web:",
            "web:-1",
            "Web",
            "a//b",
            "../b",
            "a/../b",
            "web@sha256:12",
            "web@md5:1",
            &upper,
            "host.example/",
            "user@host.example/web",
            "host.example:0/web",
            "host.example:99999/web",
            "a..b/web",
            "web:1?x=1",
            "web#a",
            "we b",
            "a.example/w%2e",
            "[::1/web",
            "[zz]:1/web",
            "-a",
            "a-",
            "a___b",
            "a._b",
            "host.example/a:b/c",
            "https://host.example/web",
        ] {
            assert!(text.parse::<ImageReference>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(text in "([a-z0-9.:-]{1,12}/)?[a-z0-9/._-]{1,20}(:[a-zA-Z0-9_.-]{1,6})?") {
            if let Ok(reference) = text.parse::<ImageReference>() {
                prop_assert_eq!(&reference.to_string().parse::<ImageReference>().unwrap(), &reference);
            }
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = text.parse::<ImageReference>();
        }
    }
}
