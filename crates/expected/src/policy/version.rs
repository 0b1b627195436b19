//! Versions of releases, which are numbers and dots.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};

/// Most numbers in a version.
const MAX_PARTS: usize = 8;

/// The version of a release: numbers with dots between them, compared one by one. Numbers that are missing are 0, so `1.4`
/// and `1.4.0` are the same.
#[derive(Clone, Debug)]
pub struct ReleaseVersion(Vec<u32>);

/// A text that is no version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a version is 1 to {MAX_PARTS} numbers with dots between them, as 1.4.2")]
pub struct VersionError;

impl FromStr for ReleaseVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let number = |digits: &str| {
            let value = digits.parse::<u32>().ok()?;
            // "+1" and "01" would be second spellings.
            (value.to_string() == digits).then_some(value)
        };
        let parts: Option<Vec<_>> = text.split('.').take(MAX_PARTS + 1).map(number).collect();
        parts.filter(|parts| parts.len() <= MAX_PARTS).map(Self).ok_or(VersionError)
    }
}

impl fmt::Display for ReleaseVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&parts.join("."))
    }
}

impl Ord for ReleaseVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        let part = |version: &Self, place: usize| version.0.get(place).copied().unwrap_or(0);
        let differing = (0..MAX_PARTS).map(|place| part(self, place).cmp(&part(other, place)));
        differing.fold(Ordering::Equal, Ordering::then)
    }
}

impl PartialOrd for ReleaseVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ReleaseVersion {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ReleaseVersion {}

impl<'de> Deserialize<'de> for ReleaseVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
