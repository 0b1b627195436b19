//! Why two images do not measure the same: from the register to the part, the entry, the attribute or the bytes.
//!
//! First everything is hashed, part by part, and the ramdisks that differ entry by entry; then only the contents that
//! differ are read side by side. So memory goes by the number of entries, not by their size.

mod entries;
mod parts;
mod text;

pub(crate) use self::entries::kind;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Serialize;

use crate::{
    Error, Limits, PcrValue,
    compare::{ByteRange, LineChange},
    image::{Image, Part, known_registers},
    json_changes::JsonChange,
};

/// How two images, A and B, differ. As JSON:
///
/// ```json
/// {
///   "identical": false, "same_measurements": false,
///   "a": {"file_bytes": 4096}, "b": {"file_bytes": 4096},
///   "pcrs": [{"pcr": 0, "same": false, "a": "96 hex digits", "b": "96 hex digits"}],
///   "differences": [
///     {"part": "ramdisk 1", "entry": "rootfs/bin/app", "pcrs": [0, 2], "what": "content", "a_bytes": 9, "b_bytes": 9,
///      "bytes": {"offset": 3, "length": 1, "differing": 1}, "line": {"number": 1, "a": "old", "b": "new"}}
///   ]
/// }
/// ```
///
/// `entry` is there for what concerns an entry of a ramdisk, and escaped if it is not plain text. What follows `what` is
/// described at [`Change`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// Whether both files have the same bytes: then there is no difference.
    pub identical: bool,
    /// Whether both put the same values into all registers.
    pub same_measurements: bool,
    /// The first image.
    pub a: Side,
    /// The second image.
    pub b: Side,
    /// Every register that is known of at least one of them, in ascending order.
    pub pcrs: Vec<PcrPair>,
    /// In the order of the images' parts, then of the entries' names.
    pub differences: Vec<Difference>,
}

/// One of two images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    /// The file's length in bytes.
    pub file_bytes: u64,
}

/// The values of one register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PcrPair {
    /// Which register.
    pub pcr: u8,
    /// Whether both are the same.
    pub same: bool,
    /// In the first image; absent if it is not known, as PCR8 of an unsigned image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a: Option<PcrValue>,
    /// In the second image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<PcrValue>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The part of the image that it is in.
    pub part: Part,
    /// The entry of the ramdisk, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The registers that it moves, in ascending order; none if nothing measures it.
    pub pcrs: Vec<u8>,
    /// What differs.
    #[serde(flatten)]
    pub change: Change,
}

/// What differs; as JSON, the member `what` and the members of the variant.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Change {
    /// Only the first image has it.
    OnlyInA {
        /// What it is, for people.
        is: String,
    },
    /// Only the second image has it.
    OnlyInB {
        /// What it is, for people.
        is: String,
    },
    /// A field or attribute has another value.
    Attribute {
        /// Which: of an entry `type`, `mode`, `owner`, `size`, `target`, `device`, `names`, `same file as`,
        /// `modified` or `extended attributes` (`NAME=VALUE` of those that differ); of the header `version`, `flags`, `default memory`, `default cpus`; others for people.
        name: &'static str,
        /// In the first image.
        a: String,
        /// In the second image.
        b: String,
    },
    /// The bytes differ.
    Content {
        /// The first content's length in bytes.
        a_bytes: u64,
        /// The second content's length in bytes.
        b_bytes: u64,
        /// Which; absent if two compressed archives have their files in such different order that it was not looked for.
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<ByteRange>,
        /// The first line that differs, if both are text.
        #[serde(skip_serializing_if = "Option::is_none")]
        line: Option<LineChange>,
    },
    /// A value in a JSON document differs.
    Json(JsonChange),
    /// Both archives have the same entries, in another order, with other inode numbers, compressed otherwise or the like.
    Written {
        /// In what way, as far as it is known.
        how: &'static str,
        /// The bytes of the section.
        bytes: Option<ByteRange>,
    },
}

/// Compares two images. `limits` bounds what is held of each: entries, bytes of names, and what compressed ramdisks may
/// decompress to.
///
/// # Errors
/// When a file cannot be read or is not a well-formed image. A ramdisk that is no archive is compared byte by byte.
pub fn diff(a: &Path, b: &Path, limits: &Limits) -> Result<Diff, Error> {
    let (mut image_a, mut image_b) = (Image::open(a)?, Image::open(b)?);
    let pcrs = pairs(&registers(&mut image_a, limits)?, &registers(&mut image_b, limits)?);
    let moved = pcrs.iter().filter(|pair| !pair.same).map(|pair| pair.pcr).collect();
    let mut findings = Findings { moved, differences: Vec::new() };
    parts::compare_images(&image_a, &image_b, limits, &mut findings)?;
    Ok(Diff {
        identical: findings.differences.is_empty(),
        same_measurements: findings.moved.is_empty(),
        a: Side { file_bytes: image_a.file_bytes },
        b: Side { file_bytes: image_b.file_bytes },
        pcrs,
        differences: findings.differences,
    })
}

fn registers(image: &mut Image, limits: &Limits) -> Result<BTreeMap<u8, PcrValue>, Error> {
    let manifest = image.manifest(limits);
    Ok(known_registers(&image.measure()?, manifest.as_deref()))
}

fn pairs(a: &BTreeMap<u8, PcrValue>, b: &BTreeMap<u8, PcrValue>) -> Vec<PcrPair> {
    let known: BTreeSet<u8> = a.keys().chain(b.keys()).copied().collect();
    let pair = |pcr| {
        let (a, b) = (a.get(&pcr).copied(), b.get(&pcr).copied());
        PcrPair { pcr, same: a == b, a, b }
    };
    known.into_iter().map(pair).collect()
}

/// What has been found so far.
struct Findings {
    /// The registers whose values differ.
    moved: BTreeSet<u8>,
    differences: Vec<Difference>,
}

impl Findings {
    /// Adds a difference in what is measured into `registers`. It is said to move those of them that do differ.
    fn add(&mut self, part: Part, entry: Option<String>, registers: &[u8], change: Change) {
        let pcrs = registers.iter().copied().filter(|pcr| self.moved.contains(pcr)).collect();
        self.differences.push(Difference { part, entry, pcrs, change });
    }
}
