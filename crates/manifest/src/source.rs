//! `glasshouse.toml`: what a developer writes, checked, and its resolution against the image.

use std::{
    collections::BTreeMap,
    num::NonZeroU16,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::Spanned;

use crate::{
    Acme, Attestation, Control, DEFAULT_STOP_TIMEOUT_S, Egress, Healthcheck, ImageHealthcheck,
    MEASURED_VERSION, Measured, Monitor, Publish, RESERVED_PORTS, Readiness, Restart, Service, StopSignal,
    acme::RawAcme,
    attestation::RawAttestation,
    control::RawControl,
    egress::RawEgress,
    health::{HealthError, HealthOverrides, RawHealth},
    is_valid_name, keyed,
    monitor::RawMonitor,
    publish::RawPublish,
    secret,
};

/// Seconds a service has to become ready unless the manifest says otherwise.
const DEFAULT_READY_TIMEOUT_S: u32 = 30;
/// What a process finds its programs in when neither the image nor the manifest sets `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The name of the service that `[app]` describes.
const APP: &str = "app";

/// A checked `glasshouse.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The image's name.
    pub name: String,
    /// Where the application's files come from.
    pub image: ImageSource,
    /// How they lie in the image; `None` leaves it to the builder, who knows what the kernel can read.
    pub format: Option<ImageFormat>,
    /// The processors that the image is for; `None` leaves it to the kernel.
    pub architecture: Option<ImageArchitecture>,
    /// A kernel other than the pinned one: a `bzImage`, or a directory of the vendor's `bzImage` and `nsm.ko`.
    /// Relative to the manifest's folder.
    pub kernel: Option<PathBuf>,
    /// Defaults that `glasshouse run` passes to the hypervisor. Not measured: the host decides in the end.
    pub resources: Resources,
    /// Ports published, ascending.
    publish: Vec<Publish>,
    attestation: Option<Attestation>,
    control: Option<Control>,
    egress: Option<Egress>,
    monitor: Option<Monitor>,
    acme: Option<Acme>,
    app: Overrides,
    services: Vec<(String, Overrides)>,
}

/// Where the application's files come from. Paths are relative to the manifest's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// An OCI image layout directory, and the tag to take if it holds several images.
    Oci {
        /// The directory with `oci-layout` and `index.json`.
        layout: PathBuf,
        /// The `org.opencontainers.image.ref.name` to take.
        tag: Option<String>,
    },
    /// An archive of images: what `docker save` writes, or an OCI image layout, which of the two its contents show; plain
    /// or compressed with gzip or Zstandard.
    Archive {
        /// The archive.
        path: PathBuf,
        /// Which image to take: its name, or the tag alone.
        tag: Option<String>,
    },
    /// An image in a registry.
    Registry(crate::ImageReference),
    /// What a builder of container images is to build first.
    Dockerfile(Dockerfile),
    /// A root file system: a directory, or a tar archive, plain or compressed with gzip or Zstandard.
    Rootfs(PathBuf),
}

/// How the application's files lie in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Each a file of the ramdisk, which the kernel unpacks into memory.
    Cpio,
    /// In one compressed file system, which stays in memory as it is; what is read of it is unpacked.
    Erofs,
}

/// What processors an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageArchitecture {
    /// 64-bit Intel and AMD.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

/// A Dockerfile and the files it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// The Dockerfile.
    pub file: PathBuf,
    /// The build context; `None` means the Dockerfile's folder.
    context: Option<PathBuf>,
}

impl Dockerfile {
    /// The folder whose files the Dockerfile may take.
    pub fn context(&self) -> &Path {
        match (&self.context, self.file.parent()) {
            (Some(context), _) => context,
            (None, Some(folder)) if !folder.as_os_str().is_empty() => folder,
            (None, _) => Path::new("."),
        }
    }
}

/// What the enclave gets of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Virtual CPUs, at least 1. Default 2.
    pub cpus: u32,
    /// Memory in MiB, at least 64. Default 512.
    pub memory_mib: u32,
}

