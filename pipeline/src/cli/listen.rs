//! `pipeline listen`: the server as a program.

use std::{path::Path, sync::Arc};

use manifest::{Measured, Operator};
use tokio::signal::unix::{SignalKind, signal};

use super::args::ListenArgs;
use crate::{
    application::Application,
    limits::Limits,
    server::{self, ServerConfig, ServerError},
};

/// Threads that carry bytes. What blocks has threads of its own.
const WORKERS: usize = 2;

#[derive(Debug, thiserror::Error)]
enum ListenError {
    #[error("cannot read the manifest {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Manifest(#[from] manifest::MeasuredError),
    #[error("the manifest names no operators: this image has no control channel")]
    NoOperators,
    #[error(transparent)]
    Module(#[from] nsm::Error),
    #[error("cannot start")]
    System(#[source] std::io::Error),
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// Serves until SIGTERM or SIGINT. Logs to standard error; tells the supervisor when it listens. Returns the exit status.
pub fn listen(args: ListenArgs) -> u8 {
    // Somebody else's subscriber, as the applet has one, is as good.
    let _ = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).without_time().try_init();
    match serve(args) {
        Ok(()) => 0,
        Err(error) => {
            let reason: &(dyn std::error::Error + 'static) = &error;
            tracing::error!(reason, "pipeline listen ends");
            match error {
                ListenError::Read { .. } | ListenError::Manifest(_) | ListenError::NoOperators => 2,
                _ => 3,
            }
        }
    }
}

fn serve(args: ListenArgs) -> Result<(), ListenError> {
    let measured = read_manifest(&args.manifest)?;
    let module = nsm::open(&args.nsm)?;
    let application = application(&args, &measured);
    let operators =
        measured.control.map(|control| control.operators).filter(|list: &Vec<Operator>| !list.is_empty());
    let config = ServerConfig {
        listen: args.listen,
        module: Arc::from(module),
        operators: operators.ok_or(ListenError::NoOperators)?,
        state: args.state,
        application,
        init: Some(args.init).filter(|path| path.exists()),
        ledger: args.ledger,
        limits: Limits { sessions: args.max_sessions as usize, ..Limits::default() },
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(WORKERS).enable_all().build().map_err(ListenError::System)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(ListenError::System)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ListenError::System)?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let ready = || {
            if let Err(error) = transport::notify::ready() {
                tracing::warn!(%error, "cannot report readiness");
            }
        };
        Ok(server::run(config, ready, stop).await?)
    })
}

fn read_manifest(path: &Path) -> Result<Measured, ListenError> {
    let read = |source| ListenError::Read { path: path.display().to_string(), source };
    Ok(Measured::from_canonical_json(&std::fs::read(path).map_err(read)?)?)
}

/// Programs run as the main service does, unless the request says otherwise.
fn application(args: &ListenArgs, measured: &Measured) -> Application {
    let main = measured.main_service();
    Application {
        root: args.rootfs.clone(),
        confined: !args.unconfined,
        env: main.env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        workdir: main.workdir.clone().into(),
        user: main.user.clone(),
    }
}
