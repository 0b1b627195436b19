//! `glasshouse exec`, `shell`, `cp` and `secrets`: the control channel of an enclave that runs here, by its name.
//!
//! What `pipeline` does with an address and reference values, with both taken from what `run` has written down. The
//! image's file is measured again: an enclave that runs another one is refused.

use std::ffi::OsString;

use anyhow::{Context, Result};
use clap::Parser;
use pipeline::{
    cli::{Client, Command, Failure, Secrets, operate},
    expected::ExpectedArgs,
    transfer::cli::TransferCommand,
};

use crate::{
    Refusal,
    cli::{BackendKind, CpArgs, ExecArgs, OperatorArgs, SecretsArgs, SecretsCommand, ShellArgs},
    exit::{Exit, RUN_FAILED, Usage},
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
        output::say(&format!("glasshouse: {:#}", anyhow::Error::new(failure)));
        RUN_FAILED
    }))
}

/// Runs `glasshouse cp`.
pub(crate) fn cp(args: CpArgs) -> Result<Exit> {
    let copy = Copy::of(&args)?;
    let client = client(&copy.name, args.operator)?;
    answered(operate(&client, Command::Transfer(copy.transfer)))
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
        Err(Failure::Refused(refusal)) => Err(Refusal(refusal.to_string()).into()),
        Err(Failure::Usage(text)) => Err(Usage(text).into()),
        Err(failure) => Err(failure.into()),
    }
}

/// A transfer from or to the enclave called `name`.
struct Copy {
    name: String,
    transfer: TransferCommand,
}

/// The words of a transfer, as `pipeline` has them.
#[derive(Parser)]
#[command(no_binary_name = true)]
struct Words {
    #[command(subcommand)]
    transfer: TransferCommand,
}

impl Copy {
    fn of(args: &CpArgs) -> Result<Self> {
        let (name, verb, words) = match (enclave_path(&args.from), enclave_path(&args.to)) {
            (None, Some((name, path))) if is_directory(&args.from) => {
                (name, "send-dir", [args.from.clone(), path])
            }
            (None, Some((name, path))) => (name, "send-file", [args.from.clone(), path]),
            (Some((name, path)), None) if args.recursive => (name, "recv-dir", [path, args.to.clone()]),
            (Some((name, path)), None) => (name, "recv-file", [path, args.to.clone()]),
            _ => {
                let text = "one of both is NAME:/path, in an enclave, and the other a path of this machine";
                return Err(Usage(text.to_owned()).into());
            }
        };
        let quiet = args.quiet.then(|| OsString::from("--quiet"));
        let words =
            [OsString::from(verb)].into_iter().chain(quiet).chain([OsString::from("--")]).chain(words);
        let parsed = Words::try_parse_from(words).map_err(|error| Usage(error.to_string()))?;
        Ok(Self { name, transfer: parsed.transfer })
    }
}

/// `NAME:/path`, split. A path of this machine that looks so is written `./NAME:/path`.
fn enclave_path(text: &OsString) -> Option<(String, OsString)> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = text.as_bytes();
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    let (name, path) = (str::from_utf8(bytes.get(..colon)?).ok()?, bytes.get(colon + 1..)?);
    (manifest::is_valid_name(name) && path.first() == Some(&b'/'))
        .then(|| (name.to_owned(), OsString::from_vec(path.to_vec())))
}

fn is_directory(path: &OsString) -> bool {
    std::path::Path::new(path).is_dir()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(from: &str, to: &str, recursive: bool) -> Result<Copy> {
        let operator = OperatorArgs { identity: None };
        Copy::of(&CpArgs { from: from.into(), to: to.into(), recursive, quiet: true, operator })
    }

    #[test]
    fn the_side_with_a_name_is_the_enclave() {
        use TransferCommand::{RecvDir, RecvFile, SendDir, SendFile};
        let sent = copy("Cargo.toml", "web:/srv/", false).unwrap();
        assert!(sent.name == "web" && matches!(sent.transfer, SendFile(_)));
        assert!(matches!(copy("src", "web:/srv", false).unwrap().transfer, SendDir(_)));
        assert!(matches!(copy("web:/srv", ".", true).unwrap().transfer, RecvDir(_)));
        assert!(matches!(copy("web:/srv/a:b", "-", false).unwrap().transfer, RecvFile(_)));
        assert!(matches!(copy("./web:/x", "web:/srv", false).unwrap().transfer, SendFile(_)));
        for (from, to) in [("a", "b"), ("web:/a", "web:/b"), ("web:a", "b"), ("Web:/a", "b")] {
            assert!(copy(from, to, false).is_err_and(|error| error.is::<Usage>()), "{from} {to}");
        }
    }
}
