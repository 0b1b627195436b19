//! The command line: of the `pf-proxy` program, and of the applet with the same name.

use std::future::Future;
use std::io;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::check::{self, CheckArgs};
use crate::forward_host::{self, ForwardHostArgs};
use crate::host::Host;
use crate::serve::{self, PairArgs, ReverseArgs, RunArgs};
use crate::transparent::Transparent;
use crate::transparent::cli::{ConfigError, TransparentArgs};
use crate::{Error, config, descriptors, transparent};

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
  2  bad arguments or configuration
  3  cannot listen at an address
  4  cannot go on";

#[derive(Debug, Subcommand)]
enum Command {
    /// Publish ports: carry each connection to a listening address on to a target address
    Reverse(ReverseArgs),
    /// Carry TCP connections to one vsock address
    #[command(visible_alias = "ip2vs")]
    IpToVsock(PairArgs),
    /// Carry vsock connections to one TCP address
    #[command(visible_alias = "vs2ip")]
    VsockToIp(PairArgs),
    /// Serve the routes of a file, which is read again on SIGHUP
    Run(RunArgs),
    /// The enclave's way out: take what its programs send, and have the host make the connections that the rules allow
    Transparent(TransparentArgs),
    /// The host's end of an enclave's way out: make the connections that it asks for, if the rules allow them
    ForwardHost(ForwardHostArgs),
    /// Say whether a connection would be allowed, and by which rule
    Check(CheckArgs),
}

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// Ended by a signal, as it should.
    Done = 0,
    /// What was checked is not allowed.
    Denied = 1,
    /// Arguments or a file that make no sense. What is wrong with arguments alone is told by clap, with the same code.
    BadArguments = 2,
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
        Command::Reverse(args) => on_a_runtime(serve::reverse(args)),
        Command::IpToVsock(args) => on_a_runtime(serve::ip_to_vsock(args)),
        Command::VsockToIp(args) => on_a_runtime(serve::vsock_to_ip(args)),
        Command::Run(args) => on_a_runtime(serve::run(args)),
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
        Failure::Config(_)
        | Failure::Proxy(Error::Loop { .. } | Error::Twice { .. } | Error::NoTarget { .. }) => {
            ExitCode::BadArguments
        }
        _ => ExitCode::CannotGoOn,
    }
}

fn on_a_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Failure::System)?.block_on(work)
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Proxy(#[from] Error),
    #[error(transparent)]
    Rules(#[from] forward_host::RulesError),
    #[error("cannot make the way out")]
    Transparent(#[from] transparent::Error),
    #[error("cannot tell what may be reached")]
    Policy(#[from] ConfigError),
    #[error(transparent)]
    Config(#[from] config::ConfigError),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn plain_pairs_take_the_forms_and_names_people_know() {
        let parse = |words: &[&str]| Args::try_parse_from(["pf-proxy"].iter().chain(words));
        assert!(parse(&["ip-to-vsock", "-i", "127.0.0.1:80", "-v", "16:80"]).is_ok());
        assert!(parse(&["ip2vs", "--ip-addr", "[::1]:80", "--vsock-addr", "hybrid:/run/v:80"]).is_ok());
        assert!(parse(&["vs2ip", "-v", "any:80", "-i", "127.0.0.1:80"]).is_ok());
        assert!(parse(&["vsock-to-ip", "-v", "16", "-i", "127.0.0.1:80"]).is_err());
        assert!(parse(&["vsock-to-ip", "-v", "16:80", "-i", "nonsense"]).is_err());
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
        assert!(parse(&["--idle-timeout", "0"]).is_err());
        assert!(Args::try_parse_from(["pf-proxy", "reverse"]).is_err());
    }
}
