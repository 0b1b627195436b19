//! The one static program of an enclave image: its init, and every daemon that init starts.
//!
//! As `/init`, or without a daemon's name as first argument, it is `enclave-init`; `/init pf-proxy ...`,
//! `/init ra-web-srv ...`, `/init fs-monitor ...` and `/init pipeline listen ...` are those daemons.

#![forbid(unsafe_code)]

use std::{env, process::ExitCode};

use clap::Parser;

fn main() -> ExitCode {
    let mut args = env::args_os();
    // The first argument that stays is the name a daemon's own help shows.
    let program = args.next();
    match env::args_os().nth(1).as_deref().and_then(|word| word.to_str()) {
        Some("pf-proxy") => {
            log_to_stderr();
            pf_proxy::cli::run(pf_proxy::cli::Args::parse_from(args)).into()
        }
        Some("ra-web-srv") => {
            log_to_stderr();
            ra_web_srv::cli::run(ra_web_srv::cli::Args::parse_from(args)).into()
        }
        Some("fs-monitor") => {
            log_to_stderr();
            fs_monitor::cli::run(fs_monitor::cli::Args::parse_from(args)).into()
        }
        Some("pipeline") => {
            log_to_stderr();
            let ControlChannel::Listen(listening) = ControlChannel::parse_from(args);
            pipeline::cli::listen(listening).into()
        }
        _ => {
            drop(program);
            enclave_init::main_entry(args)
        }
    }
}

/// The one half of `pipeline` that an enclave has: operators bring the other.
#[derive(Parser)]
#[command(name = "pipeline")]
enum ControlChannel {
    /// Be the control channel's server
    Listen(pipeline::cli::ListenArgs),
}

fn log_to_stderr() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).without_time().init();
}
