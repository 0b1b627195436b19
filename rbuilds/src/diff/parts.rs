//! Header, kernel, command line, metadata and signature; ramdisks are handed on.

use std::{collections::BTreeSet, io};

use eif::{ImageSignature, MAX_METADATA_BYTES, MAX_SIGNATURE_BYTES, Section};
use serde_json::Value;

use super::{Change, Findings, entries::compare_ramdisks};
use crate::{
    Error, Limits,
    compare::{Comparison, compare},
    image::{Image, Part},
    inspect::subject,
    json_changes::json_changes,
};

/// Longest command line that is shown whole, in bytes: what x86 kernels keep.
const MAX_SHOWN_CMDLINE_BYTES: u64 = 2048;

/// Fields of the header by name and place (`docs/spec/eif.md`, "Header"). Number and places of sections and the checksum
/// follow from the rest.
const HEADER_FIELDS: [(&str, std::ops::Range<usize>); 6] = [
    ("version", 4..6),
    ("flags", 6..8),
    ("default memory", 8..16),
    ("default cpus", 16..24),
    ("reserved bytes 24 and 25", 24..26),
    ("reserved bytes 540 to 543", 540..544),
];

/// Number, offsets and sizes of the sections.
const SECTION_TABLE: std::ops::Range<usize> = 26..540;

pub(super) fn compare_images(
    a: &Image,
    b: &Image,
    limits: &Limits,
    findings: &mut Findings,
) -> Result<(), Error> {
    compare_headers(a, b, findings)?;
    let parts: BTreeSet<Part> = a.parts.iter().chain(&b.parts).map(|(part, _)| *part).collect();
    for part in parts {
        let registers = if part == Part::Signature { &[8] } else { part.registers() };
        match (a.part(part), b.part(part)) {
            (Some(in_a), Some(in_b)) => compare_part(part, (a, in_a), (b, in_b), limits, findings)?,
            (Some(only), None) => {
                findings.add(part, None, registers, Change::OnlyInA { is: bytes(only.size) });
            }
            (None, Some(only)) => {
                findings.add(part, None, registers, Change::OnlyInB { is: bytes(only.size) });
            }
            (None, None) => {}
        }
    }
    Ok(())
}

fn bytes(count: u64) -> String {
    format!("{count} bytes")
}

fn compare_headers(a: &Image, b: &Image, findings: &mut Findings) -> Result<(), Error> {
    let (raw_a, raw_b) = (a.raw_header()?, b.raw_header()?);
    let mut attribute = |name, a: String, b: String| {
        if a != b {
            findings.add(Part::Header, None, &[], Change::Attribute { name, a, b });
        }
    };
    for (name, field) in HEADER_FIELDS {
        let value = |raw: &[u8]| {
            let bytes = raw.get(field.clone()).unwrap_or_default();
            bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)).to_string()
        };
        attribute(name, value(&raw_a), value(&raw_b));
    }
    let order = |image: &Image| {
        let names: Vec<String> = image.parts.iter().map(|(part, _)| part.to_string()).collect();
        names.join(", ")
    };
    let is_same_set = || {
        let set = |image: &Image| image.parts.iter().map(|(part, _)| *part).collect::<BTreeSet<_>>();
        set(a) == set(b)
    };
    if is_same_set() {
        attribute("order of sections", order(a), order(b));
    }
    let layout = |image: &Image| image.parts.iter().map(|(part, s)| (*part, s.size)).collect::<Vec<_>>();
    if layout(a) == layout(b) {
        // Only a signature's size may be wrong there: everything else has been checked against the sections.
        let table = |raw: &[u8]| hex::encode(raw.get(SECTION_TABLE).unwrap_or_default());
        attribute("section table", table(&raw_a), table(&raw_b));
    }
    Ok(())
}

