//! `glasshouse verify`: evidence of a running enclave, a bundle or a stored document, appraised on this machine.
//!
//! Nothing the enclave says of itself is believed: the nonce, the trusted root, the reference values and the clock are
//! this side's, and the key of the TLS connection is compared with the one attested.

mod gather;
mod judge;
mod verdict;

use std::{fs, path::Path};

use anyhow::{Context, Result};
use attestation::{ControlPolicy, bundle::Bundle};
use expected::{Expected, ExpectedError, MAX_POLICY_BYTES, PolicyFile};

use crate::{
    cli::VerifyArgs,
    exit::{Exit, Usage},
    output,
};
use gather::{Material, gather, read_limited};
use judge::judge;

/// What is demanded of the evidence, whatever it turns out to be.
#[derive(Debug)]
struct Question {
    expected: Expected,
    policy: Option<PolicyFile>,
    control: ControlPolicy,
}

/// Runs the command.
pub(crate) fn run(args: &VerifyArgs) -> Result<Exit> {
    let question = Question::of(args)?;
    let material = gather(args)?;
    if let Some(path) = &args.save_bundle {
        save(path, &material)?;
    }
    let verdict = judge(&material, &question);
    if args.json {
        output::print(&serde_json::to_string(&verdict)?)?;
    } else {
        output::print(&output::printable(&verdict.to_string()))?;
    }
    Ok(if verdict.verified { Exit::Done } else { Exit::No })
}

impl Question {
    fn of(args: &VerifyArgs) -> Result<Self> {
        let expected = args.expected.read().map_err(|error| match error.is_usage() {
            true => Usage(error.to_string()).into(),
            false => unread(error),
        })?;
        let control = match (args.never_entered, args.sealed) {
            (_, true) => ControlPolicy::Sealed,
            (true, false) => ControlPolicy::NeverEntered,
            (false, false) => ControlPolicy::Unchecked,
        };
        Ok(Self { expected, policy: args.policy.as_deref().map(policy).transpose()?, control })
    }
}

fn unread(error: ExpectedError) -> anyhow::Error {
    anyhow::Error::new(error)
}

fn policy(path: &Path) -> Result<PolicyFile> {
    let bytes =
        read_limited(path, MAX_POLICY_BYTES).with_context(|| format!("--policy {}", path.display()))?;
    PolicyFile::parse(&bytes).map_err(|error| Usage(format!("--policy {}: {error}", path.display())).into())
}

/// Writes what was gathered, before anything is made of it: evidence that is refused is worth keeping, too.
fn save(path: &Path, material: &Material) -> Result<()> {
    let written = || -> Result<()> {
        let bundle: &Bundle = material.bundle.as_ref().context("a document alone is no bundle")?;
        fs::write(path, bundle.encode()?)?;
        Ok(())
    };
    written().with_context(|| format!("--save-bundle {}", path.display()))?;
    output::say(&format!("bundle written to {}", path.display()));
    Ok(())
}
