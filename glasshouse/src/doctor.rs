//! `glasshouse doctor`: what this machine can do, what is missing, and how to get it.

use std::{fs, path::Path};

use anyhow::Result;
use serde::Serialize;

use crate::{
    backend::{self, local},
    cli::{BackendKind, DoctorArgs},
    exit::Exit,
    output,
    table::Table,
};

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Finding {
    /// What it is about.
    subject: &'static str,
    /// Whether it is as it should be.
    state: State,
    /// What was found.
    detail: String,
    /// What to do about it, when there is something.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It works.
    Ok,
    /// It is not there; something else may do.
    Missing,
    /// For information.
    Note,
}

/// Runs the command. The answer is no when no backend works, or nothing can be built.
pub(crate) fn run(args: &DoctorArgs) -> Result<Exit> {
    let findings: Vec<Finding> =
        backends()?.into_iter().chain(building()?).chain(vsock_hazards()).chain([memory()]).collect();
    if args.json {
        output::print(&serde_json::to_string(&serde_json::json!({ "findings": findings }))?)?;
    } else {
        let mut table = Table::new(["", "what", "finding"]);
        for finding in &findings {
            let mark = match finding.state {
                State::Ok => "ok",
                State::Missing => "--",
                State::Note => "  ",
            };
            table.row([mark, finding.subject, &finding.detail]);
            if let Some(fix) = &finding.fix {
                table.row(["", "", &format!("-> {fix}")]);
            }
        }
        output::print(table.to_string().trim_end())?;
    }
    let works = |word: &str| findings.iter().any(|f| f.state == State::Ok && f.subject.starts_with(word));
    let builds = ["kernel", "enclave program"].iter().all(|subject| works(subject));
    Ok(if works("backend") && builds { Exit::Done } else { Exit::No })
}

fn found(subject: &'static str, missing: Option<String>, detail: &str, fix: &str) -> Finding {
    match missing {
        None => Finding { subject, state: State::Ok, detail: detail.to_owned(), fix: None },
        Some(reason) => Finding { subject, state: State::Missing, detail: reason, fix: Some(fix.to_owned()) },
    }
}

fn backends() -> Result<Vec<Finding>> {
    let local = local::probe().err().map(|error| format!("{error:#}"));
    Ok(vec![
        found(
            "backend nitro",
            backend::missing(BackendKind::Nitro)?,
            "this instance can run Nitro enclaves",
            "on EC2: start the instance with --enclave-options Enabled=true and install aws-nitro-enclaves-cli",
        ),
        found(
            "backend qemu",
            backend::missing(BackendKind::Qemu)?,
            "QEMU has the nitro-enclave machine",
            "make qemu (about 5 minutes, once)",
        ),
        found(
            "backend local",
            local,
            "user namespaces work",
            "sysctl user.max_user_namespaces=10000; on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ])
}

fn building() -> Result<Vec<Finding>> {
    let absent = |path: &Path| (!path.is_file()).then(|| format!("{} is not there", path.display()));
    let kernel = rbuilds::pinned_kernel()?;
    let detail = fs::read_to_string(kernel.with_file_name("kernel.json")).unwrap_or_default();
    let version = serde_json::from_str(&detail)
        .ok()
        .and_then(|json: serde_json::Value| Some(json.get("version")?.as_str()?.to_owned()));
    let program = rbuilds::find_guest_binary(None);
    Ok(vec![
        found(
            "kernel",
            absent(&kernel),
            &format!("{} at {}", version.as_deref().unwrap_or("unknown version"), kernel.display()),
            "make kernel (about 5 minutes, once), or build with --kernel",
        ),
        found(
            "enclave program",
            program.as_ref().err().map(|error| format!("{error:#}")),
            &program.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            "make build",
        ),
    ])
}

/// The known hazards of vsock (`crates/transport`), with what this machine's kernel has to do with them. The rules hold
/// everywhere; these lines tell someone who looks for a lost byte where not to look.
fn vsock_hazards() -> Vec<Finding> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let note = |subject, detail: String| Finding { subject, state: State::Note, detail, fix: None };
    let bursts = if version(&release) >= (6, 12, 92) { "does" } else { "does not" };
    vec![
        note(
            "vsock large writes",
            format!(
                "kernels since August 2025 can corrupt writes over 32 KiB (this one: {release}); ours stay below 31 KiB"
            ),
        ),
        note(
            "vsock small writes",
            format!(
                "kernels from 6.12.92 can reset connections under bursts of small packets (this one {bursts}); ours are gathered"
            ),
        ),
        note(
            "vsock full queues",
            "reading never waits for writing, so two full queues cannot lock up".to_owned(),
        ),
        note("vsock datagrams", "there are none: nothing here uses them".to_owned()),
    ]
}

/// The numbers before the first character that is none, such as 6.12.92 of `6.12.92-amd64`.
fn version(release: &str) -> (u32, u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

fn memory() -> Finding {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap_or(0);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Finding {
        subject: "machine",
        state: State::Note,
        detail: format!("{cpus} CPUs, {} MiB of memory free", kib >> 10),
        fix: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_compared_by_number() {
        assert_eq!(version("6.12.92-amd64"), (6, 12, 92));
        assert_eq!(version("6.18"), (6, 18, 0));
        assert!(version("6.9.0-1-cloud") < (6, 12, 92));
    }
}
