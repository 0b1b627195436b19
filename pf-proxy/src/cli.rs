//! The command line: of the `pf-proxy` program, and of the applet with the same name.

use std::future::Future;
use std::io;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::check::{self, CheckArgs};
use crate::forward_host::{self, ForwardHostArgs};
use crate::host::Host;
use crate::transparent::Transparent;
use crate::transparent::cli::{ConfigError, TransparentArgs};
use crate::{Error, Options, Reverse, Route, descriptors, transparent};

/// TCP proxies between an enclave and the world.
#[derive(Debug, Parser)]
#[command(name = "pf-proxy", version, after_help = EXIT_CODES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Addresses: vsock://CID:PORT (CID may be `any` to listen), unix:/path, hybrid:/path:PORT, tcp://host:port

Exit codes:
  0  ended by SIGTERM or SIGINT; check: allowed
  1  check: denied
  2  bad arguments
  3  cannot listen at an address
  4  cannot go on";

#[derive(Debug, Subcommand)]
enum Command {
    /// Publish ports: carry each connection to a listening address on to a target address
    Reverse(ReverseArgs),
    /// The enclave's way out: take what its programs send, and have the host make the connections that the rules allow
    Transparent(TransparentArgs),
    /// The host's end of an enclave's way out: make the connections that it asks for, if the rules allow them
    ForwardHost(ForwardHostArgs),
    /// Say whether a connection would be allowed, and by which rule
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
struct ReverseArgs {
    /// Where to listen and where to connect to; may be given more than once
    #[arg(long = "route", value_name = "LISTEN=TARGET", required = true)]
    routes: Vec<Route>,

    /// How many connections to carry at once, over all routes; further ones wait
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,

    /// How many seconds a target may take to accept a connection
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    connect_timeout: u32,
}

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// Ended by a signal, as it should. Usage errors (2) are clap's and never come from here.
    Done = 0,
    /// What was checked is not allowed.
    Denied = 1,
    /// An address cannot be listened on.
    CannotListen = 3,
    /// The system refuses something that is needed.
    CannotGoOn = 4,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        (code as u8).into()
    }
}

/// Runs until SIGTERM or SIGINT. Reports readiness to the supervisor when everything is bound.
///
/// Has its own single-threaded runtime; call it outside of any. Logs to whichever subscriber is installed.
pub fn run(args: Args) -> ExitCode {
    let outcome = match args.command {
        Command::Reverse(args) => {
            descriptors::make_room(args.max_connections as usize);
            on_a_runtime(reverse(args))
        }
        Command::Transparent(args) => {
            descriptors::make_room(args.max_connections());
            on_a_runtime(transparent(args))
        }
        Command::ForwardHost(args) => on_a_runtime(forward_host(args)),
        Command::Check(args) => return check::run(&args),
    };
    let Err(failure) = outcome else {
        return ExitCode::Done;
    };
    let reason: &(dyn std::error::Error + 'static) = &failure;
    tracing::error!(reason, "pf-proxy ends");
    match failure {
        Failure::Proxy(Error::Bind(_)) => ExitCode::CannotListen,
        _ => ExitCode::CannotGoOn,
    }
}

fn on_a_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Failure::System)?.block_on(work)
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Proxy(#[from] Error),
    #[error(transparent)]
    Rules(#[from] forward_host::RulesError),
    #[error("cannot make the way out")]
    Transparent(#[from] transparent::Error),
    #[error("cannot tell what may be reached")]
    Policy(#[from] ConfigError),
    #[error("cannot start")]
    System(#[source] io::Error),
    #[error("cannot report readiness")]
    Notify(#[source] io::Error),
}

async fn transparent(args: TransparentArgs) -> Result<(), Failure> {
    let config = args.config()?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::System)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::System)?;
    let way_out = Transparent::set_up(config)?;
    transport::notify::ready().map_err(Failure::Notify)?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
    };
    Ok(way_out.run(stop).await?)
}

async fn forward_host(args: ForwardHostArgs) -> Result<(), Failure> {
    let guard = args.guard()?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::System)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::System)?;
    let host = Host::bind(args.listen(), guard, args.options()).await?;
    tracing::info!(listen = %host.local_addr(), "making connections for an enclave");
    transport::notify::ready().map_err(Failure::Notify)?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
    };
    let summary = host.run(stop).await?;
    tracing::info!(?summary, "stopped");
    Ok(())
}

async fn reverse(args: ReverseArgs) -> Result<(), Failure> {
    let options = Options {
        max_connections: args.max_connections as usize,
        connect_timeout: Duration::from_secs(args.connect_timeout.into()),
        ..Options::default()
    };
    // Before readiness, so that a supervisor who stops us at once finds us listening.
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::System)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::System)?;
    let proxy = Reverse::bind(&args.routes).await?.with_options(options);
    for (addr, route) in proxy.local_addrs().iter().zip(&args.routes) {
        tracing::info!(listen = %addr, target.addr = %route.target, "carrying connections");
    }
    transport::notify::ready().map_err(Failure::Notify)?;
    let summary = proxy
        .run(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
        })
        .await?;
    tracing::info!(?summary, "stopped");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn limits_have_bounds() {
        let parse = |extra: &[&str]| {
            let fixed = ["pf-proxy", "reverse", "--route", "tcp://127.0.0.1:0=unix:/x"];
            Args::try_parse_from(fixed.iter().chain(extra))
        };
        assert!(parse(&[]).is_ok());
        assert!(parse(&["--max-connections", "0"]).is_err());
        assert!(parse(&["--connect-timeout", "0"]).is_err());
        assert!(parse(&["--route", "80=81"]).is_err());
        assert!(Args::try_parse_from(["pf-proxy", "reverse"]).is_err());
    }
}
