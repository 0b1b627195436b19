//! From a Dockerfile to an image archive, by whichever builder of container images is on this machine.
//!
//! It only runs the builder; what is in the archive is checked like any other input. A Dockerfile's commands run with the
//! builder's rights and network, before anything of ours begins.

use std::{
    env, fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use manifest::Dockerfile;

use crate::{cli::Builder, exit::Usage, output};

impl Builder {
    /// In the order they are looked for: those that need no daemon first.
    const ALL: [Self; 3] = [Self::Buildah, Self::Podman, Self::Docker];

    fn program(self) -> &'static str {
        match self {
            Self::Buildah => "buildah",
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }

    /// The first one that is on this machine.
    fn find() -> Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let is_here =
            |builder: &Self| env::split_paths(&path).any(|dir| dir.join(builder.program()).is_file());
        Self::ALL.into_iter().find(is_here).ok_or_else(|| {
            let text = "`image.dockerfile` needs buildah, podman or docker, and none is in PATH: install one, or build \
                        the image elsewhere, save it (`docker save`) and name the file under `image.archive`";
            Usage(text.to_owned()).into()
        })
    }
}

/// Builds the container image and puts it in the place of `archive`, whole or not at all.
///
/// # Errors
/// When there is no builder, it fails, or the archive cannot be written.
pub(crate) fn build(
    source: &Dockerfile,
    base_dir: &Path,
    asked: Option<Builder>,
    created: u64,
    archive: &Path,
) -> Result<()> {
    let builder = asked.map_or_else(Builder::find, Ok)?;
    let folder = archive.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Beside its final place, so that it can be renamed.
    let work = tempfile::Builder::new().prefix(".glasshouse-").tempdir_in(folder);
    let work = work.with_context(|| format!("cannot make a folder in {}", folder.display()))?;
    let (id_file, saved) = (work.path().join("id"), work.path().join("image.tar"));
    let (file, context) = (base_dir.join(&source.file), base_dir.join(source.context()));
    output::say(&format!("building {} with {}", file.display(), builder.program()));
    run(builder, &build_arguments(builder, &file, &context, &id_file, created), created)?;
    let id = fs::read_to_string(&id_file)
        .with_context(|| format!("{} did not say which image it built", builder.program()))?;
    run(builder, &save_arguments(builder, id.trim(), &saved), created)?;
    fs::rename(&saved, archive).with_context(|| format!("cannot write {}", archive.display()))
}

fn build_arguments(
    builder: Builder,
    file: &Path,
    context: &Path,
    id_file: &Path,
    created: u64,
) -> Vec<PathBuf> {
    let mut arguments: Vec<PathBuf> = vec!["build".into(), "--iidfile".into(), id_file.into()];
    if builder != Builder::Docker {
        // Docker takes the time from SOURCE_DATE_EPOCH. Its format is the one that keeps HEALTHCHECK.
        arguments.extend(["--timestamp".into(), created.to_string().into()]);
        arguments.extend(["--format".into(), "docker".into()]);
    }
    arguments.extend(["--file".into(), file.into(), context.into()]);
    arguments
}

fn save_arguments(builder: Builder, id: &str, saved: &Path) -> Vec<PathBuf> {
    let archive = |kind: &str| {
        let mut text = std::ffi::OsString::from(kind);
        text.push(saved);
        PathBuf::from(text)
    };
    match builder {
        Builder::Buildah => vec!["push".into(), "--quiet".into(), id.into(), archive("docker-archive:")],
        Builder::Podman => {
            let format = ["save".into(), "--format".into(), "docker-archive".into(), "--output".into()];
            format.into_iter().chain([saved.into(), id.into()]).collect()
        }
        Builder::Docker => vec!["save".into(), "--output".into(), saved.into(), id.into()],
    }
}

/// Runs the builder. What it says goes to stderr: stdout is the report's.
fn run(builder: Builder, arguments: &[PathBuf], created: u64) -> Result<()> {
    let program = builder.program();
    let mut command = Command::new(program);
    command.args(arguments).env("SOURCE_DATE_EPOCH", created.to_string());
    command.stdin(Stdio::null()).stdout(io::stderr());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            bail!("{program} {} ended with {status}; what it said is above", arguments[0].display())
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Err(Usage(format!("{program} is not in PATH: install it, or ask for another builder")).into())
        }
        Err(e) => Err(e).with_context(|| format!("cannot start {program}")),
    }
}