fn compare_part(
    part: Part,
    a: (&Image, Section),
    b: (&Image, Section),
    limits: &Limits,
    findings: &mut Findings,
) -> Result<(), Error> {
    if a.1.flags != b.1.flags {
        let (a, b) = (a.1.flags.to_string(), b.1.flags.to_string());
        findings.add(part, None, &[], Change::Attribute { name: "flags", a, b });
    }
    if a.1.size == b.1.size && a.0.digest(&a.1)? == b.0.digest(&b.1)? {
        return Ok(());
    }
    match part {
        Part::Ramdisk(_) => compare_ramdisks(part, a, b, limits, findings),
        Part::Cmdline => compare_cmdlines(a, b, findings),
        Part::Metadata => compare_metadata(a, b, findings),
        Part::Signature => compare_signatures(a, b, findings),
        Part::Kernel | Part::Header => {
            let change = section_change(a, b)?;
            findings.add(part, None, part.registers(), change);
            Ok(())
        }
    }
}

/// The difference between two sections' bytes.
pub(super) fn section_change(a: (&Image, Section), b: (&Image, Section)) -> Result<Change, Error> {
    let Comparison { bytes, line } = section_bytes(a, b)?;
    Ok(Change::Content { a_bytes: a.1.size, b_bytes: b.1.size, bytes, line })
}

pub(super) fn section_bytes(a: (&Image, Section), b: (&Image, Section)) -> Result<Comparison, Error> {
    compare(&mut a.0.data(&a.1), &mut b.0.data(&b.1)).map_err(|e: io::Error| a.0.unreadable(e))
}

fn compare_cmdlines(
    a: (&Image, Section),
    b: (&Image, Section),
    findings: &mut Findings,
) -> Result<(), Error> {
    let text = |(image, section): (&Image, Section)| -> Result<Option<String>, Error> {
        Ok(image.bytes(&section, MAX_SHOWN_CMDLINE_BYTES)?.and_then(|bytes| String::from_utf8(bytes).ok()))
    };
    let change = match (text(a)?, text(b)?) {
        (Some(a), Some(b)) => Change::Attribute { name: "text", a, b },
        _ => section_change(a, b)?,
    };
    findings.add(Part::Cmdline, None, Part::Cmdline.registers(), change);
    Ok(())
}

fn compare_metadata(
    a: (&Image, Section),
    b: (&Image, Section),
    findings: &mut Findings,
) -> Result<(), Error> {
    let json = |(image, section): (&Image, Section)| -> Result<Option<Value>, Error> {
        let bytes = image.bytes(&section, MAX_METADATA_BYTES)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    };
    let changes = match (json(a)?, json(b)?) {
        (Some(a), Some(b)) => json_changes(&a, &b),
        _ => Vec::new(),
    };
    if changes.is_empty() {
        // Not JSON, or the same values written otherwise.
        findings.add(Part::Metadata, None, &[], section_change(a, b)?);
    }
    for change in changes {
        findings.add(Part::Metadata, None, &[], Change::Json(change));
    }
    Ok(())
}

fn compare_signatures(
    a: (&Image, Section),
    b: (&Image, Section),
    findings: &mut Findings,
) -> Result<(), Error> {
    let signature = |(image, section): (&Image, Section)| -> Result<Option<ImageSignature>, Error> {
        let bytes = image.bytes(&section, MAX_SIGNATURE_BYTES)?;
        Ok(bytes.and_then(|bytes| ImageSignature::decode(&bytes).ok()))
    };
    if let (Some(a), Some(b)) = (signature(a)?, signature(b)?)
        && a.certificate_der() != b.certificate_der()
    {
        let name = |signature: &ImageSignature| {
            let digest = crate::Digest::of(signature.certificate_der());
            format!("{} ({digest})", subject(signature.certificate_der()))
        };
        let (a, b) = (name(&a), name(&b));
        findings.add(Part::Signature, None, &[8], Change::Attribute { name: "certificate", a, b });
    } else {
        // The same signer has signed again, which gives other bytes every time, or has signed something else.
        findings.add(Part::Signature, None, &[], section_change(a, b)?);
    }
    Ok(())
}
