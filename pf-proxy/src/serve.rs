//! The modes of the program that listen and carry: `reverse`, the plain pairs, and `run`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use transport::{Addr, Listener};

use crate::cli::Failure;
use crate::config::Config;
use crate::datagrams::{DatagramRoute, Datagrams, MAX_FLOWS};
use crate::ingress::{Ingress, NamePattern, NamedTarget, Options, ProxyHeader, RouteConfig};
use crate::metrics::{self, Registry};
use crate::{Route, descriptors};

/// What all modes that carry have in common.
#[derive(Debug, clap::Args)]
struct CarryArgs {
    /// How many connections to carry at once, over all routes; further ones wait
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,

    /// How many seconds a target may take to accept a connection
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    connect_timeout: u32,

    /// After how many seconds without a byte to end a connection [default: never]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    idle_timeout: Option<u32>,

    /// Once one side has ended, after how many seconds without a byte to end the connection [default: never]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    half_open_timeout: Option<u32>,

    /// How many seconds open connections may go on after SIGTERM
    #[arg(long, value_name = "S", default_value_t = 10)]
    drain: u32,

    /// How many threads carry connections [default: as many as there are processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,

    /// Where to serve metrics for Prometheus, as GET /metrics
    #[arg(long, value_name = "ADDR")]
    metrics: Option<Addr>,
}

/// Arguments of `reverse`.
#[derive(Debug, clap::Args)]
pub(crate) struct ReverseArgs {
    /// Where to listen and where to connect to; may be given more than once
    #[arg(long = "route", value_name = "LISTEN=TARGET", required_unless_present_any = ["server_names", "datagrams"])]
    routes: Vec<Route>,

    /// Where TLS clients go that ask for this name, or for one below it as in `*.example.org`; may be given more than once,
    /// and the first that fits counts
    #[arg(long = "server-name", value_name = "NAME=LISTEN=TARGET")]
    server_names: Vec<NamedRoute>,

    /// Where datagrams come and go, each client's over a stream of its own: udp://ADDRESS:PORT=TARGET where clients are, and
    /// LISTEN=udp://ADDRESS:PORT where the program is; may be given more than once
    #[arg(long, value_name = "LISTEN=TARGET")]
    datagrams: Vec<DatagramRoute>,

    /// Where clients begin with a PROXY protocol header, which goes on to the target; who sends none is refused
    #[arg(long, value_name = "LISTEN")]
    pass_proxy: Vec<Addr>,

    /// Where each connection to the target begins with a PROXY protocol header, which names the client
    #[arg(long, value_name = "LISTEN")]
    send_proxy: Vec<Addr>,

    /// Where clients begin with a PROXY protocol header, which is taken off
    #[arg(long, value_name = "LISTEN")]
    accept_proxy: Vec<Addr>,

    /// Where clients begin with a PROXY protocol header, and the connection to the target, on 127.0.0.1, comes from the address
    /// that it names
    #[arg(long, value_name = "LISTEN")]
    client_source: Vec<Addr>,

    /// How many connections at once to this listener from one IPv4 address or IPv6 /64; further ones are closed. Where clients begin with
    /// a PROXY protocol header, it counts whom that names
    #[arg(long, value_name = "LISTEN=N")]
    max_per_source: Vec<SourceLimit>,

    #[command(flatten)]
    carry: CarryArgs,
}

/// Arguments of `ip-to-vsock` and `vsock-to-ip`.
#[derive(Debug, clap::Args)]
pub(crate) struct PairArgs {
    /// The TCP side, ADDRESS:PORT
    #[arg(short, long, value_name = "ADDRESS:PORT", value_parser = ip_side)]
    ip_addr: Addr,

    /// The vsock side, CID:PORT (CID may be `any` to listen), or any other address as in --help
    #[arg(short, long, value_name = "CID:PORT", value_parser = vsock_side)]
    vsock_addr: Addr,

