//! The command line of `glasshouse`. The comments are the help texts.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use expected::ExpectedArgs;

use crate::publish::Publish;

/// Package a program into an enclave, run it, and let anyone check what runs.
///
/// Developers build, operators run, auditors verify:
///
///   glasshouse build                                     in a folder with a glasshouse.toml
///   glasshouse run app.eif --publish 8080                on a Nitro instance, in QEMU, or in Linux namespaces
///   glasshouse verify https://host:8443 --image app.eif  from anywhere, trusting neither host nor operator
#[derive(Debug, Parser)]
#[command(name = "glasshouse", version, verbatim_doc_comment, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// Say more on stderr: -v what happens, also in the framework's own programs; -vv in detail.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0  done; for `verify`: the evidence is good
  1  it ran and the answer is no: evidence refused, nothing by that name is running
  2  usage, or a mistake in glasshouse.toml
  3  glasshouse itself failed; the message says why and what to do
`glasshouse run` without --detach ends with the application's own status, and with 125 when glasshouse failed.";

#[derive(Debug, Subcommand)]
// Only the arguments of the command that was given are put together.
#[command(defer = true)]
pub(crate) enum Command {
    /// Build an enclave image (EIF) and its reference values from the folder's glasshouse.toml.
    Build(BuildArgs),
    /// Run an enclave image.
    Run(RunArgs),
    /// List the enclaves that run on this machine under this user.
    Ps(PsArgs),
    /// Print what the services of an enclave wrote.
    Logs(LogsArgs),
    /// Shut an enclave down.
    Stop(StopArgs),
    /// Run a program in an enclave, as an operator whose key its image names. Exits with the program's status.
    Exec(ExecArgs),
    /// Open a shell in an enclave, as an operator.
    Shell(ShellArgs),
    /// Copy files into an enclave or out of it, as an operator.
    Cp(CpArgs),
    /// Give an enclave's services their secrets, or see which are given, as an operator.
    Secrets(SecretsArgs),
    /// Check evidence: a running enclave, a bundle, or a stored attestation document.
    Verify(Box<VerifyArgs>),
    /// Say what this machine can do, what is missing, and how to get it.
    Doctor(DoctorArgs),
    /// Print the path of the certificate of the development root, which signs for simulated enclaves. Made at first use.
    DevRoot,
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: manual::Shell,
    },
    /// Print the manual page.
    Man,
    /// Set up and run the first process of a namespace enclave. Used by `run`.
    #[command(hide = true)]
    LocalEnclave(LocalEnclaveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The manifest, or the folder it is in.
    #[arg(default_value = "glasshouse.toml")]
    pub(crate) manifest: PathBuf,
    /// Where to write the image. Default: NAME.eif in the current folder. The reference values go to the same path
    /// with `.json` added.
    #[arg(short, long)]
    pub(crate) output: Option<PathBuf>,
    /// A kernel instead of the manifest's: a bzImage, or a directory of the vendor's blobs (bzImage, nsm.ko).
    /// Default: the pinned kernel that `make kernel` builds. What processors it is for, x86-64 or aarch64, is what the image
    /// is for: of a container image for several platforms that one is taken, and an image for others is refused.
    #[arg(long, env = "GLASSHOUSE_KERNEL")]
    pub(crate) kernel: Option<PathBuf>,
    /// What builds the Dockerfile that the manifest names. Default: the first that is here.
    #[arg(long, value_enum, env = "GLASSHOUSE_BUILDER")]
    pub(crate) builder: Option<Builder>,
    /// The static program that becomes the enclave's init. Default: glasshouse-enclave beside this program.
    #[arg(long, env = "GLASSHOUSE_ENCLAVE", value_name = "FILE")]
    pub(crate) enclave: Option<PathBuf>,
    /// Sign the image with this private key: P-384, P-256 or P-521, PEM (PKCS#8 or SEC 1), not encrypted.
    #[arg(long, value_name = "FILE", requires = "sign_cert", conflicts_with = "sign_command")]
    pub(crate) sign_key: Option<PathBuf>,
    /// Have this command sign the image. It gets the bytes to sign on stdin (ECDSA with the hash of the key's curve) and prints the
    /// signature, DER or r and s; run by sh.
    #[arg(long, value_name = "CMD", requires = "sign_cert")]
    pub(crate) sign_command: Option<String>,
    /// The certificate for the signing key, PEM. PCR8 is its digest.
    #[arg(long, value_name = "FILE")]
    pub(crate) sign_cert: Option<PathBuf>,
    /// Write neither the SBOM (IMAGE.sbom.json) nor the provenance (IMAGE.provenance.json).
    #[arg(long)]
    pub(crate) no_sbom: bool,
    /// Ask the registry what the image's tag names now, and record it in glasshouse.lock.
    #[arg(long, conflicts_with = "offline")]
    pub(crate) update: bool,
    /// Ask no registry: the image has to be locked and in the cache.
    #[arg(long)]
    pub(crate) offline: bool,
    /// How much the cache of images keeps, in GiB. What was not used for longest goes. Default 20.
    #[arg(long, env = "GLASSHOUSE_CACHE_LIMIT", value_name = "GIB")]
    pub(crate) cache_limit: Option<u32>,
    /// Print the report as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Builder {
    /// Needs no daemon and no root.
    Buildah,
    /// Needs no daemon and no root.
    Podman,
    /// Needs its daemon.
    Docker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BackendKind {
    /// AWS Nitro Enclaves, through nitro-cli.
    Nitro,
    /// QEMU's nitro-enclave machine: the same image, a real kernel, an emulated security module.
    Qemu,
    /// Linux namespaces on this machine: the image's files, a simulated security module.
    Local,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The enclave image.
    pub(crate) image: PathBuf,
    /// Where to run it. Default: nitro if this is an instance with enclaves enabled, else qemu if a capable QEMU is
    /// here, else local.
    #[arg(long, value_enum)]
    pub(crate) backend: Option<BackendKind>,
    /// Publish an enclave port on this machine, as in 8080, 8081:8080 or 0.0.0.0:443:8443 (address, this machine's port,
    /// the enclave's), with /udp behind it for a UDP port. Repeatable. Default address 127.0.0.1.
    #[arg(short, long, value_name = "SPEC")]
    pub(crate) publish: Vec<Publish>,
    /// Publish every port the image names, the attestation server's among them, under the same number on 127.0.0.1.
    #[arg(short = 'P', long, conflicts_with = "publish")]
    pub(crate) publish_all: bool,
    /// How many connections one client may have at once to a published port, by IPv4 address or IPv6 /64; further ones are closed.
    #[arg(long, value_name = "N")]
    pub(crate) max_per_source: Option<std::num::NonZeroU32>,
    /// Where to serve metrics of the published ports and the way out for Prometheus, as tcp://127.0.0.1:9400: GET /metrics.
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<transport::Addr>,
    /// Of what the image's [egress] allows, allow this only, as in api.example.com:443. Repeatable.
    #[arg(long, value_name = "RULE")]
    pub(crate) egress_allow: Vec<egress::Rule>,
    /// Deny this although the image's [egress] allows it, as in '*.example.com:*' or 10.0.0.0/8:*. Repeatable.
    #[arg(long, value_name = "RULE")]
    pub(crate) egress_deny: Vec<egress::Rule>,
    /// Go on in the background once the enclave is ready, and print its name.
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// What to call it. Default: the image file's name.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Memory in MiB. Default: what the image asks for.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) memory: Option<u64>,
    /// Virtual CPUs. Default: what the image asks for. `local` does not limit them.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) cpus: Option<u64>,
    /// The enclave's vsock CID, 4 or above. Default: the hypervisor chooses (nitro), 4 (qemu).
    #[arg(long, value_parser = clap::value_parser!(u32).range(4..))]
    pub(crate) cid: Option<u32>,
    /// Debug mode (nitro): a console, and PCRs of zero that no verifier accepts by default.
    #[arg(long)]
    pub(crate) debug: bool,
    /// Seconds the enclave has to become ready.
    #[arg(long, default_value_t = 120)]
    pub(crate) ready_timeout: u64,
    /// This process is the background half of --detach.
    #[arg(long, hide = true)]
    pub(crate) background: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// Also those that have ended and whose logs are still here.
    #[arg(short, long)]
    pub(crate) all: bool,
    /// One JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The enclave's name.
    pub(crate) name: String,
    /// Go on until the enclave ends.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Every event as it came, one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// The enclave's name.
    pub(crate) name: String,
    /// Seconds to wait for a clean end before the enclave is ended by force. Default: the longest `stop_timeout` in the
    /// image's manifest, at least 10, and 10 more.
    #[arg(short, long)]
    pub(crate) timeout: Option<u64>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without reference values (--image, --reference, --pcr or --policy) nothing says what should be running, and the \
answer is no; --any-image asks only whether the evidence is genuine."
)]
pub(crate) struct VerifyArgs {
    /// The attestation server of a running enclave, as https://HOST:PORT.
    #[arg(required_unless_present_any = ["document", "bundle", "certificate"], conflicts_with_all = ["document", "bundle", "certificate"])]
    pub(crate) url: Option<String>,
    /// A stored attestation document: raw CBOR, hex or base64; `-` reads stdin.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bundle", "certificate"])]
    pub(crate) document: Option<PathBuf>,
    /// A stored bundle, as --save-bundle or the server's /v1/bundle gave it; `-` reads stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "certificate")]
    pub(crate) bundle: Option<PathBuf>,
    /// A TLS server's certificate that carries a document about its key (RA-TLS), in PEM or DER; `-` reads stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "nonce")]
    pub(crate) certificate: Option<PathBuf>,
    /// The time to verify what is stored at (RFC 3339), since a document's certificates live for hours. Default: now, but for
    /// a bundle the document's own time.
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<String>,
    /// The nonce a stored document or bundle must carry, in hex.
    #[arg(long, value_name = "HEX")]
    pub(crate) nonce: Option<String>,
    /// Keep all the evidence in one file, which --bundle verifies later without a network.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["document", "certificate"])]
    pub(crate) save_bundle: Option<PathBuf>,
    /// Keep what a good document says of the ledger, for --since.
    #[arg(long, value_name = "FILE")]
    pub(crate) save_checkpoint: Option<PathBuf>,
    /// Ask again when the ledger has grown and every so many seconds (60), show what changed, and end when the answer is no.
    #[arg(long, value_name = "S", num_args = 0..=1, default_missing_value = "60", requires = "url",
        value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) watch: Option<u64>,
    /// End --watch after so many answers.
    #[arg(long, value_name = "N", requires = "watch")]
    pub(crate) times: Option<u64>,
    /// Print the verdict as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Seconds to wait for the enclave.
    #[arg(long, default_value_t = 10)]
    pub(crate) timeout: u64,
    /// Your certificate, and those of its issuers (PEM), for an enclave that lets nobody in without one.
    #[arg(long, value_name = "FILE", requires_all = ["url", "client_key"])]
    pub(crate) client_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub(crate) client_key: Option<PathBuf>,
    /// A file that has to be in the enclave, as the application sees it. Repeatable.
    #[arg(long, value_name = "PATH", help_heading = LEDGER)]
    pub(crate) file: Vec<OsString>,
    /// What --file has to hold: sha256:HEX, blake3:HEX or sha3-512:HEX.
    #[arg(long, value_name = "DIGEST", requires = "file", conflicts_with = "local", help_heading = LEDGER)]
    pub(crate) expect: Option<String>,
    /// The file of this machine whose content --file has to hold.
    #[arg(long, value_name = "FILE", requires = "file", help_heading = LEDGER)]
    pub(crate) local: Option<PathBuf>,
    /// A path at which nothing may be. Repeatable.
    #[arg(long, value_name = "PATH", help_heading = LEDGER)]
    pub(crate) absent: Vec<OsString>,
    /// Show all that was ever recorded of a file. Repeatable.
    #[arg(long, value_name = "PATH", help_heading = LEDGER)]
    pub(crate) history: Vec<OsString>,
    /// Refuse if the enclave may speak, or by its ledger spoke, to others than these, as in api.example.com:443 with commas
    /// between them; '' for nobody.
    #[arg(long, value_name = "LIST", help_heading = LEDGER)]
    pub(crate) egress_only: Option<String>,
    /// Refuse unless the ledger only grew since this checkpoint: what --save-checkpoint wrote, or a signed note of the ledger's.
    #[arg(long, value_name = "FILE", help_heading = LEDGER)]
    pub(crate) since: Option<PathBuf>,
    /// A witness that has to have cosigned the note of --since, by its key as in name+id+key. Repeatable.
    #[arg(long, value_name = "KEY", requires = "since", help_heading = LEDGER)]
    pub(crate) witness: Vec<String>,
    /// Refuse when anybody has entered through the control channel.
    #[arg(long, conflicts_with = "any_image", help_heading = CONTROL)]
    pub(crate) never_entered: bool,
    /// Refuse unless the control channel is sealed: nobody has entered, and nobody can any more.
    #[arg(long, conflicts_with_all = ["any_image", "never_entered"], help_heading = CONTROL)]
    pub(crate) sealed: bool,
    #[command(flatten)]
    pub(crate) expected: ExpectedArgs,
    /// Demand what this policy file says (TOML): releases, signers, least version, values of the manifest.
    #[arg(long, value_name = "FILE", conflicts_with = "any_image")]
    pub(crate) policy: Option<PathBuf>,
}