/// What a container image says of the program in it (OCI image configuration, `config`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`, each `NAME=value`.
    pub env: Vec<String>,
    /// `WorkingDir`, empty when unset.
    pub workdir: String,
    /// `User`, empty when unset.
    pub user: String,
    /// `StopSignal`, empty when unset.
    pub stop_signal: String,
    /// `Healthcheck`.
    pub healthcheck: ImageHealthcheck,
    /// `Shell`, which runs the health check's line; empty when unset.
    pub shell: Vec<String>,
    /// The names in `ExposedPorts`, each `80`, `80/tcp` or `53/udp`. Nothing is published because of them.
    pub exposed_ports: Vec<String>,
}

/// What is wrong with a `glasshouse.toml`, and where.
#[derive(Debug, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
#[non_exhaustive]
pub struct ManifestError {
    /// Line of the mistake, from 1.
    pub line: usize,
    /// Column of the mistake, in characters from 1.
    pub column: usize,
    /// What is wrong, naming the key and what is allowed.
    pub message: String,
}

/// Why a manifest and an image do not make a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// Neither names a program.
    #[error("the image has no ENTRYPOINT or CMD: set `command` under [app] in glasshouse.toml")]
    NoCommand,
    /// An `Env` of the image is not `NAME=value`.
    #[error("the image's Env entry {entry:?} is not NAME=value, NAME being printable ASCII without spaces")]
    ImageEnv {
        /// The entry found.
        entry: String,
    },
    /// The image's `WorkingDir` leads nowhere in particular.
    #[error(
        "the image's WorkingDir {found:?} is not an absolute path: set `workdir` under [app] in glasshouse.toml"
    )]
    ImageWorkdir {
        /// What the image says.
        found: String,
    },
    /// The image's `StopSignal` is none.
    #[error(
        "the image's StopSignal {found:?}: {allowed}; set `stop_signal` in glasshouse.toml to override it"
    )]
    ImageStopSignal {
        /// What the image says.
        found: String,
        /// What it could say.
        allowed: &'static str,
    },
    /// The image's `Healthcheck` cannot be followed.
    #[error(
        "the image's Healthcheck: {0}; set `healthcheck` in glasshouse.toml to override it, or to \"none\""
    )]
    ImageHealthcheck(&'static str),
    /// A health check's times are given, but nothing that is to be run.
    #[error(
        "service {service}: its health check has no command: set `healthcheck.command` in glasshouse.toml"
    )]
    NoHealthCommand {
        /// The service's name.
        service: String,
    },
    /// Nothing could ever make the service ready.
    #[error("service {service} is ready when it is healthy, but has no health check: set `healthcheck`")]
    NoHealthcheck {
        /// The service's name.
        service: String,
    },
    /// A value that came from the image, or a default, breaks a rule of the measured form.
    #[error("the image's configuration cannot be measured: {0}")]
    Inconsistent(&'static str),
}

impl Manifest {
    /// Parses and checks the text of a `glasshouse.toml`.
    ///
    /// # Errors
    /// [`ManifestError`] with line, column, the key and what is allowed.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let raw: Raw = keyed::from_str(text)
            .map_err(|Mistake { span, message }| ManifestError::at(text, span, message))?;
        raw.check().map_err(|Mistake { span, message }| ManifestError::at(text, span, message))
    }

    /// What may be reached; `None` when there is no way out.
    pub fn egress(&self) -> Option<&Egress> {
        self.egress.as_ref()
    }

    /// What the enclave is held to: this manifest's word where it has one, else the image's, else the default.
    ///
    /// As with container engines, a `command` of the manifest replaces both `Entrypoint` and `Cmd`, and its `env` is
    /// added to the image's, name by name.
    ///
    /// # Errors
    /// [`ResolveError`] when no program is named or the image's configuration is malformed.
    pub fn resolve(&self, image: &ImageConfig) -> Result<Measured, ResolveError> {
        let mut services = Vec::with_capacity(self.services.len() + 1);
        for (name, overrides) in &self.services {
            services.push(overrides.service(name, image)?);
        }
        services.push(self.app.service(APP, image)?);
        let measured = Measured {
            attestation: self.attestation.clone(),
            control: self.control.clone(),
            egress: self.egress.clone(),
            acme: self.acme.clone(),
            monitor: self.monitor.clone(),
            name: self.name.clone(),
            publish: self.publish.clone(),
            services,
            version: MEASURED_VERSION,
        };
        measured.check().map_err(ResolveError::Inconsistent)?;
        Ok(measured)
    }
}