    #[command(flatten)]
    carry: CarryArgs,
}

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The routes and limits; its routes are read again on SIGHUP
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,

    /// Where to serve metrics for Prometheus, instead of where the file says
    #[arg(long, value_name = "ADDR")]
    metrics: Option<Addr>,
}

fn ip_side(text: &str) -> Result<Addr, String> {
    format!("tcp://{text}").parse().map_err(|error| format!("{error}"))
}

/// A vsock address as `CID:PORT`, or any address.
pub(crate) fn vsock_side(text: &str) -> Result<Addr, String> {
    let is_pair = text.bytes().next().is_some_and(|byte| byte.is_ascii_digit()) || text.starts_with("any:");
    let text = if is_pair { format!("vsock://{text}") } else { text.to_owned() };
    text.parse().map_err(|error| format!("{error}"))
}

/// Everything that one process serves.
#[derive(Debug)]
struct Plan {
    routes: Vec<RouteConfig>,
    datagrams: Vec<DatagramRoute>,
    options: Options,
    metrics: Option<Addr>,
    /// Where the routes come from, if they can change.
    file: Option<PathBuf>,
}

impl CarryArgs {
    fn plan(self, routes: Vec<RouteConfig>) -> Plan {
        let seconds = |count: u32| Duration::from_secs(count.into());
        let with_times = |route: RouteConfig| RouteConfig {
            connect_timeout: seconds(self.connect_timeout),
            idle_timeout: self.idle_timeout.map(seconds),
            half_open_timeout: self.half_open_timeout.map(seconds),
            ..route
        };
        let defaults = Options::default();
        let options = Options {
            max_connections: self.max_connections as usize,
            grace: seconds(self.drain),
            threads: self.threads.map_or(defaults.threads, |threads| threads as usize),
            ..defaults
        };
        let routes = routes.into_iter().map(with_times).collect();
        Plan { routes, datagrams: Vec::new(), options, metrics: self.metrics, file: None }
    }
}

/// `pf-proxy reverse`.
pub(crate) async fn reverse(args: ReverseArgs) -> Result<(), Failure> {
    let routes = args.routes()?;
    serve(Plan { datagrams: args.datagrams, ..args.carry.plan(routes) }).await
}

impl ReverseArgs {
    /// One route for each address where something listens.
    pub(crate) fn routes(&self) -> Result<Vec<RouteConfig>, Failure> {
        let mut routes: Vec<RouteConfig> = self.routes.iter().cloned().map(RouteConfig::from).collect();
        for NamedRoute { pattern, route } in &self.server_names {
            let named = NamedTarget { pattern: pattern.clone(), target: route.target.clone() };
            match routes.iter_mut().find(|other| other.listen == route.listen) {
                Some(other) => other.named.push(named),
                None => {
                    let own = RouteConfig::from(route.clone());
                    routes.push(RouteConfig { target: None, named: vec![named], ..own });
                }
            }
        }
        for (listens, header) in [
            (&self.pass_proxy, ProxyHeader::Pass),
            (&self.send_proxy, ProxyHeader::Send),
            (&self.accept_proxy, ProxyHeader::Accept),
            (&self.client_source, ProxyHeader::Source),
        ] {
            for listen in listens {
                let route = find(&mut routes, listen)?;
                if route.proxy_header != ProxyHeader::Off {
                    return Err(Failure::TwoHeaders { listen: listen.clone() });
                }
                route.proxy_header = header;
            }
        }
        for SourceLimit { listen, limit } in &self.max_per_source {
            find(&mut routes, listen)?.max_per_source = Some(*limit);
        }
        Ok(routes)
    }
}

fn find<'a>(routes: &'a mut [RouteConfig], listen: &Addr) -> Result<&'a mut RouteConfig, Failure> {
    let route = routes.iter_mut().find(|route| route.listen == *listen);
    route.ok_or_else(|| Failure::NoListener { listen: listen.clone() })
}

/// How many connections one client may have. As text `LISTEN=N`.
#[derive(Clone, Debug)]
struct SourceLimit {
    listen: Addr,
    limit: u32,
}

