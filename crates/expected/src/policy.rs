//! Policy files: what an organisation demands of an enclave, in a small declarative form, and verdicts that say why.
//!
//! A policy names releases by their registers or the signers it trusts, so that the same file serves many releases; and
//! it may demand a version, values of the measured manifest, a control channel that nobody used, and few destinations.
//! Reading and judging are pure. Spec: `docs/spec/policy.md`.

mod judge;
#[cfg(test)]
mod tests;
mod version;

use std::collections::BTreeMap;

use attestation::{ParseHexError, Pcr, PcrIndex, form};
use serde::Deserialize;
use serde_json::Value;

use crate::{Registers, names_an_image};

pub use judge::{Finding, Rule, egress_beyond};
pub use version::{ReleaseVersion, VersionError};

/// Longest policy file, in bytes.
pub const MAX_POLICY_BYTES: usize = 256 << 10;

/// Most releases or signers of a policy.
pub const MAX_RELEASES: usize = 1024;

/// Most demands on the manifest.
pub const MAX_REQUIREMENTS: usize = 256;

/// The version of the form that is read.
const VERSION: u32 = 1;

/// A policy that was read and makes sense.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyFile {
    /// The releases that may run; empty when a signer is enough.
    pub releases: Vec<Release>,
    /// The signing certificates that are trusted, as values of PCR8; empty when any is.
    pub signers: Vec<Pcr>,
    /// The least version of the release.
    pub minimum_version: Option<ReleaseVersion>,
    /// What PCR17 and the manifest must say of the control channel.
    pub control: Option<ControlRequirement>,
    /// All that may be reached, if the policy says.
    pub egress_only: Option<Vec<egress::Rule>>,
    /// Values of the measured manifest, by JSON Pointer (RFC 6901).
    pub manifest: BTreeMap<String, Value>,
    /// Members that the measured manifest must not have, by JSON Pointer.
    pub absent: Vec<String>,
}

/// A release that may run, or that may no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its version.
    pub version: ReleaseVersion,
    /// Its registers, which name an image.
    pub registers: Registers,
    /// Why it must not run any more.
    pub withdrawn: Option<String>,
}

/// What is demanded of the control channel, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ControlRequirement {
    /// Nobody has entered.
    NeverEntered,
    /// Nobody has entered, and nobody can any more.
    Sealed,
    /// The manifest has no control channel, and nobody has entered.
    Absent,
}

impl TryFrom<String> for ControlRequirement {
    type Error = String;

    /// A text alone: what is derived takes `{ sealed = {} }`, too.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "never-entered" => Ok(Self::NeverEntered),
            "sealed" => Ok(Self::Sealed),
            "absent" => Ok(Self::Absent),
            _ => Err(format!("{text:?} is not never-entered, sealed or absent")),
        }
    }
}

