//! Everything that can go wrong between this machine and a registry.

use std::{io, path::PathBuf, time::Duration};

use crate::{Digest, error::OciError, limits::MAX_JSON_BYTES};

/// Why an image could not be pulled. The image's name stands before it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Nobody answered, or not in HTTP, or the connection ended.
    #[error("no answer from {url}; is the registry's name right and can this machine reach it?")]
    NoAnswer {
        /// What was asked for.
        url: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// 401, after credentials were sent if there were any.
    #[error(
        "{registry} {}: check the name, or log in with `docker login {registry}` or `skopeo login {registry}`",
        match *.known {
            true => format!("does not accept the stored credentials for {repository}"),
            false => format!("has no {repository} that can be pulled without credentials"),
        }
    )]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The image's name in it.
        repository: String,
        /// Whether there were credentials for it.
        known: bool,
    },
    /// 403.
    #[error(
        "{registry} does not let this user pull {repository}: ask its owner, or log in as somebody else{answer}"
    )]
    Forbidden {
        /// The registry.
        registry: String,
        /// The image's name in it.
        repository: String,
        /// What the registry said.
        answer: Answer,
    },
    /// 404.
    #[error("{registry} has no {what} in {repository}: check the name, the tag and the digest{answer}")]
    NotFound {
        /// The registry.
        registry: String,
        /// The image's name in it.
        repository: String,
        /// `manifests/TAG` or `blobs/DIGEST`.
        what: String,
        /// What the registry said.
        answer: Answer,
    },
    /// 429, again and again.
    #[error("{registry} lets no more requests through for now (429){}: wait, or log in if it allows more then", after(.retry_after))]
    TooManyRequests {
        /// The registry.
        registry: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Another status that is no success.
    #[error("{url} answered with status {status}{answer}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the registry said.
        answer: Answer,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// A redirect that is not followed.
    #[error("{url} redirects to {location:?}, which is not followed: {reason}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Where it leads.
        location: String,
        /// Why that is refused.
        reason: &'static str,
    },
    /// The registry asks for a way of logging in that is none of ours, or its token server makes no sense.
    #[error("cannot log in to {registry}: {reason}")]
    Login {
        /// The registry.
        registry: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of credentials that cannot be read.
    #[error("cannot use the credentials in {}", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// A file of mirrors that cannot be read.
    #[error("cannot use the mirrors in {}", path.display())]
    Mirrors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// There are no certificates to check a registry's against.
    #[error("this machine trusts no certificate authority: install ca-certificates, or set SSL_CERT_FILE")]
    NoAuthorities,
    /// The bytes are not those the digest names.
    #[error(
        "the registry sent {found} where {expected} was asked for: its copy is damaged, or somebody changed it on the way"
    )]
    WrongDigest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// A blob is longer or shorter than its manifest says.
    #[error(
        "{digest} has {found} bytes by the registry's answer and {expected} by the image's manifest: the registry's copy is damaged"
    )]
    WrongLength {
        /// The blob.
        digest: Digest,
        /// In the manifest, in bytes.
        expected: u64,
        /// In the answer, in bytes; at least that many if it did not end.
        found: u64,
    },
    /// The connection ended in the middle, again and again.
    #[error(
        "the connection broke {digest} off after {received} of {expected} bytes: build again to go on from there"
    )]
    BrokenOff {
        /// The blob.
        digest: Digest,
        /// In bytes.
        received: u64,
        /// In bytes.
        expected: u64,
        /// What happened, unless the answer simply ended.
        #[source]
        source: Option<io::Error>,
    },
    /// A manifest that is too long or no manifest.
    #[error("the registry's {what} cannot be used")]
    Document {
        /// `manifests/TAG` or similar.
        what: String,
        /// What is wrong with it.
        #[source]
        source: DocumentError,
    },
    /// The image came as its digests say, but is broken or not for enclaves; or a blob changed in the cache.
    #[error("the image cannot be used; its blobs are in {}, which may be removed", cache.display())]
    Image {
        /// The folder of the cache.
        cache: PathBuf,
        /// What is wrong.
        #[source]
        source: OciError,
    },
    /// Network is forbidden and something is missing.
    #[error("{what} is not on this machine and the network was forbidden: build once without --offline")]
    Offline {
        /// What is missing.
        what: String,
    },
    /// The lock file is not one.
    #[error("{}: {reason}; delete the file, or bring an older version of it back", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no place to keep blobs in.
    #[error("there is no folder for the cache of images: set HOME or GLASSHOUSE_CACHE")]
    NoCacheFolder,
    /// A file of the cache, or the lock file, could not be used.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// As a verb: `create`, `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with a manifest or an index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Longer than registries have to take.
    #[error("it has more than {MAX_JSON_BYTES} bytes")]
    TooLong,
    /// Neither an index nor a manifest.
    #[error("it is neither an image manifest nor an image index of schema version 2")]
    Unknown,
    /// It does not parse.
    #[error("it is not valid JSON of its kind")]
    Json(#[from] serde_json::Error),
    /// It does not name one image for enclaves.
    #[error("it names no image that can be built")]
    Oci(#[from] OciError),
}

/// What a registry said beside its status; empty if nothing that a person can read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer(pub(super) String);

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " (it says {:?})", self.0) }
    }
}

fn after(delay: &Option<Duration>) -> String {
    delay.map_or_else(String::new, |delay| format!(" for {} s", delay.as_secs()))
}

impl RegistryError {
    /// Whether the same request may succeed in a moment, and when the registry wants it.
    pub(super) fn passing(&self) -> Option<Option<Duration>> {
        match self {
            Self::TooManyRequests { retry_after, .. } => Some(*retry_after),
            Self::Status { status: 408 | 500 | 502..=504, retry_after, .. } => Some(*retry_after),
            Self::BrokenOff { .. } => Some(None),
            // Nobody listens, or there is no such host: a moment will not change it.
            Self::NoAnswer { source, .. } => (!matches!(
                source.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
            ))
            .then_some(None),
            _ => None,
        }
    }
}
