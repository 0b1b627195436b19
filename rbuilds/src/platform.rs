//! What the kernel decides: which processors an image is for, with which everything else in it has to agree, and which parts of the
//! framework it can have.

use std::{io, path::Path};

use eif::Architecture;
use manifest::{ImageArchitecture, Measured};

use crate::{Error, services, tree::Tree};

/// How a program begins (System V ABI, `e_ident`): 64 bits, little-endian.
const ELF64: &[u8] = b"\x7fELF\x02\x01";
/// Where it says what it is for (`e_machine`).
const MACHINE_AT: usize = 18;

/// How OCI documents say it.
pub(crate) fn oci_name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "linux/amd64",
        Architecture::Aarch64 => "linux/arm64",
    }
}

/// How programs say it (System V ABI, supplements for each).
fn machine(architecture: Architecture) -> u16 {
    match architecture {
        Architecture::X86_64 => 62,
        Architecture::Aarch64 => 183,
    }
}

/// What a program is for, in words.
fn machine_name(machine: u16) -> String {
    match machine {
        62 => "x86-64".to_owned(),
        183 => "aarch64".to_owned(),
        other => format!("machine {other}"),
    }
}

/// What people call it, and what the metadata of an image does.
pub(crate) fn name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "x86_64",
        Architecture::Aarch64 => "aarch64",
    }
}

/// Refuses a kernel for other processors than the manifest asks for.
pub(crate) fn check_kernel(wanted: Option<ImageArchitecture>, kernel: Architecture) -> Result<(), Error> {
    let wanted = match wanted {
        None => return Ok(()),
        Some(ImageArchitecture::X86_64) => Architecture::X86_64,
        Some(ImageArchitecture::Aarch64) => Architecture::Aarch64,
    };
    match wanted == kernel {
        true => Ok(()),
        false => Err(Error::KernelArchitecture { wanted: name(wanted), found: name(kernel) }),
    }
}

/// Refuses what the kernel cannot do: files are opened below a directory by openat2(2), which came with Linux 5.6.
pub(crate) fn check_age(path: &Path, version: &str, measured: &Measured) -> Result<(), Error> {
    let parts = [("control", measured.control.is_some()), ("monitor", measured.monitor.is_some())];
    let Some((part, _)) = parts.into_iter().find(|(_, is_there)| *is_there) else { return Ok(()) };
    match release(version) {
        Some(release) if release < (5, 6) => {
            Err(Error::KernelTooOld { path: path.to_owned(), version: version.to_owned(), part })
        }
        _ => Ok(()),
    }
}

/// The first two numbers of a kernel's version.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Refuses a program for other processors. What is no program is none of our business.
pub(crate) fn check_program(
    beginning: &[u8],
    program: &str,
    architecture: Architecture,
) -> Result<(), Error> {
    let machine_bytes = beginning.get(MACHINE_AT..).and_then(<[u8]>::first_chunk);
    let Some(found) = machine_bytes.filter(|_| beginning.starts_with(ELF64)) else { return Ok(()) };
    let found = u16::from_le_bytes(*found);
    if found == machine(architecture) {
        return Ok(());
    }
    let (program, found) = (program.to_owned(), machine_name(found));
    Err(Error::ProgramArchitecture { program, found, expected: name(architecture) })
}

/// The same for the program that each service begins with, where the image has it.
pub(crate) fn check_services(
    measured: &Measured,
    tree: &Tree,
    architecture: Architecture,
) -> Result<(), Error> {
    for service in &measured.services {
        let (Some(program), Some((_, content))) = (service.command.first(), services::program(service, tree))
        else {
            continue;
        };
        let unreadable = |source: io::Error| Error::File { doing: "read", path: program.into(), source };
        let mut beginning = [0; MACHINE_AT + 2];
        if content.len() >= beginning.len() as u64 {
            content.read_exact_at(&mut beginning, 0).map_err(unreadable)?;
            check_program(&beginning, program, architecture)?;
        }
    }
    Ok(())
}
