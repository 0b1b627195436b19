//! Ramdisks, entry by entry.

use std::{collections::BTreeSet, io};

use eif::{
    Section,
    cpio::{Device, Kind},
};

use super::{
    Change, Findings,
    parts::{section_bytes, section_change},
};
use crate::{
    Error, Limits,
    compare::{Comparison, compare},
    image::{Image, Part},
    json_changes::json_changes,
    listing::{ContentCursor, Contents, Listing, Name, Record, list},
    path::printable,
    report::MANIFEST_PCR,
    rootfs_image::IMAGE_ENTRY,
    unpack::{MANIFEST_ENTRY, MAX_MANIFEST_BYTES},
    xattrs::shown,
};

pub(super) fn compare_ramdisks(
    part: Part,
    a: (&Image, Section),
    b: (&Image, Section),
    limits: &Limits,
    findings: &mut Findings,
) -> Result<(), Error> {
    let (listing_a, listing_b) = match (list(a.0, &a.1, limits)?, list(b.0, &b.1, limits)?) {
        (Contents::Archive(a), Contents::Archive(b)) => (a, b),
        _ => {
            let change = section_change(a, b)?;
            findings.add(part, None, part.registers(), change);
            return Ok(());
        }
    };
    let before = findings.differences.len();
    let contents = compare_contents(a, &listing_a, b, &listing_b).map_err(|e| a.0.unreadable(e))?;
    let mut contents = contents.into_iter().peekable();
    let names: BTreeSet<&Name> = listing_a.entries.keys().chain(listing_b.entries.keys()).collect();
    let mut file_systems = Vec::new();
    for name in names {
        let content = contents.next_if(|content| content.name == name);
        let (in_a, in_b) = (listing_a.entries.get(name), listing_b.entries.get(name));
        for (registers, change) in changes(part, in_a, in_b, content) {
            if name.bytes == IMAGE_ENTRY && matches!(change, Change::Content { .. }) {
                file_systems.push((name, registers, change));
            } else {
                findings.add(part, Some(name.to_string()), &registers, change);
            }
        }
    }
    // That the bytes of file systems differ is news only if nothing in them does.
    if findings.differences.len() == before {
        for (name, registers, change) in file_systems {
            findings.add(part, Some(name.to_string()), &registers, change);
        }
    }
    if findings.differences.len() == before {
        let how = if listing_a.order == listing_b.order {
            "the same entries in the same order, with other inode numbers, padding or compression"
        } else {
            "the same entries in another order"
        };
        let bytes = section_bytes(a, b)?.bytes;
        findings.add(part, None, part.registers(), Change::Written { how, bytes });
    }
    Ok(())
}

/// The contents of a file that differ.
struct ContentChange<'a> {
    name: &'a Name,
    found: Comparison,
    /// Both, if this is the measured manifest.
    manifests: Option<(Vec<u8>, Vec<u8>)>,
}

/// Compares the contents of all files that both have with different digests; the result is in the order of names.
fn compare_contents<'a>(
    a: (&Image, Section),
    listing_a: &'a Listing,
    b: (&Image, Section),
    listing_b: &Listing,
) -> io::Result<Vec<ContentChange<'a>>> {
    let mut differing: Vec<(&Name, &Record, &Record)> = listing_a
        .entries
        .iter()
        .filter_map(|(name, record)| Some((name, record, listing_b.entries.get(name)?)))
        .filter(|(_, a, b)| has_other_content(a, b))
        .collect();
    differing.sort_by_key(|(_, record, _)| record.place);
    let mut cursor_a = ContentCursor::new(a.0, a.1, listing_a);
    let mut cursor_b = ContentCursor::new(b.0, b.1, listing_b);
    let mut changes = Vec::new();
    for (name, in_a, in_b) in differing {
        let (Some(mut content_a), Some(mut content_b)) = (cursor_a.open(in_a)?, cursor_b.open(in_b)?) else {
            changes.push(ContentChange { name, found: Comparison::default(), manifests: None });
            continue;
        };
        let is_manifest = name.bytes == MANIFEST_ENTRY && in_a.size().max(in_b.size()) <= MAX_MANIFEST_BYTES;
        let (mut manifest_a, mut manifest_b) = (Vec::new(), Vec::new());
        let found = if is_manifest {
            content_a.read_to_end(&mut manifest_a)?;
            content_b.read_to_end(&mut manifest_b)?;
            compare(&mut manifest_a.as_slice(), &mut manifest_b.as_slice())?
        } else {
            compare(&mut content_a, &mut content_b)?
        };
        changes.push(ContentChange {
            name,
            found,
            manifests: is_manifest.then_some((manifest_a, manifest_b)),
        });
    }
    changes.sort_by_key(|change| change.name);
    Ok(changes)
}

