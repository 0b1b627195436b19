//! The command line of `rbuilds`. The comments are the help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Look into enclave images, and find out why two of them do not measure the same.
#[derive(Debug, Parser)]
#[command(name = "rbuilds", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0  done; for `diff`: the same measurements and the same bytes
  1  for `diff`: the images differ
  2  usage
  3  an image cannot be read or is malformed; the message says why";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what an image holds: sections, registers, signer, manifest, what takes space, files.
    Inspect(InspectArgs),
    /// Show how two images differ, down to the attribute or byte, and which register each difference moves.
    Diff(DiffArgs),
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
