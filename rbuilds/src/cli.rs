//! The command line of `rbuilds`. The comments are the help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::signing_cli::{MeasureArgs, SignArgs, VerifySignatureArgs};

/// Look into enclave images, and find out why two of them do not measure the same.
#[derive(Debug, Parser)]
#[command(name = "rbuilds", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0  done; for `diff`: the same measurements and the same bytes; for `verify`: reproduced
  1  for `diff`: the images differ; for `verify`: not reproduced; for `verify-signature`: refused
  2  usage, or an unusable key, certificate or signature
  3  an image cannot be read or is malformed; the message says why";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what an image holds: sections, registers, signer, manifest, what takes space, files.
    Inspect(InspectArgs),
    /// Show how two images differ, down to the attribute or byte, and which register each difference moves.
    Diff(DiffArgs),
    /// Show what booting an image measures, and write what a signer elsewhere has to sign.
    Measure(MeasureArgs),
    /// Sign an image that is already built, or replace its signature.
    Sign(SignArgs),
    /// Check the signature of an image, and whose it is.
    VerifySignature(VerifySignatureArgs),
    /// Build an image again from its inputs, and show in what the result differs.
    Verify(VerifyArgs),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: manual::Shell,
    },
    /// Print the manual page.
    Man,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The enclave image, made by Glasshouse or any other tool.
    pub(crate) image: PathBuf,
    /// List every entry of the ramdisks with mode, owner, size and SHA-256.
    #[arg(long)]
    pub(crate) files: bool,
    /// How many of the largest files and directories to list.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub(crate) top: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The first image, such as the published one.
    pub(crate) a: PathBuf,
    /// The second image, such as your own build.
    pub(crate) b: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The signature and what nothing measures may differ: the answer is then still yes, and says so."
)]
pub(crate) struct VerifyArgs {
    /// The image in question. Reference values beside it (IMAGE.json) tell which input is another one.
    pub(crate) image: PathBuf,
    /// The manifest it was built from, or its folder.
    #[arg(default_value = "glasshouse.toml")]
    pub(crate) manifest: PathBuf,
    /// The kernel: a bzImage, or a directory of the vendor's blobs. Default: the manifest's, else the pinned kernel.
    #[arg(long, env = "GLASSHOUSE_KERNEL")]
    pub(crate) kernel: Option<PathBuf>,
    /// The static program that is the enclave's init. Default: glasshouse-enclave beside this program.
    #[arg(long, env = "GLASSHOUSE_ENCLAVE", value_name = "FILE")]
    pub(crate) enclave: Option<PathBuf>,
    /// The container image, as an archive, in place of what the manifest names: a Dockerfile's result, say.
    #[arg(long, value_name = "FILE")]
    pub(crate) archive: Option<PathBuf>,
    /// Ask no registry: take images from the cache, or fail and say what is missing.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Keep the rebuilt image here.
    #[arg(long, value_name = "FILE")]
    pub(crate) keep: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}
