//! The command line: from arguments to a server that runs until it is told to stop.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use nsm::Provider;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use transport::Addr;

use crate::limits::{Limits, MAX_CLIENT_ROOTS_BYTES, MAX_MANIFEST_BYTES};
use crate::{AcmeConfig, Config, IdentityError, ListenerBroken, Server, StartError};

/// More would rather be the application's.
const MOST_THREADS: usize = 4;

/// Attestation web server of an enclave.
///
/// Serves HTTPS with a key made at start, and answers GET /v1/attestation?nonce=HEX with an attestation document that
/// names that key. Stops on SIGTERM or SIGINT.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "ra-web-srv",
    version,
    after_help = "Exit codes: 0 told to stop; 2 usage, or the manifest cannot be used; 3 no NSM; \
                  4 cannot listen; 5 cannot start for another reason; \
                  6 a listener broke."
)]
pub struct Args {
    /// Where to serve HTTPS: vsock://any:PORT, tcp://HOST:PORT, unix:/PATH or hybrid:/PATH:PORT; may be given more than once
    #[arg(long, value_name = "ADDR", required = true)]
    pub listen: Vec<Addr>,
    /// Where to serve plain HTTP/1.1 beside it; documents fetched there say nothing of the connection
    #[arg(long, value_name = "ADDR")]
    pub plain: Vec<Addr>,
    /// Serve HTTPS only to clients with a certificate under one of these authorities (PEM)
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// The same, under the authorities that the manifest has as `attestation.client_ca`
    #[arg(long, requires = "manifest", conflicts_with = "client_ca")]
    pub measured_clients: bool,
    /// Where to serve the application API, as unix:/PATH; reachable from nowhere but this machine
    #[arg(long, value_name = "ADDR", value_parser = unix_path)]
    pub api: Option<PathBuf>,
    /// The security module: its device, or the socket of a simulated one
    #[arg(long, value_name = "PATH", default_value = "/dev/nsm")]
    pub nsm: PathBuf,
    /// The measured manifest to show at /v1/manifest
    #[arg(long, value_name = "PATH")]
    pub manifest: Option<PathBuf>,
    /// The file with the head of the control channel's chain, which every document then states
    #[arg(long, value_name = "PATH")]
    pub control_head: Option<PathBuf>,
    /// The ledger's socket; every document then states the ledger, and its proofs are served
    #[arg(long, value_name = "PATH")]
    pub ledger: Option<PathBuf>,
    /// Name in the certificate: DNS name or IP address; localhost if not given; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub server_name: Vec<String>,
    /// Threads that serve; one for each processor, and four at most, if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: Option<u16>,
    #[command(flatten)]
    /// A certificate for browsers.
    pub acme: AcmeArgs,
}

/// A certificate that browsers accept. The authority looks at the challenge on port 443 of each name (tls-alpn-01), which
/// has to lead here, and its terms of service count as agreed to.
#[derive(Debug, Clone, clap::Args)]
pub struct AcmeArgs {
    /// Name to order a certificate for; may be given more than once
    #[arg(long, value_name = "NAME", conflicts_with = "client_ca")]
    pub acme_domain: Vec<String>,
    /// The authority's directory
    #[arg(long, value_name = "URL", default_value = "https://acme-v02.api.letsencrypt.org/directory")]
    pub acme_directory: String,
    /// Whom the authority writes to, as mailto:ADDRESS; may be given more than once
    #[arg(long, value_name = "URL")]
    pub acme_contact: Vec<String>,
    /// Certificate (PEM) that the authority's server is trusted under, beside Mozilla's roots
    #[arg(long, value_name = "FILE")]
    pub acme_root: Option<PathBuf>,
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitCode {
    /// Told to stop, and stopped.
    Done = 0,
    /// A bad argument or server name, or a manifest or certificates that cannot be used.
    Usage = 2,
    /// The NSM cannot be opened.
    Nsm = 3,
    /// An address cannot be listened on.
    Listen = 4,
    /// Another failure at start.
    Start = 5,
    /// A listener broke while serving.
    Broken = 6,
}

impl From<ExitCode> for process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("cannot read the manifest {}", path.display())]
    Manifest { path: PathBuf, source: io::Error },
    #[error("cannot read the certificates in {}", path.display())]
    ClientRoots { path: PathBuf, source: io::Error },
    #[error("the manifest {} is larger than {MAX_MANIFEST_BYTES} bytes", path.display())]
    ManifestTooLarge { path: PathBuf },
    #[error("the manifest is no JSON")]
    ManifestJson(#[source] serde_json::Error),
    #[error("the manifest has no attestation.client_ca")]
    NoClientRoots,
    #[error("cannot read the certificate {}", path.display())]
    Root { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("cannot open the NSM at {}", path.display())]
    Nsm { path: PathBuf, source: nsm::Error },
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot start the server")]
    Start(#[from] StartError),
    #[error("cannot tell the supervisor that the server is ready")]
    Notify(#[source] io::Error),
    #[error("the server broke")]
    Broken(#[from] ListenerBroken),
}

/// Runs the server until SIGTERM or SIGINT. What goes wrong is logged, and told by the exit code.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    match serve(args) {
        Ok(()) => ExitCode::Done,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "stopped");
            error.exit_code()
        }
    }
}