impl ManifestError {
    fn at(text: &str, span: Range<usize>, message: String) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message,
        }
    }
}

/// What a manifest says of one service; `None` leaves it to the image or the default.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Overrides {
    command: Option<Vec<String>>,
    env: BTreeMap<String, String>,
    workdir: Option<String>,
    user: Option<String>,
    restart: Restart,
    ready: Readiness,
    ready_timeout_s: u32,
    stop_signal: Option<StopSignal>,
    stop_timeout_s: u32,
    health: HealthOverrides,
    secrets: Vec<String>,
}

impl Overrides {
    fn service(&self, name: &str, image: &ImageConfig) -> Result<Service, ResolveError> {
        let command = match &self.command {
            Some(command) => command.clone(),
            None => image.entrypoint.iter().chain(&image.cmd).cloned().collect(),
        };
        if command.is_empty() {
            return Err(ResolveError::NoCommand);
        }
        let mut env = BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]);
        for entry in &image.env {
            let (key, value) = entry
                .split_once('=')
                .filter(|(key, value)| is_env_name(key) && !value.contains('\0'))
                .ok_or_else(|| ResolveError::ImageEnv { entry: entry.clone() })?;
            env.insert(key.to_owned(), value.to_owned());
        }
        env.extend(self.env.clone());
        let or = |own: &Option<String>, image: &str, default: &str| match own {
            Some(own) => own.clone(),
            None if image.is_empty() => default.to_owned(),
            None => image.to_owned(),
        };
        if self.workdir.is_none() && !image.workdir.is_empty() && !image.workdir.starts_with('/') {
            return Err(ResolveError::ImageWorkdir { found: image.workdir.clone() });
        }
        let healthcheck = self.healthcheck(name, image)?;
        Ok(Service {
            command,
            env,
            healthcheck,
            name: name.to_owned(),
            ready: self.ready,
            ready_timeout_s: self.ready_timeout_s,
            restart: self.restart,
            secrets: self.secrets.clone(),
            stop_signal: self.stop_signal(name, image)?,
            stop_timeout_s: self.stop_timeout_s,
            user: or(&self.user, &image.user, "0:0"),
            workdir: or(&self.workdir, &image.workdir, "/"),
        })
    }

    /// The image's signal is its own program's, so other services do not have it.
    fn stop_signal(&self, name: &str, image: &ImageConfig) -> Result<StopSignal, ResolveError> {
        match self.stop_signal {
            Some(signal) => Ok(signal),
            None if name != APP || image.stop_signal.is_empty() => Ok(StopSignal::default()),
            None => image.stop_signal.parse().map_err(|allowed| ResolveError::ImageStopSignal {
                found: image.stop_signal.clone(),
                allowed,
            }),
        }
    }

    /// The same holds for the image's health check.
    fn healthcheck(&self, name: &str, image: &ImageConfig) -> Result<Option<Healthcheck>, ResolveError> {
        let of_image = (name == APP).then_some((&image.healthcheck, image.shell.as_slice()));
        let service = || name.to_owned();
        let check = self.health.resolve(of_image).map_err(|error| match error {
            HealthError::Image(what) => ResolveError::ImageHealthcheck(what),
            HealthError::NoCommand => ResolveError::NoHealthCommand { service: service() },
        })?;
        if check.is_none() && self.ready == Readiness::Healthy {
            return Err(ResolveError::NoHealthcheck { service: service() });
        }
        Ok(check)
    }
}

/// A broken rule and the bytes of the text that break it.
#[derive(Debug)]
pub(crate) struct Mistake {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
}

impl Mistake {
    pub(crate) fn new(span: Range<usize>, message: String) -> Self {
        Self { span, message }
    }
}

