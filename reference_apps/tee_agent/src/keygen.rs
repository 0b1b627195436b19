//! Makes an operator's key.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

use anyhow::Context;
use aws_lc_rs::rand;
use clap::Args;
use tee_agent::eth::AgentKey;

/// Where the key goes
#[derive(Args)]
pub(crate) struct Keygen {
    /// A file that is not there yet. Keep it off the machine that runs the enclave
    file: PathBuf,
}

/// Writes a fresh key for its owner's eyes; says what of it goes into the configuration.
pub(crate) fn make(Keygen { file }: &Keygen) -> anyhow::Result<String> {
    let (bytes, key) = (0..4)
        .find_map(|_| {
            let mut bytes = [0; 32];
            rand::fill(&mut bytes).ok()?;
            // What is no key, as one in 2^128 is not, is drawn again.
            AgentKey::from_bytes(&bytes).ok().map(|key| (bytes, key))
        })
        .context("no random bytes")?;
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("cannot make {}", file.display()))?;
    writeln!(out, "{}", hex::encode(bytes)).and_then(|()| out.sync_all()).context("cannot write the key")?;
    Ok(format!(
        "operator = \"{}\"\n# address {}",
        hex::encode(&key.public_key()[1..]),
        key.address().checksummed()
    ))
}