impl RunError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Manifest { .. }
            | Self::ManifestTooLarge { .. }
            | Self::ManifestJson(_)
            | Self::NoClientRoots
            | Self::ClientRoots { .. }
            | Self::Root { .. } => ExitCode::Usage,
            Self::Nsm { .. } => ExitCode::Nsm,
            Self::Start(StartError::Bind(_) | StartError::Permissions { .. }) => ExitCode::Listen,
            Self::Start(StartError::Identity(
                IdentityError::ServerName { .. }
                | IdentityError::ClientRoots(_)
                | IdentityError::ClientVerifier(_),
            )) => ExitCode::Usage,
            Self::Start(_) | Self::Runtime(_) | Self::Notify(_) => ExitCode::Start,
            Self::Broken(_) => ExitCode::Broken,
        }
    }
}

fn acme(args: AcmeArgs) -> Result<Option<AcmeConfig>, RunError> {
    if args.acme_domain.is_empty() {
        return Ok(None);
    }
    let root = args
        .acme_root
        .map(|path| CertificateDer::from_pem_file(&path).map_err(|source| RunError::Root { path, source }));
    Ok(Some(AcmeConfig {
        directory: args.acme_directory,
        domains: args.acme_domain,
        contacts: args.acme_contact,
        roots: root.transpose()?.into_iter().collect(),
    }))
}

fn serve(args: Args) -> Result<(), RunError> {
    raise_descriptor_limit();
    let runtime = runtime(args.threads).map_err(RunError::Runtime)?;
    let manifest = args.manifest.as_deref().map(read_manifest).transpose()?;
    let client_roots = match (&args.client_ca, &manifest) {
        (Some(path), _) => Some(read_client_roots(path)?),
        (None, Some(manifest)) if args.measured_clients => Some(measured_clients(manifest)?),
        (None, _) => None,
    };
    let provider: Arc<dyn Provider> =
        nsm::open(&args.nsm).map_err(|source| RunError::Nsm { path: args.nsm, source })?.into();
    let config = Config {
        listen: args.listen,
        plain: args.plain,
        client_roots,
        attested_certificate: true,
        api: args.api,
        server_names: args.server_name,
        manifest,
        control_head: args.control_head,
        ledger: args.ledger,
        acme: acme(args.acme)?,
        limits: Limits::default(),
    };
    runtime.block_on(async {
        let stop = stop_signal().map_err(RunError::Runtime)?;
        let server = Server::bind(config, provider).await?;
        for addr in server.addrs() {
            tracing::info!(server.addr = %addr, "listening");
        }
        transport::notify::ready().map_err(RunError::Notify)?;
        server.run(stop).await?;
        tracing::info!("stopped");
        Ok(())
    })
}

