//! The command line of the enclave's way out.

use std::{io, path::PathBuf};

use egress::{Policy, PolicyError, Rule};
use manifest::{Dns, Measured, MeasuredError};
use transport::Addr;

use super::{Config, upstream};
use crate::serve::vsock_side;

#[derive(Debug, clap::Args)]
pub(crate) struct TransparentArgs {
    /// The measured manifest, whose egress rules are the policy
    #[arg(long, value_name = "FILE", required_unless_present = "allow", conflicts_with_all = ["allow", "deny"])]
    manifest: Option<PathBuf>,

    /// Allow this, as in api.example.com:443, in the place of a manifest's rules. Repeatable
    #[arg(long, value_name = "RULE")]
    allow: Vec<Rule>,

    /// Deny this, whatever allows it. Repeatable
    #[arg(long, value_name = "RULE")]
    deny: Vec<Rule>,

    /// Where the host makes the connections: its egress port, as in vsock://3:9200
    #[arg(short = 'v', long, visible_alias = "vsock-addr", value_name = "ADDRESS", value_parser = vsock_side)]
    host: Addr,

    /// Taken for the sake of commands written elsewhere, and not needed: nothing listens, a TUN device takes what is sent
    #[arg(short, long, value_name = "ADDRESS:PORT", hide = true)]
    ip_addr: Option<String>,

    /// The socket of the ledger that keeps the records, beside standard output
    #[arg(long, value_name = "PATH")]
    ledger: Option<PathBuf>,

    /// The control device of TUN devices
    #[arg(long, value_name = "PATH", default_value = "/dev/net/tun")]
    tun: PathBuf,

    /// The name of the network device to be made
    #[arg(long, value_name = "NAME", default_value = "egress0")]
    device: String,

    /// How many TCP connections to track at once; attempts beyond wait
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
}

/// Why there is no policy to go by.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}")]
    Manifest {
        path: PathBuf,
        #[source]
        source: MeasuredError,
    },
    #[error("{0} has no egress rules")]
    NoEgress(PathBuf),
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl TransparentArgs {
    /// Each connection has one end here and one to the host.
    pub(crate) fn max_connections(&self) -> usize {
        self.max_connections as usize
    }

    pub(crate) fn config(self) -> Result<Config, ConfigError> {
        if let Some(addr) = &self.ip_addr {
            tracing::warn!(addr, "no listener is needed: a TUN device takes what programs send, to any port");
        }
        let (policy, dns) = match self.manifest {
            Some(path) => of_manifest(path)?,
            None => (Policy::compile(&self.allow, &self.deny, &[])?, Dns::Host),
        };
        Ok(Config {
            policy,
            dns,
            dns_roots: upstream::mozilla(),
            host: self.host,
            tun: self.tun,
            device: self.device,
            max_connections: self.max_connections as usize,
            ledger: self.ledger,
        })
    }
}

fn of_manifest(path: PathBuf) -> Result<(Policy, Dns), ConfigError> {
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(ConfigError::Read { path, source }),
    };
    match Measured::from_canonical_json(&bytes) {
        Ok(Measured { egress: Some(egress), .. }) => Ok((egress.policy(), egress.dns)),
        Ok(_) => Err(ConfigError::NoEgress(path)),
        Err(source) => Err(ConfigError::Manifest { path, source }),
    }
}
