//! `glasshouse build`: from a folder with a `glasshouse.toml` to an image and its reference values.

use std::{
    env, fs,
    io::{self, IsTerminal, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use manifest::Manifest;
use rbuilds::{BuildInput, BuildReport, Kernel, Limits, Step};

use crate::{
    cli::BuildArgs,
    exit::{Exit, Usage},
    output, paths,
};

/// The manifest's usual name.
const MANIFEST: &str = "glasshouse.toml";

/// Where a bzImage says that it is one (Linux, Documentation/arch/x86/boot.rst, `header`).
const BZIMAGE_MAGIC_OFFSET: u64 = 0x202;
const BZIMAGE_MAGIC: &[u8] = b"HdrS";
/// How a program begins (System V ABI, `e_ident`).
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// Runs the command.
pub(crate) fn run(args: &BuildArgs) -> Result<Exit> {
    let path = if args.manifest.is_dir() { args.manifest.join(MANIFEST) } else { args.manifest.clone() };
    let text = fs::read_to_string(&path).map_err(|e| {
        Usage(format!("{}: {e}: name a manifest, or a folder with a {MANIFEST}", path.display()))
    })?;
    let manifest = Manifest::parse(&text).map_err(|e| Usage(format!("{}: {e}", path.display())))?;
    let base_dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let output = args.output.clone().unwrap_or_else(|| format!("{}.eif", manifest.name).into());
    let given = args.kernel.clone().or_else(|| manifest.kernel.as_ref().map(|kernel| base_dir.join(kernel)));
    let input = BuildInput {
        manifest: &manifest,
        base_dir,
        guest_binary: &enclave_program(args.enclave.as_deref())?,
        kernel: kernel(given)?,
        output: &output,
        limits: Limits::default(),
        build_time: source_date_epoch()?,
    };
    let report = rbuilds::build(&input, &progress)?;
    let reference = report.write_beside(&output)?;
    if args.json {
        output::print(&serde_json::to_string(&report)?)?;
    } else {
        print(&report, &output, &reference)?;
    }
    Ok(Exit::Done)
}

/// The kernel asked for, or the pinned one.
fn kernel(given: Option<PathBuf>) -> Result<Kernel> {
    let path = match given {
        Some(path) => path,
        None => {
            let pinned = paths::pinned_kernel()?;
            if !pinned.is_file() {
                bail!(
                    "{} is not there: `make kernel` builds it; or name a kernel with --kernel",
                    pinned.display()
                );
            }
            pinned
        }
    };
    let (bzimage, module) = match path.is_dir() {
        true => (path.join("bzImage"), Some(path.join("nsm.ko")).filter(|module| module.is_file())),
        false => (path, None),
    };
    if !holds_at(&bzimage, BZIMAGE_MAGIC_OFFSET, BZIMAGE_MAGIC)? {
        return Err(Usage(format!("{} is not a Linux kernel (bzImage)", bzimage.display())).into());
    }
    Ok(Kernel::new(bzimage, module))
}

/// The enclave's init, asked for or ours.
fn enclave_program(given: Option<&Path>) -> Result<PathBuf> {
    let path = paths::enclave_program(given)?;
    if !holds_at(&path, 0, ELF_MAGIC)? {
        return Err(Usage(format!("{} is not a program (ELF)", path.display())).into());
    }
    Ok(path)
}

/// Whether a file has these bytes at that offset. What is not there is another mistake than what is something else.
fn holds_at(path: &Path, offset: u64, bytes: &[u8]) -> Result<bool> {
    let read = || -> io::Result<bool> {
        let mut file = fs::File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut found = Vec::new();
        file.take(bytes.len() as u64).read_to_end(&mut found)?;
        Ok(found == bytes)
    };
    read().with_context(|| format!("reading {}", path.display()))
}

/// The time that reproducible builds agree on (<https://reproducible-builds.org/specs/source-date-epoch/>).
fn source_date_epoch() -> Result<u64> {
    match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => {
            text.parse().with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds"))
        }
        Err(_) => Ok(0),
    }
}

fn progress(step: Step<'_>) {
    if !io::stderr().is_terminal() {
        return;
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match step {
        Step::Layer { number, of, bytes } => {
            output::say(&format!("reading layer {number} of {of} ({} MiB)", mib(bytes)));
        }
        Step::Archive { path } | Step::Rootfs { path } => output::say(&format!("reading {}", path.display())),
        Step::Write { files, bytes } => {
            output::say(&format!("writing and measuring {files} files ({} MiB)", mib(bytes)));
        }
        _ => {}
    }
}

fn print(report: &BuildReport, image: &Path, reference: &Path) -> Result<()> {
    for note in &report.notes {
        let examples = note.examples.join(", ");
        output::say(&format!("note: {} ({}: {examples})", note.kind.explanation(), note.count));
    }
    output::print(&format!("{}  {:.1} MiB", image.display(), report.eif_bytes as f64 / f64::from(1 << 20)))?;
    for (index, value) in &report.pcrs {
        let meaning = attestation::PcrIndex::new(*index)?.meaning();
        output::print(&format!("PCR{index:<2}  {value}  {meaning}"))?;
    }
    output::print(&format!("reference values: {}", reference.display()))
}
