//! The command line: of the `pf-proxy` program, and of the applet with the same name.

use std::future::Future;
use std::io;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use transport::{Addr, Listener};

use crate::check::{self, CheckArgs};
use crate::forward_host::{self, ForwardHostArgs};
use crate::host::{GuardSlot, Host};
use crate::metrics::{self, Registry};
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
    #[command(visible_aliases = ["ip-to-vsock-transparent", "ip2vs-tp"])]
    Transparent(TransparentArgs),
    /// The host's end of an enclave's way out: make the connections that it asks for, if the rules allow them
    #[command(visible_aliases = ["forward", "vsock-to-ip-transparent", "vs2ip-tp"])]
    ForwardHost(ForwardHostArgs),
    /// Say whether a connection would be allowed, and by which rule
    Check(CheckArgs),
    /// A name from elsewhere: the resolver is part of `transparent`
    #[command(hide = true)]
    Dns(ElsewhereArgs),
    /// A name from elsewhere: `transparent` asks for any port
    #[command(hide = true, aliases = ["tpp2vs"])]
    TransparentPortToVsock(ElsewhereArgs),
}

/// Whatever a mode takes that is not here.
#[derive(Debug, clap::Args)]
struct ElsewhereArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _words: Vec<std::ffi::OsString>,
}

const NO_DNS: &str = "there is no mode of its own for DNS: `pf-proxy transparent` in the enclave has the resolver, at \
                      198.18.0.53, and what it does not answer itself goes through the same port of the host as connections do, \
                      or by DNS over TLS or HTTPS (`dns` under [egress] in glasshouse.toml)";
const NO_PORTS: &str = "there is no mode that makes a vsock port of every TCP port: `pf-proxy transparent` in the enclave asks \
                        `pf-proxy forward-host` for the name and port that a program wants";

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
        Command::Check(args) => return check::run(args),
        Command::Dns(_) => return elsewhere(NO_DNS),
        Command::TransparentPortToVsock(_) => return elsewhere(NO_PORTS),
    };
    let Err(failure) = outcome else {
        return ExitCode::Done;
    };
    let reason: &(dyn std::error::Error + 'static) = &failure;
    tracing::error!(reason, "pf-proxy ends");
    match failure {
        Failure::Proxy(Error::Bind(_) | Error::BindDatagrams { .. }) => ExitCode::CannotListen,
        Failure::Config(_)
        | Failure::NoListener { .. }
        | Failure::TwoHeaders { .. }
        | Failure::Proxy(
            Error::Loop { .. } | Error::Twice { .. } | Error::NoTarget { .. } | Error::NoSource { .. },
        ) => ExitCode::BadArguments,
        _ => ExitCode::CannotGoOn,
    }
}

/// What people look for under a name that they know, and find under ours.
fn elsewhere(what: &str) -> ExitCode {
    tracing::error!("{what}");
    ExitCode::BadArguments
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
    #[error(
        "--pass-proxy, --send-proxy, --accept-proxy, --client-source or --max-per-source names {listen}, where no route listens"
    )]
    NoListener { listen: Addr },
    #[error("what happens to PROXY headers at {listen} is said twice")]
    TwoHeaders { listen: Addr },
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
    let mut hangup = signal(SignalKind::hangup()).map_err(Failure::System)?;
    let registry = Registry::default();
    let host = Host::bind(args.listen(), guard, args.options()).await?.counted_by(&registry);
    if let Some(addr) = args.metrics() {
        let listener = Listener::bind(addr).await.map_err(Error::from)?;
        tracing::info!(listen = %listener.local_addr(), "serving metrics");
        tokio::spawn(metrics::serve(listener, registry));
    }
    tracing::info!(listen = %host.local_addr(), "making connections for an enclave");
    transport::notify::ready().map_err(Failure::Notify)?;
    let rules = host.guard();
    let stop = async {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => reload(&args, &rules),
            }
        }
        tracing::info!("stopping");
    };
    let summary = host.run(stop).await?;
    tracing::info!(?summary, "stopped");
    Ok(())
}

/// The rules of the files as they are now. A file with mistakes changes nothing.
fn reload(args: &ForwardHostArgs, rules: &GuardSlot) {
    match args.guard() {
        Ok(guard) => {
            rules.exchange(guard);
            tracing::info!("rules read again");
        }
        Err(error) => {
            let reason: &(dyn std::error::Error + 'static) = &error;
            tracing::error!(reason, "rules stay as they were");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::ProxyHeader;

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
        assert!(parse(&["vs2ip-tp", "-v", "any:9200", "--allow", "a.example:443"]).is_ok());
        assert!(parse(&["vsock-to-ip-transparent", "--vsock-addr", "unix:/x"]).is_ok());
        assert!(parse(&["forward", "--listen", "vsock://any:9200"]).is_ok());
        let inside = ["ip-to-vsock-transparent", "-i", "127.0.0.1:1200", "-v", "3:9200"];
        assert!(parse(&inside).is_err(), "without rules nothing goes out");
        assert!(parse(&[&inside[..], &["--allow", "a.example:443"]].concat()).is_ok());
    }

    #[test]
    fn modes_of_elsewhere_end_with_a_word_about_ours() {
        for words in [&["dns", "--listen", "x"][..], &["tpp2vs", "-i", "127.0.0.1:1", "-v", "3"]] {
            let args = Args::try_parse_from(["pf-proxy"].iter().chain(words)).unwrap();
            assert_eq!(run(args), ExitCode::BadArguments);
        }
    }

    #[test]
    fn published_ports_may_be_several_applications_and_tell_of_clients() {
        let parse = |extra: &[&str]| {
            let fixed =
                ["pf-proxy", "reverse", "--server-name", "*.a.example=vsock://any:443=tcp://127.0.0.1:1"];
            let args = Args::try_parse_from(fixed.iter().chain(extra)).unwrap();
            let Command::Reverse(args) = args.command else { panic!("{args:?}") };
            args.routes()
        };
        let routes = parse(&[
            "--server-name",
            "b.example=unix:/x=unix:/y",
            "--route",
            "vsock://any:443=tcp://127.0.0.1:2",
            "--pass-proxy",
            "vsock://any:443",
            "--max-per-source",
            "vsock://any:443=50",
        ])
        .unwrap();
        assert_eq!(routes.len(), 2);
        assert_eq!((routes[0].named.len(), routes[0].proxy_header), (1, ProxyHeader::Pass));
        assert_eq!(routes[0].target, Some("tcp://127.0.0.1:2".parse().unwrap()));
        assert_eq!((routes[0].max_per_source, routes[1].max_per_source), (Some(50), None));
        assert_eq!((routes[1].target.clone(), routes[1].proxy_header), (None, ProxyHeader::Off));
        assert!(matches!(parse(&["--send-proxy", "unix:/other"]), Err(Failure::NoListener { .. })));
        assert!(matches!(parse(&["--max-per-source", "unix:/other=1"]), Err(Failure::NoListener { .. })));
        let twice = ["--send-proxy", "vsock://any:443", "--pass-proxy", "vsock://any:443"];
        assert!(matches!(parse(&twice), Err(Failure::TwoHeaders { .. })));
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
