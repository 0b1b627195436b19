//! The measured manifest: what init enforces and auditors read, in one canonical encoding.
//!
//! The encoding is the subset of RFC 8785 (JSON Canonicalization Scheme) that `docs/spec/manifest.md` describes:
//! members in ascending order of their names, no white space, integers only. [`Measured::from_canonical_json`] accepts
//! exactly the bytes [`Measured::to_canonical_json`] writes, so that equal bytes and equal meaning are the same thing.

use std::{collections::BTreeMap, fmt, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    Acme, Attestation, Control, Egress, Healthcheck, Monitor, OnUnhealthy, Protocol, Publish, RESERVED_PORTS,
    StopSignal, is_valid_name, publish, secret,
};

/// The version this crate writes and the only one it reads.
pub const MEASURED_VERSION: u32 = 1;

/// Seconds from a service's stop signal to its end by force, unless the manifest says otherwise.
pub const DEFAULT_STOP_TIMEOUT_S: u32 = 10;

/// Longest canonical form, in bytes.
const MAX_MEASURED_BYTES: usize = 1 << 20;

// Members stand in ascending order of their names in every struct of this file: serde writes them in this order, and
// the canonical form wants them so.

/// What runs in the enclave and what it may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Who certifies its key for browsers, absent when nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acme: Option<Acme>,
    /// The attestation web server, absent when the image has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Attestation>,
    /// The control channel, absent when nobody can enter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    /// What may be reached, absent when there is no way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// Which files are watched and recorded, absent when there is no ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Monitor>,
    /// The image's name, also the enclave's host name.
    pub name: String,
    /// Ports that are reachable from outside, ascending by number and server name.
    pub publish: Vec<Publish>,
    /// What init starts, in this order. The last is the main service: when it ends for good, the enclave ends.
    pub services: Vec<Service>,
    /// Version of this form: [`MEASURED_VERSION`].
    pub version: u32,
}

/// One process that init starts and watches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Program and arguments, at least the program. A program without `/` is looked up in the environment's `PATH`.
    pub command: Vec<String>,
    /// The whole environment of the process, beside what init adds for readiness.
    pub env: BTreeMap<String, String>,
    /// How it is found out whether the service is well, absent when nobody looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Unique among the services.
    pub name: String,
    /// When the next service may start.
    pub ready: Readiness,
    /// Seconds that the service has to become ready.
    pub ready_timeout_s: u32,
    /// What happens when the process ends.
    pub restart: Restart,
    /// Names of the secrets that it is given, ascending, unique. It is started when it has them all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// What asks the process to end. SIGTERM is measured by absence.
    #[serde(default, skip_serializing_if = "StopSignal::is_default")]
    pub stop_signal: StopSignal,
    /// Seconds from this signal to SIGKILL. [`DEFAULT_STOP_TIMEOUT_S`] is measured by absence.
    #[serde(default = "default_stop_timeout_s", skip_serializing_if = "is_default_stop_timeout_s")]
    pub stop_timeout_s: u32,
    /// `name`, `uid`, `name:group` or `uid:gid`, resolved in the image's own `/etc/passwd` and `/etc/group`.
    pub user: String,
    /// Absolute directory the process starts in.
    pub workdir: String,
}

fn default_stop_timeout_s() -> u32 {
    DEFAULT_STOP_TIMEOUT_S
}

fn is_default_stop_timeout_s(seconds: &u32) -> bool {
    *seconds == DEFAULT_STOP_TIMEOUT_S
}

/// When a service counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// As soon as its process runs. Written `started`.
    Started,
    /// When it sends `READY=1` to `NOTIFY_SOCKET` (`sd_notify(3)`). Written `notify`.
    Notify,
    /// When 127.0.0.1 accepts a connection on this port. Written `tcp:PORT`.
    Tcp(NonZeroU16),
    /// When its health check succeeds for the first time. Written `healthy`.
    Healthy,
}

/// What init does when a service's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Leave it ended.
    Never,
    /// Start it again unless it ended with status 0.
    OnFailure,
    /// Start it again.
    Always,
}