pub(crate) fn mistake<T>(at: &Spanned<T>, message: impl Into<String>) -> Mistake {
    Mistake { span: at.span(), message: message.into() }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Spanned<String>,
    image: Spanned<RawImage>,
    #[serde(default)]
    kernel: Option<PathBuf>,
    #[serde(default)]
    app: RawService,
    #[serde(default)]
    service: Vec<Spanned<RawNamedService>>,
    #[serde(default)]
    resources: RawResources,
    #[serde(default)]
    publish: Vec<RawPublish>,
    #[serde(default)]
    attestation: RawAttestation,
    control: Option<Spanned<RawControl>>,
    egress: Option<RawEgress>,
    monitor: Option<RawMonitor>,
    acme: Option<Spanned<RawAcme>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawImage {
    oci: Option<PathBuf>,
    archive: Option<PathBuf>,
    tag: Option<String>,
    registry: Option<Spanned<String>>,
    rootfs: Option<PathBuf>,
    dockerfile: Option<PathBuf>,
    context: Option<PathBuf>,
    format: Option<ImageFormat>,
    architecture: Option<ImageArchitecture>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    command: Option<Spanned<Vec<String>>>,
    #[serde(default)]
    env: BTreeMap<Spanned<String>, String>,
    workdir: Option<Spanned<String>>,
    user: Option<Spanned<String>>,
    restart: Option<Restart>,
    ready: Option<Spanned<String>>,
    ready_timeout: Option<Spanned<u32>>,
    stop_signal: Option<Spanned<String>>,
    stop_timeout: Option<Spanned<u32>>,
    healthcheck: Option<Spanned<RawHealth>>,
    secrets: Option<Spanned<Vec<String>>>,
}

/// `[[service]]`. Its keys are those of `[app]` and a name; written out because serde cannot refuse unknown keys
/// through a flattened struct.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNamedService {
    name: Spanned<String>,
    command: Spanned<Vec<String>>,
    #[serde(default)]
    env: BTreeMap<Spanned<String>, String>,
    workdir: Option<Spanned<String>>,
    user: Option<Spanned<String>>,
    restart: Option<Restart>,
    ready: Option<Spanned<String>>,
    ready_timeout: Option<Spanned<u32>>,
    stop_signal: Option<Spanned<String>>,
    stop_timeout: Option<Spanned<u32>>,
    healthcheck: Option<Spanned<RawHealth>>,
    secrets: Option<Spanned<Vec<String>>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawResources {
    cpus: Option<Spanned<u32>>,
    memory_mib: Option<Spanned<u32>>,
}

impl Raw {
    fn check(self) -> Result<Manifest, Mistake> {
        check_name("name", &self.name)?;
        let attestation = self.attestation.check(self.acme.is_some())?;
        let control = RawControl::check(self.control, attestation.as_ref())?;
        let takes_secrets = control.as_ref().is_some_and(Control::takes_secrets);
        let mut services = Vec::new();
        let secrets_of_app = self.app.secrets.as_ref().map(Spanned::span);
        for raw in self.service {
            let secrets = raw.get_ref().secrets.as_ref().map(Spanned::span);
            let (name, overrides) = raw.into_inner().check()?;
            secret::check_giver(&overrides.secrets, secrets, takes_secrets)?;
            if name.get_ref() == APP || services.iter().any(|(n, _)| n == name.get_ref()) {
                let text =
                    format!("`service.name`: {:?} is taken; `{APP}` is the [app] section", name.get_ref());
                return Err(mistake(&name, text));
            }
            services.push((name.into_inner(), overrides));
        }
        let app = self.app.check()?;
        let egress = RawEgress::check(self.egress)?;
        secret::check_giver(&app.secrets, secrets_of_app, takes_secrets)?;
        Ok(Manifest {
            name: self.name.into_inner(),
            format: self.image.get_ref().format,
            architecture: self.image.get_ref().architecture,
            image: check_image(self.image)?,
            kernel: self.kernel,
            resources: self.resources.check()?,
            publish: RawPublish::check(self.publish, attestation.as_ref(), control.as_ref())?,
            acme: RawAcme::check(self.acme, attestation.is_some(), egress.as_ref())?,
            attestation,
            control,
            monitor: RawMonitor::check(self.monitor, egress.as_ref())?,
            egress,
            app,
            services,
        })
    }
}

fn check_name(key: &str, name: &Spanned<String>) -> Result<(), Mistake> {
    if is_valid_name(name.get_ref()) {
        return Ok(());
    }
    let text = format!(
        "`{key}`: {:?} is not allowed: 1 to 63 lower-case letters, digits and `-`, not `-` at either end",
        name.get_ref()
    );
    Err(mistake(name, text))
}

/// What `[image]` has to say, for whoever got it wrong.
const IMAGE_RULE: &str = "`image`: say one of `dockerfile`, `archive` (what `docker save` \
                          writes, or an OCI layout as a tar archive), `oci` (an OCI layout directory), `registry` (HOST/NAME:TAG or \
                          HOST/NAME@sha256:DIGEST) and `rootfs` (a \
                          directory or tar archive); `tag` goes with `oci` and `archive` if they hold several images, \
                          `context` with `dockerfile`";

fn check_image(image: Spanned<RawImage>) -> Result<ImageSource, Mistake> {
    let span = image.span();
    let raw = image.get_ref();
    let paths = [
        ("oci", &raw.oci),
        ("archive", &raw.archive),
        ("rootfs", &raw.rootfs),
        ("dockerfile", &raw.dockerfile),
        ("context", &raw.context),
    ];
    for (key, path) in paths {
        let is_no_path =
            |path: &PathBuf| path.as_os_str().is_empty() || path.to_string_lossy().contains('\0');
        if path.as_ref().is_some_and(is_no_path) {
            let message =
                format!("`image.{key}`: give a path, without NUL bytes (`.` is the manifest's folder)");
            return Err(Mistake { span, message });
        }
    }
    let RawImage { oci, archive, tag, registry, rootfs, dockerfile, context, format: _, architecture: _ } =
        image.into_inner();
    if let Some(name) = registry {
        let others = [oci, archive, rootfs, dockerfile, context, tag.map(PathBuf::from)];
        return match others.iter().any(Option::is_some) {
            true => Err(Mistake { span, message: IMAGE_RULE.to_owned() }),
            false => check_reference(&name),
        };
    }
    match (oci, archive, rootfs, dockerfile, tag, context) {
        (Some(layout), None, None, None, tag, None) => Ok(ImageSource::Oci { layout, tag }),
        (None, Some(path), None, None, tag, None) => Ok(ImageSource::Archive { path, tag }),
        (None, None, Some(path), None, None, None) => Ok(ImageSource::Rootfs(path)),
        (None, None, None, Some(file), None, context) => {
            Ok(ImageSource::Dockerfile(Dockerfile { file, context }))
        }
        _ => Err(Mistake { span, message: IMAGE_RULE.to_owned() }),
    }
}

fn check_reference(name: &Spanned<String>) -> Result<ImageSource, Mistake> {
    let reference = name.get_ref().parse().map(ImageSource::Registry);
    reference.map_err(|e: crate::ReferenceError| mistake(name, format!("`image.registry`: {e}")))
}

pub(crate) fn check_port(key: &str, port: &Spanned<u16>) -> Result<NonZeroU16, Mistake> {
    match NonZeroU16::new(*port.get_ref()) {
        Some(number) if !RESERVED_PORTS.contains(&number.get()) => Ok(number),
        _ => Err(mistake(
            port,
            format!(
                "`{key}`: {} is not allowed: 1 to 65535, but not {RESERVED_PORTS:?}, which the framework uses",
                port.get_ref()
            ),
        )),
    }
}

impl RawResources {
    fn check(&self) -> Result<Resources, Mistake> {
        let at_least = |key: &str, value: &Option<Spanned<u32>>, least: u32, default: u32| match value {
            None => Ok(default),
            Some(value) if *value.get_ref() >= least => Ok(*value.get_ref()),
            Some(value) => Err(mistake(
                value,
                format!("`resources.{key}`: {} is not allowed: at least {least}", value.get_ref()),
            )),
        };
        Ok(Resources {
            cpus: at_least("cpus", &self.cpus, 1, 2)?,
            memory_mib: at_least("memory_mib", &self.memory_mib, 64, 512)?,
        })
    }
}

impl RawNamedService {
    fn check(self) -> Result<(Spanned<String>, Overrides), Mistake> {
        check_name("service.name", &self.name)?;
        let overrides = RawService {
            command: Some(self.command),
            env: self.env,
            workdir: self.workdir,
            user: self.user,
            restart: self.restart,
            ready: self.ready,
            ready_timeout: self.ready_timeout,
            stop_signal: self.stop_signal,
            stop_timeout: self.stop_timeout,
            healthcheck: self.healthcheck,
            secrets: self.secrets,
        };
        Ok((self.name, overrides.check()?))
    }
}

impl RawService {
    fn check(self) -> Result<Overrides, Mistake> {
        let nul = |text: &str| text.contains('\0');
        if let Some(command) = &self.command {
            let words = command.get_ref();
            if words.first().is_none_or(String::is_empty) || words.iter().any(|w| nul(w)) {
                let text = "`command`: at least the program, as a list of strings without NUL bytes";
                return Err(mistake(command, text));
            }
        }
        for (key, value) in &self.env {
            let name = key.get_ref();
            if !is_env_name(name) || nul(value) {
                let text = format!(
                    "`env`: {name:?}: names are printable ASCII without `=`, values have no NUL bytes"
                );
                return Err(mistake(key, text));
            }
        }
        if let Some(dir) = self.workdir.as_ref().filter(|d| !d.get_ref().starts_with('/') || nul(d.get_ref()))
        {
            return Err(mistake(dir, format!("`workdir`: {:?} is not an absolute path", dir.get_ref())));
        }
        if let Some(user) = self.user.as_ref().filter(|u| u.get_ref().is_empty() || nul(u.get_ref())) {
            return Err(mistake(user, "`user`: allowed: name, uid, name:group or uid:gid"));
        }
        let ready_timeout_s = match &self.ready_timeout {
            Some(seconds) if *seconds.get_ref() == 0 => {
                return Err(mistake(seconds, "`ready_timeout`: at least 1 second"));
            }
            Some(seconds) => *seconds.get_ref(),
            None => DEFAULT_READY_TIMEOUT_S,
        };
        let ready = match &self.ready {
            None => Readiness::Started,
            Some(text) => text
                .get_ref()
                .parse()
                .map_err(|allowed| mistake(text, format!("`ready`: {:?}: {allowed}", text.get_ref())))?,
        };
        let stop_signal = match &self.stop_signal {
            None => None,
            Some(text) => Some(text.get_ref().parse().map_err(|allowed| {
                mistake(text, format!("`stop_signal`: {:?}: {allowed}", text.get_ref()))
            })?),
        };
        let restart = self.restart.unwrap_or(Restart::Never);
        Ok(Overrides {
            command: self.command.map(Spanned::into_inner),
            env: self.env.into_iter().map(|(k, v)| (k.into_inner(), v)).collect(),
            workdir: self.workdir.map(Spanned::into_inner),
            user: self.user.map(Spanned::into_inner),
            restart,
            ready,
            ready_timeout_s,
            stop_signal,
            stop_timeout_s: self.stop_timeout.map_or(DEFAULT_STOP_TIMEOUT_S, Spanned::into_inner),
            health: check_health(self.healthcheck, restart)?,
            secrets: secret::check(self.secrets)?,
        })
    }
}

/// Whether a variable can have this name.
fn is_env_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'=')
}

fn check_health(raw: Option<Spanned<RawHealth>>, restart: Restart) -> Result<HealthOverrides, Mistake> {
    let span = raw.as_ref().map_or(0..0, Spanned::span);
    let health = RawHealth::check(raw.map(Spanned::into_inner))?;
    if health.restarts() && restart == Restart::Never {
        let message =
            "`healthcheck.on_unhealthy`: \"restart\" goes with `restart = \"on-failure\"` or \"always\"";
        return Err(Mistake { span, message: message.to_owned() });
    }
    Ok(health)
}
