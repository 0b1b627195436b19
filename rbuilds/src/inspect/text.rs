//! An [`Inspection`] for people.

use std::fmt::{self, Display, Formatter};

use super::{FileInfo, Inspection, RamdiskInfo, SignerInfo, Space};
use crate::{Compression, path::printable};

/// One block for each thing. Every line is text without control characters, whatever the image holds.
impl Display for Inspection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let header = &self.header;
        writeln!(
            f,
            "EIF version {} for {}, {} bytes, default memory {} MiB, default CPUs {}, CRC-32 {}",
            header.version,
            header.architecture,
            self.file_bytes,
            header.default_memory_bytes >> 20,
            header.default_cpus,
            header.crc32
        )?;
        writeln!(f, "\nsections")?;
        for section in &self.sections {
            let part = section.part.to_string();
            writeln!(
                f,
                "  {part:10} {:>12} bytes {:>6.2} %  {}",
                section.bytes, section.percent, section.digest
            )?;
        }
        writeln!(f, "\nregisters")?;
        for (pcr, value) in &self.pcrs {
            writeln!(f, "  {:5}  {value}", format!("PCR{pcr}"))?;
        }
        writeln!(f, "\ncmdline\n  {}", self.cmdline.as_deref().unwrap_or("too long to be shown"))?;
        match &self.signer {
            Some(signer) => write_signer(f, signer)?,
            None => writeln!(f, "\nsigner\n  none: PCR8 stays zero")?,
        }
        write_json(f, "metadata (not measured)", self.metadata.as_ref(), "none, or not JSON")?;
        write_json(
            f,
            "measured manifest",
            self.manifest.as_ref(),
            "none: Glasshouse did not build this image",
        )?;
        self.ramdisks.iter().try_for_each(|ramdisk| write_ramdisk(f, ramdisk))
    }
}

fn write_signer(f: &mut Formatter<'_>, signer: &SignerInfo) -> fmt::Result {
    writeln!(f, "\nsigner (not judged: whether to trust the certificate is yours to say)")?;
    writeln!(f, "  subject      {}", printable(signer.subject.as_bytes()))?;
    writeln!(f, "  issuer       {}", printable(signer.issuer.as_bytes()))?;
    writeln!(f, "  valid        {} to {}", signer.not_before, signer.not_after)?;
    writeln!(f, "  certificate  {}", signer.certificate)?;
    match &signer.problem {
        None => writeln!(f, "  signature    right: over this image's PCR0"),
        Some(problem) => writeln!(f, "  signature    WRONG: {}", printable(problem.as_bytes())),
    }
}

fn write_json(
    f: &mut Formatter<'_>,
    title: &str,
    value: Option<&serde_json::Value>,
    absent: &str,
) -> fmt::Result {
    writeln!(f, "\n{title}")?;
    let text = value.map_or_else(|| absent.to_owned(), |value| format!("{value:#}"));
    text.lines().try_for_each(|line| writeln!(f, "  {}", printable(line.as_bytes())))
}

fn write_ramdisk(f: &mut Formatter<'_>, ramdisk: &RamdiskInfo) -> fmt::Result {
    write!(f, "\nramdisk {}: ", ramdisk.number)?;
    let (Some(compression), Some(unpacked)) = (ramdisk.compression, ramdisk.unpacked_bytes) else {
        return writeln!(f, "{}", printable(ramdisk.no_archive.as_deref().unwrap_or_default().as_bytes()));
    };
    write!(f, "{} entries", ramdisk.entries)?;
    match compression {
        Compression::None => writeln!(f)?,
        Compression::Gzip => writeln!(f, ", gzip, {unpacked} bytes decompressed")?,
        Compression::Zstd => writeln!(f, ", zstd, {unpacked} bytes decompressed")?,
    }
    write_space(f, "largest directories", &ramdisk.largest_directories)?;
    write_space(f, "largest files", &ramdisk.largest_files)?;
    let Some(files) = &ramdisk.files else { return Ok(()) };
    writeln!(f, "  all entries")?;
    files.iter().try_for_each(|file| write_file(f, file))
}

fn write_space(f: &mut Formatter<'_>, title: &str, spaces: &[Space]) -> fmt::Result {
    if !spaces.is_empty() {
        writeln!(f, "  {title}")?;
    }
    spaces.iter().try_for_each(|space| writeln!(f, "    {:>12}  {}", space.bytes, space.name))
}

fn write_file(f: &mut Formatter<'_>, file: &FileInfo) -> fmt::Result {
    let owner = format!("{}:{}", file.uid, file.gid);
    write!(f, "    {} {} {owner:9} {:>12}", letter(file.kind), file.mode, file.bytes)?;
    match &file.digest {
        Some(digest) => write!(f, "  {}", digest.to_hex())?,
        None => write!(f, "  {:64}", "-")?,
    }
    write!(f, "  {}", file.name)?;
    if let Some(target) = &file.target {
        write!(f, " -> {target}")?;
    }
    if let Some(first) = &file.same_file_as {
        write!(f, " = {first}")?;
    }
    if let Some(device) = &file.device {
        write!(f, " {device}")?;
    }
    for (name, value) in &file.xattrs {
        write!(f, " [{name}={value}]")?;
    }
    writeln!(f)
}

/// As `ls -l` has it.
fn letter(kind: &str) -> char {
    match kind {
        "file" => '-',
        "symlink" => 'l',
        "fifo" => 'p',
        other => other.chars().next().unwrap_or('?'),
    }
}
