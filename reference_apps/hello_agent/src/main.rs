//! Starts the agent: arguments, a listener, and an end at SIGTERM. Logs to stdout, one line per event; the enclave
//! carries those lines to the host.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Parser;
use enclave_api::{DEFAULT_API, Enclave};
use hello_agent::Agent;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Says hello, and asks its enclave for an attestation of it.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where to serve HTTP
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// How to introduce itself
    #[arg(long, env = "HELLO_NAME", default_value = "hello-agent")]
    name: String,
    /// Socket of the enclave's application API
    #[arg(long, env = "GLASSHOUSE_API", default_value = DEFAULT_API)]
    api: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_ansi(false).init();
    let args = Args::parse();
    let agent = Agent { name: args.name, started: Instant::now(), enclave: Enclave::at(args.api) };
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let listener =
        TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, hello_agent::router(agent))
        .with_graceful_shutdown(async move {
            terminate.recv().await;
        })
        .await
        .context("cannot serve")?;
    tracing::info!("stopped");
    Ok(())
}