const LEDGER: &str = "What it holds and did";
const CONTROL: &str = "Who entered";

// As whom the control channel is asked. No doc comment: it would become the summary of every command that has these.
#[derive(Debug, Args)]
pub(crate) struct OperatorArgs {
    /// Your OpenSSH key: a private key's file, or a .pub file whose private key the ssh agent has. Default:
    /// ~/.ssh/id_ed25519, then ~/.ssh/id_ecdsa, then the agent's others, until the enclave knows one.
    #[arg(short, long, value_name = "FILE", env = "PIPELINE_IDENTITY")]
    pub(crate) identity: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The enclave's name.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
    #[command(flatten)]
    pub(crate) run: pipeline::cli::RunArgs,
}

// The group that the derived code would make has the name of the one in the arguments within.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct ShellArgs {
    /// The enclave's name.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
    #[command(flatten)]
    pub(crate) shell: pipeline::cli::ShellArgs,
}

/// Arguments of `secrets`.
#[derive(Debug, Args)]
pub(crate) struct SecretsArgs {
    #[command(subcommand)]
    pub(crate) what: SecretsCommand,
}

/// What to do with secrets.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// Which secrets its services have, and which are given
    List {
        /// The enclave's name.
        name: String,
        /// One JSON object a line.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Give a secret its value: from a file, else asked for at the terminal, else standard input to its end
    ///
    /// It goes encrypted into the enclave that the image's measurements say it is, and lies there in memory, readable by the
    /// services that the manifest names only. The transcript has the secret's name, and nothing of the value.
    Set {
        /// The enclave's name.
        name: String,
        #[command(flatten)]
        secret: pipeline::cli::SetSecret,
        #[command(flatten)]
        operator: OperatorArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// What to copy, and last where to. One side is NAME:/path in an enclave, the other of this machine; "-" is standard
    /// input or output. With a "/" at its end, or as one of several, it is copied into the target.
    #[arg(required = true, num_args = 2.., value_names = ["FROM", "TO"], value_hint = clap::ValueHint::AnyPath)]
    pub(crate) paths: Vec<OsString>,
    /// Copy a directory out of the enclave. Into it, what is a directory here is known.
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Show no progress.
    #[arg(short, long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) operator: OperatorArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// One JSON object with every finding.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LocalEnclaveArgs {
    /// `outer` makes the namespaces, `inner` is PID 1 in them.
    pub(crate) stage: String,
    /// The JSON of `backend::local::Setup`.
    pub(crate) setup: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn manual_and_completions_have_every_verb_but_those_of_the_program_itself() {
        Cli::command().debug_assert();
        let page = String::from_utf8(manual::page(&Cli::command())).unwrap();
        let script = String::from_utf8(manual::completions(Cli::command(), manual::Shell::Bash)).unwrap();
        for verb in Cli::command().get_subcommands() {
            let heading = format!(".SH \"GLASSHOUSE {}\"", verb.get_name().to_uppercase());
            assert_eq!(page.contains(&heading), !verb.is_hide_set(), "{heading}");
            assert!(
                verb.is_hide_set() || script.contains(&format!("glasshouse,{}", verb.get_name())),
                "{verb}"
            );
        }
    }
}
