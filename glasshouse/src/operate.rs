//! `glasshouse exec`, `shell`, `cp` and `secrets`: the control channel of an enclave that runs here, by its name.
//!
//! What `pipeline` does with an address and reference values, with both taken from what `run` has written down. The
//! image's file is measured again: an enclave that runs another one is refused.

use anyhow::{Context, Result};
use pipeline::{
    cli::{Client, Command, Failure, Secrets, operate},
    expected::ExpectedArgs,
};

use crate::{
    Refusal,
    cli::{BackendKind, CpArgs, ExecArgs, OperatorArgs, SecretsArgs, SecretsCommand, ShellArgs},
    copy::Copies,
    exit::{Exit, Usage},
    instances, output, paths,
};

/// Seconds that the enclave has to answer.
const CONNECT_TIMEOUT_S: u64 = 20;

/// Runs `glasshouse exec`.
pub(crate) fn exec(args: ExecArgs) -> Result<Exit> {
    let client = client(&args.name, args.operator)?;
    Ok(attached(operate(&client, Command::Run(args.run))))
}

/// Runs `glasshouse shell`.
pub(crate) fn shell(args: ShellArgs) -> Result<Exit> {
    let client = client(&args.name, args.operator)?;
    Ok(attached(operate(&client, Command::Shell(args.shell))))
}

/// The status is the program's own, so that a failure of the channel has one that cannot be taken for it.
fn attached(outcome: Result<u8, Failure>) -> Exit {
    Exit::Application(outcome.unwrap_or_else(|failure| {
        output::say(&format!("glasshouse: {}", failure.line()));
        failure.code_of_run()
    }))
}

/// Runs `glasshouse cp`.
pub(crate) fn cp(args: CpArgs) -> Result<Exit> {
    let Copies { name, transfers } = Copies::of(&args)?;
    let client = client(&name, args.operator)?;
    for transfer in transfers {
        match answered(operate(&client, Command::Transfer(transfer)))? {
            Exit::Application(0) => {}
            // Interrupted, and so is what would have come after it.
            other => return Ok(other),
        }
    }
    Ok(Exit::Done)
}

/// Runs `glasshouse secrets`.
pub(crate) fn secrets(args: SecretsArgs) -> Result<Exit> {
    let (name, operator, what, json) = match args.what {
        SecretsCommand::List { name, json, operator } => (name, operator, Secrets::List, json),
        SecretsCommand::Set { name, secret, operator } => (name, operator, Secrets::Set(secret), false),
    };
    let client = client(&name, operator)?;
    answered(operate(&client, Command::Secrets { what: Some(what), json }))
}

fn answered(outcome: Result<u8, Failure>) -> Result<Exit> {
    match outcome {
        Ok(status) => Ok(Exit::Application(status)),
        Err(failure @ Failure::Refused(_)) => Err(Refusal(failure.line()).into()),
        Err(failure @ Failure::Usage(_)) => Err(Usage(failure.line()).into()),
        Err(failure) => Err(anyhow::Error::msg(failure.line())),
    }
}

/// How to reach the control channel of the enclave called `name`, and which enclave it has to be.
fn client(name: &str, operator: OperatorArgs) -> Result<Client> {
    let instance = instances::running(name)?;
    let Some(control) = &instance.control else {
        let text =
            format!("{name} has no control channel: its glasshouse.toml names no [[control.operator]]");
        return Err(Refusal(text).into());
    };
    let root = match instance.backend {
        BackendKind::Nitro => None,
        BackendKind::Qemu | BackendKind::Local => Some(paths::data()?.join("root.pem")),
    };
    Ok(Client {
        addr: Some(control.parse().context("instance.json is damaged")?),
        identity: operator.identity,
        expected: ExpectedArgs { image: Some(instance.image), root, ..ExpectedArgs::default() },
        connect_timeout: CONNECT_TIMEOUT_S,
        ..Client::default()
    })
}
