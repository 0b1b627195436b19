//! Starts the agent: its configuration, its key, a listener, and an end at SIGTERM. Logs to stdout, one line per event; the
//! enclave carries those lines to the host. Outside, the same program is its operator's tool.

#![forbid(unsafe_code)]

mod audit;
mod client;
mod keygen;

use std::{io::Write, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::{Parser, Subcommand};
use tee_agent::{
    anchoring::Anchoring,
    config::Config,
    eth::{AgentKey, OperatorKey},
    evidence::{DEFAULT_API, Enclave},
    log::Log,
    serve::serve,
    server::{Agent, router},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// The variable of the environment that holds the configuration itself.
const CONFIG_VARIABLE: &str = "TEE_AGENT_CONFIG";
/// The operator of the example, whose private key is in the repository (`testdata/everybodys-operator.key`).
const EVERYBODY: &str = "24653eac434488002cc06bbfb7f10fe18991e35f9fe4302dbea6d2353dc0ab1c119fc5009a032aa9fe47f5e149bb8442f71f884ccb516590686d8ff6ab91c613";

/// An agent with a key of its own
///
/// Its configuration is TOML, in the environment variable TEE_AGENT_CONFIG or in a file. In an enclave both are measured.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Verify a running agent, and show its key
    Verify(client::Verify),
    /// Set variables of a running agent, as its operator. It is verified first, and values are sealed to its key
    Set(client::Update),
    /// Make an operator's key, and print its public half as the configuration wants it
    Keygen(keygen::Keygen),
}

#[derive(clap::Args)]
struct Serve {
    /// Where to serve HTTP
    #[arg(long, default_value = "127.0.0.1:7047")]
    listen: SocketAddr,
    /// A file with the configuration, instead of TEE_AGENT_CONFIG
    #[arg(long)]
    config: Option<PathBuf>,
    /// Socket of the enclave's application API
    #[arg(long, env = "GLASSHOUSE_API", default_value = DEFAULT_API)]
    api: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match &args.command {
        None => run(args.serve).map(|()| None),
        Some(Command::Verify(what)) => client::show(what).map(Some),
        Some(Command::Set(update)) => client::set(update).map(Some),
        Some(Command::Keygen(keygen)) => keygen::make(keygen).map(Some),
    };
    match result {
        Ok(said) => {
            if let Some(said) = said {
                // A closed pipe is a normal end.
                let _ = writeln!(std::io::stdout(), "{said}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(args: Serve) -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_ansi(false).init();
    let text = match &args.config {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        None => std::env::var(CONFIG_VARIABLE)
            .with_context(|| format!("set {CONFIG_VARIABLE}, or give --config FILE"))?,
    };
    let config = Config::parse(&text).context("the configuration")?;
    if OperatorKey::parse(EVERYBODY).is_ok_and(|everybody| everybody.address() == config.operator.address()) {
        tracing::warn!(
            "the operator is the example's, whose key everybody has: `tee_agent keygen` makes another"
        );
    }
    let key = AgentKey::generate()?;
    tracing::info!(tee_name = config.tee_name, address = %key.address(), "made a key");
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    let enclave = Arc::new(Enclave::at(args.api));
    let log = Log::open(&config.tee_name, &config.log, &*enclave).await.context("the log")?;
    let (ending, end) = oneshot::channel();
    let anchoring = tokio::spawn(Anchoring::new(log.clone(), enclave.clone()).run(end));
    let agent = Agent::new(config, key, enclave, log.clone());
    serve(listener, router(agent), async move {
        terminate.recv().await;
    })
    .await;
    log.close().context("the log")?;
    drop(ending);
    anchoring.await.context("the log's anchoring")?;
    tracing::info!("stopped");
    Ok(())
}
