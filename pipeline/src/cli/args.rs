//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use transport::Addr;

use crate::{expected::ExpectedArgs, transfer::cli::TransferCommand};

/// Run programs in an enclave, look after its services, and seal it.
///
/// Speaks with the control channel that an image has if its manifest names operators. The enclave's evidence is checked
/// before anything is sent; then your OpenSSH key says who you are. Every session leaves a trace in the enclave's
/// hardware register PCR17 and in its transcript, with all arguments: pass secrets through standard input or a file.
#[derive(Debug, Parser)]
#[command(name = "pipeline", version, after_help = AFTER_HELP)]
pub struct Args {
    #[command(flatten)]
    /// To whom, and as whom.
    pub client: Client,
    #[command(subcommand)]
    /// What to do.
    pub command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  pipeline --addr vsock://16:9002 --image app.eif run -- ls -l /srv
  pipeline run --command 'sha256sum /srv/*' < /dev/null
  pipeline shell
  pipeline run --no-wait --command ./job; pipeline logs -f 7
  pipeline services restart web
  pipeline transcript
  pipeline seal

Addresses: vsock://CID:PORT, unix:/path, hybrid:/path:PORT, tcp://host:port
Options are taken from flags, else from the environment, else from ~/.config/glasshouse/pipeline.toml with the keys
addr, identity, image, reference and root.

Exit codes:
  0    done
  1    the enclave refuses, and says why
  2    bad arguments or configuration
  3    no connection, or not the enclave that was expected
In a shell, ~. at the beginning of a line leaves it, also when the enclave answers no more.
run and shell exit with the program's own status, with 128 + n when signal n ended it, with 127 where there is no such
program, 126 where it cannot be started, and 125 where anything else came between.";

/// To whom, and as whom.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(
    mut_arg("image", |arg| arg.env("PIPELINE_IMAGE")),
    mut_arg("reference", |arg| arg.env("PIPELINE_REFERENCE")),
    mut_arg("root", |arg| arg.env("PIPELINE_ROOT")),
)]
pub struct Client {
    /// The enclave's control channel.
    #[arg(long, value_name = "ADDR", env = "PIPELINE_ADDR", global = true)]
    pub addr: Option<Addr>,
    /// The enclave's vsock CID, in place of --addr.
    #[arg(long, value_name = "CID", global = true, conflicts_with = "addr")]
    pub cid: Option<u32>,
    /// The port behind --cid.
    #[arg(long, value_name = "PORT", global = true, default_value_t = 9002)]
    pub port: u32,
    /// Your OpenSSH key: a private key's file, or a .pub file whose private key the ssh agent has. Default:
    /// ~/.ssh/id_ed25519, then ~/.ssh/id_ecdsa, then the agent's others, until the enclave knows one.
    #[arg(short, long, value_name = "FILE", env = "PIPELINE_IDENTITY", global = true)]
    pub identity: Option<PathBuf>,
    #[command(flatten)]
    /// Which enclave it has to be.
    pub expected: ExpectedArgs,
    /// Where defaults are, in place of ~/.config/glasshouse/pipeline.toml.
    #[arg(long, value_name = "FILE", env = "PIPELINE_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Seconds that the enclave has to answer before the session begins.
    #[arg(long, value_name = "S", default_value_t = 20, global = true)]
    pub connect_timeout: u64,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Run a program: its input, outputs and status are this command's
    Run(RunArgs),
    /// Open a shell on a terminal
    Shell(ShellArgs),
    /// Carry files
    #[command(flatten)]
    Transfer(TransferCommand),
    /// List services, restart one, or read its output
    Services {
        /// What to do. Default: list them
        #[command(subcommand)]
        what: Option<Services>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Give services their secrets, or see which are given
    Secrets {
        /// What to do. Default: list them
        #[command(subcommand)]
        what: Option<Secrets>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// What became of runs without a waiting client
    Status {
        /// Of one run
        id: Option<u64>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// What a run without a waiting client has printed last
    Logs {
        /// The run's number
        id: u64,
        /// Go on until it ends, and exit with its status
        #[arg(short, long)]
        follow: bool,
    },
    /// Signal a run without a waiting client
    Kill {
        /// The run's number
        id: u64,
        /// The signal, by name or number
        #[arg(short, long, default_value = "TERM", value_parser = super::terminal::signal_number)]
        signal: u8,
    },
    /// Close the enclave to everybody for good, and have its hardware say that nobody ever entered
    Seal,
    /// All that operators did, checked against the enclave's evidence
    Transcript {
        /// Begin with this entry; what comes before it is not checked then
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        from: u64,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Be the server, in an enclave
    Listen(ListenArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: manual::Shell,
    },
    /// Print the manual page
    Man,
}

/// What to do with services.
#[derive(Debug, Subcommand)]
pub enum Services {
    /// List them
    List,
    /// End one and start it again
    Restart {
        /// Its name
        service: String,
    },
    /// What one has printed last
    Logs {
        /// Its name
        service: String,
    },
}

/// What to do with secrets.
#[derive(Clone, Debug, Subcommand)]
pub enum Secrets {
    /// List them
    List,
    /// Give one its value: read from a file, else asked for at the terminal, else standard input to its end
    Set(SetSecret),
}

/// A secret and where its value comes from.
#[derive(Clone, Debug, clap::Args)]
pub struct SetSecret {
    /// The secret's name in the manifest
    #[arg(value_name = "SECRET")]
    pub secret: String,
    /// Take this file's content, every byte of it
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
}

/// As whom, where and with what a program runs.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SettingArgs {
    /// A variable, NAME=value, or NAME for this environment's value. Repeatable. It is in the transcript.
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// The directory to start in. Default: the main service's
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// As whom: name, uid, name:group or uid:gid. Default: the main service's user
    #[arg(short, long)]
    pub user: Option<String>,
}

/// A program to run.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// The program and its arguments; put `--` before them
    #[arg(
        value_name = "PROGRAM",
        required_unless_present = "command",
        conflicts_with = "command",
        last = true
    )]
    pub words: Vec<std::ffi::OsString>,
    /// A command line for /bin/sh -c, in place of a program
    #[arg(long, value_name = "LINE")]
    pub command: Option<std::ffi::OsString>,
    #[command(flatten)]
    /// As whom, where and with what.
    pub setting: SettingArgs,
    /// End it after so many seconds, with all that it started
    #[arg(long, value_name = "S")]
    pub timeout: Option<f64>,
    /// Give it a terminal
    #[arg(short, long, conflicts_with = "no_wait")]
    pub tty: bool,
    /// Do not wait: print the run's number, for status, logs and kill
    #[arg(long)]
    pub no_wait: bool,
}

