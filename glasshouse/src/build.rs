//! `glasshouse build`: from a folder with a `glasshouse.toml` to an image and its reference values.

use std::{
    io::{self, IsTerminal},
    path::Path,
};

use anyhow::Result;
use manifest::ImageSource;
use rbuilds::{
    BuildInput, BuildReport, Documents, Limits, Network, Note, PartError, Project, RegistryOptions, Step,
};

use crate::{
    cli::BuildArgs,
    dockerfile,
    exit::{self, Exit, Usage},
    output, signing,
};

/// Runs the command.
pub(crate) fn run(args: &BuildArgs) -> Result<Exit> {
    let mut project = Project::open(&args.manifest).map_err(|e| Usage(e.to_string()))?;
    let output = args.output.clone().unwrap_or_else(|| format!("{}.eif", project.manifest.name).into());
    rbuilds::check_input(&project.manifest.image, &project.base_dir).map_err(|e| Usage(e.to_string()))?;
    let guest_binary = part(rbuilds::find_guest_binary(args.enclave.as_deref()))?;
    let kernel = part(project.kernel(args.kernel.clone()))?;
    let build_time = rbuilds::source_date_epoch().map_err(|e| Usage(e.to_string()))?;
    if let ImageSource::Dockerfile(source) = &project.manifest.image {
        let archive = output.with_extension("image.tar");
        dockerfile::build(source, &project.base_dir, args.builder, build_time, &archive)?;
        output::say(&format!(
            "container image: {}, which others need to build this one again",
            archive.display()
        ));
        project.take_archive(&archive)?;
    }
    let signer = signing::signer(args)?;
    let input = BuildInput {
        manifest: &project.manifest,
        base_dir: &project.base_dir,
        guest_binary: &guest_binary,
        kernel,
        output: &output,
        limits: Limits::default(),
        registry: registry(args),
        build_time,
        signer: signer.as_ref(),
    };
    let (report, documents) = build(&input, args.no_sbom)?;
    let reference = report.write_beside(&output)?;
    let described = documents.as_ref().map(|documents| documents.write_beside(&output)).transpose()?;
    if args.json {
        output::print(&serde_json::to_string(&report)?)?;
    } else {
        print(&report, &output, &reference)?;
        documents.iter().for_each(|documents| note(&documents.notes));
        if let Some(paths) = described {
            output::print(&format!("SBOM: {}", paths.sbom.display()))?;
            output::print(&format!("provenance: {}", paths.provenance.display()))?;
        }
    }
    warn_of_memory(&report, project.manifest.resources.memory_mib);
    Ok(Exit::Done)
}

/// How the image is pulled, if it is in a registry.
fn registry(args: &BuildArgs) -> RegistryOptions {
    let network = match (args.update, args.offline) {
        (true, _) => Network::Update,
        (_, true) => Network::Offline,
        _ => Network::Missing,
    };
    let default = RegistryOptions::default();
    let cache_limit_bytes = args.cache_limit.map_or(default.cache_limit_bytes, |gib| u64::from(gib) << 30);
    RegistryOptions { network, cache_limit_bytes, ..default }
}

/// What was asked for wrongly is a mistake of the caller's.
fn part<T>(found: Result<T, PartError>) -> Result<T> {
    found.map_err(|e| exit::told(e.is_mistake(), e))
}

fn progress(step: Step<'_>) {
    if io::stderr().is_terminal() {
        output::say(&step.to_string());
    }
}

/// Builds, and describes the image unless that is not wanted.
fn build(input: &BuildInput<'_>, no_sbom: bool) -> Result<(BuildReport, Option<Documents>)> {
    let built = match no_sbom {
        true => rbuilds::build(input, &progress).map(|report| (report, None)),
        false => rbuilds::build_documented(input, &progress).map(|(report, made)| (report, Some(made))),
    };
    built.map_err(|e| exit::told(e.is_mistake(), e))
}

fn note(notes: &[Note]) {
    for note in notes {
        let examples = note.examples.join(", ");
        output::say(&format!("note: {} ({}: {examples})", note.kind.explanation(), note.count));
    }
}

fn print(report: &BuildReport, image: &Path, reference: &Path) -> Result<()> {
    note(&report.notes);
    output::print(&format!("{}  {:.1} MiB", image.display(), report.eif_bytes as f64 / f64::from(1 << 20)))?;
    for (index, value) in &report.pcrs {
        let meaning = attestation::PcrIndex::new(*index)?.meaning();
        output::print(&format!("PCR{index:<2}  {value}  {meaning}"))?;
    }
    if let Some(memory_mib) = report.memory_mib {
        output::print(&format!("memory to boot: {memory_mib} MiB, and what the application takes"))?;
    }
    output::print(&format!("reference values: {}", reference.display()))
}

/// `glasshouse run` would refuse to start what was built.
fn warn_of_memory(report: &BuildReport, asked_mib: u32) {
    if let Some(needed) = report.memory_mib.filter(|needed| *needed > u64::from(asked_mib)) {
        output::say(&format!(
            "warning: the image needs {needed} MiB of memory to boot and asks for {asked_mib}: \
             raise memory_mib under [resources] in glasshouse.toml"
        ));
    }
}