/// Why a file is no policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// More bytes than a policy has.
    #[error("the policy has {found} bytes, more than the {MAX_POLICY_BYTES} allowed")]
    TooLong {
        /// How many.
        found: usize,
    },
    /// Not text.
    #[error("the policy is not UTF-8")]
    NotUtf8(#[from] std::str::Utf8Error),
    /// Not TOML, or not of this form.
    #[error("the policy is not of the form this version reads: {}", .0.message())]
    Toml(#[from] toml::de::Error),
    /// Another version.
    #[error("the policy has version {found}, this program reads version {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// More entries than allowed.
    #[error("`{list}` has {found} entries, more than the {limit} allowed")]
    TooMany {
        /// Which list.
        list: &'static str,
        /// How many.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Nothing says which image: every enclave there is would do.
    #[error("the policy names neither a [[release]] nor a signer: nothing says which image has to run")]
    AnyImage,
    /// The registers of a release leave the image open.
    #[error("release {version}: PCR0, or PCR1 and PCR2, or PCR8 have to be among its registers")]
    ImageOpen {
        /// Which release.
        version: ReleaseVersion,
    },
    /// Two releases have the same version.
    #[error("release {version} is there twice")]
    Twice {
        /// Which release.
        version: ReleaseVersion,
    },
    /// A register's number or value that is none.
    #[error("release {version}: `pcrs.{index}` is not a register with 96 hexadecimal digits")]
    Register {
        /// Which release.
        version: ReleaseVersion,
        /// What stands for the number.
        index: String,
    },
    /// A signer that is no register's value.
    #[error("`signer.pcr8`")]
    Signer(#[source] ParseHexError),
    /// A version that releases cannot be compared with, as there are none.
    #[error("`require.minimum_version` needs releases: a signature does not tell a version")]
    VersionWithoutReleases,
    /// A rule of what may be reached that is none.
    #[error("`require.egress_only`: {text:?}: {source}")]
    Egress {
        /// As it is written.
        text: String,
        /// Why not.
        source: egress::RuleError,
    },
    /// A text that points to nothing in any manifest.
    #[error("{0:?} is no JSON Pointer: it begins with `/`")]
    Pointer(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    version: u32,
    #[serde(default, deserialize_with = "form::objects")]
    release: Vec<RawRelease>,
    #[serde(default, deserialize_with = "form::table")]
    signer: RawSigner,
    #[serde(default, deserialize_with = "form::table")]
    require: RawRequire,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRelease {
    version: ReleaseVersion,
    pcrs: BTreeMap<String, String>,
    withdrawn: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSigner {
    #[serde(default)]
    pcr8: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequire {
    minimum_version: Option<ReleaseVersion>,
    control: Option<ControlRequirement>,
    egress_only: Option<Vec<String>>,
    #[serde(default)]
    manifest: BTreeMap<String, Value>,
    #[serde(default)]
    absent: Vec<String>,
}

impl PolicyFile {
    /// Reads a policy.
    ///
    /// # Errors
    /// [`PolicyError`]
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLong { found: bytes.len() });
        }
        let RawPolicy { version, release, signer, require } = toml::from_str(str::from_utf8(bytes)?)?;
        if version != VERSION {
            return Err(PolicyError::Version { found: version });
        }
        at_most("release", release.len(), MAX_RELEASES)?;
        at_most("signer.pcr8", signer.pcr8.len(), MAX_RELEASES)?;
        at_most("require.manifest", require.manifest.len(), MAX_REQUIREMENTS)?;
        at_most("require.absent", require.absent.len(), MAX_REQUIREMENTS)?;
        let egress = require.egress_only.as_deref();
        at_most("require.egress_only", egress.map_or(0, <[_]>::len), egress::MAX_RULES)?;
        if let Some(wrong) =
            require.manifest.keys().chain(&require.absent).find(|text| !text.starts_with('/'))
        {
            return Err(PolicyError::Pointer(wrong.clone()));
        }
        let policy = Self {
            releases: releases(release)?,
            signers: signer
                .pcr8
                .iter()
                .map(|text| text.parse())
                .collect::<Result<_, _>>()
                .map_err(PolicyError::Signer)?,
            minimum_version: require.minimum_version,
            control: require.control,
            egress_only: egress.map(rules).transpose()?,
            manifest: require.manifest,
            absent: require.absent,
        };
        match (policy.releases.is_empty(), policy.signers.is_empty()) {
            (true, true) => Err(PolicyError::AnyImage),
            (true, false) if policy.minimum_version.is_some() => Err(PolicyError::VersionWithoutReleases),
            _ => Ok(policy),
        }
    }
}

fn at_most(list: &'static str, found: usize, limit: usize) -> Result<(), PolicyError> {
    if found > limit { Err(PolicyError::TooMany { list, found, limit }) } else { Ok(()) }
}

fn releases(raw: Vec<RawRelease>) -> Result<Vec<Release>, PolicyError> {
    let mut releases: Vec<Release> = Vec::with_capacity(raw.len());
    for RawRelease { version, pcrs, withdrawn } in raw {
        if releases.iter().any(|release| release.version == version) {
            return Err(PolicyError::Twice { version });
        }
        let mut registers = Registers::new();
        for (index, value) in pcrs {
            let wrong = || PolicyError::Register { version: version.clone(), index: index.clone() };
            let number =
                index.parse::<u8>().ok().filter(|number| number.to_string() == index).ok_or_else(wrong)?;
            let number = PcrIndex::new(number).map_err(|_| wrong())?;
            registers.insert(number, value.parse().map_err(|_| wrong())?);
        }
        if !names_an_image(&registers) {
            return Err(PolicyError::ImageOpen { version });
        }
        releases.push(Release { version, registers, withdrawn });
    }
    Ok(releases)
}

fn rules(texts: &[String]) -> Result<Vec<egress::Rule>, PolicyError> {
    texts
        .iter()
        .map(|text| text.parse().map_err(|source| PolicyError::Egress { text: text.clone(), source }))
        .collect()
}