/// A shell to open.
#[derive(Clone, Debug, clap::Args)]
pub struct ShellArgs {
    /// A program in place of the user's shell; put `--` before it
    #[arg(value_name = "PROGRAM", last = true)]
    pub words: Vec<std::ffi::OsString>,
    #[command(flatten)]
    /// As whom, where and with what.
    pub setting: SettingArgs,
}

/// How to be the server.
#[derive(Clone, Debug, clap::Args)]
pub struct ListenArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR")]
    pub listen: Addr,
    /// The measured manifest, whose operators are admitted
    #[arg(long, value_name = "FILE", default_value = "/glasshouse/manifest.json")]
    pub manifest: PathBuf,
    /// The security module
    #[arg(long, value_name = "PATH", default_value = "/dev/nsm")]
    pub nsm: PathBuf,
    /// The application's root
    #[arg(long = "rootfs", value_name = "DIR", default_value = "/rootfs")]
    pub rootfs: PathBuf,
    /// Where the trace is kept
    #[arg(long, value_name = "DIR", default_value = "/run/glasshouse-private/control")]
    pub state: PathBuf,
    /// Init's private socket; none if it is not there
    #[arg(long, value_name = "PATH", default_value = "/run/glasshouse-private/init.sock")]
    pub init: PathBuf,
    /// The ledger's socket; every document then states the ledger, and there is none without it
    #[arg(long, value_name = "PATH")]
    pub ledger: Option<PathBuf>,
    /// How many sessions at a time
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_sessions: u32,
    /// Run programs as this process does, not confined to the root: to try the server out, never in an enclave
    #[arg(long)]
    pub unconfined: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from([&["pipeline"], words].concat())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn words_after_two_dashes_are_the_programs() {
        let Command::Run(run) =
            parse(&["--cid", "16", "run", "-t", "--", "ls", "-l", "--addr"]).unwrap().command
        else {
            panic!("run is run");
        };
        assert!(run.tty);
        assert_eq!(run.words, ["ls", "-l", "--addr"]);
        assert!(parse(&["run"]).is_err());
        assert!(parse(&["run", "--command", "x", "--", "y"]).is_err());
        assert!(parse(&["run", "--tty", "--no-wait", "--", "y"]).is_err());
    }

    /// Scripts that were written for tools with these flags go on working.
    #[test]
    fn older_flags_are_understood() {
        let args =
            parse(&["run", "--cid", "127", "--port", "53000", "--command", "ls", "--no-wait"]).unwrap();
        assert_eq!((args.client.cid, args.client.port), (Some(127), 53000));
        let words = ["send-file", "--cid", "127", "--port", "1", "--localpath", "/a", "--remotepath", "/b"];
        assert!(matches!(parse(&words).unwrap().command, Command::Transfer(TransferCommand::SendFile(_))));
        let words = ["recv-dir", "--cid", "127", "--localdir", "/a", "--remotedir", "/b"];
        assert!(matches!(parse(&words).unwrap().command, Command::Transfer(TransferCommand::RecvDir(_))));
    }
}