impl FromStr for SourceLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (listen, limit) = text.rsplit_once('=').ok_or("expected LISTEN=N")?;
        let listen = listen.parse().map_err(|error| format!("{error}"))?;
        let limit = limit.parse().ok().filter(|limit| *limit > 0);
        Ok(Self { listen, limit: limit.ok_or("expected a number of at least 1 behind the `=`")? })
    }
}

/// A route for clients who ask for a name. As text `NAME=LISTEN=TARGET`.
#[derive(Clone, Debug)]
struct NamedRoute {
    pattern: NamePattern,
    route: Route,
}

impl FromStr for NamedRoute {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, route) = text.split_once('=').ok_or("expected NAME=LISTEN=TARGET")?;
        let pattern = name.parse().map_err(|error| format!("{error}"))?;
        Ok(Self { pattern, route: route.parse().map_err(|error| format!("{error}"))? })
    }
}

/// `pf-proxy ip-to-vsock`.
pub(crate) async fn ip_to_vsock(args: PairArgs) -> Result<(), Failure> {
    serve(args.carry.plan(vec![RouteConfig::plain(args.ip_addr, args.vsock_addr)])).await
}

/// `pf-proxy vsock-to-ip`.
pub(crate) async fn vsock_to_ip(args: PairArgs) -> Result<(), Failure> {
    serve(args.carry.plan(vec![RouteConfig::plain(args.vsock_addr, args.ip_addr)])).await
}

/// `pf-proxy run`.
pub(crate) async fn run(args: RunArgs) -> Result<(), Failure> {
    let config = Config::read(&args.config)?;
    serve(Plan {
        routes: config.routes,
        datagrams: Vec::new(),
        options: config.options,
        metrics: args.metrics.or(config.metrics),
        file: Some(args.config),
    })
    .await
}

async fn serve(plan: Plan) -> Result<(), Failure> {
    descriptors::make_room(plan.options.max_connections + plan.datagrams.len() * MAX_FLOWS);
    // Before readiness, so that a supervisor who stops us at once finds us listening.
    let listen = |kind| signal(kind).map_err(Failure::System);
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut hangup = listen(SignalKind::hangup())?;
    let registry = Registry::default();
    let metrics = match &plan.metrics {
        Some(addr) => Some(Listener::bind(addr).await.map_err(crate::Error::from)?),
        None => None,
    };
    let mut ingress = Ingress::start(plan.routes, &plan.options, registry.clone())?;
    let mut datagrams = Datagrams::serve(&plan.datagrams, &registry).await?;
    tell(&ingress);
    if let Some(listener) = metrics {
        tracing::info!(listen = %listener.local_addr(), "serving metrics");
        tokio::spawn(metrics::serve(listener, registry));
    }
    transport::notify::ready().map_err(Failure::Notify)?;
    loop {
        tokio::select! {
            () = either(&mut terminate, &mut interrupt) => break,
            error = ingress.broken() => return Err(error.into()),
            error = datagrams.broken() => return Err(error.into()),
            _ = hangup.recv() => reload(&mut ingress, plan.file.as_ref()),
        }
    }
    tracing::info!("stopping");
    let summary = ingress.drain().await;
    tracing::info!(?summary, "stopped");
    Ok(())
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// A file with mistakes changes nothing.
fn reload(ingress: &mut Ingress, file: Option<&PathBuf>) {
    let Some(file) = file else {
        tracing::info!("nothing to read again: the routes are from the command line");
        return;
    };
    let outcome = Config::read(file).map_err(Failure::from);
    match outcome.and_then(|config| Ok(ingress.reload(config.routes)?)) {
        Ok(()) => {
            tracing::info!(file = %file.display(), "routes read again");
            tell(ingress);
        }
        Err(error) => {
            let reason: &(dyn std::error::Error + 'static) = &error;
            tracing::error!(reason, file = %file.display(), "routes stay as they were");
        }
    }
}

fn tell(ingress: &Ingress) {
    for addr in ingress.local_addrs() {
        tracing::info!(listen = %addr, "carrying connections");
    }
}