fn has_other_content(a: &Record, b: &Record) -> bool {
    matches!((a.digest, b.digest), (Some(a), Some(b)) if a != b)
}

/// What differs in one entry, and the registers that each difference goes into.
fn changes(
    part: Part,
    a: Option<&Record>,
    b: Option<&Record>,
    content: Option<ContentChange<'_>>,
) -> Vec<(Vec<u8>, Change)> {
    let registers = part.registers().to_vec();
    let manifest_registers = [part.registers(), &[MANIFEST_PCR]].concat();
    let mut changes = Vec::new();
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (Some(a), None) => return vec![(registers, Change::OnlyInA { is: described(a) })],
        (None, Some(b)) => return vec![(registers, Change::OnlyInB { is: described(b) })],
        (None, None) => return changes,
    };
    for attribute in ATTRIBUTES {
        if let Some(change) = attribute_change(attribute, a, b) {
            changes.push((registers.clone(), change));
        }
    }
    changes.extend(xattr_change(a, b).map(|change| (registers.clone(), change)));
    let Some(ContentChange { name: _, found, manifests }) = content else { return changes };
    let in_manifest = manifests.as_ref().and_then(|(a, b)| {
        Some(json_changes(&serde_json::from_slice(a).ok()?, &serde_json::from_slice(b).ok()?))
    });
    match in_manifest {
        Some(json) if !json.is_empty() => {
            changes.extend(json.into_iter().map(|change| (manifest_registers.clone(), Change::Json(change))));
        }
        _ => {
            let registers = if manifests.is_some() { manifest_registers } else { registers };
            let Comparison { bytes, line } = found;
            let change = Change::Content { a_bytes: a.size(), b_bytes: b.size(), bytes, line };
            changes.push((registers, change));
        }
    }
    changes
}

const ATTRIBUTES: [&str; 9] =
    ["type", "mode", "owner", "size", "target", "device", "names", "same file as", "modified"];

/// The extended attributes that only one of two entries has, or has with this value.
fn xattr_change(a: &Record, b: &Record) -> Option<Change> {
    let only_in = |one: &Record, other: &Record| {
        let texts =
            one.xattrs.iter().filter(|xattr| other.xattrs.binary_search(xattr).is_err()).map(|xattr| {
                let name = printable(&xattr.name);
                format!("{name}={}", shown(&xattr.value))
            });
        texts.collect::<Vec<_>>().join(", ")
    };
    let (a, b) = (only_in(a, b), only_in(b, a));
    (a != b).then_some(Change::Attribute { name: "extended attributes", a, b })
}

/// The difference in one attribute. Those that come with a type are only compared between entries of one type.
fn attribute_change(name: &'static str, a: &Record, b: &Record) -> Option<Change> {
    let is_of_every_type = matches!(name, "type" | "mode" | "owner" | "modified");
    if !is_of_every_type && kind(a) != kind(b) {
        return None;
    }
    // With both contents known, their lengths are told with the contents.
    if name == "size" && has_other_content(a, b) {
        return None;
    }
    let (a, b) = (attribute(name, a), attribute(name, b));
    (a != b).then(|| Change::Attribute { name, a: a.unwrap_or_default(), b: b.unwrap_or_default() })
}

fn attribute(name: &str, record: &Record) -> Option<String> {
    Some(match (name, &record.kind) {
        ("type", _) => kind(record).to_owned(),
        ("mode", _) => format!("{:04o}", record.permissions),
        ("owner", _) => format!("{}:{}", record.uid, record.gid),
        ("modified", _) => record.modified.to_string(),
        ("size", Kind::File { size, .. }) => size.to_string(),
        ("target", Kind::Symlink { target }) => printable(target),
        (
            "device",
            Kind::CharacterDevice(Device { major, minor }) | Kind::BlockDevice(Device { major, minor }),
        ) => {
            format!("{major},{minor}")
        }
        ("names", Kind::File { link, .. }) => link.map_or(1, |link| link.names).to_string(),
        ("same file as", _) => printable(record.first_name.as_deref()?),
        _ => return None,
    })
}

/// What an entry is, in a word.
pub(crate) fn kind(record: &Record) -> &'static str {
    match record.kind {
        Kind::Directory => "directory",
        Kind::File { .. } => "file",
        Kind::Symlink { .. } => "symlink",
        Kind::CharacterDevice(_) => "character device",
        Kind::BlockDevice(_) => "block device",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    }
}

fn described(record: &Record) -> String {
    match &record.kind {
        Kind::File { size, .. } => format!("file of {size} bytes"),
        Kind::Symlink { target } => format!("symlink to {}", printable(target)),
        _ => kind(record).to_owned(),
    }
}