/// Why bytes are not a measured manifest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeasuredError {
    /// More bytes than any manifest has.
    #[error("the measured manifest has {found} bytes, more than the {MAX_MEASURED_BYTES} allowed")]
    TooLong {
        /// The length found, in bytes.
        found: usize,
    },
    /// Not JSON of the shape of [`Measured`].
    #[error("the measured manifest is not of the form this version reads")]
    Json(#[from] serde_json::Error),
    /// Another version.
    #[error("the measured manifest has version {found}, this program reads version {MEASURED_VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The same meaning can be written in other bytes, so these bytes are refused.
    #[error("the measured manifest is not in its canonical form")]
    NotCanonical,
    /// A value breaks a rule of the form.
    #[error("the measured manifest is inconsistent: {0}")]
    Inconsistent(&'static str),
}

impl Measured {
    /// The canonical bytes, as placed in the image at `/glasshouse/manifest.json`.
    pub fn to_canonical_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, integers and string-keyed maps always serialise")
    }

    /// Reads exactly what [`Self::to_canonical_json`] writes.
    ///
    /// # Errors
    /// [`MeasuredError`] for anything else, including the same content in other bytes.
    pub fn from_canonical_json(bytes: &[u8]) -> Result<Self, MeasuredError> {
        if bytes.len() > MAX_MEASURED_BYTES {
            return Err(MeasuredError::TooLong { found: bytes.len() });
        }
        let measured: Self = serde_json::from_slice(bytes)?;
        if measured.version != MEASURED_VERSION {
            return Err(MeasuredError::Version { found: measured.version });
        }
        if measured.to_canonical_json() != bytes {
            return Err(MeasuredError::NotCanonical);
        }
        measured.check().map_err(MeasuredError::Inconsistent)?;
        Ok(measured)
    }

    /// The service whose end is the enclave's end.
    pub fn main_service(&self) -> &Service {
        self.services.last().expect("a checked manifest has at least one service")
    }

    /// The published ports, each once, ascending.
    pub fn published_ports(&self) -> impl Iterator<Item = (NonZeroU16, Protocol)> + '_ {
        let ports = || self.publish.iter().map(|entry| (entry.port, entry.protocol));
        let before = std::iter::once(None).chain(ports().map(Some));
        ports().zip(before).filter(|(port, before)| Some(*port) != *before).map(|(port, _)| port)
    }

    /// Checks the rules that hold between values.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if !is_valid_name(&self.name) {
            return Err("name is not a valid name");
        }
        if self.services.is_empty() {
            return Err("there is no service");
        }
        for (i, service) in self.services.iter().enumerate() {
            service.check()?;
            if self.services.iter().take(i).any(|s| s.name == service.name) {
                return Err("two services have the same name");
            }
        }
        publish::check(&self.publish)?;
        if let Some(control) = &self.control {
            control.check()?;
        }
        if let Some(egress) = &self.egress {
            egress.check()?;
        }
        if let Some(attestation) = &self.attestation {
            attestation.check(self.acme.is_some())?;
        }
        if let Some(acme) = &self.acme {
            acme.check(self.attestation.is_some(), self.egress.as_ref())?;
        }
        if let Some(monitor) = &self.monitor {
            monitor.check(self.egress.as_ref())?;
        }
        if self.services.iter().any(|service| !service.secrets.is_empty())
            && !self.control.as_ref().is_some_and(Control::takes_secrets)
        {
            return Err("a service waits for secrets that no operator may give");
        }
        self.check_ports()
    }

    fn check_ports(&self) -> Result<(), &'static str> {
        let attestation: Vec<_> = self.attestation.iter().flat_map(Attestation::ports).collect();
        let control = self.control.as_ref().map(|c| c.port);
        let reserved = |port: NonZeroU16| RESERVED_PORTS.contains(&port.get());
        if attestation.iter().copied().chain(control).any(reserved) {
            return Err("the attestation or control port is one the framework uses");
        }
        if control.is_some_and(|port| attestation.contains(&port)) {
            return Err("attestation and control have the same port");
        }
        // Those of UDP have vsock ports of their own.
        let mut connections =
            self.published_ports().filter(|(_, protocol)| protocol.is_tcp()).map(|(port, _)| port);
        if connections.any(|p| reserved(p) || attestation.contains(&p) || Some(p) == control) {
            return Err("a published port is one the framework uses");
        }
        Ok(())
    }
}

impl Service {
    fn check(&self) -> Result<(), &'static str> {
        let clean = |text: &str| !text.contains('\0');
        if !is_valid_name(&self.name) {
            return Err("a service's name is not a valid name");
        }
        if self.command.first().is_none_or(String::is_empty) {
            return Err("a service has no command");
        }
        if !self.command.iter().all(|word| clean(word)) {
            return Err("a command holds a NUL byte");
        }
        let name = |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic() && b != b'=');
        if !self.env.iter().all(|(key, value)| name(key) && clean(value)) {
            return Err(
                "an environment variable's name is not printable ASCII without '=', or its value holds a NUL byte",
            );
        }
        if !self.workdir.starts_with('/') || !clean(&self.workdir) {
            return Err("a service's working directory is not an absolute path");
        }
        if self.user.is_empty() || !clean(&self.user) {
            return Err("a service's user is empty or holds a NUL byte");
        }
        if self.ready_timeout_s == 0 {
            return Err("a service has no time to become ready");
        }
        secret::check_measured(&self.secrets)?;
        self.check_health()
    }

    fn check_health(&self) -> Result<(), &'static str> {
        match &self.healthcheck {
            None if self.ready == Readiness::Healthy => {
                Err("a service is ready when it is healthy, but has no health check")
            }
            None => Ok(()),
            Some(check) if check.on_unhealthy == OnUnhealthy::Restart && self.restart == Restart::Never => {
                Err("a service is restarted when it is unhealthy, but its restart policy is never")
            }
            Some(check) => check.check(),
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("started"),
            Self::Notify => f.write_str("notify"),
            Self::Tcp(port) => write!(f, "tcp:{port}"),
            Self::Healthy => f.write_str("healthy"),
        }
    }
}

impl FromStr for Readiness {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ALLOWED: &str =
            "allowed: \"started\", \"notify\", \"healthy\", \"tcp:PORT\" with a port from 1 to 65535";
        match text {
            "started" => Ok(Self::Started),
            "notify" => Ok(Self::Notify),
            "healthy" => Ok(Self::Healthy),
            _ => {
                let digits = text.strip_prefix("tcp:").ok_or(ALLOWED)?;
                // "tcp:+80" and "tcp:080" would be second spellings of one meaning.
                if digits.starts_with(['0', '+']) {
                    return Err(ALLOWED);
                }
                digits.parse().map(Self::Tcp).map_err(|_| ALLOWED)
            }
        }
    }
}

impl Serialize for Readiness {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Readiness {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
