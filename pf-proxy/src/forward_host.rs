//! The command line of the host's end of the way out.

use std::{path::PathBuf, time::Duration};

use egress::{PolicyError, Rule};
use transport::{Addr, Cid};

use crate::{
    host::{Guard, HostOptions},
    image_policy::{self, LoadError},
    serve::vsock_side,
};

#[derive(Debug, clap::Args)]
pub(crate) struct ForwardHostArgs {
    /// Where the enclave's requests arrive: its host's vsock port 9200, as in vsock://any:9200 or hybrid:/path:9200
    #[arg(short = 'v', long, visible_alias = "vsock-addr", value_name = "ADDRESS", value_parser = vsock_side)]
    listen: Addr,

    #[command(flatten)]
    rules: RuleArgs,

    /// Serve only the enclave with this CID
    #[arg(long, value_name = "CID")]
    only: Option<u32>,

    /// How many requests to carry at once; further ones are told that the host is busy
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,

    /// How many of them may be associations for datagrams
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_associations: u32,

    /// How many seconds a request may take to arrive
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    request_timeout: u32,

    /// How many seconds resolving and dialling may take together
    #[arg(long, value_name = "S", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=3600))]
    dial_timeout: u32,

    /// How many seconds an association may be silent
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    udp_idle: u32,

    /// Where to serve metrics for Prometheus, as GET /metrics
    #[arg(long, value_name = "ADDR")]
    metrics: Option<Addr>,

    /// Where the DNS servers stand that questions are put to
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
}

/// Rules of the manifest, the operator's, or both.
#[derive(Debug, clap::Args)]
pub(crate) struct RuleArgs {
    /// The rules of this glasshouse.toml, or of this measured manifest
    #[arg(long, value_name = "FILE", conflicts_with = "image")]
    pub(crate) manifest: Option<PathBuf>,

    /// The rules of this enclave image
    #[arg(long, value_name = "EIF")]
    image: Option<PathBuf>,

    /// Allow this, as in api.example.com:443; with a manifest, allow nothing else that it allows. Repeatable
    #[arg(long, value_name = "RULE")]
    allow: Vec<Rule>,

    /// Deny this, as in '*.example.com:*', whatever allows it. Repeatable
    #[arg(long, value_name = "RULE")]
    deny: Vec<Rule>,
}

/// Why there are no rules to go by.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl RuleArgs {
    pub(crate) fn guard(&self) -> Result<Guard, RulesError> {
        let manifest = match (&self.manifest, &self.image) {
            (Some(file), _) => Some(image_policy::of_manifest(file)?),
            (None, Some(image)) => Some(image_policy::of_image(image)?),
            (None, None) => None,
        };
        Ok(Guard::new(manifest.map(|egress| egress.host_policy()), &self.allow, &self.deny)?)
    }

    /// Whether any rule was given.
    pub(crate) fn is_empty(&self) -> bool {
        self.manifest.is_none() && self.image.is_none() && self.allow.is_empty() && self.deny.is_empty()
    }
}

impl ForwardHostArgs {
    pub(crate) fn listen(&self) -> &Addr {
        &self.listen
    }

    pub(crate) fn guard(&self) -> Result<Guard, RulesError> {
        self.rules.guard()
    }

    pub(crate) fn metrics(&self) -> Option<&Addr> {
        self.metrics.as_ref()
    }

    pub(crate) fn options(&self) -> HostOptions {
        let seconds = |count: u32| Duration::from_secs(count.into());
        HostOptions {
            max_connections: self.max_connections as usize,
            max_associations: self.max_associations as usize,
            request_timeout: seconds(self.request_timeout),
            dial_timeout: seconds(self.dial_timeout),
            udp_idle: seconds(self.udp_idle),
            only: self.only.map(Cid),
            resolv_conf: self.resolv_conf.clone(),
            ..HostOptions::default()
        }
    }
}