/// Of so many threads; without a number, of one for each processor up to [`MOST_THREADS`].
fn runtime(threads: Option<u16>) -> io::Result<Runtime> {
    let processors = || std::thread::available_parallelism().map_or(1, |processors| processors.get());
    let threads = threads.map_or_else(|| processors().min(MOST_THREADS), usize::from);
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(threads).enable_all().build()
}

/// As many descriptors as the system lets the process have: each connection takes one. If it lets it have no more, connections
/// wait to be accepted.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Completes at the first SIGTERM or SIGINT.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn read_manifest(path: &Path) -> Result<Vec<u8>, RunError> {
    let unreadable = |source| RunError::Manifest { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_MANIFEST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(RunError::ManifestTooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

/// The authorities in the manifest's `attestation.client_ca`. A manifest without them is not what init was started with.
fn measured_clients(manifest: &[u8]) -> Result<Vec<u8>, RunError> {
    let manifest: Value = serde_json::from_slice(manifest).map_err(RunError::ManifestJson)?;
    let authorities = manifest.pointer("/attestation/client_ca").and_then(Value::as_str);
    Ok(authorities.ok_or(RunError::NoClientRoots)?.as_bytes().to_vec())
}

fn read_client_roots(path: &Path) -> Result<Vec<u8>, RunError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_CLIENT_ROOTS_BYTES).read_to_end(&mut bytes))
        .map_err(|source| RunError::ClientRoots { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// The application API makes documents for whoever reaches it, so it is not offered on anything the host can reach.
fn unix_path(text: &str) -> Result<PathBuf, String> {
    match text.parse::<Addr>() {
        Ok(Addr::Unix(path)) => Ok(path),
        Ok(_) => Err("the application API is served on a Unix socket only: unix:/PATH".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once(&"ra-web-srv").chain(args))
    }

    #[test]
    fn command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn takes_several_listeners_and_defaults_to_the_device() {
        let args = parse(&["--listen", "vsock://any:8443", "--listen", "tcp://127.0.0.1:8443"]).unwrap();
        assert_eq!(args.listen.len(), 2);
        assert_eq!(args.nsm, Path::new("/dev/nsm"));
        assert_eq!(args.api, None);
    }

    #[test]
    fn refuses_to_start_without_a_listener() {
        assert_eq!(parse(&[]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn refuses_an_application_api_that_the_host_could_reach() {
        let refused = parse(&["--listen", "tcp://127.0.0.1:0", "--api", "vsock://any:9"]).unwrap_err();
        assert!(refused.to_string().contains("on a Unix socket only"), "{refused}");
    }

    #[test]
    fn a_manifest_that_is_missing_or_too_large_is_a_usage_error() {
        let dir = tempfile::tempdir().unwrap();
        let large = dir.path().join("large.json");
        File::create(&large).unwrap().set_len(MAX_MANIFEST_BYTES + 1).unwrap();
        for path in [large, dir.path().join("missing.json")] {
            assert_eq!(read_manifest(&path).unwrap_err().exit_code(), ExitCode::Usage, "{}", path.display());
        }
    }

    #[test]
    fn the_manifests_authorities_are_those_of_clients() {
        let manifest = br#"{"attestation":{"client_ca":"-----BEGIN CERTIFICATE-----\n","port":8443}}"#;
        assert_eq!(measured_clients(manifest).unwrap(), b"-----BEGIN CERTIFICATE-----\n");
        for manifest in [&b"{}"[..], b"", br#"{"attestation":{"client_ca":1}}"#] {
            assert_eq!(measured_clients(manifest).unwrap_err().exit_code(), ExitCode::Usage);
        }
        let without = parse(&["--listen", "tcp://127.0.0.1:0", "--measured-clients"]).unwrap_err();
        assert_eq!(without.exit_code(), 2);
    }

    #[test]
    fn a_missing_nsm_has_its_own_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let nsm = dir.path().join("nsm");
        let args = parse(&["--listen", "tcp://127.0.0.1:0", "--nsm", nsm.to_str().unwrap()]).unwrap();
        assert_eq!(run(args), ExitCode::Nsm);
    }
}
